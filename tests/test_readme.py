"""README's examples are complete: its plug-ins are installed as written and its commands are run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from written_package import install

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with README's package as pip would install it."""
    return install(README, tmp_path_factory.mktemp("site"))


def bench(package: Path, folder: Path, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(package),
            "BENCH_CONFIG": str(ROOT / "bench.toml"),
            "OMP_NUM_THREADS": "1",
        },
        timeout=timeout,
    )


@pytest.mark.timeout(1800)  # a minute and a half of a core that nobody else uses
def test_the_demo_prints_what_the_readme_shows(package: Path, tmp_path: Path) -> None:
    """The same lines and rows; numbers differ by tenths between processors, a change of what is computed does more."""
    (recipe,) = re.findall(r"^demo:.*\n\t\$\(BIN\)/bench (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    done = bench(package, tmp_path, *shlex.split(recipe), "--device", "cpu", "--executor", "inline", timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    (block,) = re.findall(r"```text\n(core · digits.*?)\n```", README, re.DOTALL)
    printed = "\n".join(line.rstrip() for line in done.stdout.splitlines())
    printed = printed[printed.index("core · digits") :].partition("\n\nTransferability")[0]
    number = re.compile(r"\d+\.\d (?=│)")
    assert number.sub("#", printed) == number.sub("#", block)
    shown, now = ([float(text) for text in number.findall(each)] for each in (block, printed))
    assert len(shown) == 22
    assert now == pytest.approx(shown, abs=1.0)
    assert list(tmp_path.glob("results/figures/transfer-*.png"))


@pytest.mark.parametrize("name", ["noisy", "signs"])
def test_the_plugins_of_the_readme_conform(name: str, package: Path, tmp_path: Path) -> None:
    done = bench(package, tmp_path, "doctor", "--plugin", name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_plugins_of_the_readme_are_listed_with_their_origin(package: Path, tmp_path: Path) -> None:
    for kind, name in (("methods", "noisy"), ("attacks", "signs")):
        done = bench(package, tmp_path, "list", kind)
        assert re.search(rf"{name} .*my-package", done.stdout), done.stdout + done.stderr


def test_the_plugins_of_the_readme_run(package: Path, tmp_path: Path) -> None:
    short = ["--set", "training.epochs=1", "--set", "training.limit=128", "--limit", "20"]
    command = ["run", "--method", "noisy", "--dataset", "digits", "--set", "methods.noisy.radius=0.2", *short]
    done = bench(package, tmp_path, *command, "--attack", "signs", "--eps", "0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "signs" in done.stdout


def test_every_bench_command_line_of_the_readme_is_understood(package: Path, tmp_path: Path) -> None:
    lines = [line.partition("#")[0][2:].strip() for line in README.splitlines() if line.startswith("$ bench ")]
    assert len(lines) >= 10
    for line in lines:
        words = shlex.split(line)[1:]
        if words[0] == "run":
            done = bench(package, tmp_path, *words, "--dry-run")
            assert done.returncode == 0, line + done.stdout + done.stderr
        elif words[0] == "doctor":
            assert words[-1] in ("noisy", "signs")  # run above
        elif words[0] != "prepare":  # understood: what is missing is files and results, not an option
            done = bench(package, tmp_path, *words)
            told = done.stdout + done.stderr
            assert done.returncode == 2, line + told
            assert re.search("there is no (file|database)|nothing|[Nn]o such file", told), told


def test_every_link_of_the_readme_leads_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
