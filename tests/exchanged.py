"""Results folders made by hand, with ids, digests and weights that fit together as those of real jobs do.

It lies beside the outermost conftest.py, whose folder pytest has on the path: tests of every folder import it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.core import config, registry, settings
from bench.core.specs import Training
from bench.experiment import protocols
from bench.experiment.folder import NOTES
from bench.experiment.spec import FORMAT, EvaluationSpec, RunSpec
from bench.jobs.workplace import Workplace
from bench.store import derived
from bench.store.database import Database
from bench.training import checkpoint

ENVIRONMENT = {"python": "3.11", "device": "cpu"}
IMAGES = 20
CONFIG = config.load(config.defaults("bench.toml")).config


def spec(method: str = "ece", seed: int = 0, requires: dict[str, RunSpec] | None = None) -> RunSpec:
    """A run of two members on digits."""
    configured = CONFIG.methods[method]
    given = {**configured.settings, **configured.datasets.get("digits", {})}
    made = settings.build(registry.load("methods", configured.plugin), given, method)
    return RunSpec(
        method=method, plugin=method, settings=settings.plain(made), dataset="digits", dataset_plugin="digits",
        model="digits_cnn", model_plugin="digits_cnn", model_settings={"dropout": 0.0}, members=2, recipe="standard",
        training=Training(epochs=2), seed=seed, versions={"method": 1, "model": 1, "dataset": 1, "trainer": 1},
        requires=requires or {}, weights=None,
    )  # fmt: skip


def attack(run: RunSpec, budget: float = 0.1, kind: str = "attack") -> EvaluationSpec:
    """PGD on it, or the clean pass."""
    if kind == "clean":
        return EvaluationSpec(
            kind="clean", run=run, attack="clean", plugin="clean", limit=IMAGES,
            versions={"attack": 1, "evaluator": 1},
        )  # fmt: skip
    return EvaluationSpec(
        kind="attack", run=run, attack="pgd", plugin="pgd", settings={"steps": 50}, budget_name="eps", budget=budget,
        stop="first_success", limit=IMAGES, versions={"attack": 1, "evaluator": 1},
    )  # fmt: skip


def place(results: Path) -> Workplace:
    """The workplace of a results folder."""
    return Workplace(results=results, data=Path("data"))


def write_run(results: Path, run: RunSpec, *, weights: int = 0, started: str = "2026-11-21T10:00:00Z") -> Path:
    """Weights drawn from `weights`, curve and record of a run; returns its folder."""
    folder = place(results).run(run.run_id).path
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(weights)
    tensors = {
        f"members.{member}.layer.weight": torch.randn(4, 3, generator=generator) for member in range(run.members)
    }
    metadata = {
        "format": 1, "run_id": run.run_id, "model": run.model, "model_plugin": run.model_plugin,
        "model_settings": run.model_settings, "dataset": run.dataset, "members": run.members,
        "fusion": "mean_probability", "activation": "relu",
    }  # fmt: skip
    checkpoint.save(folder / "members.safetensors", tensors, metadata)
    lines = [{"phase": "joint", "epoch": epoch, "loss": 1.0 / epoch, "lr": 0.001} for epoch in (1, 2)]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = run.model_dump(mode="json")
    record = run.described() | {
        "format": 1, "run_id": run.run_id, "family_id": run.family_id, "attempt_id": _hex(run.run_id, started),
        "status": "done", "origin": "bench", "fusion": "mean_probability", "fusion_weights": None,
        "activation": "relu", "method_version": run.versions["method"],
        "trainer_version": run.versions["trainer"], "source_digest": "0" * 24,
        "requires": {name: needed.run_id for name, needed in run.requires.items()}, "parameters": [12] * run.members,
        "weights_digest": checkpoint.digest(tensors), "environment": ENVIRONMENT, "started": started,
        "finished": started, "seconds": 2.0, "config": config, "notes": [],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def write_evaluation(results: Path, evaluation: EvaluationSpec, *, draw: int = 0, **changes: Any) -> Path:
    """An evaluation with outcomes drawn from `draw`; returns its path."""
    random = np.random.default_rng(draw)
    clean = random.random(IMAGES) < 0.9
    robust = clean & (random.random(IMAGES) < 0.5)
    attacked = evaluation.kind in ("attack", "craft", "blackbox")
    names = {"kind", "attack", "plugin", "budget_name", "budget", "stop", "limit", "split"}
    told = evaluation.model_dump(mode="json", include=names) | {"settings": evaluation.settings, **evaluation.later()}
    run = json.loads(place(results).run(evaluation.run.run_id).record.read_text())
    record = told | {
        "format": FORMAT, "evaluation_id": evaluation.evaluation_id, "attack_key": evaluation.attack_key,
        "run_id": evaluation.run.run_id, "attempt_id": _hex(evaluation.evaluation_id, "done"), "status": "done",
        "weights_digest": run["weights_digest"], "images_digest": "d" * 24, "n": IMAGES, "n_clean": int(clean.sum()),
        "n_robust": int(robust.sum()) if attacked else None, "clean_bits": bits(clean),
        "robust_bits": bits(robust) if attacked else None, "measurements": {"unmoved": 0}, "forwards": 10,
        "backwards": 10, "seconds": 1.0, "attack_version": evaluation.versions["attack"],
        "evaluator_version": evaluation.versions["evaluator"], "source_digest": "1" * 24,
        "environment": ENVIRONMENT, "started": "2026-11-21T11:00:00Z",
    }  # fmt: skip
    if evaluation.kind in ("craft", "blackbox"):
        tries = [{"surrogate": "own", "attack": "pgd", "restart": 0, "bits": bits(clean & ~robust)}]
        record |= {"attempts": tries, "measurements": {}}
    path = place(results).run(evaluation.run.run_id).evaluation(evaluation.evaluation_id)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record | changes))
    return path


def write_failure(results: Path, run: RunSpec, job_id: str, *, started: str = "2026-11-21T09:00:00Z") -> Path:
    """A failed attempt at a job of a run; returns its path."""
    attempt = _hex(job_id, "failed", started)
    path = place(results).run(run.run_id).failure(attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "format": 1, "attempt_id": attempt, "job_id": job_id, "kind": "attack", "run_id": run.run_id,
        "family_id": run.family_id, "describe": {"method": run.method}, "error": "loss became NaN",
        "error_type": "JobError", "traceback": "\x1b[31mTraceback\x1b[0m\n", "started": started, "seconds": 1.0,
        "environment": {"python": "3.12"},
    }  # fmt: skip
    path.write_text(json.dumps(record))
    return path


def fill(results: Path, run: RunSpec, *, weights: int = 0) -> RunSpec:
    """A run with a clean pass, two attacks, and a failure before one of them; returns the run."""
    write_run(results, run, weights=weights)
    for draw, evaluation in enumerate((attack(run, kind="clean"), attack(run, 0.1), attack(run, 0.2))):
        write_evaluation(results, evaluation, draw=draw)
    write_failure(results, run, attack(run, 0.1).evaluation_id)
    return run


@cache
def _standards() -> list[protocols.Standard]:
    return protocols.standards(config.load(config.defaults("bench.toml")))


def brought_up(db: Database) -> Database:
    """The database after what follows from its rows was brought up to them, as every command that writes does."""
    derived.refresh(db, _standards())
    return db


def bits(values: Any) -> str:
    """Booleans as base64 text."""
    return base64.b64encode(np.packbits(values).tobytes()).decode()


def tree(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder, and its folders; databases, locks, journal and origins apart."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
        if not path.name.startswith("bench.db")
        and path.name not in NOTES
        and not (path.is_dir() and path.name in ("journal", "locks"))
    }


def _hex(*parts: str) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
