"""Command lines and bench.toml made at random from the real ones: an exit code of 0, 1 or 2, no traceback."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import signal
import string
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from command_tree import commands
from confined import confined

from bench.cli import main
from bench.cli.options import Named, RunId
from bench.cli.parameters import Budgets, Integer, Number, Numbers, Real, Seeds
from bench.core import config

REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference" / "digits" / "runs.zip"
SECONDS = 60  # of processor time, for one command
SHORT, LONG = 40, 300
HOSTILE = (
    "", " ", "x", "x" * 5000, "-1", "0", "1e99999999", "1e400", "nan", "inf", "9" * 25, "9" * 5000, "0x" + "f" * 5000,
    "1/0", "1/" + "9" * 400, "0-999999999", "8/255", "é✓", "\udc80", "\x1b[31m", "[/x]", "[red]", "%s", "{0}", "a=b",
    "a.b=1", "a\nb", "a,b,,", ",", ":", "::1", "--", "null", "true", "[" * 5000, "{" * 5000, "'" * 3, "\\", "=",
)  # fmt: skip
URLS = (
    "postgresql://u@127.0.0.1:abc/x", "postgresql://u@127.0.0.1:99999/x", "postgresql://u@127.0.0.1:1/x", "mysql://h/x",
    "foo://", "://", "sqlite://", "sqlite:///", "postgresql+foo://h/x", "postgresql://[::1/x",
)  # fmt: skip
SETS = (
    "methods.trs.lambda_a=5", "attacks.pgd.steps=7", "training.epochs=2", "matrix.budgets.digits=0.2",
    "methods.trs.lambda_a=1 # x", "methods.trs.lambda_a=1\nb=2", "training.epochs=9999999999", "methods.trs.plugin={}",
    "attacks.pgd.budgets.digits=[1e999]", "suites.core.attacks=5", "data.validation=-1", "recipes.quick=1",
    "methods.trs" + ".a" * 3000 + "=1", "methods.trs.lambda_a=" + "[" * 5000, "blackbox=5.", "datasets.digits.suite=x",
)  # fmt: skip
LEFT_OUT = {"serve", "yes", "probe", "force", "target", "factory", "help"}  # would wait, ask, compute or run other code
NOT_FUZZED = ("perf",)  # they train whatever they are given; every one of their options is tested in test_options.py


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference results, taken in."""
    folder = tmp_path_factory.mktemp("fuzz") / "results"
    assert main.run(["db", "import", str(REFERENCE), "--results", str(folder)]) == 0
    return folder


