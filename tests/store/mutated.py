"""Records as jobs leave them, each changed in one place as a hostile or broken writer might, its ids made to fit."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from exchanged import bits

from bench.core import config
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import DESCRIBED, FORMAT, EvaluationSpec, RunSpec

LOADED = config.load(config.defaults("bench.toml"))
OTHER = config.load(LOADED.path, ["methods.trs.lambda_a=5"])
IMAGES = 24
ENVIRONMENT = {"python": "3.11", "device": "cpu", "threads": 1, "packages": {"torch": "2.11"}, "commit": "0" * 40}
HUGE, DEEP = "@HUGE@", "@DEEP@"  # what json.dumps does not write
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 1e308, -1e308, 1e39, 1e-320, 0.5, float("nan"), float("inf"), HUGE,
    DEEP, "", "x", "AAAA", "pgd", "trs", "cifar10", "[/x]", "[red]x[/red]", "\x1b[2J", "\x1b]8;;http://x\x07y",
    "\x9b2J", "\u202eevil", "\ud800", "a\nb", "=cmd|' /C calc'!A0", "<script>alert(1)</script>", r"$x_%&#\input{x}",
    "é" * 3000, "../../x", "0" * 24, "0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00", "2026-11-21T10:00:00",
    [], {}, [[]], ["x"], [None], [1e308, float("nan")], [1, [2, [3]]], {"a": {"b": [1]}}, {"steps": "x"}, {"": 1},
    [[0.1] * 30],
]  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A run's folder with one changed file."""

    folder: Path
    file: Path
    kind: str
    what: str


def write(runs: Path, number: int, seed: int | None, changed: tuple[str, str, Any] | None = None) -> Mutant:
    """The folder of one run, with one of its files changed; the same `seed` gives the same.

    With None for it nothing is changed, or one place: (`attack`, `measurements.unmoved`, 7).
    """
    draw = random.Random(f"{seed} {number}")
    files = json.loads(json.dumps(valid(number)))  # nothing in it is shared
    kind = draw.choice(["run", "run", "run", "clean", "attack", "attack", "transfer", "blackbox", "failure", "curve"])
    spec = RunSpec.model_validate(files["run"]["config"])
    what = "" if seed is None else _change(files[kind][-1] if kind == "curve" else files[kind], draw)
    if changed is not None:
        kind, what, value = changed
        node, (*way, last) = files[kind], what.split(".")
        for step in way:
            node = node[int(step)] if step.isdigit() else node[step]
        node[last] = value
    if what and kind == "run":
        spec = _fitted(files, what, spec)
    elif kind in ("clean", "attack", "transfer", "blackbox"):
        _identify(files[kind], spec)
    folder = runs / spec.run_id
    folder.mkdir(parents=True)
    file = _dump(folder / "run.json", files["run"])
    lines = folder / "train.jsonl"
    lines.write_text("".join(_json(line) + "\n" for line in files["curve"]), encoding="utf-8", errors="surrogatepass")
    for name in ("clean", "attack", "transfer", "blackbox", "failure"):
        identifier = files[name].get("attempt_id" if name == "failure" else "evaluation_id")
        stem = identifier if isinstance(identifier, str) and identifier.isalnum() and identifier.isascii() else "0" * 24
        path = _dump(folder / ("failures" if name == "failure" else "evaluations") / f"{stem[:64]}.json", files[name])
        file = path if name == kind else file
    return Mutant(folder, lines if kind == "curve" else file, kind, what)


