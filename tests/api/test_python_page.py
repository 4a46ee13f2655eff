"""The blocks of docs/python.md run, one after another, in an empty folder; what its sentences promise is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import bench

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.figure

    monkeypatch.chdir(tmp_path)
    for name in ("BENCH_RESULTS", "BENCH_DB"):
        monkeypatch.delenv(name, raising=False)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {"__name__": "notebook"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"block {number} of docs/python.md", "exec"), names)
        assert (tmp_path / "results").exists() == (number >= 2)  # attacks write nothing
    assert 0 < names["outcome"].robust_accuracy < names["outcome"].clean_accuracy
    assert names["adversarial"].shape == names["images"].shape
    assert isinstance(names["figure"], matplotlib.figure.Figure)
    assert len(names["run"].table()) == 5
    assert set(names["frame"]["method"]) == {"mine"}
    assert {names["trs"].spec.recipe, names["ece"].spec.recipe} == {"quick"}
    assert 0 <= names["robust"] <= 1


def test_every_name_of_the_face_stands_on_the_page() -> None:
    assert [name for name in bench.__all__ if name != "__version__" and f"bench.{name}(" not in PAGE] == []
