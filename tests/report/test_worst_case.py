"""The worst-case row against a count over single images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from in_process import QUICK, bench

from bench.core.bits import from_text


def test_it_is_the_share_of_images_that_stand_against_every_attack_within_the_radius(tmp_path: Path) -> None:
    bench("run", "-m", "ece", "--seeds", "0-1", *QUICK, "--results", tmp_path, "--threads", "1", "-q")
    robust: dict[tuple[str, int], dict[float, list[np.ndarray]]] = {}
    for path in tmp_path.glob("runs/*/evaluations/*.json"):
        record = json.loads(path.read_text())
        seed = json.loads((path.parents[1] / "run.json").read_text())["seed"]
        if record["kind"] == "attack":
            bits = from_text(record["robust_bits"], record["n"])
            robust.setdefault(("ece", seed), {}).setdefault(record["budget"], []).append(bits)
    wanted = {
        budget: np.mean(
            [100 * np.all([b for e, many in found.items() if e <= budget for b in many], axis=0).mean()
             for found in robust.values()]
        )
        for budget in (0.1, 0.15)
    }  # fmt: skip
    rows = json.loads(bench("table", "core", *QUICK, "--results", tmp_path, "--json"))
    worst = {row["budget"]: row for row in rows if row["attack"] == "worst_linf"}
    assert {budget: row["mean"] for budget, row in worst.items()} == wanted
    assert worst[0.1]["seeds"] == [0, 1]
    least = min(row["mean"] for row in rows if row["budget"] == 0.15 and row["attack"] != "worst_linf")
    assert worst[0.15]["mean"] <= least
    assert "stand against every attack" in bench("table", "core", *QUICK, "--results", tmp_path)


def test_without_one_of_the_attacks_there_is_none(tmp_path: Path) -> None:
    bench("run", "-m", "ece", *QUICK, "--attack", "pgd", "--results", tmp_path, "--threads", "1", "-q")
    rows = json.loads(bench("table", "core", *QUICK, "--results", tmp_path, "--json", "--no-details"))
    assert {row["attack"] for row in rows if row["mean"] is not None} == {"clean", "pgd"}
    assert "worst_linf" not in {row["attack"] for row in rows}