def valid(number: int) -> dict[str, Any]:
    """The records of a run of two members, as JSON: run, curve, one evaluation of each kind, a failure.

    By turns of ECE, TRS and TRS of another λ, so that each seed has all three.
    """
    loaded, method = ((LOADED, "ece"), (LOADED, "trs"), (OTHER, "trs"))[number % 3]
    run = select.run_spec(loaded, Selection(members=2), method, number // 3)
    told = run.model_dump(mode="json")
    record = run.described() | {
        "format": 1, "run_id": run.run_id, "family_id": run.family_id, "attempt_id": _hex(run.run_id, "done"),
        "status": "done", "origin": "bench", "fusion": "mean_probability", "fusion_weights": None,
        "activation": "relu", "method_version": run.versions["method"], "trainer_version": run.versions["trainer"],
        "source_digest": "0" * 24, "requires": {}, "parameters": [12, 12], "weights_digest": _hex(run.run_id),
        "environment": ENVIRONMENT, "started": "2026-11-21T10:00:00Z", "finished": "2026-11-21T10:00:01Z",
        "seconds": 1.0, "config": told, "notes": ["a note"],
        "facts": {"title": "On nets", "authors": ["A. Nother"], "venue": "ICLR", "year": 2026, "extra_data": False,
                  "url": "https://example.org/paper"},
    }  # fmt: skip
    curve = [
        {"phase": "joint", "epoch": epoch, "lr": 0.001, "seconds": 1.0, "loss": 2.0 / epoch, "terms": {"ce": 1.5},
         "member_accuracy": [0.5, 0.6], "ensemble_accuracy": 0.8, "accuracy_on": "training sample"}
        for epoch in (1, 2)
    ]  # fmt: skip
    failure = {
        "format": 1, "attempt_id": _hex(run.run_id, "failed"), "job_id": run.run_id, "kind": "train",
        "run_id": run.run_id, "family_id": run.family_id, "describe": {"method": method, "seed": 0},
        "error": "loss became NaN", "error_type": "JobError", "traceback": "Traceback …",
        "started": "2026-11-21T09:00:00Z", "seconds": 1.0, "environment": ENVIRONMENT,
    }  # fmt: skip
    return {"run": record, "curve": curve, "failure": failure, **_evaluations(run, record, number)}


def _evaluations(run: RunSpec, record: dict[str, Any], number: int) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(number)
    rows = rng.random((3, IMAGES)) < 0.9
    robust, missed = rows[-1] & (rng.random(IMAGES) < 0.5), rng.random((2, 3, IMAGES)) < 0.4
    selection = Selection(members=2, limit=IMAGES)
    clean = EvaluationSpec.of_clean(run, limit=IMAGES, split="test")
    (pgd,) = select.attack_rows(LOADED, selection, run, "pgd", (0.1,))
    matrix = select.matrix_row(LOADED, selection, run)
    black = select.blackbox_rows(LOADED, selection, run, LOADED.blackbox.attacks)[0]
    attack = "loss" if number % 3 == 1 else "attack"
    tries = [{"surrogate": surrogate, attack: "pgd", "restart": restart, "bits": bits(~robust)}
             for surrogate in black.settings["surrogates"] for restart in (0, 1)]  # fmt: skip
    counts = {"attacked": 20, "zero_gradients": 0, "unmoved": 0, "largest_excess": 1e-8, "loss_curve": [0.1, 0.4, 0.6]}
    targets, after = (0, 1, -1), {"robust_bits": bits(robust), "n_robust": int(robust.sum())}
    clean_rows = [{"target": target, "bits": bits(row)} for target, row in zip(targets, rows, strict=True)]
    more: dict[str, dict[str, Any]] = {
        "clean": {"clean_rows": clean_rows, "measurements": {"member_accuracy": [0.9, 0.9], "random_output": 0}},
        "attack": {**after, "measurements": counts},
        "transfer": {
            "clean_rows": clean_rows, "measurements": {"sources": [{"source": 0, **counts}, {"source": 1, **counts}]},
            "cells": [{"source": source, "target": target, "bits": bits(missed[source, column])}
                      for source in (0, 1) for column, target in enumerate(targets)],
        },
        "blackbox": {**after, "measurements": {"attempts": 1}, "attempts": tries},
    }  # fmt: skip
    names = {"kind", "attack", "plugin", "budget_name", "budget", "stop", "limit", "split"}
    return {
        spec.kind: spec.model_dump(mode="json", include=names) | {
            **_format(spec, number),  "evaluation_id": spec.evaluation_id,
            "attack_key": spec.attack_key, "run_id": run.run_id, "attempt_id": _hex(spec.evaluation_id),
            "status": "done", "weights_digest": record["weights_digest"], "images_digest": "d" * 24, "n": IMAGES,
            "n_clean": int(rows[-1].sum()), "n_robust": None, "clean_bits": bits(rows[-1]), "robust_bits": None,
            "forwards": 10, "backwards": 10, "seconds": 1.0, "attack_version": spec.versions["attack"],
            "evaluator_version": spec.versions["evaluator"], "source_digest": "1" * 24, "environment": ENVIRONMENT,
            "started": "2026-11-21T11:00:00Z", **more[spec.kind],
        }
        for spec in (clean, pgd, matrix, black)
    }  # fmt: skip


def _format(spec: EvaluationSpec, number: int) -> dict[str, Any]:
    """One seed's records are of format 1, where what the harness decides stood among the settings."""
    if number % 3 == 1:
        return {"format": 1, "settings": {**spec.settings, **spec.later()}}
    return {"format": FORMAT, "settings": spec.settings, **spec.later()}


def _change(record: dict[str, Any], draw: random.Random) -> str:
    """Change one place of a record; returns which and how."""
    path = draw.choice(sorted(_paths(record), key=repr))
    *way, last = path
    node: Any = record
    for step in way:
        node = node[step]
    how = draw.choice(["value"] * 8 + ["drop", "more", "twice"])
    if how == "drop":
        del node[last]
    elif how == "more" and isinstance(node, dict):
        node["unknown"] = copy.deepcopy(draw.choice(VALUES))
    elif how == "twice" and isinstance(node[last], list):
        node[last] = [*node[last], *copy.deepcopy(node[last])]
    else:
        node[last] = copy.deepcopy(draw.choice(VALUES))
    return f"{'.'.join(map(str, path))} ({how}) {node.get(last) if isinstance(node, dict) else ''!r:.60}"


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in ((*at, key), *_paths(item, (*at, key)))]


