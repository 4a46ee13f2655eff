"""Databases made by hand for the tests of the site: random outcomes, no training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert

from bench.core import config
from bench.core.identity import content_id
from bench.experiment.protocols import Part, standards
from bench.store.database import Database
from bench.store.schema import (
    Attack,
    Base,
    CleanRow,
    Curve,
    Environment,
    Evaluation,
    Job,
    Member,
    Outcome,
    Run,
    Transfer,
)  # fmt: skip

ENVIRONMENT = {"bench": "0.1.0", "python": "3.11", "packages": {"torch": "2"}, "device": "cpu"}


def hex_id(*parts: Any) -> str:
    """24 hexadecimal digits that follow from the parts."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


CORE = ("fgsm", "bim", "pgd", "mim")  # of the protocol core-digits


@cache
def protocol_parts() -> dict[tuple[str, str, float | None, int, int | None], Part]:
    """The attacks of the protocols that come with `bench`, by data set, attack, budget, number of images and limit."""
    every = standards(config.load(config.defaults("bench.toml")))
    return {
        (one.dataset, part.spec.attack, part.spec.budget, one.images, one.limit): part
        for one in every
        for part in one.parts
    }


class Writer:
    """Collects rows and inserts them many at a time."""

    def __init__(self, db: Database, *, n: int = 40, members: int = 3, started: str = "2026-11-21T10:00:00Z") -> None:
        self.db, self.n, self.members, self.started = db, n, members, started
        self.rows: dict[type[Base], list[dict[str, Any]]] = {}
        self.known: set[str] = set()
        self.datasets: dict[str, str] = {}
        environment_id = content_id(ENVIRONMENT)
        self.environment_id = environment_id
        self._once(Environment, environment_id, {"environment_id": environment_id, "record": ENVIRONMENT})

    def put(self, table: type[Base], row: dict[str, Any]) -> None:
        self.rows.setdefault(table, []).append(row)

    def _once(self, table: type[Base], key: str, row: dict[str, Any]) -> None:
        if key not in self.known:
            self.known.add(key)
            self.put(table, row)

    def flush(self) -> None:
        """Insert what was collected, parents first."""
        order = [Environment, Run, Member, Curve, Attack, Evaluation, Outcome, CleanRow, Transfer, Job]
        with self.db.write() as connection:
            for table in order:
                if self.rows.get(table):
                    connection.execute(insert(table), self.rows[table])
        self.rows = {}

    def run(self, method: str, seed: int, *, epochs: int = 2, **changes: Any) -> str:
        """A run with its members and curve; returns its id."""
        dataset = changes.get("dataset", "digits")
        family = changes.pop(
            "family_id", hex_id("family", method, dataset, changes.get("settings"), changes.get("recipe"))
        )
        run_id = changes.pop("run_id", hex_id(family, seed, changes.get("method_version", 1)))
        training = {"epochs": epochs, "optimizer": "adam", "lr": 0.001, "batch_size": 64}
        row = {
            "run_id": run_id, "family_id": family, "attempt_id": hex_id("try", run_id), "status": "done",
            "method": method, "plugin": "trs", "origin": "bench", "settings": {"lambda_a": 2.0}, "dataset": dataset,
            "model": "digits_cnn", "model_settings": {"dropout": 0.0}, "members": self.members, "recipe": "standard",
            "recipe_changes": [], "training": training, "training_limit": None, "precision": "float32",
            "validation": 0, "seed": seed, "fusion": "mean_probability", "fusion_weights": None,
            "activation": "relu", "method_version": 1, "trainer_version": 1, "source_digest": "0" * 24,
            "requires": {}, "weights_digest": None, "environment_id": self.environment_id, "started": self.started,
            "finished": self.started, "seconds": 12.5, "config": {"method": method, "seed": seed}, "notes": [],
            "provenance": "measured", "versions": {}, "facts": None,
        } | changes  # fmt: skip
        self.put(Run, {name: value for name, value in row.items() if name in Run.__table__.columns})
        for number in range(self.members):
            self.put(Member, {"run_id": run_id, "number": number, "parameters": 1000, "weight": None})
        for epoch in range(1, epochs + 1):
            self.put(Curve, {
                "run_id": run_id, "phase": "joint", "epoch": epoch, "position": epoch - 1, "lr": 0.001, "seconds": 1.0,
                "loss": 2.0 / epoch, "terms": {"ce": 1.5 / epoch, "cosine": 0.5 / epoch},
                "member_accuracy": [0.5] * self.members, "ensemble_accuracy": 0.8, "accuracy_on": "training sample",
            })  # fmt: skip
        self.datasets[run_id] = dataset
        self._job("train", run_id, run_id, row["attempt_id"])
        return str(run_id)

    def evaluation(
        self, run_id: str, robust: Any = None, *, clean: Any = None, kind: str = "attack", attack: str = "pgd",
        budget: float | None = 0.1, **changes: Any,
    ) -> str:  # fmt: skip
        """An evaluation with these outcomes per image; returns its id.

        On as many images as a protocol has, with settings and precision left alone, it serves the protocol.
        """
        clean = np.ones(self.n, bool) if clean is None else np.asarray(clean, bool)
        robust = None if robust is None else np.asarray(robust, bool)
        limit = changes.get("image_limit")
        place = self.datasets.get(run_id, ""), attack, budget, len(clean), limit
        part = protocol_parts().get(place) if kind == "attack" else None
        if part is not None and not changes.keys() & {"settings", "precision", "attack_key"}:
            changes |= {"settings": part.spec.settings, "attack_key": part.key(limit)}
        usual = {} if attack == "fgsm" else {"steps": 50}
        spec = {"plugin": attack, "settings": changes.pop("settings", usual), "budget_name": "eps",
                "budget": budget, "stop": "first_success", "targets": None,
                "precision": changes.pop("precision", "float32")}  # fmt: skip
        if kind == "clean":
            attack, spec = (
                "clean",
                {
                    "plugin": "clean",
                    "settings": {},
                    "budget_name": None,
                    "budget": None,
                    "stop": None,
                    "targets": None,
                    "precision": "float32",
                },
            )
        key = changes.pop("attack_key", None) or hex_id(kind, spec, len(clean))
        self._once(Attack, key, spec | {"attack_key": key, "setting_id": content_id(spec)})
        evaluation_id = hex_id(run_id, key, changes.get("attack_version", 1))
        row = {
            "evaluation_id": evaluation_id, "attack_key": key, "run_id": run_id,
            "attempt_id": hex_id("try", evaluation_id), "kind": kind, "status": "done", "attack": attack,
            "image_limit": None, "split": "test", "provenance": "measured",
            "images_digest": "d" * 24, "n": len(clean), "n_clean": int(clean.sum()),
            "n_robust": None if robust is None else int(robust.sum()),
            "measurements": {"unmoved": 0, "loss_curve": [0.1, 0.4, 0.6, 0.7]}, "forwards": 1000, "backwards": 900,
            "seconds": 1.5, "attack_version": 1, "evaluator_version": 1, "source_digest": "1" * 24,
            "weights_digest": None,
            "environment_id": self.environment_id, "started": self.started,
        } | changes  # fmt: skip
        self.put(Evaluation, row)
        self.put(Outcome, {
            "evaluation_id": evaluation_id, "clean_bits": np.packbits(clean).tobytes(),
            "robust_bits": None if robust is None else np.packbits(robust).tobytes(),
        })  # fmt: skip
        self._job(kind, evaluation_id, run_id, row["attempt_id"])
        return evaluation_id

    def complete(self, run_id: str, robust: Any, *, attacks: Sequence[str] = CORE, **changes: Any) -> None:
        """Every attack of core-digits at ε = 0.1, all with these outcomes."""
        for attack in attacks:
            self.evaluation(run_id, robust, attack=attack, **changes)

    def matrix(self, run_id: str, clean: Any, missed: Any, **changes: Any) -> str:
        """A transferability matrix of clean [N+1, n] and missed [N, N+1, n]."""
        evaluation_id = self.evaluation(run_id, clean=clean[-1], kind="transfer", budget=0.2, **changes)
        targets = [*range(self.members), -1]
        everywhere = np.asarray(clean)[:-1].all(0)
        for target, row in zip(targets, clean, strict=True):
            self.put(CleanRow, {"evaluation_id": evaluation_id, "target": target, "n_correct": int(row.sum()),
                                "bits": np.packbits(row).tobytes()})  # fmt: skip
        for source in range(self.members):
            for column, target in enumerate(targets):
                bits, both = missed[source, column], clean[source] & clean[column]
                self.put(Transfer, {
                    "evaluation_id": evaluation_id, "source": source, "target": target, "n_missed": int(bits.sum()),
                    "n_correct_all": int(everywhere.sum()), "n_missed_correct_all": int((bits & everywhere).sum()),
                    "n_correct_both": int(both.sum()), "n_missed_correct_both": int((bits & both).sum()),
                    "n_definition6": int((bits & both & missed[source, source]).sum()),
                    "bits": np.packbits(bits).tobytes(),
                })  # fmt: skip
        return evaluation_id

    def failure(self, run_id: str, error: str, *, kind: str = "attack", **describe: Any) -> None:
        """A failed attempt at an attack, or at what `kind` says."""
        self._job(kind, hex_id("failed", run_id), run_id, hex_id("attempt", run_id, error), status="failed",
                  error=error, error_type="JobError", traceback="Traceback …",
                  describe=describe or {"attack": "pgd"})  # fmt: skip

    def _job(self, kind: str, job_id: str, run_id: str, attempt_id: str, **changes: Any) -> None:
        self.put(Job, {
            "attempt_id": attempt_id, "job_id": job_id, "kind": kind, "run_id": run_id, "family_id": None,
            "status": "done", "describe": None, "error": None, "error_type": None, "traceback": None,
            "started": self.started, "seconds": 1.0, "environment_id": self.environment_id,
        } | changes)  # fmt: skip