@pytest.fixture
def scratch(results: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which everything happens: working folder, temporary files, and nothing can be written outside."""
    folder = results.parent
    monkeypatch.chdir(folder)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    import matplotlib.pyplot as plt  # finds its fonts, once a machine, by starting another program

    assert plt.rcParams
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    for name in ("BENCH_DATA", "BENCH_RESULTS", "BENCH_DB", "BENCH_THREADS", "BENCH_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    (folder / "text").write_text("no archive, no weights, no database\n")
    (folder / "folder").mkdir(exist_ok=True)
    if not (folder / "fifo").exists():
        os.mkfifo(folder / "fifo")
    return folder


def told(arguments: list[str], scratch: Path) -> int:
    """Run a command line; its exit code, after everything that must hold of any was checked."""
    out, err = io.StringIO(), io.StringIO()

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"over {SECONDS} s: {brief(arguments)}")

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        with confined(scratch), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main.run(arguments)
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__} of {brief(arguments)}") from error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert code in (0, 1, 2), brief(arguments)
    assert "Traceback" not in err.getvalue(), brief(arguments)
    assert len(err.getvalue()) < 20_000 + 4 * sum(map(len, arguments)), brief(arguments)
    assert len(out.getvalue()) < 5_000_000, brief(arguments)
    if code == 2:
        assert err.getvalue().strip(), brief(arguments)
    return code


def brief(arguments: list[str]) -> str:
    """A command line to type again, long words cut."""
    return " ".join(repr(word if len(word) < 60 else f"{word[:20]}…({len(word)})") for word in arguments)


def value(draw: random.Random, option: click.Parameter, ids: list[str]) -> str:
    """A value for an option: mostly one that it takes."""
    kind = option.type
    if isinstance(kind, click.Path):  # never a path outside the scratch folder
        return draw.choice(["text", "folder", "fifo", "absent", "folder/new.png", "new.svg", "x.zip", "é✓.csv"])
    if option.name == "db":
        return draw.choice([*URLS, "text", "folder", "fifo", "absent.db", "results/bench.db"])
    if option.name == "other":
        return draw.choice([*URLS, "text", "folder", "fifo", "absent", "results"])
    if option.name == "changes":
        return draw.choice([*SETS[:4], *SETS, *HOSTILE[:8]])
    if draw.random() < 0.25:
        return draw.choice(HOSTILE)
    if isinstance(kind, click.Choice):
        return str(draw.choice(list(kind.choices)))
    if isinstance(kind, RunId) or option.name == "identifiers":
        return draw.choice(ids)
    if isinstance(kind, Named):
        return draw.choice([*getattr(config.load().config, kind._kind)])
    if isinstance(kind, Integer):
        return str(draw.choice([kind.least, kind.least + 1, 4, kind.most, kind.most + 1]))
    if isinstance(kind, Seeds):
        return draw.choice(["0", "0-4", "0,3", "2147483647", "2147483648"])
    if isinstance(kind, (Number, Budgets, Numbers, Real)):
        return draw.choice(["0.1", "8/255", "1", "0.1,0.2", "1e6", "0"])
    return draw.choice(["digits", "all", "paper", "cpu", "a=b", "inline"])


def command_line(draw: random.Random, ids: list[str]) -> list[str]:
    """A command of the real tree with options and arguments at random."""
    tree = [(words, command) for words, command in commands() if words[0] not in NOT_FUZZED]
    words, command = draw.choice(tree)
    line = list(words)
    if words == ("run",):
        line += ["--dry-run"]
        line += ["-m", "ece"] if draw.random() < 0.7 else []
    if words == ("doctor",):
        line += ["--plugin", draw.choice(HOSTILE)]  # a real one would be trained and attacked
        return line
    if words == ("prepare",):
        return [*line, draw.choice(HOSTILE[:-1]), "--data", "folder"]  # a real one would be downloaded
    if words == ("report",) or draw.random() < 0.9:
        line += ["--results", draw.choice(["results", "results", "results", "folder", "text", "absent"])]
    options = [option for option in command.params if isinstance(option, click.Option)]
    options = [option for option in options if option.name not in LEFT_OUT | {"results", "dry_run"}]
    for option in draw.sample(options, min(len(options), draw.choice([0, 1, 1, 2, 2, 3, 5]))):
        name = draw.choice([*option.opts, *option.secondary_opts])
        times = 2 if draw.random() < 0.1 else 1
        for _ in range(times):
            line += [name] if option.is_flag else [name, *(value(draw, option, ids) for _ in range(option.nargs))]
    for argument in command.params:
        if isinstance(argument, click.Argument) and (argument.required or draw.random() < 0.5):
            own = HOSTILE if words[-1] == "boundary" else ids  # drawing a boundary computes for a minute
            times = draw.choice([1, 1, 2]) if argument.nargs < 0 else 1
            line += [value(draw, argument, list(own)) for _ in range(times)]
    return line


def fuzz_commands(cases: range, results: Path, scratch: Path) -> dict[int, int]:
    ids = [path.name for path in sorted(results.glob("runs/*"))][:5]
    codes: dict[int, int] = {}
    for case in cases:
        code = told(command_line(random.Random(case), ids), scratch)
        codes[code] = codes.get(code, 0) + 1
    return codes


def test_command_lines_at_random(results: Path, scratch: Path) -> None:
    codes = fuzz_commands(range(SHORT), results, scratch)
    assert codes[0] > 0  # not everything stops at the first word
    assert codes[2] > SHORT // 4


@pytest.mark.slow
def test_many_command_lines_at_random(results: Path, scratch: Path) -> None:
    print(fuzz_commands(range(LONG), results, scratch))


def test_the_guard_holds(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    outside = tmp_path / "out"
    with pytest.raises(BaseException, match=r"open of"), confined(tmp_path / "in"):
        outside.write_text("x")
    with pytest.raises(BaseException, match=r"os\.mkdir of"), confined(tmp_path / "in"):
        outside.mkdir()
    with confined(tmp_path / "in"):
        (tmp_path / "in" / "a").write_text("x")
        (tmp_path / "in" / "a").rename(tmp_path / "in" / "b")
    assert not outside.exists()


class Raw(str):
    """Text that stands in the file as it is: no value that Python has."""


NUMBERS = (
    -1,
    0,
    1,
    2**31,
    2**63,
    10**25,
    -(10**25),
    1e308,
    -0.0,
    Raw("1e999"),
    Raw("nan"),
    Raw("-inf"),
    Raw("9" * 5000),
)
OTHERS = (
    "", "x", "digits", "é✓", "\x1b[31m", "[/x]", "8/255", "1e99999999", "x" * 5000, True, False, [], {}, [[]], {"": 1},
    {"plugin": {"a": 1}}, {"a": {"b": {"c": {"d": 1}}}}, ["pgd", "pgd"], [1, "a", {}], Raw("0x" + "f" * 5000),
    Raw("2020-01-01"), Raw("12:00:00"), Raw("[" * 5000), Raw("[" * 50 + "]" * 50), list(range(5000)),
)  # fmt: skip


PLANNED = ("methods", "attacks", "models", "recipes")
TOLD_AT_ONCE = ("plugin", "title", "description", "budgets", "paper", "published", *PLANNED)


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a tree of tables and lists but its root."""
    if path:
        yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def mutate(draw: random.Random, table: dict[str, Any]) -> None:
    """One change at a random place: another value, a key more, less, or misspelt."""
    found = list(places(table))
    what = draw.choice(["value", "value", "value", "number", "more", "less", "misspell"])
    if draw.random() < 0.5:  # one that only a plug-in, or the plan, can tell to be wrong
        found = [way for way in found if way[0] in PLANNED and way[-1] not in TOLD_AT_ONCE]
        what = draw.choice(["value", "number", "number", "more"])
    *way, last = draw.choice(found)
    node: Any = table
    for key in way:
        node = node[key]
    if what == "less":
        del node[last]
    elif isinstance(node, list) or what in ("value", "number"):
        node[last] = copy.deepcopy(draw.choice(NUMBERS if what == "number" else OTHERS + NUMBERS))
    elif what == "more":
        node["".join(draw.choices(string.ascii_lowercase, k=5))] = copy.deepcopy(draw.choice(OTHERS))
    else:
        node[f"{last}x"] = node.pop(last)


def toml(value: Any) -> str:
    """A value as TOML, tables inline."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x1b", "\\u001b").replace("\x7f", "\\u007f")


def hostile_toml(draw: random.Random) -> str:
    """The built-in bench.toml with one to three changes; of each fifth also single letters."""
    table = tomllib.loads(config.defaults("bench.toml").read_text(encoding="utf-8"))
    for _ in range(draw.choice([1, 1, 2, 3])):
        mutate(draw, table)
    text = "\n".join(f"{json.dumps(key)} = {toml(item)}" for key, item in table.items())
    for _ in range(draw.choice([0, 0, 0, 0, 3])):
        place = draw.randrange(len(text))
        text = text[:place] + draw.choice(["", "[", '"', "\n", "{", "0", "="]) + text[place + 1 :]
    return text


def fuzz_configurations(cases: range, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    codes: dict[int, int] = {}
    monkeypatch.setenv("BENCH_CONFIG", str(scratch / "bench.toml"))
    for case in cases:
        draw = random.Random(10_000 + case)
        (scratch / "bench.toml").write_text(hostile_toml(draw), encoding="utf-8")
        dataset = draw.choice(["digits", "mnist", "cifar10"])
        suite = draw.choice([[], [], ["--suite", "figure2"], ["--attack", "pgd,cw"]])
        plan = ["run", "-m", draw.choice(["all", "paper", "trs"]), "-d", dataset, *suite, "--dry-run", "--json"]
        began = time.process_time()
        try:
            code = told([*plan, "--results", "results"], scratch)
            if draw.random() < 0.3:
                told(["list", draw.choice(["methods", "attacks", "datasets", "models", "recipes", "suites"])], scratch)
        except AssertionError as error:
            raise AssertionError(f"bench.toml number {case}") from error
        assert time.process_time() - began < SECONDS
        codes[code] = codes.get(code, 0) + 1
    return codes


def test_configurations_at_random(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = fuzz_configurations(range(SHORT), scratch, monkeypatch)
    assert codes[0] > SHORT // 10
    assert codes[2] > SHORT // 4


@pytest.mark.slow
def test_many_configurations_at_random(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    print(fuzz_configurations(range(LONG), scratch, monkeypatch))
