"""Kills at aimed moments: before and after each step that others can see, of every command that takes several.

The commands run in forks of a warm process whose system calls are counted: the k-th sync, rename, link, removal or
commit is a moment, and moments 1, 2, 3 … are all there are. After each kill the next plain command is given, and then
the database is what a rebuild gives, every outcome is bit for bit what it was or would have been, and nothing is lost.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from exchanged import attack, fill, spec, write_evaluation, write_failure
from in_process import TINY
from test_faults import content
from test_runs import ROOT, numbers

from bench.cli.options import bring_up
from bench.core import config
from bench.core.config import defaults
from bench.experiment import select
from bench.experiment.naming import configured
from bench.store import ingest

SUITE = ["run", "-m", "ece", *TINY, "--threads", "1"]
RUN = [*SUITE, "--attack", "fgsm", "--eps", "0.1"]

FORKER = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
import seaborn, sqlalchemy.dialects.sqlite, alembic.command, sklearn.datasets
import bench.cli.run, bench.cli.db, bench.jobs.work, bench.jobs.driver, bench.report.heatmap, bench.store.ingest
import bench.jobs.removal, bench.exchange.importing, bench.jobs.verify
from sqlalchemy import Engine, event
from bench.cli import main
from bench.store import sqlite
seen, aim = [], 0
def passed(point):
    seen.append(point)
    if len(seen) == aim:
        os.kill(os.getpid(), signal.SIGKILL)
def watched(owner, name):
    real = getattr(owner, name)
    def wrapper(*given, **named):
        passed(name)
        return real(*given, **named)
    setattr(owner, name, wrapper)
for name in ("fsync", "rename", "replace", "unlink", "rmdir", "link"):
    watched(os, name)
watched(sqlite, "_copied")
watched(main, "_run")
event.listen(Engine, "commit", lambda connection: passed("commit"))
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        file = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        aim = order["aim"]
        code = main.run(order["arguments"])
        sys.stdout.flush()
        with open(order["log"] + ".seen", "w") as told:
            told.write(json.dumps(seen))
        os._exit(code)
    print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])), flush=True)
"""


class Forker:
    """Runs `bench` in forks of a warm process; `aim` is the moment at which it is killed, 0 none."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def run(self, folder: Path, arguments: Iterable[str], *, aim: int = 0) -> tuple[int, str]:
        """Exit code (negative: a signal) and output."""
        log = folder.parent / f"{folder.name}.log"
        order = {"arguments": [*arguments, "--results", str(folder)], "log": str(log), "aim": aim}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline()), log.read_text()

    def moments(self, folder: Path, arguments: Iterable[str]) -> list[str]:
        """The moments of a command that nobody kills."""
        code, out = self.run(folder, arguments)
        assert code == 0, out
        seen: list[str] = json.loads((folder.parent / f"{folder.name}.log.seen").read_text())
        return seen

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    made = Forker()
    yield made
    made.close()


@dataclass(frozen=True)
class Scenario:
    """A command that is killed, on a folder that `prepare` makes, and the plain one that comes next."""

    command: tuple[str, ...]
    then: tuple[str, ...]
    prepare: Callable[[Path, Forker], None]
    outcomes: Callable[[Path], Any]
    """What is bit for bit as before the command or as after it."""


def records(folder: Path) -> dict[str, str]:
    """Every record's text by its file: what may not be lost, or changed by halves."""
    found = [*folder.glob("runs/[!.]*/run.json"), *folder.glob("runs/[!.]*/*/*.json")]
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def sums(folder: Path) -> Any:
    """Weights, curves and bits, without times."""
    return {name: value for name, value in numbers(folder).items() if not name.endswith(".tmp")}


def done(arguments: list[str]) -> Callable[[Path, Forker], None]:
    def prepare(folder: Path, forker: Forker) -> None:
        code, out = forker.run(folder, arguments)
        assert code == 0, out

    return prepare


def filled(folder: Path, forker: Forker) -> None:
    """Two runs with an evaluation that superseded a failure each, and an archive of what another made of them."""
    for seed in (0, 1):
        fill(folder, spec(seed=seed), weights=seed)
    done(["db", "rebuild"])(folder, forker)


def failures(folder: Path, forker: Forker) -> None:
    """Only what gc would remove."""
    filled(folder, forker)
    write_failure(folder, spec(), attack(spec(), 0.2).evaluation_id)
    done(["db", "gc", "--dry-run"])(folder, forker)


def two_sides(folder: Path, forker: Forker) -> None:
    """Ours has one of the archive's runs: an evaluation less, one in the database alone, and another attempt's."""
    theirs = folder.parent / f"{folder.name}-theirs"
    filled(theirs, forker)
    done(["db", "export", "-o", str(folder.parent / f"{folder.name}.zip")])(theirs, forker)
    fill(folder, spec())
    for path in folder.glob("runs/*/failures/*.json"):
        path.unlink()
    ours = write_evaluation(folder, attack(spec(), 0.2), draw=2, attempt_id="0" * 24)
    done(["db", "rebuild"])(folder, forker)
    ours.unlink()
    next(iter(sorted(folder.glob("runs/*/members.safetensors")))).unlink()


