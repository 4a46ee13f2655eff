"""A database of many evaluations, made of real specs: `python tests/store/large.py FILE [EVALUATIONS]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert

from bench.core import config
from bench.core.identity import content_id
from bench.experiment import select
from bench.experiment.spec import EvaluationSpec, RunSpec
from bench.store import schema
from bench.store.database import Database
from bench.store.published import load_published
from bench.store.standing import run_versions

IMAGES = 500
SEEDS = 5
STARTED = "2026-11-21T10:00:00Z"
ENVIRONMENT = {"python": "3.11", "device": "cpu", "packages": {"torch": "2.11"}}
CHUNK = 200  # runs of one transaction


def make(path: Path, evaluations: int) -> dict[str, int]:
    """Fill a new database: every method on digits over some seeds, then families of other settings; returns counts."""
    runs = done = 0
    environment = content_id(ENVIRONMENT)
    with Database(path).open(create=True) as db:
        load_published(db, config.defaults("published"))
        with db.write() as connection:
            connection.execute(insert(schema.Environment), [{"environment_id": environment, "record": ENVIRONMENT}])
        known: set[str] = set()
        pending: dict[Any, list[dict[str, Any]]] = {}
        for run, specs in _work():
            _add(pending, schema.Run, _run_row(run, environment))
            _add(pending, schema.Job, _job(run.run_id, run.run_id, run.family_id, "train", environment))
            for epoch in range(3):
                _add(pending, schema.Curve, {"run_id": run.run_id, "phase": "joint", "epoch": epoch, "position": epoch,
                                             "loss": 1.0 / (epoch + 1), "seconds": 1.0})  # fmt: skip
            for spec in specs:
                if spec.attack_key not in known:
                    known.add(spec.attack_key)
                    _add(pending, schema.Attack, _attack_row(spec))
                for model, rows in _evaluation_rows(spec, run, environment).items():
                    pending.setdefault(model, []).extend(rows)
                _add(pending, schema.Job, _job(spec.evaluation_id, run.run_id, run.family_id, spec.kind, environment))
                done += 1
            runs += 1
            if runs % 10 == 0:  # and a failed attempt that nothing made good
                _add(pending, schema.Job, _job(content_id(["lost", runs]), run.run_id, run.family_id, "attack",
                                               environment, run))  # fmt: skip
            if runs % CHUNK == 0 or done >= evaluations:
                with db.write() as connection:
                    for table in schema.Base.metadata.sorted_tables:
                        for model, rows in pending.items():
                            if model.__table__ is table and rows:
                                connection.execute(insert(table), rows)
                pending.clear()
            if done >= evaluations:
                break
    return {"runs": runs, "evaluations": done}


def _add(pending: dict[Any, list[dict[str, Any]]], model: Any, row: dict[str, Any]) -> None:
    pending.setdefault(model, []).append(row)


def _work() -> Iterator[tuple[RunSpec, list[EvaluationSpec]]]:
    """Runs without end: first those that `bench table --dataset digits` shows, then ones of changed settings."""
    loaded = config.load()
    methods = tuple(loaded.config.methods)
    variant = 0
    while True:
        for method in methods:
            for seed in range(SEEDS):
                selection = select.Selection(methods=(method,), dataset="digits", seeds=(seed,))
                run = select.run_spec(loaded, selection, method, seed)
                if variant:
                    changed = {"settings": {**run.settings, "variant": variant}, "recipe_changes": (f"v={variant}",)}
                    run = run.model_copy(update=changed)
                    run = RunSpec.model_validate(run.model_dump())  # so that no cached id is kept
                yield run, select.evaluations(loaded, selection, run)
        variant += 1


def _run_row(run: RunSpec, environment: str) -> dict[str, Any]:
    names = {
        "method", "plugin", "settings", "dataset", "model", "model_settings", "members", "recipe", "recipe_changes",
        "training", "validation", "seed",
    }  # fmt: skip
    return run.model_dump(mode="json", include=names) | {
        "run_id": run.run_id, "family_id": run.family_id, "attempt_id": f"a-{run.run_id}", "status": "done",
        "origin": "bench", "training_limit": None, "precision": "float32", "fusion": "mean_probability",
        "fusion_weights": None, "activation": "relu", "method_version": run.versions["method"],
        "trainer_version": run.versions["trainer"], "source_digest": "0" * 24,
        "requires": {name: needed.run_id for name, needed in run.requires.items()}, "weights_digest": "1" * 24,
        "environment_id": environment, "started": STARTED, "finished": STARTED, "seconds": 12.0,
        "config": run.model_dump(mode="json"), "notes": [], "provenance": "measured",
        "versions": run_versions(run.model_dump(mode="json"), run.versions["trainer"], run.versions["method"]),
    }  # fmt: skip


def _attack_row(spec: EvaluationSpec) -> dict[str, Any]:
    row = {
        "plugin": spec.plugin, "settings": spec.settings, "budget_name": spec.budget_name, "budget": spec.budget,
        "stop": spec.stop,
    }  # fmt: skip
    row |= {"targets": spec.targets, "precision": spec.precision}
    return {"attack_key": spec.attack_key, "setting_id": content_id(row), **row}


def _evaluation_rows(spec: EvaluationSpec, run: RunSpec, environment: str) -> dict[Any, list[dict[str, Any]]]:
    rng = np.random.default_rng(int(spec.evaluation_id[:8], 16))
    clean = rng.random(IMAGES) < 0.95
    robust = clean & (rng.random(IMAGES) < 0.6)
    bits = np.packbits(clean).tobytes()
    key = {"evaluation_id": spec.evaluation_id}
    attacked = spec.kind == "attack"
    row = key | {
        "attack_key": spec.attack_key, "run_id": run.run_id, "attempt_id": f"a-{spec.evaluation_id}",
        "kind": spec.kind, "status": "done", "attack": spec.attack, "image_limit": spec.limit,
        "weights_digest": "1" * 24, "images_digest": "d" * 24, "n": IMAGES, "n_clean": int(clean.sum()),
        "n_robust": int(robust.sum()) if attacked else None,
        "measurements": {"unmoved": 0, "loss_curve": [round(float(value), 4) for value in rng.random(20)]},
        "forwards": 1000, "backwards": 1000, "seconds": 1.5, "attack_version": spec.versions["attack"],
        "evaluator_version": spec.versions["evaluator"], "source_digest": "2" * 24, "environment_id": environment,
        "started": STARTED, "split": spec.split, "provenance": "measured",
    }  # fmt: skip
    rows: dict[Any, list[dict[str, Any]]] = {
        schema.Evaluation: [row],
        schema.Outcome: [
            key | {"clean_bits": bits, "robust_bits": np.packbits(robust).tobytes() if attacked else None}
        ],
    }  # fmt: skip
    if spec.kind == "transfer":
        targets = [*range(run.members), -1]
        rows[schema.CleanRow] = [
            key | {"target": target, "n_correct": int(clean.sum()), "bits": bits} for target in targets
        ]
        counts = dict.fromkeys(
            ("n_missed", "n_correct_all", "n_missed_correct_all", "n_correct_both", "n_missed_correct_both",
             "n_definition6"), 100,
        )  # fmt: skip
        rows[schema.Transfer] = [
            key | counts | {"source": source, "target": target, "bits": bits}
            for source in range(run.members)
            for target in targets
        ]
    return rows


def _job(
    job_id: str, run_id: str, family_id: str, kind: str, environment: str, failed: RunSpec | None = None
) -> dict[str, Any]:
    describe = {"method": failed.method, "dataset": failed.dataset, "seed": failed.seed} if failed else None
    return {
        "attempt_id": f"a-{job_id}", "job_id": job_id, "kind": kind, "run_id": run_id, "family_id": family_id,
        "status": "failed" if failed else "done", "describe": describe, "error": "loss became NaN" if failed else None,
        "error_type": "JobError" if failed else None, "traceback": "" if failed else None, "started": STARTED,
        "seconds": 1.0, "environment_id": environment,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(make(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100_000)))
