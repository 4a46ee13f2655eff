"""Plug-ins of other packages: good ones work like our own, broken ones are told and hurt nobody."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process import bench, command

from bench.core import registry

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = Path(__file__).resolve().parent / "plugin_packages"
SHORT = ("--set", "training.epochs=3", "--set", "training.limit=512", "--limit", "40", "--threads", "1")
SHOWN = (*SHORT[:-2], "-d", "digits")

# What is installed and cannot be used, with words of the reason that people are given.
UNUSABLE = {
    "no_module": "No module named 'broken_package.no_such_module'",
    "no_import": "No module named 'a_module_that_nobody_has'",
    "no_syntax": "SyntaxError: invalid syntax (no_syntax.py, line 1)",
    "exits": "SystemExit: 3",
    "no_name": "has no attribute 'Anything'",
    "no_class": "is not a class but 3",
    "no_method": "NoMethod is not a bench.training.method.Method",
    "no_dataclass": "decorate it with @dataclass(frozen=True)",
    "no_version": "a whole number from 1 on, not '1.0'",
    "bad_default": "strength: Input should be a valid number, unable to parse string as a number, not 'much'",
    "bad_type": "settings are numbers, text, true or false, None, and lists or tables of these",
    "refuses": "Refuses cannot be made of its settings (ZeroDivisionError: float division by zero)",
}
FAILING = {
    "raises": "KeyError: 'no such thing'",
    "nan": "loss term 'ce' became nan in epoch 1, step 1",
    "wide": "loss term 'ce' is a scalar tensor, not a tensor (64,)",
    "no_dict": "loss returns a dict from names to terms, such as {'ce': term}, not a tensor ()",
    "detached": "no gradient leads from ce to the members",
    "returns_nothing": "loss returns a dict from names to terms, such as {'ce': term}, not NoneType",
}
ATTACKS = {
    "attack_nan": "Nan returned images with NaN or infinite pixels",
    "attack_shape": "run returned shape",
    "attack_outside": "Outside returned images 0.1 outside of its budget",
    "attack_third": "RuntimeError: the third batch",
    "attack_bytes": "Bytes returned images 254 outside of its budget",
    "attack_nothing": "run returned NoneType, not images",
}


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders as pip would fill them: the good package, and the broken one."""
    broken = tmp_path_factory.mktemp("site") / "broken"
    shutil.copytree(PACKAGES / "broken_package", broken)
    (broken / "broken_package" / "no_syntax.py").write_text("class Broken(:\n    pass\n")  # no linter would let it be
    return [PACKAGES / "good_package", broken]


@pytest.fixture(scope="module")
def bench_toml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ours, and a suite with the broken attacks between two of our own."""
    path = tmp_path_factory.mktemp("config") / "bench.toml"
    text = (ROOT / "bench.toml").read_text()
    for name in (*ATTACKS, "good_attack"):
        text += f'\n[attacks.{name}]\nplugin = "{name}"\nbudgets = {{ digits = [0.1] }}\n'
    names = json.dumps(["fgsm", *ATTACKS, "good_attack", "bim"])
    path.write_text(text + f'\n[suites.mixed]\ndescription = "good and broken"\nmatrix = false\nattacks = {names}\n')
    return path


@pytest.fixture(scope="module")
def process(sites: list[Path], bench_toml: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`bench` in a process of its own, with both packages installed."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [*map(str, sites), os.environ.get("PYTHONPATH")]))
        environment = {"PYTHONPATH": path, "BENCH_CONFIG": str(bench_toml), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "bench.cli.main", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300)

    return run


@pytest.fixture
def installed(sites: list[Path], bench_toml: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both packages installed in this process."""
    for site in sites:
        monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("BENCH_CONFIG", str(bench_toml))
    registry.entries.cache_clear()
    yield
    registry.entries.cache_clear()


def listed(kind: str) -> dict[tuple[str, str], dict[str, Any]]:
    """`bench list KIND` by name and origin."""
    out = bench("list", kind, "--json")
    return {(row["name"], f"{row['origin']} {row['version']}"): row for row in json.loads(out)}


