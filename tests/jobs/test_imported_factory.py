"""A run of somebody else names a function of this machine's packages: nobody calls it unless the user says so."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from exchanged import place
from in_process import bench
from in_process import told as command
from safetensors.torch import save_file
from torch import nn

from bench.core.errors import BenchError
from bench.exchange.importing import origin
from bench.experiment.spec import RunSpec
from bench.jobs import ensembles
from bench.jobs.ensembles import check_factory
from bench.jobs.workplace import Workplace
from bench.store.door import check_run, read

FUNCTION = "strange_nets:make"
MODULE = """
from pathlib import Path
from torch import nn

def make():
    Path({called!r}).touch()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that the factory leaves when it is called."""
    file = tmp_path / "called"
    (tmp_path / "strange_nets.py").write_text(MODULE.format(called=str(file)))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield file
    sys.modules.pop("strange_nets", None)


@pytest.fixture
def imported(tmp_path: Path, called: Path) -> Path:
    """A results folder with such a run, imported; its weights are there."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    made = ("evaluate", tmp_path / "net.safetensors", "--factory", FUNCTION, "-d", "digits", "--name", "nice")
    few = ("--attack", "fgsm", "--eps", "0.1", "--limit", "20", "--threads", "1", "-q")
    code, told = command(*made, *few, "--results", tmp_path / "theirs")
    assert code == 0, told
    assert called.exists()  # given by hand, it is called, and measured on at once
    bench("db", "export", "-o", tmp_path / "nice.zip", "--results", tmp_path / "theirs")
    code, told = command("db", "import", tmp_path / "nice.zip", "--results", tmp_path / "mine")
    assert code == 0, told
    assert FUNCTION in told
    assert "--allow-factory" in told
    called.unlink()
    return tmp_path / "mine"


def run_of(results: Path) -> RunSpec:
    (path,) = (results / "runs").glob("*/run.json")
    return check_run(read(path, str(path)), str(path), path.parent.name).spec


def test_no_command_calls_it_until_it_is_allowed(imported: Path, called: Path, tmp_path: Path) -> None:
    run = run_of(imported)
    (attack,) = (
        path.stem
        for path in (imported / "runs" / run.run_id / "evaluations").iterdir()
        if json.loads(path.read_text())["kind"] == "attack"
    )
    at = ("--results", imported, "--threads", "1")
    more = ("-d", "digits", "--attack", "pgd", "--eps", "0.1", "--limit", "20", "-q")
    for arguments in (
        ("run", "-m", "nice", *more, *at), ("run", "-m", "nice", *more, *at, "--dry-run", "--probe"),
        ("run", "-m", "nice", *more, *at, "--workers", "1"), ("run", "-m", "nice", *more, *at, "--force"),
        ("show", attack, "--export", tmp_path / "x.safetensors", *at), ("plot", "boundary", run.run_id[:10], *at),
        ("db", "verify", run.run_id[:10], *at), ("db", "verify", run.run_id[:10], "--retrain", *at),
    ):  # fmt: skip
        code, told = command(*arguments)
        assert code != 0, arguments
        assert f"--allow-factory {FUNCTION}" in told, (arguments, told)
        assert "Traceback" not in told
        assert not called.exists(), arguments
    for arguments in (("list", "runs"), ("show", run.run_id[:10]), ("db", "rebuild"), ("audit", run.run_id[:10])):
        assert command(*arguments, "--results", imported)[0] in (0, 1)
        assert not called.exists(), arguments
    code, told = command("run", "-m", "nice", *more, *at, "--allow-factory", "os:abort")
    assert code != 0
    assert not called.exists()
    for arguments in (("run", "-m", "nice", *more), ("db", "verify", run.run_id)):
        ensembles.let_go()  # as in a process of its own: one that is kept is not made again
        code, told = command(*arguments, *at, "--allow-factory", FUNCTION)
        assert code == 0, told
        assert called.exists()
        called.unlink()


def test_rows_of_another_database_call_nothing_either(imported: Path, called: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    bench("db", "merge", theirs / "bench.db", "--results", tmp_path / "rows")
    more = ("-d", "digits", "--attack", "fgsm", "--eps", "0.1", "--limit", "20", "-q", "--threads", "1", "--force")
    code, told = command("run", "-m", "nice", *more, "--results", tmp_path / "rows")
    assert code != 0, told
    assert not called.exists()


def test_where_a_run_came_from_is_kept_and_shown(imported: Path, tmp_path: Path) -> None:
    run = run_of(imported)
    told = origin(place(imported), run.run_id)
    assert told is not None
    assert told["archive"] == "nice.zip"
    assert told["sha256"] == hashlib.sha256((tmp_path / "nice.zip").read_bytes()).hexdigest()
    bench("db", "rebuild", "--results", imported)
    code, shown = command("show", run.run_id[:10], "--results", imported)
    assert code == 0
    assert "nice.zip" in shown
    assert json.loads(command("show", run.run_id[:10], "--json", "--results", imported)[1])["imported"] == told
    # It stays with this folder: who imports it from here notes our archive.
    bench("db", "export", "-o", tmp_path / "again.zip", "--results", imported)
    bench("db", "import", tmp_path / "again.zip", "--results", tmp_path / "third")
    again = origin(place(tmp_path / "third"), run.run_id)
    assert again is not None
    assert again["archive"] == "again.zip"
    assert origin(place(tmp_path / "theirs"), run.run_id) is None
    place(imported).imported_file(run.run_id).write_text("{}")
    with pytest.raises(BenchError, match="damaged"):
        origin(place(imported), run.run_id)
    with pytest.raises(BenchError, match="came from outside"):  # a damaged note allows nothing
        check_factory(run, place(imported))
    check_factory(run, Workplace(results=imported, data=imported, factories=(FUNCTION,)))
