"""`bench compare` against tests worked out from the files of the runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import QUICK, bench, refused
from scipy import stats

from bench.core.bits import from_text

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

from site_records import Writer, hex_id, new_database


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    bench("run", "-m", "ece", "-m", "cos_only", "--seeds", "0-1", *QUICK, "--results", folder, "--threads", "1", "-q")
    return folder


def outcomes(folder: Path, method: str) -> dict[tuple[str, float | None], np.ndarray]:
    """What is right, [seeds, n], by attack and budget."""
    found: dict[tuple[str, float | None], dict[int, np.ndarray]] = {}
    for path in folder.glob("runs/*/evaluations/*.json"):
        run = json.loads((path.parents[1] / "run.json").read_text())
        record = json.loads(path.read_text())
        if run["method"] == method and record["kind"] in ("clean", "attack"):
            text = record["clean_bits"] if record["kind"] == "clean" else record["robust_bits"]
            bits = from_text(text, record["n"])
            found.setdefault((record["attack"], record["budget"]), {})[run["seed"]] = bits
    return {key: np.stack([seeds[seed] for seed in sorted(seeds)]) for key, seeds in found.items()}


def test_methods_are_paired_by_image_and_by_seed(trained: Path) -> None:
    said = json.loads(bench("compare", "ece", "cos_only", *QUICK, "--results", trained, "--json"))
    a, b = outcomes(trained, "ece"), outcomes(trained, "cos_only")
    rows = {(row["attack"], row["budget"]): row for row in said["rows"]}
    for key, mine in a.items():
        row, theirs = rows[key], b[key]
        assert row["seeds"] == [0, 1]
        assert row["difference"] == pytest.approx(100 * (mine.mean() - theirs.mean()))
        for seed, told in enumerate(row["per_seed"]):
            only_a, only_b = (mine & ~theirs)[seed].sum(), (theirs & ~mine)[seed].sum()
            assert (told["only_a"], told["only_b"]) == (only_a, only_b)
            want = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
            assert told["p"] == pytest.approx(want)
        per_seed = 100 * (mine.mean(1) - theirs.mean(1))
        want = stats.ttest_1samp(per_seed, 0).confidence_interval(0.95)
        if np.ptp(per_seed) > 0:
            assert row["over_seeds"] == pytest.approx([want.low, want.high])
    worst = np.logical_and.reduce([bits for (name, budget), bits in a.items() if budget == 0.1])
    assert rows["worst_linf", 0.1]["a"] == pytest.approx(100 * worst.mean())


def test_p_is_corrected_over_all_rows(trained: Path) -> None:
    rows = json.loads(bench("compare", "ece", "cos_only", *QUICK, "--results", trained, "--json"))["rows"]
    ps = sorted(row["p"] for row in rows)
    smallest = min(rows, key=lambda row: row["p"])
    assert smallest["p_holm"] == pytest.approx(min(1.0, len(rows) * ps[0]))
    assert all(row["p_holm"] >= row["p"] for row in rows)


def test_the_same_command_says_the_same(trained: Path) -> None:
    command = ("compare", "-m", "ece", "-m", "cos_only", *QUICK, "--results", trained)
    assert bench(*command) == bench(*command)
    assert "t interval of the differences of n = 2 seeds" in bench(*command)


def by_hand(folder: Path, b_robust: list[bool], **changes: Any) -> tuple[str, str]:
    """Two runs; A stands on 10 of 20 images, B as given."""
    with new_database(folder / "bench.db") as db:
        writer = Writer(db, n=20)
        runs = [writer.run(method, 0) for method in ("trs", "ece")]
        writer.evaluation(runs[0], [True] * 10 + [False] * 10)
        writer.evaluation(runs[1], b_robust, **changes)
        writer.flush()
    return runs[0], runs[1]


def test_a_clear_difference_is_told_in_words(tmp_path: Path) -> None:
    a, b = by_hand(tmp_path, [False] * 20)
    text = bench("compare", a[:8], b[:8], "--results", tmp_path)
    assert "TRS is better under 1 of 1: PGD (50) ε = 0.1" in text
    assert "nothing about other seeds" in text
    (row,) = json.loads(bench("compare", a, b, "--results", tmp_path, "--json"))["rows"]
    assert (row["better"], row["difference"], row["p"]) == ("a", 50.0, pytest.approx(2 / 2**10))


def test_a_small_difference_is_not_significant(tmp_path: Path) -> None:
    a, b = by_hand(tmp_path, [True] * 8 + [False] * 12)
    assert "not significant under 1 of 1" in bench("compare", a, b, "--results", tmp_path)


def test_two_precisions_are_never_paired_and_the_worst_case_is_of_one(tmp_path: Path) -> None:
    usual, coarse = "float32", "bfloat16"
    stands = {("fgsm", 0): 18, ("pgd", 0): 16, ("fgsm", 1): 14, ("pgd", 1): 12}
    with new_database(tmp_path / "bench.db") as db:
        writer = Writer(db, n=20)
        a, b = (writer.run(method, 0) for method in ("trs", "ece"))
        for run in (a, b):
            for (attack, at), count in stands.items():
                writer.evaluation(run, np.arange(20) < count, attack=attack, precision=coarse if at else usual)
        writer.evaluation(a, np.ones(20), attack="mim", precision=usual)
        writer.evaluation(b, np.ones(20), attack="mim", precision=coarse)
        writer.flush()
    said = json.loads(bench("compare", a, b, "--results", tmp_path, "--json"))
    assert [(row["attack"], row["precision"], row["a"]) for row in said["rows"]] == [
        ("fgsm", "float32", 90.0), ("pgd", "float32", 80.0), ("fgsm", "bfloat16", 70.0), ("pgd", "bfloat16", 60.0)
    ]  # fmt: skip
    assert "no current result of ECE under MIM (50) ε = 0.1, worst case ε = 0.1" in said["notes"]
    assert "no current result of TRS under MIM (50), bfloat16 ε = 0.1, worst case, bfloat16 ε = 0.1" in said["notes"]


def in_both_precisions(folder: Path, coarse: Sequence[str], usual: Sequence[str]) -> tuple[str, str]:
    """Two runs, clean and under these attacks; A stands on all of 20 images, B on 10, on 8 in bfloat16."""
    asked = [(attack, 10, "float32") for attack in usual]
    asked += [(attack, 8, "bfloat16") for attack in coarse]
    with new_database(folder / "bench.db") as db:
        writer = Writer(db, n=20)
        a, b = (writer.run(method, 0) for method in ("trs", "ece"))
        for run in (a, b):
            writer.evaluation(run, kind="clean")
            for attack, count, precision in asked:
                stands = np.arange(20) < (20 if run == a else count)
                writer.evaluation(run, stands, attack=attack, precision=precision)
        writer.flush()
    return a, b


def test_each_precision_is_corrected_apart_and_the_verdict_counts_float32(tmp_path: Path) -> None:
    a, b = in_both_precisions(tmp_path, coarse=("fgsm", "pgd", "mim"), usual=("pgd", "mora"))
    rows = json.loads(bench("compare", a, b, "--results", tmp_path, "--json"))["rows"]
    holm = {(row["attack"], row["precision"]): row["p_holm"] for row in rows}
    # Clean (p = 1) and MORA are in the family of float32, the worst case is in both.
    p_usual, p_coarse = 2 / 2**10, 2 / 2**12
    assert holm == pytest.approx({
        ("clean", "float32"): 1.0, **{(name, "float32"): 4 * p_usual for name in ("pgd", "mora", "worst_linf")},
        **{(name, "bfloat16"): 4 * p_coarse for name in ("fgsm", "pgd", "mim", "worst_linf")},
    })  # fmt: skip
    text = bench("compare", a, b, "--results", tmp_path)
    assert "TRS is better under 3 of 4: PGD (50) ε = 0.1, MORA" in text
    assert "not significant under 1 of 4: clean" in text
    assert "Not counted: 4 rows in bfloat16." in text
    assert "Holm-corrected over the 4 rows in float32 and apart over the 4 rows in bfloat16." in text


def test_without_float32_attacks_of_choice_everything_is_one_family(tmp_path: Path) -> None:
    a, b = in_both_precisions(tmp_path, coarse=("fgsm", "pgd"), usual=("mora",))
    text = bench("compare", a, b, "--results", tmp_path)
    assert "TRS is better under 4 of 5: " in text
    assert "Holm-corrected over the 5 rows." in text
    assert "Not counted" not in text


def test_other_images_are_not_compared(tmp_path: Path) -> None:
    a, b = by_hand(tmp_path, [False] * 20, images_digest="e" * 24)
    told = refused("compare", a, b, "--results", tmp_path)
    assert "nothing in common" in told
    assert "PGD (50) ε = 0.1" in told


def test_what_only_one_was_measured_with_is_named(tmp_path: Path) -> None:
    with new_database(tmp_path / "bench.db") as db:
        writer = Writer(db, n=20)
        a, b = (writer.run(method, 0) for method in ("trs", "ece"))
        for run in (a, b):
            writer.evaluation(run, [run == a] * 20)
        writer.evaluation(a, [True] * 20, attack="fgsm")
        writer.flush()
    assert "no current result of ECE under FGSM ε = 0.1" in bench("compare", a, b, "--results", tmp_path)


def test_what_was_asked_for_by_name_and_is_missing_is_said_first(trained: Path) -> None:
    asked = ("compare", "ece", "cos_only", *QUICK, "--results", trained)
    only_a = ("--attack", "fgsm", "--eps", "0.07")
    bench("run", "-m", "ece", *QUICK, *only_a, "--results", trained, "--threads", "1", "-q")
    text = bench(*asked, *only_a)
    missing, verdict = (line for line in text.splitlines() if "not compared" in line or " under 1 of 1: " in line)
    assert missing.startswith(
        "Asked for and not compared: no current result of Cos-only under FGSM ε = 0.07; `bench run "
    )
    assert "--attack fgsm --eps 0.07" in missing
    assert verdict.endswith(": clean")
    assert "Holm-corrected over the 1 row." in text
    assert "Note: " not in text

    neither = bench(*asked, "--attack", "pgd", "--eps", "0.07")
    assert "Asked for and not compared: no current result of ECE and Cos-only under PGD (50) ε = 0.07" in neither
    seeds = bench(*asked, "--seeds", "0-2")
    assert "Asked for and not compared: seed 2 of neither or of one of them only; `bench run " in seeds
    plain = bench(*asked)
    assert "Asked for" not in plain
    assert json.loads(bench(*asked, "--json"))["missing"] == []
    assert json.loads(bench(*asked, *only_a, "--json"))["missing"][0].startswith("no current result of Cos-only")


def test_wrong_use_is_one_clear_line(tmp_path: Path) -> None:
    a, b = by_hand(tmp_path, [False] * 20)
    where = ("--results", tmp_path)
    assert "takes two" in refused("compare", "trs", *where)
    assert "itself" in refused("compare", "trs", "trs", *where)
    assert "did you mean trs" in refused("compare", "tsr", "ece", *where)
    assert "is a method and" in refused("compare", a, "ece", *where)
    assert "leave -d out" in refused("compare", a, b, "-d", "mnist", *where)
    assert "same run" in refused("compare", a[:8], a[:9], *where)
    assert hex_id("none")[:8] in refused("compare", hex_id("none")[:8], a, *where)
    assert "`bench run --method trs --method ece --dataset mnist" in refused(
        "compare", "trs", "ece", "-d", "mnist", *where
    )
