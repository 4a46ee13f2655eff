"""Sample images of a run: `samples/*.safetensors` beside its results, drawn as PNG inside the page.

A file holds `clean` and `adversarial` (float32 [k, C, H, W] in [0, 1]) and `labels`, `clean_prediction`,
`adversarial_prediction` (integers [k]); its name is the evaluation's id.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core.traces import relative
from bench.experiment.folder import RUNS, RunFolder

SHOWN = 12  # images of one file


@dataclass(frozen=True)
class SampleImages:
    """An original, its adversarial image and their difference (grey is none, scaled to its largest), as data URIs."""

    label: int
    clean: str
    adversarial: str
    difference: str
    clean_prediction: int
    adversarial_prediction: int
    largest: float


@dataclass(frozen=True)
class Samples:
    """The pairs of one file; `fault` says why there are none."""

    name: str
    pairs: tuple[SampleImages, ...] = ()
    fault: str = ""


def files(results: Path | None, run_id: str) -> list[Path]:
    """The sample files of a run, by name."""
    if results is None:
        return []
    return RunFolder(results / RUNS / run_id).all_samples()


def fingerprint(paths: list[Path]) -> list[Any]:
    """Names and sizes: an evaluation made anew has another attempt, which the page's digest holds already."""
    return [[path.name, path.stat().st_size] for path in paths]


def read(path: Path) -> Samples:
    """The pairs in a file; a file that cannot be shown says so and stops nothing."""
    from bench.core import tensors

    try:
        arrays = tensors.read(path).arrays
        clean, adversarial = arrays["clean"], arrays["adversarial"]
        numbers = [arrays[name] for name in ("labels", "clean_prediction", "adversarial_prediction")]
        if clean.ndim != 4 or clean.shape != adversarial.shape or clean.shape[1] not in (1, 3):
            raise ValueError(f"images of shape {clean.shape} and {adversarial.shape}")
        if any(each.shape != (len(clean),) for each in numbers):
            raise ValueError("labels or predictions of another number than the images")
        pairs = tuple(
            _pair(clean[i], adversarial[i], *(int(each[i]) for each in numbers)) for i in range(min(len(clean), SHOWN))
        )
    except tensors.DamagedError as error:
        return Samples(path.stem, fault=str(error).replace(str(path), path.name))
    except (KeyError, ValueError) as error:
        told = f"it holds no {error}" if isinstance(error, KeyError) else str(error)
        return Samples(path.stem, fault=relative(told))
    return Samples(path.stem, pairs)


def _pair(clean: NDArray[Any], adversarial: NDArray[Any], label: int, before: int, after: int) -> SampleImages:
    change = adversarial.astype(np.float64) - clean.astype(np.float64)
    largest = float(np.abs(change).max())
    return SampleImages(
        label=label,
        clean=_uri(clean),
        adversarial=_uri(adversarial),
        difference=_uri(0.5 + 0.5 * change / largest if largest else np.full_like(change, 0.5)),
        clean_prediction=before,
        adversarial_prediction=after,
        largest=largest,
    )


def _uri(image: NDArray[Any]) -> str:
    """A PNG of [C, H, W] in [0, 1] as a data URI."""
    from PIL import Image

    levels = np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