def fill(
    db: Database, *, methods: Sequence[str] = ("trs", "ece", "adp"), settings: int = 1, seeds: int = 3, n: int = 500,
    attacks: Sequence[str] = CORE, budgets: Sequence[float] = (0.1, 0.15), datasets: Sequence[str] =
    ("digits",), epochs: int = 3, together: int = 200,
) -> int:  # fmt: skip
    """Random results of every method × setting × seed on every data set; returns the number of evaluations."""
    writer, random, count = Writer(db, n=n), np.random.default_rng(0), 0
    for index, (dataset, method, setting, seed) in enumerate(_grid(datasets, methods, settings, seeds)):
        run_id = writer.run(method, seed, dataset=dataset, settings={"lambda_a": float(setting)}, epochs=epochs)
        clean = random.random((4, n)) < 0.95
        writer.evaluation(run_id, kind="clean", clean=clean[-1], images_digest=hex_id(dataset))
        strength = 0.9 - 0.5 * (hash_of(method, setting) % 100) / 100
        for budget in budgets:
            for attack in attacks:
                robust = clean[-1] & (random.random(n) < strength * (1 - budget))
                writer.evaluation(run_id, robust, clean=clean[-1], attack=attack, budget=budget,
                                  images_digest=hex_id(dataset))  # fmt: skip
        writer.matrix(run_id, clean, random.random((3, 4, n)) < 0.3, images_digest=hex_id(dataset))
        count += 2 + len(budgets) * len(attacks)
        if index % together == together - 1:
            writer.flush()
    writer.flush()
    return count


def hash_of(*parts: Any) -> int:
    """A number that follows from the parts (Python's own hash differs from process to process)."""
    return int(hex_id(*parts), 16)


def _grid(
    datasets: Sequence[str], methods: Sequence[str], settings: int, seeds: int
) -> Iterator[tuple[str, str, int, int]]:
    for dataset in datasets:
        for method in methods:
            for setting in range(settings):
                for seed in range(seeds):
                    yield dataset, method, setting, seed


def new_database(path: Path) -> Database:
    """An empty database in a new file."""
    return Database(path).open(create=True)