@pytest.fixture(scope="module")
def ran(process: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Results of one command that trains every method which fails, a good one of a stranger, and ours."""
    folder = tmp_path_factory.mktemp("results")
    methods = [word for name in (*FAILING, "good_method", "ece") for word in ("-m", name)]
    done = process("run", *methods, *SHORT, "-d", "digits", "--suite", "core", "--results", folder, "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return folder, json.loads(done.stdout)


# ---------------------------------------------------------------- good ones


def test_a_strangers_plugins_are_listed_with_package_and_version(process: Callable[..., Any], installed: None) -> None:
    done = process("list", "methods")
    assert done.returncode == 0, done.stderr
    assert re.search(r"good_method .* good-package 1\.0 .* Plain ensemble on smoothed labels\.", done.stdout)
    assert re.search(r" ece .* bench \d", done.stdout)
    assert listed("attacks")["good_attack", "good-package 1.0"]["description"].startswith("One step along")
    assert listed("models")["good_model", "good-package 1.0"]["description"] == "Two linear layers."
    assert listed("fusions")["good_fusion", "good-package 1.0"]["description"] == "The first member decides."
    stripes = listed("datasets")["good_stripes", "good-package 1.0"]
    assert (stripes["description"], stripes["classes"], stripes["shape"]) == ("stripes", 2, "1×8×8")


def test_a_strangers_method_passes_doctor_in_a_process_of_its_own(process: Callable[..., Any]) -> None:
    done = process("doctor", "--plugin", "good_method")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "good_package.GoodMethod of good-package 1.0" in done.stdout
    assert "all is well" in done.stdout


@pytest.mark.parametrize(
    "name", ["good_attack", "good_stripes", "good_model", "good_fusion", "digits", "digits_cnn", "lenet", "timm"]
)
def test_plugins_of_every_kind_pass_doctor(name: str, installed: None) -> None:
    bench("doctor", "--plugin", name)


def test_a_strangers_method_fills_a_column_of_its_name(ran: tuple[Path, dict[str, Any]], installed: None) -> None:
    folder, outcome = ran
    cells = {(row["attack"], row["budget"]): row["mean"] for row in outcome["table"] if row["method"] == "good_method"}
    for attack in ("fgsm", "bim", "pgd", "mim"):
        assert cells[attack, 0.1] is not None
        assert cells[attack, 0.15] is not None
    assert {matrix["method"] for matrix in outcome["matrices"]} == {"good_method", "ece"}
    run = next(json.loads(path.read_text()) for path in folder.glob("runs/*/run.json") if "good_m" in path.read_text())
    assert run["origin"] == "good-package"
    out = bench("table", "core", *SHOWN, "--results", folder)
    assert "good_method" in out


def test_a_strangers_attack_model_and_data_set_are_used(
    ran: tuple[Path, dict[str, Any]], installed: None, tmp_path: Path
) -> None:
    attack = ("--attack", "good_attack", "--eps", "0.1")
    out = bench("run", "-m", "ece", *SHORT, *attack, "--results", ran[0])
    assert "1 of 3 jobs" in out  # the run and its clean accuracy are there
    assert re.search(r"good_attack │ ε = 0\.1 │ +\d", out)
    out = bench("run", "-m", "ece", *SHORT, *attack, "--results", tmp_path, "--model", "good_model")
    assert "3 × good_model" in out
    recipe = ("--set", "recipes.published.good_stripes.extends=digits", "--set", "training.limit=64")
    out = bench(
        "run",
        "-m",
        "ece",
        "-d",
        "good_stripes",
        *SHORT[:-4],
        *SHORT[-2:],
        *recipe,
        "--limit",
        "20",
        *attack,
        "--results",
        tmp_path,
    )
    assert re.search(r"clean +│ +│ 100\.0", out)  # anything can tell stripes across from stripes down
    assert "20 of 40 test images" in out


# ---------------------------------------------------------------- broken ones


def test_what_cannot_be_used_is_listed_with_the_reason(process: Callable[..., Any], installed: None) -> None:
    done = process("list", "methods", "--json")
    assert done.returncode == 0, done.stderr
    rows = {(row["name"], f"{row['origin']} {row['version']}"): row["description"] for row in json.loads(done.stdout)}
    for name, words in UNUSABLE.items():
        assert rows[name, "broken-package 0.2"].startswith("broken: ")
        assert words in rows[name, "broken-package 0.2"]
    for name in FAILING:  # what goes wrong in training only is not a fault of the list
        assert "broken" not in rows[name, "broken-package 0.2"]
    for kind, name, words in (
        ("attacks", "attack_no_module", "No module named"),
        ("attacks", "attack_budget", "budget_name is 'eps' or 'c', not 'epsilon'"),
        ("datasets", "data_no_module", "No module named"),
        ("datasets", "data_untold", "Untold does not say its title"),
        ("datasets", "data_flat", "(channels, height, width), not 64"),
        ("models", "model_no_module", "No module named"),
    ):
        rows_of = listed(kind)
        assert rows_of[name, "broken-package 0.2"]["description"].startswith("broken: "), name
        assert words in rows_of[name, "broken-package 0.2"]["description"]


@pytest.mark.parametrize("name", UNUSABLE)
def test_running_what_cannot_be_used_is_one_line_and_exit_code_2(name: str, installed: None, tmp_path: Path) -> None:
    code, out, err = command("run", "-m", name, *SHORT, "--results", tmp_path)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert UNUSABLE[name] in err


@pytest.mark.parametrize(
    "arguments", [("--attack", "attack_no_module", "--eps", "0.1"), ("--model", "model_no_module"),
                  ("--attack", "attack_budget", "--eps", "0.1"), ("-d", "data_no_module"), ("-d", "data_flat")]
)  # fmt: skip
def test_attacks_models_and_data_sets_that_cannot_be_used_too(
    arguments: tuple[str, ...], installed: None, tmp_path: Path
) -> None:
    code, _, err = command("run", "-m", "ece", *SHORT, *arguments, "--results", tmp_path)
    assert code == 2
    assert err.count("\n") == 1
    assert "of package broken-package 0.2" in err


def test_failing_methods_leave_a_failure_and_the_others_complete(ran: tuple[Path, dict[str, Any]]) -> None:
    outcome = ran[1]
    failed = {row["job"].split()[0]: row["error"] for row in outcome["failed"]}
    assert failed.keys() == FAILING.keys()
    for name, words in FAILING.items():
        assert words in failed[name]
        assert "\n" not in failed[name]
    assert outcome["done"] == 2 * 11  # good_method and ece: training, clean, eight attacks, the matrix
    assert len(outcome["blocked"]) == len(FAILING) * 10


def test_table_and_status_are_unhurt(ran: tuple[Path, dict[str, Any]], installed: None) -> None:
    folder = ran[0]
    out = bench("table", "core", *SHOWN, "--results", folder)
    assert "✗" not in out
    assert "ECE" in out
    out = bench("table", "core", *SHOWN, "--results", folder, "-m", "raises", "-m", "ece")
    assert re.search(r"clean +│ +│ +✗ │ +\d", out)
    assert "KeyError: 'no such thing'" in out
    out = bench("status", "--results", folder)
    assert f"{len(FAILING)} failures" in out
    out = bench("status", "-m", "raises", "-m", "ece", *SHOWN, "--suite", "core", "--results", folder)
    assert "11 done, 10 new" in out
    assert "1 failed" in out
    out = bench("run", "-m", "ece", *SHORT, "--suite", "core", "--results", folder)
    assert "Nothing to do" in out


@pytest.mark.parametrize(
    ("name", "fault", "words"),
    [
        *((name, "is loaded", UNUSABLE[name]) for name in ("no_import", "no_syntax", "no_name", "exits")),
        ("no_class", "is a class", "is not a class but 3"),
        ("no_method", "derives from Method", "NoMethod is no"),
        ("no_dataclass", "is a frozen dataclass", "decorate it"),
        ("no_version", "has a version", "'1.0'"),
        *((name, "has settings", UNUSABLE[name]) for name in ("bad_default", "bad_type", "refuses")),
        ("raises", "runs", "KeyError: 'no such thing' (methods.py:"),
        ("nan", "its loss is finite", "term 'ce' is nan on the first batch"),
        ("wide", "its loss is a number", "term 'ce' is a scalar tensor, not a tensor (32,)"),
        ("no_dict", "its loss has named terms", "not a tensor ()"),
        ("returns_nothing", "its loss has named terms", "not nothing"),
        ("detached", "its loss can be minimised", "no gradient leads from ce"),
        ("attack_no_module", "is loaded", "No module named"),
        ("attack_budget", "has a known budget_name", "not 'epsilon'"),
        ("attack_nan", "returns finite images", "NaN or infinite pixels in 1 of 24 images"),
        ("attack_shape", "returns an image for each", "not a tensor (23, 1, 8, 8)"),
        ("attack_nothing", "returns an image for each", "not nothing"),
        ("attack_bytes", "returns float32 images", "not torch.uint8"),
        ("attack_outside", "keeps its budget and [0, 1]", "outside of the ℓ∞ ball of its budget"),
        ("attack_third", "runs", "RuntimeError: the third batch (attacks.py:"),
        ("data_untold", "has title", "Untold does not say its title"),
        ("data_flat", "has a shape", "not 64"),
        ("data_radius", "has radii", "not 0.1"),
        ("data_raises", "runs", "cannot be read (KeyError: 'no images here')"),
        ("model_raises", "runs", "IndexError: no layer 7 (others.py:"),
        ("model_few", "runs", "a tensor (4, 3)"),
        ("ece", "has a name of its own", "of package broken-package 0.2 is left out: bench has a method of this name"),
        ("paper", "has a name of its own", "'paper' means something else"),
        ("trs_printed", "has a name of its own", "bench.toml has a method of this name, of the plug-in 'trs'"),
    ],
)
def test_doctor_says_which_check_failed(name: str, fault: str, words: str, installed: None) -> None:
    code, out, err = command("doctor", "--plugin", name)
    assert code == 1, out + err
    lines = [line for line in out.splitlines() if line.startswith(f"FAIL {fault}: ")]
    assert len(lines) == 1, out
    assert words in lines[0]


def test_doctor_names_every_plugin_that_cannot_be_used(process: Callable[..., Any], tmp_path: Path) -> None:
    done = process("doctor", "--results", tmp_path, "--data", tmp_path)
    assert done.returncode == 1, done.stderr
    for name, words in UNUSABLE.items():
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"FAIL method {name}: ")]
        assert words in line
    for name in ("ece", "paper", "trs_printed"):
        assert f"FAIL method {name}: method '{name}' of package broken-package 0.2" in done.stdout
    assert "some from broken-package, good-package" in done.stdout
    assert "good_" not in "".join(line for line in done.stdout.splitlines() if line.startswith("FAIL"))


def test_what_cannot_be_used_does_not_keep_the_others_waiting(
    ran: tuple[Path, dict[str, Any]], installed: None, tmp_path: Path
) -> None:
    methods = [word for name in ("no_import", "ece", "refuses") for word in ("-m", name)]
    code, out, err = command("run", *methods, *SHORT, "--suite", "core", "--results", ran[0])
    assert code == 2
    assert "Nothing to do" in out  # all of ece is there, and is shown
    assert re.search(r"clean +│ +│ +\d", out)
    for name in ("no_import", "refuses"):
        assert re.search(rf"Error: {name} is left out: .*{re.escape(UNUSABLE[name])}", err)
    code, out, err = command("run", "-m", "all", *SHORT, "--dry-run", "--results", tmp_path)
    assert code == 0, err
    assert "trs on digits" in out
    assert "no_import is left out" in err


@pytest.mark.parametrize(
    ("name", "words"),
    [("needs_nobody", "methods.needs_nobody requires another: unknown method 'nobody'"),
     ("needs_itself", "needs_itself requires itself: needs_itself → needs_itself")],
)  # fmt: skip
def test_impossible_prerequisites_are_told(name: str, words: str, installed: None, tmp_path: Path) -> None:
    code, _, err = command("run", "-m", name, *SHORT, "--results", tmp_path)
    assert code == 2
    assert err.count("\n") == 1
    assert words in err


def test_a_data_set_that_fails_while_it_is_read_is_one_line(installed: None, tmp_path: Path) -> None:
    recipe = ("--set", "recipes.published.data_raises.extends=digits", "--attack", "fgsm", "--eps", "0.1")
    code, _, err = command("run", "-m", "ece", "-d", "data_raises", *SHORT, *recipe, "--results", tmp_path)
    assert code == 2
    assert err.count("\n") == 1
    assert "cannot be read (KeyError: 'no images here')" in err
    code, out, err = command("prepare", "digits", "data_no_module", "good_stripes", "--data", tmp_path)
    assert code == 2
    assert "stripes is built in" in out
    assert "1 of 3 data sets could not be prepared: data_no_module" in err


# ---------------------------------------------------------------- names


def test_a_name_of_ours_stays_ours_and_that_is_said(ran: tuple[Path, dict[str, Any]], installed: None) -> None:
    rows = {key: row["description"] for key, row in listed("methods").items()}
    (ours,) = [origin for name, origin in rows if name == "ece" and origin.startswith("bench ")]
    assert rows["ece", ours] == "plain ensemble: every member learns as if alone"
    assert "bench has a method of this name" in rows["ece", "broken-package 0.2"]
    assert registry.load("methods", "ece").__module__ == "bench.baselines.ece"
    assert any(row["method"] == "ece" and row["mean"] is not None for row in ran[1]["table"])


def test_a_name_of_two_strangers_is_nobodys_and_the_rest_goes_on(
    installed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    info = tmp_path / "rival-3.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 3.0\n")
    (info / "entry_points.txt").write_text("[bench.methods]\ngood_method = rival:Other\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.entries.cache_clear()
    for origin in ("good-package 1.0", "rival 3.0"):
        assert (
            "two packages declare the method 'good_method'" in listed("methods")["good_method", origin]["description"]
        )
    code, _, err = command("run", "-m", "good_method", *SHORT, "--results", tmp_path / "r")
    assert code == 2
    assert "good-package 1.0 (good_package:GoodMethod) and rival 3.0 (rival:Other); uninstall one" in err
    bench("run", "-m", "ece", *SHORT, "--results", tmp_path / "r", "--dry-run")


def test_a_strangers_data_set_does_not_need_a_suite_that_the_file_lacks(
    installed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = (ROOT / "bench.toml").read_text()
    (tmp_path / "bench.toml").write_text(text.replace("suites.core]", "suites.mine]").replace('"core"', '"mine"'))
    monkeypatch.setenv("BENCH_CONFIG", str(tmp_path / "bench.toml"))
    suite = listed("datasets")["good_stripes", "good-package 1.0"]["suite"]
    out = bench("list", "suites", "--json")
    assert {row["name"]: row["datasets"] for row in json.loads(out)}[suite] == ["any"]


# ---------------------------------------------------------------- a suite with broken attacks


def test_a_suite_goes_on_past_its_broken_attacks(installed: None, bench_toml: Path, tmp_path: Path) -> None:
    arguments = ("-m", "ece", *SHORT, "--suite", "mixed", "--results", tmp_path)
    code, out, _ = command("run", *arguments, "--batch", "7")
    assert code == 1
    for name, words in ATTACKS.items():
        assert re.search(rf"│ {name} +│ ε = 0\.1 +│ +✗ │", out), out
        assert words in out
    for title in ("FGSM", "BIM (50)", "good_attack"):
        assert re.search(rf"│ {re.escape(title)} +│ ε = 0\.1 +│ +\d+\.\d │", out), out
    assert f"{len(ATTACKS)} jobs failed; the same command tries them again" in out
    out = bench("table", "mixed", *SHOWN, "--results", tmp_path)
    assert out.count("✗") == 2 * len(ATTACKS)  # the cell, and the reason below
    code, out, _ = command("status", "-m", "ece", *SHOWN, "--suite", "mixed", "--results", tmp_path)
    assert f"{len(ATTACKS)} failed" in out
