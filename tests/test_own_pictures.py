"""From a folder of pictures to a table, a heatmap and results measured again, each command as its document has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from in_process import bench
from own_pictures import draw
from torch import nn

from bench import evaluate

TINY = ("--model", "mine", "--set", "training.epochs=1", "--threads", "1")
OWN = """
[models.mine]
plugin = "resnet"
depth = 8
width = 2

[attacks.pgd]
steps = 2

[suites.mine]
description = "one attack"
attacks = ["pgd"]

[protocols.mine]
version = 1
dataset = "halves"
suite = "mine"
eps = [0.05]
images = 8
"""


def test_from_a_folder_of_pictures_to_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BENCH_CONFIG", "BENCH_DATA", "BENCH_RESULTS", "BENCH_DB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "images", 40)
    (tmp_path / "bench.toml").write_text(OWN)
    bench("prepare", "halves", "--from", "images", "--eps", "0.05")
    chosen = ("-m", "ece", "-d", "halves", "-s", "mine", "--recipe", "quick", *TINY)
    done = json.loads(bench("run", *chosen, "--json"))
    assert (done["ok"], done["planned"]) == (True, 4)  # training, clean, PGD, the matrix
    assert json.loads(bench("run", *chosen, "--json"))["done"] == 0
    table = bench("table", *chosen[:-2])
    assert "3 × mine" in table
    assert "8 test images" in table
    assert "PGD (2)" in table
    bench("heatmap", *chosen[:-2], "-o", tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000
    (run,) = json.loads(bench("list", "runs", "--json"))
    assert run["dataset"] == "halves"
    assert "3 found again" in bench("db", "verify", run["id"], "--threads", "1")
    record = json.loads(next((tmp_path / "results" / "runs").glob("*/run.json")).read_text())
    described = json.loads((tmp_path / "data" / "prepared" / "halves" / "dataset.json").read_text())
    assert record["config"]["dataset_settings"]["train"] == described["train"]
    bench("report", "-o", tmp_path / "site")
    assert "halves" in (tmp_path / "site" / "index.html").read_text()


def test_a_few_pictures_are_enough_for_networks_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BENCH_CONFIG", "BENCH_DATA", "BENCH_RESULTS", "BENCH_DB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "images", 40)
    bench("prepare", "halves", "--from", "images")
    shape = json.loads((tmp_path / "data" / "prepared" / "halves" / "dataset.json").read_text())["shape"]
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 2)).eval() for _ in range(2)]
    run = evaluate(nets, dataset="halves", attack="fgsm", eps=0.05, name="mine", threads=1, quiet=True)
    assert list(run.table()["n"]) == [8, 8]
