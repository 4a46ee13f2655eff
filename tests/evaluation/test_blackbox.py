"""The black-box suite against loops over single attacks, and as jobs: surrogates and images are made once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench.attacks.conditions import Conditions
from bench.attacks.iterative import PGD, PGDCW
from bench.core import config
from bench.core.bits import from_text
from bench.core.errors import BenchError, JobError
from bench.data.base import ImageSet
from bench.evaluation import blackbox
from bench.experiment import select
from bench.experiment.select import Selection
from bench.jobs import work
from bench.jobs.plan import make_plan
from bench.jobs.workplace import Workplace
from bench.models.ensemble import Ensemble
from bench.store import ingest, queries
from bench.store.database import Database
from bench.store.rates import blackbox_rates

pytestmark = pytest.mark.usefixtures("_one_thread")
ATTACKS = {"pgd": PGD(steps=5), "pgd_cw": PGDCW(steps=5)}
TINY = (
    "training.epochs=2", "training.limit=200", "blackbox.members=[2, 3]", "blackbox.restarts=2",
    "blackbox.budgets.digits=[0.1]", "attacks.pgd.steps=4", "attacks.pgd_cw.steps=4",
)  # fmt: skip


@pytest.fixture
def images(digits: Any) -> ImageSet:
    images: ImageSet = digits.test.take(slice(0, 41))
    return images


def crafted(surrogate: Ensemble, images: ImageSet, folder: Path) -> dict[str, Any]:
    return blackbox.craft(
        surrogate, images, ATTACKS, Conditions(budget=0.15, seed_axes=("tests",), batch_size=16),
        restarts=2, folder=folder,
    )  # fmt: skip


def test_images_are_kept_in_full_precision_and_made_once(
    digits_ensemble: Ensemble, images: ImageSet, tmp_path: Path
) -> None:
    record = crafted(digits_ensemble, images, tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [f"{name}-{k}.safetensors" for name in ("pgd", "pgd_cw") for k in (0, 1)]
    made = {name: load_file(tmp_path / name)["adversarial"] for name in files}
    for adversarial in made.values():
        assert adversarial.dtype == torch.float32
        assert float((adversarial - images.floats()).abs().max()) <= 0.15 + 1e-6
        assert 0 <= float(adversarial.min()) <= float(adversarial.max()) <= 1
        assert bool(((adversarial * 255).round() / 255 - adversarial).abs().max() > 1e-4)  # not in 8 bits
    assert len({adversarial.sum().item() for adversarial in made.values()}) == 4  # starts and losses differ

    stamps = {name: (tmp_path / name).stat().st_mtime_ns for name in files}
    (tmp_path / files[2]).unlink()
    again = crafted(digits_ensemble, images, tmp_path)
    assert again["measurements"]["files"] == record["measurements"]["files"]
    assert again["attempts"] == record["attempts"]
    assert [name for name in files if (tmp_path / name).stat().st_mtime_ns != stamps[name]] == [files[2]]
    assert again["backwards"] == record["backwards"] / 4


def test_a_victim_is_judged_attack_by_attack(
    digits_ensemble: Ensemble, images: ImageSet, tmp_path: Path, train_ensemble: Any, digits: Any
) -> None:
    record = crafted(digits_ensemble, images, tmp_path)
    victim = train_ensemble("digits", "digits_cnn", digits.train, members=2, epochs=2)
    shown = [
        blackbox.TransferImages("a", each, tmp_path / each.file_name, record["measurements"]["files"][each.file_name])
        for each in blackbox.transfer_attacks(list(ATTACKS), 2)
    ]  # fmt: skip
    judged = blackbox.judge(victim, images, shown, batch_size=9)

    with torch.no_grad():
        clean = victim(images.floats()).argmax(1) == images.labels
        missed = torch.stack([victim(load_file(item.path)["adversarial"]).argmax(1) != images.labels for item in shown])
    assert 0 < int(missed.sum()) < missed.numel()
    for row, bits in zip(judged["attempts"], missed, strict=True):
        assert from_text(row["bits"], len(images)).tolist() == bits.tolist()
    robust = clean & ~missed.any(0)
    assert judged["n_robust"] == int(robust.sum())
    assert from_text(judged["robust_bits"], len(images)).tolist() == robust.tolist()

    with pytest.raises(JobError, match="missing or damaged"):
        blackbox.judge(victim, images, [shown[0]._replace(path=tmp_path / "absent")])
    with pytest.raises(JobError, match="crafted from other clean images"):
        blackbox.judge(victim, images.take(torch.arange(40, -1, -1)), shown)
    with pytest.raises(JobError, match=r"digests differ\); moved aside as pgd-0.damaged; the same"):
        blackbox.judge(victim, images, [shown[0]._replace(digest="0" * 24)])
    assert not shown[0].path.exists()


def test_images_that_changed_on_disk_are_neither_tried_nor_kept(
    digits_ensemble: Ensemble, images: ImageSet, tmp_path: Path
) -> None:
    record = crafted(digits_ensemble, images, tmp_path)
    path = tmp_path / "pgd-0.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + bytes(4))
    attack, digest = blackbox.TransferAttack("pgd", 0), record["measurements"]["files"][path.name]
    shown = blackbox.TransferImages("a", attack, path, digest)
    with pytest.raises(JobError, match="damaged"):
        blackbox.judge(digits_ensemble, images, [shown])
    path.write_bytes(whole[:-4] + bytes(4))
    assert crafted(digits_ensemble, images, tmp_path)["measurements"] == record["measurements"]
    assert path.read_bytes() == whole


def test_the_three_rates_of_a_hand_made_case() -> None:
    clean = np.array([1, 1, 1, 0], dtype=bool)
    missed = np.array([[0, 1, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]], dtype=bool)
    rates = blackbox_rates(clean, missed)
    assert rates.of_all == pytest.approx(1 / 4)  # the first image
    assert rates.of_correct == pytest.approx(1 / 3)
    assert rates.unsuccessful == pytest.approx(8 / 12)
    nothing = blackbox_rates(np.zeros(2, dtype=bool), np.ones((1, 2), dtype=bool))
    assert nothing.of_all == 0
    assert np.isnan(nothing.of_correct)


def test_surrogates_are_no_victims_and_are_shared_by_all(tmp_path: Path) -> None:
    loaded = config.load()

    def rows(method: str, seed: int) -> list[Any]:
        selection = Selection(methods=(method,), suite="figure2", seeds=(seed,))
        run = select.run_spec(loaded, selection, method, seed)
        return [run, *[row for row in select.evaluations(loaded, selection, run) if row.kind == "blackbox"]]

    victims = {(m, s): rows(m, s) for m in ("trs", "ece", "dverge") for s in (0, 1)}
    surrogates = {tuple(run.run_id for run in row.surrogates) for _, *found in victims.values() for row in found}
    assert len(surrogates) == 1
    (ids,) = surrogates
    assert len(set(ids)) == 3
    for run, *found in victims.values():
        assert len(found) == 5
        assert run.run_id not in ids
        assert not {needed.run_id for needed in run.requires.values()} & set(ids)
        assert [surrogate.members for surrogate in found[0].surrogates] == [3, 5, 8]
        assert len({surrogate.seed for surrogate in found[0].surrogates}) == 3
    with pytest.raises(BenchError, match="are those of surrogates"):
        rows("ece", ids and 1_000_003)


def test_the_suite_as_jobs_makes_surrogates_and_images_once(tmp_path: Path) -> None:
    loaded = config.load(changes=TINY)
    selection = Selection(methods=("trs",), suite="figure2", limit=30)
    place = Workplace(results=tmp_path / "results", data=tmp_path)

    def run(method: str) -> list[str]:
        with Database(tmp_path / "bench.db").open(create=True) as db:
            plan = make_plan(loaded, dataclasses.replace(selection, methods=(method,)), db, place)
            for job in plan.missing:
                ok, path = work.perform(job, place)
                assert ok, json.loads(path.read_text())["error"]
                ingest.sync(db, place.runs)
            return [job.label for job in plan.missing]

    first = run("trs")
    assert sum("surrogate" in label and "train" in label for label in first) == 2
    assert sum("images of black-box" in label for label in first) == 2
    second = run("ece")
    assert [label.partition(": ")[2] for label in second] == ["train", "clean accuracy", "black-box ε=0.1"]
    assert run("ece") == []

    with Database(tmp_path / "bench.db").open() as db:
        rows = [row for row in queries.evaluations(db) if row.kind == "blackbox"]
        attempts = {row.method: queries.blackbox(db, row.evaluation_id) for row in rows}
    assert {method: len(found) for method, found in attempts.items()} == {"trs": 8, "ece": 8}

    # Images that are gone are made again for the next victim, and are the same.
    digests = [sorted(_digests(path)) for path in sorted((tmp_path / "results/runs").glob("*/crafted/*"))]
    for path in (tmp_path / "results/runs").glob("*/crafted/*/pgd-0.safetensors"):
        path.unlink()
    third = run("cos_only")
    assert sum("images of black-box" in label for label in third) == 2
    assert not any("surrogate" in label and "train" in label for label in third)
    assert [sorted(_digests(path)) for path in sorted((tmp_path / "results/runs").glob("*/crafted/*"))] == digests


def _digests(folder: Path) -> list[str]:
    record = folder.parent.parent / "evaluations" / f"{folder.name}.json"
    files: dict[str, str] = json.loads(record.read_text())["measurements"]["files"]
    return [f"{name} {digest}" for name, digest in files.items()]
