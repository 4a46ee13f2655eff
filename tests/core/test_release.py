"""What the distribution is called, where it is named, and which version `bench` says it is."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import EntryPoint, PathDistribution
from pathlib import Path

import pytest
from in_process import command

import bench
from bench.core import registry, release

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_line_that_installs_us_names_the_distribution_and_extras_that_exist() -> None:
    assert PROJECT["name"] == release.DISTRIBUTION
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "pyproject.toml"]
    files += [path for folder in ("bench", "baselines", "methods", "tests") for path in (ROOT / folder).rglob("*.py")]
    named = []
    for path in files:
        text = path.read_text()
        assert not re.search(r"pip install (-\S+ )*'?bench\b", text), path
        for name, extras in re.findall(r"""[`'"]((?:ensemble-)?bench)\[([a-z,]+)\]""", text):
            assert name == release.DISTRIBUTION, path
            named += extras.split(",")
    assert set(named) <= set(PROJECT["optional-dependencies"])
    assert {"postgres", "ray", "slurm", "peers"} <= set(named)
    assert release.extra("ray") == "pip install 'ensemble-bench[ray]'"


def test_the_version_is_one_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert PROJECT["version"] == bench.__version__ == release.VERSION
    assert re.search(rf"^version: {re.escape(bench.__version__)}$", citation, re.MULTILINE)


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ({}, "0.1.0"),
        ({"commit": "1a2b3c4d5e6f7788", "dirty": False}, "0.1.0, commit 1a2b3c4d5e6f"),
        ({"commit": "1a2b3c4d5e6f7788", "dirty": True}, "0.1.0, commit 1a2b3c4d5e6f, changed"),
        ({"commit": "1a2b3c4d5e6f7788", "dirty": False, "release": True}, "0.1.0"),
        ({"commit": "1a2b3c4d5e6f7788", "dirty": True, "release": True}, "0.1.0, commit 1a2b3c4d5e6f, changed"),
    ],
)
def test_a_version_that_is_no_release_names_its_commit(
    known: dict[str, object], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "VERSION", "0.1.0")
    monkeypatch.setattr(release, "commit", lambda: known)
    assert command("--version").out == f"bench, version {told}\n"


def test_the_commit_is_that_of_git() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not for this model of installation: no checkout")
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert release.commit()["commit"] == head.stdout.strip()


@pytest.mark.parametrize(
    ("distribution", "origin"),
    [
        ("ensemble-bench", "bench"),
        ("Ensemble_Bench", "bench"),
        ("bench", "the other bench"),
        ("my-package", "my-package"),
    ],
)
def test_only_our_own_distribution_is_the_built_in_one(
    distribution: str, origin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "x.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[bench.methods]\nmine = package.mine:Mine\n")
    points = list(PathDistribution(folder).entry_points)
    assert isinstance(points[0], EntryPoint)
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "bench.methods" else [])
    monkeypatch.setattr(registry, "entries", registry.entries.__wrapped__)
    assert registry.entries("methods")["mine"].origin == origin


def test_remains_of_an_older_installation_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points: list[EntryPoint] = []
    for distribution, value in (("bench", "p:Mine"), ("ensemble-bench", "p:Mine"), ("another", "q:Other")):
        folder = tmp_path / f"{distribution}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[bench.methods]\nmine = {value}\n")
        points += PathDistribution(folder).entry_points
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "bench.methods" else [])
    assert registry.entries.__wrapped__("methods")["mine"].origin == "bench"
    assert [entry.origin for entry in registry.left_out("methods")] == ["another"]