def _fitted(files: dict[str, Any], what: str, spec: RunSpec) -> RunSpec:
    """Make configuration, ids and what refers to them fit a changed run, as far as it still is one."""
    record = files["run"]
    told = record.get("config")
    if not isinstance(told, dict):
        return spec
    for name in DESCRIBED:
        if what.startswith("config."):
            record |= {name: told[name]} if name in told else {}
        elif name in record:
            told[name] = record[name]
    if isinstance(told.get("versions"), dict):
        for name in ("method", "trainer"):
            if what.startswith(f"{name}_version"):
                told["versions"][name] = record.get(f"{name}_version")
            elif name in told["versions"]:
                record[f"{name}_version"] = told["versions"][name]
    try:
        found = RunSpec.model_validate(json.loads(json.dumps(told)))
        record |= {"run_id": found.run_id, "family_id": found.family_id}
        spec = found
    except (ValueError, RecursionError):
        return spec
    for name in ("clean", "attack", "transfer", "blackbox"):
        files[name]["run_id"] = spec.run_id
        files[name]["weights_digest"] = record.get("weights_digest")
        _identify(files[name], spec)
    files["failure"] |= {"run_id": spec.run_id, "family_id": spec.family_id, "job_id": spec.run_id}
    return spec


def _identify(record: dict[str, Any], run: RunSpec) -> None:
    try:
        found = EvaluationSpec.of_record(record, run)
        record |= {"evaluation_id": found.evaluation_id, "attack_key": found.attack_key}
    except (ValueError, KeyError, TypeError, RecursionError):  # it is none any more
        return


def _dump(path: Path, record: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(_json(record), encoding="utf-8", errors="surrogatepass")
    return path


def _json(record: Any) -> str:
    text = json.dumps(record)
    return text.replace(f'"{HUGE}"', "9" * 5000).replace(f'"{DEEP}"', "[" * 3000 + "]" * 3000)


def _hex(*parts: str) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
