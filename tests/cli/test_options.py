"""What every option of every command must do: one value is given once, numbers are bounded, inputs are files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest
from command_tree import commands
from in_process import bench, needs
from in_process import refused as failure

from bench.cli import main
from bench.cli.parameters import Budgets, InputFile, Integer, Number, Numbers, Once, Real, Seeds
from bench.experiment.select import Selection

TREE = list(commands())
HUGE = (
    "1e99999999",
    "1e400",
    "9" * 25,
    "9" * 5000,
    "nan",
    "inf",
    "-inf",
    "1/" + "9" * 400,
    "0x" + "f" * 5000,
    "1e-99999999",
)


def test_the_whole_tree_is_walked() -> None:
    words = {" ".join(name) for name, _ in TREE}
    assert {"run", "exec", "db import", "plot boundary", "perf attacks"} <= words
    assert len(TREE) >= 30


@pytest.mark.parametrize(("words", "command"), TREE, ids=[" ".join(words) for words, _ in TREE])
def test_every_option_of_one_value_is_refused_when_it_is_given_twice(
    words: tuple[str, ...], command: click.Command
) -> None:
    assert isinstance(command, Once)
    seen = 0
    for option in command.params:
        if not isinstance(option, click.Option) or option.multiple or (option.is_flag and not option.secondary_opts):
            continue
        given = [option.opts[-1]] if option.is_flag else [option.opts[-1], *("x" * option.nargs)]
        again = [option.secondary_opts[0]] if option.is_flag else [option.opts[0], *("y" * option.nargs)]
        assert f"{option.opts[-1]} takes one value" in failure(*words, *given, *again)
        seen += 1
    assert seen or words == ("list",) or not command.params or words == ("prepare",)


@pytest.mark.parametrize(("words", "command"), TREE, ids=[" ".join(words) for words, _ in TREE])
def test_every_number_is_bounded(words: tuple[str, ...], command: click.Command) -> None:
    """No option takes a plain number of click's, which would let NaN, infinity and any number of digits through."""
    for option in command.params:
        if option.nargs == 1 and not (isinstance(option, click.Option) and option.is_flag):
            kind = option.type
            assert not isinstance(kind, (click.types.IntParamType, click.types.FloatParamType)), option.name
            if isinstance(kind, (Integer, Real, Number, Numbers, Seeds, Budgets)):
                for text in HUGE:
                    with pytest.raises(click.BadParameter) as caught:
                        kind.convert(text, option, None)
                    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "-m", "trs", "-d", "digits", "-d", "mnist"), "one data set a command"),
        (("run", "-m", "trs", "--seeds", "0", "--seeds", "1"), "write several as a list"),
        (("run", "-m", "trs", "--members", "99999999"), "from 1 to 1,000"),
        (("run", "-m", "trs", "--seeds", "0-999999999"), "up to 1,000 seeds"),
        (("run", "-m", "trs", "--seeds", "99999999999"), "seeds"),
        (("run", "-m", "trs", "--attack", "pgd", "--eps", "1e99999999"), "8/255"),
        (("run", "-m", "trs", "--attack", "pgd", "--eps", ".1,1e400"), "8/255"),
        (("run", "-m", "trs", "--attack", "pgd", "--eps", ",".join(["0.1"] * 1001)), "more than 1,000"),
        (("run", "-m", "trs", "--threads", "9" * 25), "from 1 to 1,024"),
        (("db", "import", "x.zip", "--max-total", "nan"), "above 0"),
        (("report", "--port", "99999"), "0 to 65,535"),
        (("run", "-m", "trs", "--attack", "pgd,cw", "--eps", ".1", "--suite", "core"), "instead of a suite"),
        (("run", "-m", "trs", "--attack", "pgd,fgms"), "did you mean fgsm"),
        (("run", "-m", "trs", "--attack", "cw", "--attack", "ead", "--eps", "1"), "budget of cw and ead is c"),
        (("evaluate", "x.pth", "--name", "x", "-d", "digits", "--std", "0"), "not above 0"),
    ],
)
def test_hostile_values_are_one_line(arguments: tuple[str, ...], words: str) -> None:
    assert words in failure(*arguments)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for place, words in ((fifo, "device or pipe"), (Path("/dev/zero"), "device or pipe"), (tmp_path, "is a folder")):
        for command in (("db", "import"), ("exec",)):
            assert words in failure(*command, str(place), "--results", str(tmp_path / "results"))
    inputs = [option for _, command in TREE for option in command.params if isinstance(option.type, InputFile)]
    assert len(inputs) == 4


