"""Lookup by prefix, selections, matrices, and views that give the numbers computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.core import registry, versions
from bench.core.errors import BenchError
from bench.experiment.protocols import Part, Standard
from bench.experiment.spec import EvaluationSpec
from bench.store import derived, ids, queries
from bench.store.database import Database
from bench.store.ingest import ingest_evaluation, ingest_run

CLEAN = [True] * 8 + [False] * 2


def some(n: int) -> list[bool]:
    return [True] * n + [False] * (10 - n)


def view(db: Database, name: str) -> list[dict[str, Any]]:
    with db.read() as connection:
        return [dict(row) for row in connection.exec_driver_sql(f"SELECT * FROM {name}").mappings()]


def test_a_unique_prefix_finds_a_run_or_an_evaluation(db: Database, files: Any) -> None:
    seeds: dict[str, int] = {}
    for seed in range(1000):  # two whose ids begin alike
        run_id = files.spec(seed).run_id
        if run_id[:2] in seeds:
            break
        seeds[run_id[:2]] = seed
    both, first = run_id[:2], files.spec(seeds[run_id[:2]]).run_id
    for number in (seeds[both], seed):
        ingest_run(db, files.run(number))
    path = files.evaluation(files.root / first, CLEAN, CLEAN)
    evaluation_id = ingest_evaluation(db, path)
    assert queries.find_run(db, first[:10].upper()).seed == seeds[both]
    found = ids.find(db, evaluation_id[:10])
    assert (found.kind, found.id, found.run_id) == ("evaluation", evaluation_id, first)
    assert ids.find(db, run_id[:10]).kind == "run"
    with pytest.raises(BenchError, match=rf"is an evaluation: .*\(pgd on trs, .*give the id of its run: {first[:12]}"):
        queries.find_run(db, evaluation_id[:10])
    with pytest.raises(BenchError, match=r"is a run: .*lists the ids of its evaluations"):
        ids.find(db, run_id[:10], ("evaluation",))
    with pytest.raises(BenchError, match=rf"no evaluation begins with '{both}', but runs do: .*seed {seed}\)"):
        ids.find(db, both, ("evaluation",))
    with pytest.raises(BenchError, match=rf"ambiguous.*\(trs, digits, seed {seed}\)"):
        ids.find(db, both)
    other = next(a + b for a in "0123456789abcdef" for b in "0123456789abcdef" if not first.startswith(a))
    with pytest.raises(BenchError, match=rf"no run begins with '{other}'; latest runs: "):
        queries.find_run(db, other)
    for wrong in ("", "xyz", "a%", "a" * 25):
        with pytest.raises(BenchError, match="hexadecimal"):
            ids.find(db, wrong)


def test_selections_restrict(db: Database, files: Any) -> None:
    for method in ("trs", "ece"):
        for seed in (0, 1):
            folder = files.run(seed, method)
            ingest_run(db, folder)
            for budget in (0.1, 0.2):
                ingest_evaluation(db, files.evaluation(folder, CLEAN, some(5), budget=budget))
    assert [(row.method, row.seed) for row in queries.runs(db)] == [("ece", 0), ("ece", 1), ("trs", 0), ("trs", 1)]
    assert [row.seed for row in queries.runs(db, method="trs", seed=[1, 2])] == [1]
    assert queries.runs(db, dataset="mnist") == queries.runs(db, method=[]) == []
    rows = queries.evaluations(db, family_ids=[files.spec().family_id])
    assert {(row.method, row.seed, row.budget) for row in rows} == {
        ("trs", n, eps) for n in (0, 1) for eps in (0.1, 0.2)
    }
    assert len(queries.evaluations(db, attack="pgd", dataset="digits")) == 8
    assert queries.evaluations(db, attack="fgsm") == queries.evaluations(db, dataset="mnist") == []
    assert (queries.totals(db).runs, queries.totals(db).evaluations) == (4, 8)


def test_a_matrix_comes_back_bit_by_bit_and_its_view_counts_by_hand(db: Database, files: Any) -> None:
    random = np.random.default_rng(3)
    clean, missed = random.random((4, 50)) < 0.8, random.random((3, 4, 50)) < 0.4
    folder = files.run()
    ingest_run(db, folder)
    evaluation_id = ingest_evaluation(db, files.matrix(folder, clean, missed))
    stored = queries.transfer(db, evaluation_id)
    assert (stored.clean == clean).all()
    assert (stored.missed == missed).all()
    rows = {(row["source"], row["target"]): row for row in view(db, "transfer_rate")}
    assert len(rows) == 12
    for (source, target), row in rows.items():
        every = both = hit_every = hit_both = joint = 0
        for image in range(50):
            right = clean[source][image] and clean[target][image]
            miss = missed[source][target][image]
            every += all(clean[member][image] for member in range(3))
            hit_every += miss and all(clean[member][image] for member in range(3))
            both += right
            hit_both += right and miss
            joint += right and miss and missed[source][source][image]
        assert row["percent_correct_all"] == pytest.approx(100 * hit_every / every)
        assert row["percent_correct_both"] == pytest.approx(100 * hit_both / both)
        assert row["percent_all"] == pytest.approx(100 * missed[source][target].mean())
        assert row["percent_definition6"] == pytest.approx(100 * joint / 50)
        assert row["percent_definition6_conditional"] == pytest.approx(100 * joint / both)


def test_a_matrix_on_which_nobody_was_right_has_no_rate(db: Database, files: Any) -> None:
    folder = files.run()
    ingest_run(db, folder)
    ingest_evaluation(db, files.matrix(folder, np.zeros((4, 4), dtype=bool), np.ones((3, 4, 4), dtype=bool)))
    assert {row["percent_correct_all"] for row in view(db, "transfer_rate")} == {None}
    assert {row["percent_all"] for row in view(db, "transfer_rate")} == {100.0}


def test_asking_the_wrong_evaluation_is_one_line(db: Database, files: Any) -> None:
    folder = files.run()
    ingest_run(db, folder)
    evaluation_id = ingest_evaluation(db, files.evaluation(folder, CLEAN, CLEAN))
    with pytest.raises(BenchError, match="is not a transferability matrix"):
        queries.transfer(db, evaluation_id)
    with pytest.raises(BenchError, match="no outcomes of single members"):
        queries.clean_rows(db, evaluation_id)
    with pytest.raises(BenchError, match="there is no evaluation"):
        queries.transfer(db, "0" * 24)


def of_pgd(files: Any, images: int = 10, **budgets: float) -> Standard:
    """A standard of PGD at these budgets on the first images of digits."""
    run = files.spec()
    parts = tuple(
        Part(EvaluationSpec(
            kind="attack", run=run, attack="pgd", plugin="pgd", settings={"steps": 50}, budget_name="eps",
            budget=budget, stop="first_success", versions={"attack": 1, "evaluator": 1},
        ))
        for budget in budgets.values()
    )  # fmt: skip
    return Standard(
        name="pgd", version=1, title="PGD", dataset="digits", plugin="digits", norm="linf", eps=max(budgets.values()),
        images=images, size=10, seeds=1, suite="pgd", parts=parts,
    )  # fmt: skip


def test_table_and_leaderboard_average_over_seeds_and_leave_stale_results_out(
    db: Database, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    standard = of_pgd(files, low=0.1, high=0.2)
    for seed, (low, high) in enumerate(((2, 6), (4, 7))):
        folder = files.run(seed)
        ingest_run(db, folder)
        ingest_evaluation(db, files.evaluation(folder, some(9 - seed), kind="clean"))
        ingest_evaluation(db, files.evaluation(folder, CLEAN, some(high), budget=0.1))
        ingest_evaluation(db, files.evaluation(folder, CLEAN, some(low), budget=0.2))
    derived.refresh(db, [standard])
    table = {row["budget"]: row for row in view(db, "table1")}
    assert sorted(table) == [0.1, 0.2]
    assert (table[0.1]["robust_percent"], table[0.1]["seeds"], table[0.1]["n"]) == (65.0, 2, 10)
    assert (table[0.2]["lowest_percent"], table[0.2]["robust_percent"], table[0.2]["highest_percent"]) == (20, 30, 40)
    (leader,) = view(db, "leaderboard")
    assert (leader["rank"], leader["method"], leader["seeds"], leader["n"]) == (1, "trs", 2, 10)
    assert (leader["clean_percent"], leader["robust_percent"], leader["lowest_known_percent"]) == (80.0, 30.0, 30.0)
    assert view(db, "stale") == []

    # Another version of the attack is installed: what was measured with the older one is stale, until it is measured.
    monkeypatch.setattr(registry.load("attacks", "pgd"), "version", 2)
    derived.refresh(db, [standard])
    assert view(db, "table1") == []
    assert [(row["kind"], row["name"], row["state"]) for row in view(db, "stale")] == [
        ("evaluation", "pgd", "stale")
    ] * 4
    (leader,) = view(db, "leaderboard")
    assert (leader["rank"], leader["provisional"], leader["robust_percent"]) == (None, 1, 30.0)
    folder = files.root / files.spec().run_id
    ingest_evaluation(db, files.evaluation(folder, CLEAN, some(1), budget=0.1, attack_version=2))
    derived.refresh(db, [standard])
    assert [(row["budget"], row["robust_percent"], row["seeds"]) for row in view(db, "table1")] == [(0.1, 10.0, 1)]
    assert sorted(row["state"] for row in view(db, "stale")) == ["stale"] * 3 + ["superseded"]

    # Another version of the method: what was trained and measured with the older one counts no more.
    monkeypatch.setattr(registry.load("methods", "trs"), "version", 2)
    ingest_run(db, files.run(0, method_version=2))
    derived.refresh(db, [standard])
    stale = {row["run_id"]: row["why"] for row in view(db, "stale") if row["kind"] == "run"}
    assert stale.keys() == {files.spec(seed).run_id for seed in (0, 1)}
    assert all("method trs is version 1, today 2" in why for why in stale.values())
    assert view(db, "table1") == []


def test_views_tell_precisions_and_targets_apart_and_the_leaderboard_holds_what_is_declared(
    db: Database, files: Any
) -> None:
    folder = files.run()
    ingest_run(db, folder)
    ingest_evaluation(db, files.evaluation(folder, CLEAN, kind="clean"))
    ingest_evaluation(db, files.evaluation(folder, CLEAN, some(5), budget=0.1))
    for more, right in (({"precision": "bfloat16"}, 3), ({"targets": "random"}, 4)):
        about = {"budget": 0.1, "attack": "other", "plugin": "pgd", **more}
        ingest_evaluation(db, files.evaluation(folder, CLEAN, some(right), **about))
    derived.refresh(db, [of_pgd(files, low=0.1)])
    assert {(row["precision"], row["targets"]): row["robust_percent"] for row in view(db, "table1")} == {
        ("float32", None): 50, ("bfloat16", None): 30, ("float32", "random"): 40,
    }  # fmt: skip
    (leader,) = view(db, "leaderboard")
    assert (leader["robust_percent"], leader["lowest_known_percent"], leader["clean_percent"]) == (50.0, 30.0, 80.0)


def test_results_of_another_limit_or_family_never_share_a_cell(db: Database, files: Any) -> None:
    folder = files.run(0)
    ingest_run(db, folder)
    ingest_evaluation(db, files.evaluation(folder, CLEAN, some(4), attack="pgd"))
    limited = files.run(1)
    ingest_run(db, limited)
    ingest_evaluation(db, files.evaluation(limited, CLEAN[:5], [True] * 3 + [False] * 2, attack="pgd", limit=5))
    other = files.run(2, settings={"lambda_a": 7.0})
    ingest_run(db, other)
    ingest_evaluation(db, files.evaluation(other, CLEAN, some(8), attack="pgd"))
    derived.refresh(db, [of_pgd(files, low=0.1)])
    rows = {(row["family_id"], row["image_limit"]): row["robust_percent"] for row in view(db, "table1")}
    family, another = files.spec().family_id, files.spec(settings={"lambda_a": 7.0}).family_id
    assert rows == {(family, None): 40.0, (family, 5): 60.0, (another, None): 80.0}
    # Five images are not those of the standard: that seed is on no board, and changes no mean.
    assert [(row["family_id"], row["robust_percent"], row["seeds"]) for row in view(db, "leaderboard")] == [
        (another, 80.0, 1), (family, 40.0, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("part", ["EVALUATOR", "TRAINER"])
def test_a_newer_evaluator_or_trainer_makes_older_results_stale(
    db: Database, files: Any, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, part, 2)
    name = f"{part.lower()}_version"
    for seed in (0, 1):
        of_run, of_evaluation = ({name: 1 + seed}, {}) if part == "TRAINER" else ({}, {name: 1 + seed})
        folder = files.run(seed, **of_run)
        ingest_run(db, folder)
        ingest_evaluation(db, files.evaluation(folder, CLEAN, some(5), **of_evaluation))
    derived.refresh(db, [])
    kinds = ["evaluation", "run"] if part == "TRAINER" else ["evaluation"]
    assert sorted(row["kind"] for row in view(db, "stale")) == kinds
    assert all(f"{part.lower()} is version 1, today 2" in row["why"] for row in view(db, "stale"))
    assert [row["seeds"] for row in view(db, "table1")] == [1]