def merged(folder: Path, forker: Forker) -> None:
    """The database holds, in its log alone, a row that no file has."""
    filled(folder, forker)
    other = folder.parent / f"{folder.name}-other"
    fill(other, spec(seed=7), weights=7)
    with sqlite3.connect(folder / "bench.db") as reader:  # somebody looks: so the log is not folded in
        reader.execute("SELECT * FROM run").fetchone()
        done(["db", "merge", str(other)])(folder, forker)
        for suffix in ("", "-wal"):
            shutil.copy(folder / f"bench.db{suffix}", folder / f"kept{suffix}")
    reader.close()
    for suffix in ("", "-wal"):
        (folder / f"kept{suffix}").replace(folder / f"bench.db{suffix}")


def of_others(folder: Path, forker: Forker) -> None:
    """A run that came in from others, with its weights and nothing measured here."""
    theirs = folder.parent / f"{folder.name}-theirs"
    done(RUN)(theirs, forker)
    done(["db", "export", "-o", str(folder.parent / f"{folder.name}.zip")])(theirs, forker)
    done(["db", "import", str(folder.parent / f"{folder.name}.zip")])(folder, forker)


RUN_ID = spec().run_id
MADE_ID = select.run_spec(
    config.load(changes=("training.epochs=1", "training.limit=64")), select.Selection(), "ece", 0
).run_id  # fmt: skip
LOOK = ("db", "gc", "--dry-run")
SCENARIOS = {
    "run": Scenario(tuple(RUN), tuple(RUN), lambda folder, forker: None, sums),
    "run --force": Scenario((*RUN, "--force"), tuple(RUN), done(RUN), sums),
    "training again": Scenario((*SUITE, "--force"), tuple(SUITE), done(SUITE), sums),
    "delete": Scenario(("db", "delete", RUN_ID, "-y"), LOOK, filled, records),
    "gc": Scenario(("db", "gc", "-y"), LOOK, failures, records),
    "import": Scenario(("db", "import", "{folder}.zip"), LOOK, two_sides, records),
    "verify": Scenario(("db", "verify", MADE_ID, "--retrain"), LOOK, of_others, records),
    "rebuild": Scenario(("db", "rebuild"), ("list", "runs"), merged, records),
}


def told(command: Iterable[str], folder: Path) -> list[str]:
    return [part.format(folder=folder) for part in command]


def agrees(folder: Path, name: str) -> None:
    """The database is what a rebuild gives, and nothing is left half done."""
    rebuilt = folder.parent / f"{folder.name}-rebuilt.db"
    rebuilt.unlink(missing_ok=True)
    assert ingest.rebuild(rebuilt, folder / "runs", defaults("published"), configured(), bring_up).damaged == ()
    found, wanted = content(folder / "bench.db"), content(rebuilt)
    if (old := folder.parent / "old.db").exists() and found != wanted:  # rows without files, and it did not come so far
        assert found == content(old)
    else:
        assert found == wanted
    assert list(folder.glob("journal/*.json")) == []
    assert list(folder.glob("runs/.deleted-*")) == []


def kills(forker: Forker, folder: Path, name: str, moments: Callable[[int], Iterable[int]]) -> int:
    """Kill a command at chosen ones of its moments; how many kills there were."""
    scenario = SCENARIOS[name]
    base, whole = folder / "base", folder / "whole"
    scenario.prepare(base, forker)
    if base.exists():
        shutil.copytree(base, whole)
        for log in base.glob("bench.db*") if name in ("import", "rebuild") else ():
            shutil.copy(log, folder / log.name.replace("bench", "old"))
    if (folder / "base.zip").exists():
        shutil.copy(folder / "base.zip", folder / "whole.zip")
    seen = forker.moments(whole, told(scenario.command, whole))
    before = scenario.outcomes(base) if base.exists() else None
    after = scenario.outcomes(whole)
    count = 0
    for moment in moments(len(seen)):
        results = folder / f"{moment}"
        if base.exists():
            shutil.copytree(base, results)
        if (folder / "base.zip").exists():
            shutil.copy(folder / "base.zip", folder / f"{moment}.zip")
        code, out = forker.run(results, told(scenario.command, results), aim=moment)
        assert code == -signal.SIGKILL, out
        code, out = forker.run(results, told(scenario.then, results))
        where = f"{name}, killed at moment {moment} of {len(seen)} ({seen[moment - 1]}): {out}"
        assert code == 0, where
        assert "left out" not in out, where
        assert scenario.outcomes(results) in (before, after), where
        agrees(results, name)
        code, out = forker.run(results, told(scenario.command, results))  # and the same again comes to its end
        assert code == 0 or (name == "delete" and "no run or evaluation begins" in out), where + out
        assert scenario.outcomes(results) == after, where
        if name != "rebuild":
            agrees(results, name)
        shutil.rmtree(results)
        count += 1
    print(f"\n{name}: {count} kills at {len(seen)} moments ({', '.join(sorted(set(seen)))})")
    return count


@pytest.mark.parametrize(
    ("name", "number"),
    [("run", 2), ("run --force", 6), ("delete", 6), ("gc", 4), ("import", 6), ("verify", 6), ("rebuild", 5)],
)
def test_a_kill_at_some_moments_is_made_good(forker: Forker, name: str, number: int, tmp_path: Path) -> None:
    chance = random.Random(f"15 {name}")
    assert kills(forker, tmp_path, name, lambda count: sorted(chance.sample(range(1, count + 1), number))) == number


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_at_every_moment_is_made_good(forker: Forker, name: str, tmp_path: Path) -> None:
    """Every moment of what takes little time; of the long ones at most a hundred, evenly."""
    assert kills(forker, tmp_path, name, lambda count: range(1, count + 1, -(-count // 100))) > 5
