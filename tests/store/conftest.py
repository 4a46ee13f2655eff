"""Files of runs, made by hand as the jobs make them."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchanged import brought_up

from bench.core.specs import Training
from bench.experiment.spec import EvaluationSpec, RunSpec
from bench.store.database import Database
from bench.store.ingest import ingest_evaluation, ingest_failure, ingest_run
from bench.store.published import load_published
from bench.store.schema import Base

CLEAN = [True, True, True, False, True, True, False, True, True, True]
ROBUST = [True, False, True, False, False, True, False, False, True, False]
PUBLISHED = Path(__file__).parents[2] / "results" / "published"
ENVIRONMENT = {"python": "3.11", "device": "cpu"}


def text(values: Any) -> str:
    """Booleans as the base64 text of the files, by numpy alone."""
    return base64.b64encode(np.packbits(np.asarray(values, dtype=bool)).tobytes()).decode()


def hex_id(*parts: Any) -> str:
    """24 hexadecimal digits that say nothing."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


class Files:
    """A folder of runs that tests fill with files."""

    published = PUBLISHED
    hex_id = staticmethod(hex_id)
    text = staticmethod(text)

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def spec(seed: int = 0, method: str = "trs", **changes: Any) -> RunSpec:
        """A run of three members."""
        versions = {"method": 1, "model": 1, "dataset": 1, "trainer": 1}
        versions |= {name: changes.pop(f"{name}_version", 1) for name in ("method", "trainer")}
        values = {
            "method": method, "plugin": method, "settings": {"lambda_a": 2.0} if method == "trs" else {},
            "dataset": "digits", "dataset_plugin": "digits", "model": "digits_cnn", "model_plugin": "digits_cnn",
            "model_settings": {}, "members": 3, "recipe": "standard", "recipe_changes": ("training.epochs=1",),
            "training": Training(epochs=1), "seed": seed, "versions": versions,
        }  # fmt: skip
        return RunSpec.model_validate(values | changes)

    def run(self, seed: int = 0, method: str = "trs", **changes: Any) -> Path:
        """Write the files of a run of three members; returns its folder."""
        ours = {name: changes.pop(name) for name in [*changes] if name in RunSpec.model_fields or "_version" in name}
        run = self.spec(seed, method, **ours)
        config = run.model_dump(mode="json")
        record = run.described() | {
            "format": 1, "run_id": run.run_id, "family_id": run.family_id, "attempt_id": f"attempt-{run.run_id}",
            "status": "done", "origin": "bench", "fusion": "mean_probability", "fusion_weights": None,
            "activation": "relu", "method_version": run.versions["method"],
            "trainer_version": run.versions["trainer"], "source_digest": "0" * 24, "requires": {},
            "parameters": [10, 10, 12], "environment": ENVIRONMENT, "started": "2026-11-21T10:00:00Z",
            "finished": "2026-11-21T10:00:12Z", "seconds": 12.3, "config": config, "notes": [],
        }  # fmt: skip
        folder: Path = self.root / run.run_id
        folder.mkdir(exist_ok=True)
        (folder / "run.json").write_text(json.dumps(record | changes))
        lines = [
            {"phase": "joint", "epoch": epoch, "lr": 0.001, "seconds": 1.0, "loss": 2.0 / epoch, "terms": {"ce": 1.5},
             "member_accuracy": [0.5, 0.6, 0.7], "ensemble_accuracy": 0.8, "accuracy_on": "training sample"}
            for epoch in (1, 2)
        ]  # fmt: skip
        (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    def evaluation(self, folder: Path, clean: Any, robust: Any = None, kind: str = "attack", **changes: Any) -> Path:
        """Write an evaluation with these outcomes; returns its path."""
        name = changes.pop("attack", kind if kind in ("clean", "blackbox") else "pgd")
        part = {"plugin": "pgd", "settings": {"steps": 50}}
        record = {
            "format": 2, "run_id": folder.name, "kind": kind, "status": "done", "attack": name, "plugin": name,
            "settings": {"clean": {}, "blackbox": {"attacks": {"ce": part}, "restarts": 2, "surrogates": []}}.get(
                kind, {"steps": 50}
            ),
            "budget_name": None if kind == "clean" else "eps",
            "budget": None if kind == "clean" else changes.pop("budget", 0.1),
            "stop": None if kind == "clean" else "first_success", "limit": None, "images_digest": "d" * 24,
            "n": len(clean), "n_clean": int(np.sum(clean)), "n_robust": None if robust is None else int(np.sum(robust)),
            "clean_bits": text(clean), "robust_bits": None if robust is None else text(robust),
            "measurements": {"unmoved": 0} if kind == "attack" else {}, "forwards": 1000, "backwards": 900,
            "seconds": 1.5, "attack_version": 1, "evaluator_version": 1, "source_digest": "1" * 24,
            "environment": ENVIRONMENT, "started": "2026-11-21T10:01:00Z",
        } | changes  # fmt: skip
        run = RunSpec.model_validate(json.loads((folder / "run.json").read_text())["config"])
        found = EvaluationSpec.of_record(record, run)
        record |= {"evaluation_id": found.evaluation_id, "attack_key": found.attack_key}
        record.setdefault("attempt_id", f"attempt-{found.evaluation_id}")
        path = folder / "evaluations" / f"{found.evaluation_id}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record))
        return path

    def matrix(self, folder: Path, clean: Any, missed: Any, **changes: Any) -> Path:
        """Write a transfer evaluation of clean [N+1, n] and missed [N, N+1, n]."""
        targets = [*range(len(missed)), -1]
        rows = [{"target": target, "bits": text(clean[target])} for target in targets]
        cells = [
            {"source": source, "target": target, "bits": text(missed[source][target])}
            for source in range(len(missed))
            for target in targets
        ]
        extra = {"clean_rows": rows, "cells": cells, "stop": "last"}
        return self.evaluation(folder, clean[-1], kind="transfer", **extra | changes)

    def failure(self, folder: Path, job_id: str, attempt_id: str = "failed-1", **changes: Any) -> Path:
        """Write a failed attempt; returns its path."""
        record = {
            "format": 1, "attempt_id": attempt_id, "job_id": job_id, "kind": "train", "run_id": folder.name,
            "family_id": None, "describe": {"method": "trs", "dataset": "digits"}, "error": "loss became NaN",
            "error_type": "JobError", "traceback": "Traceback …", "started": "2026-11-21T09:00:00Z", "seconds": 3.0,
            "environment": ENVIRONMENT,
        }  # fmt: skip
        path = folder / "failures" / f"{attempt_id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record | changes))
        return path

    def fill(self) -> Path:
        """Two seeds with a matrix, a black-box suite, failures; returns the first folder."""
        random = np.random.default_rng(0)
        for seed in (0, 1):
            folder = self.run(seed)
            rows = [{"target": target, "bits": self.text(CLEAN)} for target in (0, 1, 2, -1)]
            self.evaluation(folder, CLEAN, kind="clean", clean_rows=rows)
            self.evaluation(folder, CLEAN, ROBUST, budget=0.1)
            self.matrix(folder, random.random((4, 10)) < 0.8, random.random((3, 4, 10)) < 0.5, budget=0.2)
            attempts = [{"surrogate": "ece_3", "loss": "ce", "restart": r, "bits": self.text(ROBUST)} for r in (0, 1)]
            self.evaluation(folder, CLEAN, ROBUST, kind="blackbox", attempts=attempts, budget=0.05)
            self.failure(folder, folder.name, f"before-{seed}")
        self.failure(self.root / self.hex_id("never"), self.hex_id("never"), "alone")
        return self.root / self.spec().run_id

    def ingest_all(self, db: Database) -> None:
        """Take in everything file by file, in another order than a rebuild."""
        load_published(db, self.published)
        for folder in sorted(self.root.iterdir(), reverse=True):
            if (folder / "run.json").exists():
                ingest_run(db, folder)
            for path in sorted(folder.glob("evaluations/*.json"), reverse=True):
                ingest_evaluation(db, path)
            for path in sorted(folder.glob("failures/*.json")):
                ingest_failure(db, path)

    @staticmethod
    def contents(db: Database) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table, sorted; what follows from rows is brought up to them first."""
        with brought_up(db).read() as connection:
            return {
                table.name: sorted((tuple(row) for row in connection.execute(table.select())), key=repr)
                for table in Base.metadata.sorted_tables
            }


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "runs")


@pytest.fixture
def db(tmp_path: Path) -> Any:
    with Database(tmp_path / "bench.db").open(create=True) as database:
        yield database
