"""What docs/performance.md says of a GPU stands in what the commands printed there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRINTED = ROOT / "results" / "reference" / "gpu"
PAGE = (ROOT / "docs" / "performance.md").read_text()


def _told(part: str) -> dict[str, tuple[str, str, str]]:
    """method → (milliseconds of ours, the longer bound, ours over it), as printed."""
    found = {}
    for method, ratio, first, second, ours in re.findall(
        r"^  (\w+) +ours / limit ([\d.]+) by .*? in ([\d.]+) ms, .*? in ([\d.]+) ms; ours ([\d.]+) ms",
        (PRINTED / f"{part}.txt").read_text(), re.MULTILINE,
    ):  # fmt: skip
        found[method] = ours, max(first, second, key=float), ratio
    return found


def test_milliseconds_on_a_gpu_are_those_that_were_printed() -> None:
    lines = PAGE.partition("<!-- numbers of results/reference/gpu -->\n")[2].splitlines()[2:6]
    usual, one, tf32 = _told("steps"), _told("streams"), _told("steps-tf32")
    assert (len(usual), len(one), len(tf32)) == (3, 3, 3)
    for line in lines:
        method, *cells = (cell.strip(" `") for cell in line.strip("|").split("|"))
        _, limit, ratio = usual[method] if method in usual else one[method]
        ratio += "" if method in usual else " (one stream)"
        of = [part[method][0] if method in part else "" for part in (usual, one, tf32)]
        assert cells == [*of, limit, ratio]


def test_ratios_to_the_authors_step_are_those_that_were_printed() -> None:
    for part, kind in (("steps", r"theirs / ours ([\d.]+)"), ("steps", r"TF32 convolutions\) ([\d.]+)"),
                       ("steps-tf32", r"TF32 convolutions\) ([\d.]+)")):  # fmt: skip
        (ratio,) = re.findall(kind, (PRINTED / f"{part}.txt").read_text())
        assert f"{ratio} ×" in PAGE
    (milliseconds, *_) = _told("steps")["trs"]
    assert f"{120 * 391 * float(milliseconds) / 3.6e6:.1f} hours" in PAGE.replace("\n", " ")
