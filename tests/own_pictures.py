"""Small pictures of two classes as somebody would have them: bright on the left, or on the right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def draw(folder: Path, count: int, *, size: tuple[int, int] = (8, 8), colour: bool = False, start: int = 0) -> Path:
    """`folder/left/*.png` and `folder/right/*.png`, `count` in all; another `start`, other pictures."""
    chance = np.random.default_rng(start)
    for index in range(count):
        name = ("left", "right")[index % 2]
        pixels = chance.integers(0, 100, (*size, 3) if colour else size).astype("uint8")
        half = size[1] // 2
        side = pixels[:, :half] if name == "left" else pixels[:, half:]
        side += 120
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name / f"{index:03}.png")
    return folder