def dry(results: Path, *arguments: str) -> list[tuple[str, float | None]]:
    """Attack and budget of the jobs that `run` would do."""
    planned = json.loads(bench("run", "-m", "ece", "--dry-run", "--json", "--results", results, *arguments))
    return [(job["attack"], job["budget"]) for job in planned if job["kind"] == "attack"]


def test_each_attack_is_run_at_each_budget(tmp_path: Path) -> None:
    """The last of several was taken before, without a word."""
    four = [("pgd", 0.1), ("pgd", 8 / 255), ("fgsm", 0.1), ("fgsm", 8 / 255)]
    assert dry(tmp_path, "--attack", "pgd", "--attack", "fgsm", "--eps", ".1", "--eps", "8/255") == four
    assert dry(tmp_path, "--attack", "pgd,fgsm", "--eps", "0.1,8/255,.1") == four
    mixed = dry(tmp_path, "--attack", "pgd,cw", "--eps", ".1,.2", "--c", "1")
    assert mixed == [("pgd", 0.1), ("pgd", 0.2), ("cw", 1.0)]
    assert dry(tmp_path, "--attack", "pgd") == dry(tmp_path, "--attack", "pgd", "--attack", "pgd")


def test_a_budget_is_of_its_own_kind() -> None:
    selection = Selection(attacks=("pgd",), eps=(0.1, 0.2))
    assert selection.budgets("eps") == (0.1, 0.2)
    assert selection.budgets("c") is None


def test_a_fault_of_the_program_is_one_line_with_its_traceback_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(arguments: object) -> int:
        raise ZeroDivisionError("the coffee is out\nand so is the tea")

    monkeypatch.setattr(main, "run", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as caught:
        main.main([])
    assert caught.value.code == 1
    (told,) = capsys.readouterr().err.splitlines()
    (file,) = tmp_path.iterdir()
    assert "internal error" in told
    assert "ZeroDivisionError: the coffee is out;" in told
    assert str(file) in told
    assert "raise ZeroDivisionError" in file.read_text()


def test_tests_see_the_exception_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**settings: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(main.cli, "main", broken)
    with pytest.raises(ZeroDivisionError):
        main.run([])


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@h:abc/x", "postgresql://u@h:99999/x", "postgresql://u@h:" + "9" * 5000 + "/x", "postgresql://[::1/x",
        "postgresql+foo://h/x", "mysql://h/x", "foo://", "://", "sqlite://", "/dev/zero", "sqlite:////dev/zero",
    ],
)  # fmt: skip
def test_a_wrong_database_is_one_line(url: str) -> None:
    assert any(word in failure("table", "--db", url) for word in ("is not a database", "a port is", "device or pipe"))


@pytest.mark.parametrize("device", ["meta", "privateuseone", "cuda:" + "9" * 20, "", "x" * 10_000])
def test_a_wrong_device_is_one_line(device: str, tmp_path: Path) -> None:
    told = failure("run", "-m", "ece", "--dry-run", "--probe", "--device", device, "--results", str(tmp_path))
    assert "cannot be used here" in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--executor", "ray", "--executor-option", "num_gpus=nan"), "share of a GPU"),
        (("--executor", "ray", "--address", "127.0.0.1:" + "9" * 5000), "is not a whole number"),
        (("--executor", "ray", "--address", "127.0.0.1:99999"), "up to 65,535"),
        (("--executor", "local", "--gpus", "9" * 5000), "cannot be used here"),
        (("--executor", "local", "--gpus", "²"), "cannot be used here"),
    ],
)
def test_wrong_places_of_work_are_one_line(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    if "ray" in options:
        needs("ray")
    assert words in failure("run", "-m", "ece", *options, "--limit", "20", "--results", str(tmp_path))


@pytest.mark.parametrize("gpu", ["2", "²", "9" * 5000, "-1", "01"])
def test_a_gpu_that_is_not_visible_is_one_line(gpu: str) -> None:
    from bench.jobs.executors.local import _physical

    assert _physical("1", ["4", "5"]) == "5"
    with pytest.raises(main.BenchError, match="there is no GPU") as caught:
        _physical(gpu, ["4", "5"])
    assert len(str(caught.value)) < 200


def test_a_host_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    from bench.report.site.serve import Server

    with pytest.raises(main.BenchError, match="cannot serve on"):
        Server(tmp_path, host="x" * 300)


def test_protocols_are_read_once_while_a_database_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.cli.options import at_work
    from bench.experiment import protocols

    calls: list[object] = []
    original = protocols.standards
    monkeypatch.setattr(protocols, "standards", lambda loaded: calls.append(loaded) or original(loaded))
    with at_work(None, tmp_path):  # a new one: standings are brought up to date as it opens, and as it closes
        pass
    assert len(calls) == 1
