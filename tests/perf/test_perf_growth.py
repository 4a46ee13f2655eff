"""`bench perf growth`: the work behind each point, slopes and the figure; never how long anything takes."""

from __future__ import annotations

import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from bench.cli import main
from bench.core import config
from bench.core.errors import BenchError
from bench.perf import growth
from bench.perf.floor import counted

pytestmark = pytest.mark.usefixtures("_one_thread")


def bench(*arguments: object) -> tuple[int, str, str]:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main.run([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_slope_of_a_power_is_its_exponent(power: float) -> None:
    values = (2, 3, 7, 20)
    assert growth.slope(values, [0.3 * value**power for value in values]) == pytest.approx(power)


def test_operations_of_lenet_are_those_of_its_layers() -> None:
    def by_hand(size: int) -> int:
        first = size - 4
        second = first // 2 - 4
        flat = 50 * (second // 2) ** 2
        return 2 * (3 * 20 * 25 * first**2 + 20 * 50 * 25 * second**2 + 500 * flat + 500 * 10)

    assert growth._operations(config.load(), "lenet", (24, 32)) == [by_hand(24), by_hand(32)]


@pytest.mark.parametrize(
    ("given", "passes"), [({"images": 30}, 90), ({"steps": 5}, 100), ({"members": 1}, 60), ({"size": 28}, 60)]
)
def test_every_image_is_attacked_to_the_end(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, int], passes: int
) -> None:
    monkeypatch.setattr(growth, "IMAGES", 20)
    work = growth._pgd(config.load(), "lenet", "cpu", **{"images": 20, "steps": 3, **given})
    with counted() as count:
        outcome = work()
    assert count().gradients == outcome.backwards == passes
    assert {size for size, gradient in count().calls if gradient} <= {20, 10}


def line(work: str, name: str, power: float) -> growth.Line:
    values = (1, 2, 4)
    return growth.Line(growth.Axis(work, name, values, 1.0), tuple(value**power for value in values), power, 1.0)


def test_the_figure_has_its_points_beside_it(tmp_path: Path) -> None:
    lines = [line("pgd", "images", 1.0), line("trs step", "members", 1.5)]
    figure, table = growth.draw(lines, tmp_path / "cost.svg", model="lenet", clock="processor time of one thread")
    text = figure.read_text(encoding="utf-8")
    for told in ("PGD: slope 1.00", "TRS step: slope 1.50", "lenet", "processor time"):
        assert told in text
    frame = pd.read_csv(table)
    assert table.name == "cost.csv"
    assert list(frame.columns) == ["work", "axis", "value", "seconds", "slope", "expected"]
    assert frame["value"].tolist() == [1, 2, 4, 1, 2, 4]
    assert frame["seconds"].tolist() == pytest.approx([1, 2, 4, 1, 2**1.5, 8])


SMALL = (
    growth.Axis("pgd", "steps", (1, 2), 1.0),
    growth.Axis("pgd", "size", (24, 28), None),
    growth.Axis("trs step", "batch", (4, 8), 1.0),
)


def test_the_command_draws_every_axis(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(growth, "AXES", SMALL)
    code, out, err = bench("perf", "growth", "-o", tmp_path / "a.png", "--repeats", 1, "--device", "cpu", "--json")
    assert code == 0, out + err
    record = json.loads(out)
    assert [(one["axis"]["name"], one["axis"]["values"]) for one in record["lines"]] == [
        ("steps", [1, 2]), ("size", [24, 28]), ("batch", [4, 8]),
    ]  # fmt: skip
    assert all(min(one["seconds"]) > 0 for one in record["lines"])
    assert record["lines"][1]["expected"] > 2  # unpadded convolutions lose a border: small images cost less still
    assert (tmp_path / "a.png").stat().st_size > 5000
    assert (tmp_path / "a.csv").exists()


def test_mistakes_are_told_in_a_line(tmp_path: Path) -> None:
    code, _, err = bench("perf", "growth", "-o", tmp_path / "a.jpg", "--device", "cpu")
    assert code == 2
    assert "png, svg, pdf" in err
    code, _, err = bench("perf", "growth", "--model", "lenett", "-o", tmp_path / "a.png", "--device", "cpu")
    assert code == 2
    assert "did you mean lenet" in err


def test_a_model_for_other_images_is_refused() -> None:
    with pytest.raises(BenchError):
        growth._pgd(config.load(), "lenet", "cpu", size=8)
