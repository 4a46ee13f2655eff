"""What docs/performance.md says of steps stands in what the commands printed."""

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


def test_what_newer_defences_cost_is_what_was_printed() -> None:
    text = (PRINTED.parent / "cpu" / "steps-lenet.txt").read_text()
    printed = re.findall(
        r"^  (\w+) +ours / limit .*?; ours ([\d.]+) (m?s)\n +ours / the same passes, eager ([\d.]+) \(",
        text,
        re.MULTILINE,
    )
    seconds = {name: float(value) * (0.001 if unit == "ms" else 1) for name, value, unit, _ in printed}
    over = {name: ratio for name, *_, ratio in printed}
    assert len(seconds) == 15
    assert max(map(float, over.values())) <= 1.25
    lines = PAGE.partition("<!-- numbers of results/reference/cpu -->\n")[2].partition("\n\n")[0].splitlines()[2:]
    found = [tuple(cell.strip(" `") for cell in line.strip("|").split("|")) for line in lines]
    order = sorted(seconds, key=lambda name: seconds[name])
    assert found == [(name, f"{seconds[name] / seconds['ece']:.1f}", over[name]) for name in order]
