"""`bench perf run`: phases that add up, imports that are told; never how long anything takes."""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import pytest

from bench.cli import main
from bench.core.errors import BenchError
from bench.perf import whole
from bench.perf.imports import packages
from bench.perf.phases import ATTACKS, DATA, HEATMAP, JUDGING, MARKS, MATRIX, PHASES, START, TRAINING, Mark, Phases
from bench.perf.processes import BENCH, python


def bench(*arguments: object) -> tuple[int, str, str]:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main.run([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Hand:
    return Hand()


# ---------------------------------------------------------------- phases


def test_a_phase_stops_the_clock_of_the_one_around_it(clock: Hand) -> None:
    phases = Phases(clock, since=-3.0)  # three seconds before anybody could ask

    def judge() -> None:
        clock.time += 5.0

    def train() -> None:
        clock.time += 10.0
        judged()
        clock.time += 1.0

    judged = phases.wrapped(judge, Mark("m", "judge", JUDGING))
    phases.wrapped(train, Mark("m", "train", TRAINING))()
    clock.time += 0.5
    phases.end()
    clock.time += 100.0
    phases.wrapped(judge, Mark("m", "judge", JUDGING))()  # on the way out of Python
    clock.time -= 105.0
    assert {name: value for name, value in phases.seconds.items() if value} == {
        START: 3.5,
        TRAINING: 11.0,
        JUDGING: 5.0,
    }
    assert sum(phases.seconds.values()) == clock.time + 3.0


def test_a_phase_ends_with_an_exception(clock: Hand) -> None:
    phases = Phases(clock, since=0.0)

    def fail() -> None:
        clock.time += 2.0
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        phases.wrapped(fail, Mark("m", "fail", DATA))()
    clock.time += 1.0
    phases.end()
    assert (phases.seconds[DATA], phases.seconds[START]) == (2.0, 1.0)


def test_the_steps_of_an_iterator_belong_to_its_phase(clock: Hand) -> None:
    def batches() -> Iterator[int]:
        for number in range(3):
            clock.time += 1.0
            yield number

    phases = Phases(clock, since=0.0)
    seen = []
    for number in phases.wrapped(batches, Mark("m", "batches", DATA))():
        seen.append(number)
        clock.time += 10.0
    phases.end()
    assert seen == [0, 1, 2]
    assert (phases.seconds[DATA], phases.seconds[START]) == (3.0, 30.0)


def test_an_attack_inside_a_matrix_belongs_to_the_matrix(clock: Hand) -> None:
    phases = Phases(clock, since=0.0)

    def passes() -> None:
        clock.time += 4.0

    attack = phases.wrapped(passes, Mark("m", "attack", ATTACKS, (("m.transfer", MATRIX),)))
    phases.wrapped(attack, Mark("m", "transfer", JUDGING))()
    attack()
    assert (phases.seconds[MATRIX], phases.seconds[ATTACKS], phases.seconds[JUDGING]) == (4.0, 4.0, 0.0)


def test_other_threads_are_not_measured(clock: Hand) -> None:
    phases = Phases(clock, since=0.0)
    timed = phases.wrapped(lambda: phases.enter("never", DATA) if phases.here() else None, Mark("m", "f", DATA))
    thread = threading.Thread(target=timed)
    thread.start()
    thread.join()
    assert phases.seconds == dict.fromkeys(PHASES, 0.0)


@pytest.mark.parametrize("mark", MARKS, ids=lambda mark: f"{mark.module}.{mark.name}")
def test_every_function_that_is_timed_is_there(mark: Mark) -> None:
    owner: Any = importlib.import_module(mark.module)
    for part in mark.name.split("."):
        owner = getattr(owner, part)
    assert callable(owner)
    assert mark.phase in PHASES


# ---------------------------------------------------------------- imports


def test_imports_are_added_up_for_each_package() -> None:
    told = """import time: self [us] | cumulative | imported package
import time:       500 |        500 | site
import time:      1000 |       1000 |     torch._C
import time:     20000 |      21000 |   torch
import time:      4000 |       4000 |     numpy
import time:      3000 |       7000 |   torch.nn
some other line
import time:      2000 |      30000 | bench.data
import time:      7000 |       7000 | torch.late
"""
    found = {package.name: package for package in packages(told.splitlines())}
    assert list(found) == ["torch", "numpy", "bench", "site"]
    assert (found["torch"].milliseconds, found["torch"].modules) == (31.0, 4)
    assert found["torch"].asked == found["numpy"].asked == "bench.data"
    assert found["site"].asked == found["bench"].asked == ""


# ---------------------------------------------------------------- the command


def test_the_command_splits_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_RESULTS", raising=False)
    code, out, err = bench(
        "perf", "run", "--method", "ece", "--limit", 30, "--set", "training.epochs=1", "--set", "training.limit=100",
        "--starts", 0, "--device", "cpu", "--json",
    )  # fmt: skip
    assert code == 0, out + err
    record = json.loads(out)
    phases = {phase["name"]: phase for phase in record["phases"]}
    assert tuple(phases) == PHASES
    assert all(phases[name]["seconds"] > 0 for name in PHASES)
    assert sum(phase["share"] for phase in phases.values()) == pytest.approx(1)
    assert sum(phase["seconds"] for phase in phases.values()) == pytest.approx(record["seconds"])
    work = sum(phases[name]["share"] for name in (TRAINING, ATTACKS, MATRIX))
    assert record["overhead"] == pytest.approx(1 - work)
    assert phases[HEATMAP]["overhead"]
    assert record["starts"] == []
    assert "torch" in {package["name"] for package in record["imports"]["bench run"]}


def test_help_imports_nothing_that_is_large() -> None:
    told = python([*BENCH, "--help"], 1, imports=True)
    found = {package.name for package in packages(told.splitlines())}
    assert {"bench", "click"} <= found
    assert not found & {"torch", "numpy", "pandas", "matplotlib", "scipy", "sqlalchemy", "pydantic", "rich"}


def test_start_times_are_those_of_the_commands(tmp_path: Any) -> None:
    written = tmp_path / "written"
    count = f"open({str(written)!r}, 'a').write('.')"
    found = whole._starts({"nothing": ["-c", "pass"], "some": ["-c", count]}, 1, 2, True, tell=lambda _: None)
    assert written.read_text() == ".."
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in found.values())


def test_a_command_that_fails_is_told_in_its_own_words() -> None:
    with pytest.raises(BenchError, match=r"^no such thing$"):
        python(["-c", "import sys; sys.exit('Error: no such thing')"], 1, imports=True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("--method", "trz"), "did you mean trs"), (("--dataset", "digit"), "did you mean digits"),
     (("--set", "methods.trs.lamda_a=1"), "lambda_a")],
)  # fmt: skip
def test_mistakes_are_told_in_a_line(arguments: Any, told: str) -> None:
    code, _, err = bench("perf", "run", "--starts", 0, *arguments)
    assert code == 2
    assert told in err
    assert err.strip().count("\n") == 0


def test_an_unknown_command_gets_the_nearest() -> None:
    code, _, err = bench("perf", "memry")
    assert code == 2
    assert "perf memory" in err
