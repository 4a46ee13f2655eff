"""The command line as a person uses it, in a process of its own where that matters."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_tree import commands
from exchanged import attack, spec, write_evaluation, write_run
from in_process import QUICK, bench, command

from bench.cli import main

ROOT = Path(__file__).resolve().parents[2]
LARGE = {"torch", "numpy", "pandas", "matplotlib", "scipy", "sqlalchemy", "pydantic", "rich"}
Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a short run of `ece` and `trs` on 40 digits."""
    folder = tmp_path_factory.mktemp("results")
    bench("run", "-m", "ece", "-m", "trs", *QUICK, "--results", folder, "--threads", 1)
    return folder


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.cli.main", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_every_command_has_help_with_an_example_and_the_line_of_the_overview() -> None:
    for name, (_, line) in main.COMMANDS.items():
        out = bench(name, "--help")
        assert "Example" in out, name
        assert line.endswith(".")


def test_every_command_stands_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for name in main.COMMANDS:
        if name not in main.HIDDEN:
            assert re.search(rf"`bench {name}\b|bench {name} ", text), name


def imported(*typed: list[str]) -> set[str]:
    """What these commands, one after another, import of the packages that take long."""
    code = f"""
import sys
from bench.cli import main
for words in {typed!r}:
    assert main.run(words) == 0, words
    print(*(f"{{name}} by {{words}}" for name in {LARGE!r} & sys.modules.keys()), sep=chr(10), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(filter(None, done.stderr.splitlines()))


def test_no_help_imports_anything_that_is_large() -> None:
    groups = ([], ["db"], ["perf"], ["plot"])
    assert imported(*([*words, "--help"] for words in (*groups, *(words for words, _ in commands())))) == set()


def test_table_status_and_list_do_not_import_torch(results: Path) -> None:
    there = ["--results", str(results)]
    found = imported(
        ["table", *QUICK, *there], ["status"], ["status", "-m", "trs", *there], ["list", "methods"],
        ["list", "runs", *there],
    )  # fmt: skip
    assert {line.split()[0] for line in found} & {"torch", "pydantic"} == {"pydantic"}


def test_help_is_quick() -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert process("--help").returncode == 0
        times.append(time.perf_counter() - start)
    # The aim is .4 s on an idle machine; three times that here, where others may be working.
    assert min(times) < 1.2


def test_the_same_command_again_does_nothing_and_says_so(results: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (results / "runs").rglob("*") if path.is_file()}
    out = bench("run", "-m", "ece", "-m", "trs", *QUICK, "--results", results)
    assert "Nothing to do" in out
    assert before == {path: path.stat().st_mtime_ns for path in (results / "runs").rglob("*") if path.is_file()}


def test_run_prints_table_matrix_and_paths(results: Path) -> None:
    _, out, _ = command("run", "-m", "trs", *QUICK, "--results", results)
    assert "PGD (50)" in out
    assert "crafted on" in out
    for kind in ("runs", "database", "heatmap", "next"):
        assert re.search(rf"^{kind} ", out, re.MULTILINE), kind
    picture = re.search(r"^heatmap +(\S+)$", out, re.MULTILINE)
    assert picture
    assert Path(picture[1]).read_bytes().startswith(b"\x89PNG")


def test_csv_has_the_columns_that_machines_rely_on(results: Path) -> None:
    out = bench("table", "core", *QUICK, "--results", results, "--format", "csv", "--no-details")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["attack", "budget_name", "budget", "ece", "trs"]
    attacks = [attack for attack in ("fgsm", "bim", "pgd", "mim", "worst_linf") for _ in range(2)]
    assert [row["attack"] for row in rows] == ["clean", *attacks]
    assert all(0 <= float(row["trs"]) <= 100 for row in rows)


def test_long_and_json_say_the_same_as_csv(results: Path) -> None:
    selectors = ("core", *QUICK, "--results", results, "--no-details")
    wide = list(csv.DictReader(io.StringIO(command("table", *selectors, "--format", "csv")[1])))
    long = list(csv.DictReader(io.StringIO(command("table", *selectors, "--long")[1])))
    cells = json.loads(bench("table", *selectors, "--json"))
    assert len(long) == len(cells) == 2 * len(wide)
    for row in wide:
        for method in ("ece", "trs"):
            same = [
                cell
                for cell in cells
                if (cell["method"], cell["attack"]) == (method, row["attack"])
                and (cell["budget"] is None or cell["budget"] == float(row["budget"]))
            ]
            assert len(same) == 1
            assert same[0]["mean"] == pytest.approx(float(row[method]), abs=1e-3)
            assert same[0]["n"] == 40
            assert same[0]["seeds"] == [0]


def test_limited_and_full_results_never_share_a_table(results: Path) -> None:
    code, _, err = command("table", "core", *QUICK[:4], "--results", results)
    assert code == 2
    assert "nothing of core has been measured" in err


def test_markdown_table_is_aligned_and_names_the_recipe_changes(results: Path) -> None:
    _, out, _ = command("table", *QUICK, "--results", results, "--format", "markdown")
    assert "recipe standard with training.epochs=2, training.limit=200" in out
    assert "40 of 500 test images" in out
    bars = {line.count("|") for line in out.splitlines() if line.startswith("|")}
    assert bars == {5}


def test_a_run_that_finds_nothing_to_do_draws_the_heatmap_only_where_it_is_not_that_of_the_results(
    results: Path,
) -> None:
    again = ["run", "-m", "ece", "-m", "trs", *QUICK, "--results", results]
    bench(*again)
    (figure,) = (results / "figures").glob("transfer-*-*.png")
    before = figure.stat().st_mtime_ns
    _, out, _ = command(*again)
    assert "Nothing to do" in out
    assert str(figure) in out
    assert figure.stat().st_mtime_ns == before
    numbers = figure.with_suffix(".csv").read_text()
    figure.with_suffix(".csv").write_text(numbers.replace("ece", "other"))
    bench(*again)
    assert figure.stat().st_mtime_ns > before
    assert figure.with_suffix(".csv").read_text() == numbers
    figure.unlink()
    bench(*again)
    assert figure.is_file()


def test_attacks_in_bfloat16_are_results_of_their_own(results: Path) -> None:
    one = ["-m", "trs", *QUICK, "--attack", "pgd", "--eps", "0.1", "--results", results]
    out = bench("run", *one, "--precision", "bfloat16", "--threads", 1)
    assert "PGD (50), bfloat16" in out
    assert "bfloat16" in command("table", *one, "--precision", "bfloat16", "--format", "markdown")[1]
    assert "bfloat16" not in command("table", *one, "--format", "markdown")[1]
    assert "Nothing to do" in bench("run", *one, "--precision", "bfloat16")
    assert command("run", *one, "--precision", "float16")[0] != 0


def test_a_precision_that_is_given_wins_over_the_configured_one(results: Path) -> None:
    one = ["run", "-m", "trs", *QUICK, "--attack", "pgd", "--eps", "0.1", "--results", results, "--dry-run", "--json"]

    def planned(*more: object) -> set[str]:
        out = bench(*one, *more)
        return {job["id"] for job in json.loads(out)}

    configured = ("--set", "attacks.pgd.precision=bfloat16")
    assert planned() == planned("--precision", "float32") == planned(*configured, "--precision", "float32")
    assert planned(*configured) == planned("--precision", "bfloat16") != planned()


def test_help_says_what_the_precision_is_unless_given() -> None:
    def told(*of: str) -> str:
        return " ".join(command(*of, "--help")[1].split()).replace("black- box", "black-box")

    assert "images of the black-box suite are made in float32" in told("run")
    for name in ("run", "table", "evaluate"):
        assert "[default: float32, unless bench.toml or --set say otherwise]" in told(name)
    assert "libraries have no other than float32. [default: float32]" in told("perf", "attacks")


def test_what_would_fill_an_empty_table_asks_in_the_precision_that_was_given(results: Path) -> None:
    empty = ("table", "-m", "adp", *QUICK, "--results", results)
    assert "--precision bfloat16" in command(*empty, "--precision", "bfloat16")[2]
    assert "--precision" not in command(*empty)[2]


def test_one_attack_at_a_budget_of_ones_own_uses_the_trained_run(results: Path) -> None:
    runs = sorted((results / "runs").iterdir())
    out = bench("run", "-m", "trs", *QUICK, "--attack", "pgd", "--eps", "8/255", "--results", results, "--threads", 1)
    assert "ε = 8/255" in out
    assert sorted((results / "runs").iterdir()) == runs


def test_json_outcome_of_run(results: Path) -> None:
    code, out, _ = command("run", "-m", "trs", *QUICK, "--results", results, "--json")
    outcome = json.loads(out)
    assert code == 0
    assert outcome["ok"] is True
    assert outcome["done"] == 0
    assert len(outcome["matrices"][0]["rates"]) == 3
    assert len(outcome["matrices"][0]["rates"][0]) == 4


def test_list_attacks_tells_those_of_one_plugin_apart() -> None:
    rows = {row["name"]: row for row in json.loads(bench("list", "attacks", "--json"))}
    assert rows["pgd_100"]["description"] == "pgd with steps = 100"
    assert rows["pgd_targeted"]["description"] == "pgd with targets = random"
    assert len({row["description"] for row in rows.values()}) == len(rows)
    assert "cifar10 0.01 0.02 8/255" in rows["autoattack"]["budgets"]


def test_list_methods_as_json() -> None:
    _, out, _ = command("list", "methods", "--json")
    methods = {row["name"]: row for row in json.loads(out)}
    assert {"ece", "trs", "trs_printed", "trs_official", "cos_l2", "cos_only"} <= methods.keys()
    assert all(row["description"] and row["origin"].startswith("bench") for row in methods.values())


@pytest.mark.parametrize("what", ["methods", "attacks", "datasets", "models", "recipes", "suites"])
def test_list_prints_a_table(what: str) -> None:
    out = bench("list", what)
    assert len(out.splitlines()) > 4
    assert not {"True", "False"} & set(out.split())


def test_show_accepts_a_prefix_of_runs_and_evaluations(results: Path) -> None:
    run = json.loads(bench("list", "runs", "--results", results, "--json"))[0]
    out = bench("show", run["id"][:8], "--results", results)
    assert run["method"] in out
    assert "clean" in out
    record = json.loads(bench("show", run["id"], "--results", results, "--json"))
    assert record["environment"]["packages"]["torch"]
    assert len(record["curve"]) == 2
    evaluation = record["evaluations"][0]["evaluation_id"]
    out = bench("show", evaluation[:10], "--results", results)
    assert run["id"] in out


def test_show_names_the_precision_of_an_evaluation(tmp_path: Path) -> None:
    run = spec()
    write_run(tmp_path, run)
    both = (attack(run), attack(run).model_copy(update={"precision": "bfloat16"}))
    for one in both:
        write_evaluation(tmp_path, one)
    bench("db", "rebuild", "--results", tmp_path)
    told = [command("show", one.evaluation_id, "--results", tmp_path)[1].splitlines()[0].rstrip() for one in both]
    assert [line.partition("  pgd ")[2] for line in told] == ["ε = 0.1", "ε = 0.1, bfloat16"]


def test_status_joins_planned_with_recorded(results: Path) -> None:
    _, out, _ = command("status", "-m", "trs", *QUICK, "--seeds", "0-1", "--results", results, "--json")
    states = [(row["seed"], row["state"]) for row in json.loads(out)]
    assert {state for seed, state in states if seed == 0} == {"done"}
    assert {state for seed, state in states if seed == 1} == {"new"}
    bench("status", "--results", results)


def test_dry_run_does_nothing(tmp_path: Path) -> None:
    out = bench("run", "-m", "trs", "--results", tmp_path, "--dry-run")
    assert "11 new" in out
    assert not (tmp_path / "runs").exists()


def test_heatmap_in_every_format_and_rate(results: Path, tmp_path: Path) -> None:
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    for suffix, start in starts.items():
        target = tmp_path / f"figure.{suffix}"
        bench("heatmap", *QUICK, "--results", results, "-o", target)
        assert target.read_bytes().startswith(start)
    svg = (tmp_path / "figure.svg").read_text()
    assert "crafted on" in svg
    assert "evaluated on" in svg
    rate = ("--rate", "definition6", "--population", "all")
    assert "misclassified by source and target in %" in bench(
        "heatmap", *QUICK, "--results", results, *rate, "-o", tmp_path / "d.png"
    )


def test_rebuilt_database_gives_the_same_table(results: Path, tmp_path: Path) -> None:
    before = command("table", *QUICK, "--results", results, "--long")[1]
    out = bench("db", "rebuild", "--results", results)
    assert "2 runs" in out
    assert command("table", *QUICK, "--results", results, "--long")[1] == before


def test_doctor_finds_this_installation_sound(tmp_path: Path) -> None:
    out = bench("doctor", "--results", tmp_path, "--data", tmp_path)
    assert "all is well" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "name a method"),
        (["rum"], "did you mean run"),
        (["run", "-m", "trss"], "did you mean trs"),
        (["run", "-m", "trs", "-d", "cifar"], "did you mean cifar10"),
        (["run", "-m", "trs", "--suite", "cor"], "did you mean core"),
        (["run", "-m", "trs", "-d", "digits", "--suite", "table1-mnist"], "is for mnist, not digits"),
        (["run", "-m", "trs", "--recipe", "quik"], "did you mean quick"),
        (["run", "-m", "trs", "--model", "lenett"], "did you mean lenet"),
        (["run", "-m", "trs", "--attack", "pgdd"], "did you mean pgd"),
        (["run", "-m", "trs", "--eps", "0.1"], "go with --attack"),
        (["run", "-m", "trs", "--attack", "pgd", "--c", "1"], "give --eps"),
        (["run", "-m", "trs", "--attack", "pgd", "--eps", "a"], "8/255"),
        (["run", "-m", "trs", "--members", "1"], "at least 2 members"),
        (["run", "-m", "trs", "--seeds", "x"], "0-4"),
        (["run", "-m", "trs", "--set", "methods.trs.lambda_c=1"], "did you mean lambda_b or lambda_a"),
        (["run", "-m", "trs", "--set", "methods.trs.lambda_a=much"], "valid number"),
        (["run", "-m", "trs", "--set", "methods.trs.lambda_a"], "KEY=VALUE"),
        (["run", "-m", "trs", "--set", "training.epoch=1"], "did you mean epochs"),
        (["run", "-m", "trs", "--set", "training.epochs=0"], "greater than or equal to 1, not 0"),
        (["run", "-m", "trs", "--set", "data.validation=5000"], "1296"),
        (["run", "-m", "trs", "--set", "methods.trs.terms=real"], "'paper' or 'official'"),
        (["run", "-m", "trs", "--limit", "501"], "500"),
        (["run", "-m", "trs", "-d", "mnist"], "bench prepare mnist"),
        (["run", "-m", "trs", "-d", "digits", "--model", "lenet"], "16×16"),
        (["run", "-m", "trs", "--device", "cuda:9"], "cannot be used here"),
        (["table", "core"], "bench run"),
        (["table", "nosuite"], "unknown suite"),
        (["show", "abc"], "bench run"),
        (["heatmap"], "bench run"),
        (["prepare", "mnits"], "did you mean mnist"),
        (["doctor", "--plugin", "tsr"], "did you mean trs"),
    ],
)
def test_wrong_use_is_one_clear_line_and_exit_code_2(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_DATA", raising=False)
    code, out, err = command(*arguments)
    message = err.strip().splitlines()[-1]
    assert code == 2, out + err
    assert words in message
    assert "Traceback" not in err


def test_unreadable_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bench.db").write_text("this is no database, it is a poem of more than a hundred characters\n" * 20)
    for name in ("run", "table"):
        code, _, err = command(name, "-m", "trs", "--results", tmp_path)
        assert code == 2
        assert err.count("\n") == 1
        assert "bench db rebuild" in err


def test_a_configuration_that_is_no_toml_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench.toml").write_text("[methods\n")
    monkeypatch.chdir(tmp_path)
    code, _, err = command("list", "methods")
    assert code == 2
    assert "bench.toml" in err


def test_a_failing_attack_fails_its_rows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.attacks.iterative import BIM

    def broken(self: BIM, problem: object) -> None:
        raise RuntimeError("the coffee is out")

    monkeypatch.setattr(BIM, "run", broken)
    code, out, _ = command("run", "-m", "ece", *QUICK, "--results", tmp_path, "--threads", 1)
    assert code == 1
    assert "the coffee is out" in out
    assert "2 jobs failed" in out
    rows = json.loads(bench("table", *QUICK, "--results", tmp_path, "--json"))
    by_attack = {row["attack"]: row for row in rows}
    assert by_attack["bim"]["mean"] is None
    assert by_attack["bim"]["flags"] == ["failed"]
    assert by_attack["pgd"]["mean"] is not None
    monkeypatch.undo()
    # The same command tries what failed, and only that.
    out = bench("run", "-m", "ece", *QUICK, "--results", tmp_path, "--threads", 1)
    assert "2 of 11 jobs to do (2 failed before)" in out
    assert "failed" not in command("table", *QUICK, "--results", tmp_path, "--long")[1].partition("\n")[2]


def test_exec_does_one_job_from_its_file(tmp_path: Path) -> None:
    from bench.core import config
    from bench.core.files import write_json
    from bench.experiment import select
    from bench.experiment.spec import Job

    loaded = config.load(changes=["training.epochs=1", "training.limit=64"])
    run = select.run_spec(loaded, select.Selection(methods=("ece",)), "ece", 0)
    write_json(tmp_path / "job.json", Job(run=run).model_dump(mode="json"))
    out = bench("exec", tmp_path / "job.json", "--results", tmp_path, "--threads", 1)
    assert Path(out.strip()).name == "run.json"
    (tmp_path / "bad.json").write_text('{"run": 1}')
    assert command("exec", tmp_path / "bad.json")[0] == 2


def test_a_changed_setting_is_named_wherever_its_numbers_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = ("attacks.bim.steps=1", "methods.ece.datasets={}", "models.digits_cnn.dropout=0.5")
    change = [word for one in changed for word in ("--set", one)]
    out = bench("run", "-m", "ece", *QUICK, *change, "--results", tmp_path, "--threads", 1)
    assert "attacks.bim.steps=1" in out
    assert "models.digits_cnn.dropout=0.5" in out
    run = json.loads(bench("list", "runs", "--results", tmp_path, "--json"))[0]
    assert "--set models.digits_cnn.dropout=0.5" in command("show", run["id"], "--results", tmp_path)[1].replace(
        "\n", ""
    )
    # Without the changes it is other work.
    assert command("table", *QUICK, "--results", tmp_path)[0] == 2


def test_results_of_an_older_model_are_stale(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.models.digits_cnn import DigitsCNN

    monkeypatch.setattr(DigitsCNN, "version", DigitsCNN.version + 1)
    cells = json.loads(bench("table", "core", *QUICK, "--results", results, "--json"))
    assert {tuple(cell["flags"]) for cell in cells} == {("stale",)}
    assert command("heatmap", *QUICK, "--results", results)[0] == 2
    assert json.loads(bench("status", "-m", "ece", *QUICK, "--results", results, "--json"))[0]["state"] == "stale"


def test_settings_can_be_chosen_on_validation_images(tmp_path: Path) -> None:
    held = ["--set", "data.validation=50", "--split", "validation", *QUICK[:4], "-d", "digits", "--suite", "linf-8-255"]
    code, _, err = command("run", "-m", "ece", *held, "--results", tmp_path)
    assert code == 2
    assert "is for cifar10" in err
    held[-2:] = ["--attack", "fgsm"]
    out = bench("run", "-m", "ece", *held, "--results", tmp_path, "--threads", 1)
    assert "50 validation images" in out
    code, _, err = command("run", "-m", "ece", *QUICK[:4], "--split", "validation", "--results", tmp_path)
    assert code == 2
    assert "data.validation=200" in err


def test_before_the_first_run_everything_is_new(tmp_path: Path) -> None:
    assert "11 new" in command("status", "-m", "trs", "--results", tmp_path)[1]
    assert "Nothing has been run" in command("status", "--results", tmp_path)[1]
    assert command("list", "runs", "--results", tmp_path)[:2] == (0, "no runs yet\n")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_early_is_no_error(results: Path) -> None:
    line = f"{sys.executable} -m bench.cli.main list suites --json | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[\n0\n"
    assert done.stderr == ""


def test_errors_with_brackets_are_shown_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.attacks.iterative import BIM

    def broken(self: BIM, problem: object) -> None:
        raise RuntimeError("[/boom] [red]")

    monkeypatch.setattr(BIM, "run", broken)
    assert command("run", "-m", "ece", *QUICK, "--results", tmp_path, "--threads", 1)[0] == 1
    out = bench("status", "--results", tmp_path)
    assert "[/boom] [red]" in out
    # The ✗ belongs to the rows that failed: another number of images is another table.
    assert "✗" in command("table", *QUICK, "--results", tmp_path)[1]


def test_damaged_weights_are_moved_aside_and_trained_again(tmp_path: Path) -> None:
    arguments = ["run", "-m", "ece", *QUICK, "--results", tmp_path, "--threads", 1]
    bench(*arguments)
    (weights,) = tmp_path.glob("runs/*/members.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    out = bench(*arguments, "--attack", "pgd", "--eps", "0.3")
    assert "moved aside" in out
    assert weights.read_bytes() == whole


def test_weights_that_come_out_otherwise_are_refused(tmp_path: Path) -> None:
    arguments = ["run", "-m", "ece", *QUICK, "--results", tmp_path, "--threads", 1]
    bench(*arguments)
    (weights,) = tmp_path.glob("runs/*/members.safetensors")
    weights.unlink()
    record = json.loads((weights.parent / "run.json").read_text())
    environment = {**record["environment"], "threads": 2}
    changed = {**record, "weights_digest": "0" * 24, "environment": environment}
    (weights.parent / "run.json").write_text(json.dumps(changed))
    code, out, _ = command(*arguments, "--attack", "pgd", "--eps", "0.3")
    assert code == 1
    assert "other weights than before (threads 2 then, 1 now; --threads 2 trains as before)" in out
    assert not weights.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "methods.trs.lambda_a=nan"], "finite"),
        (["--set", "training.eps=inf"], "finite"),
        (["--set", "methods=5"], "dotted key"),
        (["--set", "methods.trs.datasets.digits=5", "--set", "methods.trs.lambda_a=1"], "methods.trs"),
        (["--set", "recipes.quick.mnist.methods.ecee={lr=1}"], "did you mean ece"),
        (["--set", "attacks.pgd.budgets.mnst=[1]"], "did you mean mnist"),
        (["--limit", "9999"], "digits has 500 test images"),
    ],
)
def test_mistakes_in_settings_are_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    code, _, err = command("run", "-m", "trs", *arguments, "--results", tmp_path)
    assert code == 2, err
    assert words in err.strip().splitlines()[-1]


@pytest.mark.parametrize(("words", "told"), [
    (["run", "-m", "trs", "-m", "ece", "-d", "digits", "--no-capture"],
     "bench run · method trs, ece · dataset digits · no capture …"),
    (["compare", "trs", "ece", "--recipe", "quick"], "bench compare · trs, ece · recipe quick …"),
    (["list", "runs"], "bench list · runs …"),
    (["audit", "4f0c1a", "--deep"], "bench audit · 4f0c1a · deep …"),
    (["evaluate", "a.pth", "-d", "digits", "--model", "lenet", "--name", "mine"],
     "bench evaluate · a.pth · name mine · dataset digits · model lenet …"),
])  # fmt: skip
def test_a_terminal_shows_what_was_understood_before_anything_large_is_imported(
    words: list[str], told: str, tmp_path: Path
) -> None:
    code = f"""
import io, sys
class Terminal(io.StringIO):
    isatty = lambda self: True
    def write(self, text):
        print([text, sorted({LARGE!r} & sys.modules.keys())])
        raise KeyboardInterrupt
sys.stderr = Terminal()
from bench.cli import main
main.run({words!r})
"""
    environment = {**os.environ, "COLUMNS": "120", "BENCH_RESULTS": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.splitlines()[0] == str([told, []]), done.stderr


def test_what_a_terminal_showed_first_gives_way_to_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "40")
    assert main.run(["show", "4f0c1a", "--results", str(tmp_path)]) == 2
    first, *_, rest = sys.stderr.getvalue().partition("\r\x1b[2K")
    assert first.startswith("bench show · 4f0c1a · results ")
    assert len(first) <= 40
    assert "Error: " in rest
    assert "\x1b[2K" not in rest


def test_a_run_says_what_it_will_do_before_it_times_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.jobs.estimate.estimate", interrupted)
    done = command("run", "-m", "trs", "-m", "ece", "-d", "digits", "--recipe", "quick", "--results", tmp_path)
    assert done.code == 130
    assert done.out == "trs and ece on digits, recipe quick: trains, attacks, prints the table\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-d", "digits"], "name a method, e.g. --method trs"),
        (["-m", "nosuch"], "unknown method 'nosuch'"),
        (["-m", "ece", "--recipe", "nosuch"], "unknown recipe 'nosuch'"),
        (["-m", "ece", "--set", "training.nosuch=1"], "nosuch"),
        (["-m", "trs", "--members", "1"], "at least 2 members"),
        (["-m", "ece", "--attack", "pgd", "--eps", "8"], "8/255 is meant"),
        (["-m", "ece", "-d", "mnist"], "bench prepare mnist"),
        (["-m", "ece", "--model", "lenet"], "lenet needs images of 16×16 pixels or more, not 8×8"),
        (["-m", "ece", "--model", "timm/nosuch"], "unknown timm model 'nosuch'"),
        (["-m", "ece", "--device", "cuda:9"], "device 'cuda:9' cannot be used here"),
        (["-m", "ece", "--gpus", "9"], "device 'cuda:9' cannot be used here"),
        (["-m", "ece", "--gpus", "0", "--device", "cpu"], "leave --device out"),
        (["-m", "ece", "--executor", "nosuch"], "unknown executor 'nosuch'"),
        (["-m", "ece", "--executor-option", "partition"], "write KEY=VALUE"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_what_is_wrong_is_told_before_anything_is_promised(
    arguments: list[str], words: str, dry: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_DATA", raising=False)
    done = command("run", *arguments, *dry)
    if dry and "mnist" in arguments:  # a dry run needs no data
        assert done.code == 0
        return
    assert done.code == 2
    assert done.out == ""
    assert words in done.err
    assert done.err.count("\n") == 1


def test_help_of_list_fits_a_narrow_terminal() -> None:
    done = command("list")
    assert done.code == 2
    assert done.err.startswith("Usage: bench list [OPTIONS] KIND\n")
    assert "datasets" in done.err
    assert "'KIND': 'method' is not one of 'methods'" in command("list", "method").err


def test_a_radius_in_pixel_steps_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    asked = ("run", "-m", "ece", "-d", "digits", "--results", tmp_path, "--dry-run", "--attack")
    done = command(*asked, "pgd", "--eps", "0.1,8")
    assert done.code == 2
    assert done.err == "Error: pgd: eps is in units of the pixel range [0, 1], not 8: 8/255 is meant, perhaps\n"
    for others in (("audit", "4f0c1a", "--deep"), ("perf", "attacks")):
        assert "not 8: 8/255 is meant, perhaps" in command(*others, "--eps", "8", "--results", tmp_path).err
    assert command(*asked, "pgd_l2", "--eps", "8").code == 0  # an l2 ball may be larger than a pixel
    assert command(*asked, "cw", "--c", "8").code == 0
