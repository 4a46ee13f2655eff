"""The adversarial images of a stored evaluation, made again and written to a file.

Only a few sample images are kept with an evaluation. Attacks are deterministic, so the stored weights give the same
images again; the per-image outcomes prove it, since they must equal the stored ones bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.attacks import batches
from bench.attacks.base import Attack
from bench.attacks.judge import attack_images, evaluation_mode, predictions
from bench.core import environment, registry, release, settings
from bench.core.errors import BenchError, JobError
from bench.core.identity import short
from bench.core.progress import Progress
from bench.data.base import ImageSet
from bench.experiment import select
from bench.experiment.spec import EvaluationSpec
from bench.jobs.ensembles import load_ensemble, recorded_weights, splits_of
from bench.jobs.measuring import conditions_of
from bench.jobs.recorded import as_recorded
from bench.jobs.workplace import Workplace
from bench.models.ensemble import Ensemble
from bench.store import door, queries
from bench.store.database import Database
from bench.store.typed_rows import EvaluationRow, Outcomes
from bench.training import checkpoint

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Stored:
    """A stored evaluation with everything that its images follow from."""

    row: EvaluationRow
    spec: EvaluationSpec
    outcomes: Outcomes
    environment: dict[str, Any]


@dataclass(frozen=True)
class WrittenImages:
    """What a file of images holds: n images, of which `broken` were right before the attack and are wrong after."""

    path: Path
    n: int
    clean: int
    broken: int


def find(db: Database, place: Workplace, evaluation_id: str) -> Stored:
    """The evaluation, if its images can be made again here.

    Raises:
        BenchError: it is not an attack, or its record or the weights of its run are not here or damaged.
    """
    row = queries.find_evaluation(db, evaluation_id)
    name = f"{row.attack} on {row.method}, evaluation {short(evaluation_id)}"
    if row.kind == "clean":
        raise BenchError(f"evaluation {short(evaluation_id)} is of clean images: no attack, no adversarial images")
    if row.kind == "transfer":
        raise BenchError(
            f"evaluation {short(evaluation_id)} is a transferability matrix, with images of its own for each member; "
            "only attacks on the ensemble can be exported"
        )
    if row.kind == "certify":
        raise BenchError(f"evaluation {short(evaluation_id)} certifies by random noise: it has no adversarial images")
    if row.kind == "craft":
        folder = place.run(row.run_id).crafted(evaluation_id)
        raise BenchError(f"the images of evaluation {short(evaluation_id)} lie in {folder}, as safetensors already")
    if row.kind == "judged":
        raise BenchError(
            f"the images of evaluation {short(evaluation_id)} came in the file {row.attack}, and stay there"
        )
    if row.kind != "attack":
        raise BenchError(
            f"evaluation {short(evaluation_id)} is black-box: its images were crafted on surrogates; "
            f"they lie in the folder crafted of each surrogate's run"
        )
    for path, what in (
        (place.run(row.run_id).weights, "weights"),
        (place.run(row.run_id).record, "record"),
        (place.run(row.run_id).evaluation(evaluation_id), "evaluation's record"),
    ):
        if not path.is_file():
            raise BenchError(f"the images of {name} cannot be made again here: there is no {path} ({what})")
    outcomes = queries.outcomes(db, [evaluation_id]).get(evaluation_id)
    if outcomes is None or outcomes.robust is None:
        raise BenchError(f"{name} stored no outcomes to check the images against")
    run = door.run_at(place.run(row.run_id).record)
    spec = door.evaluation_at(place.run(row.run_id).evaluation(evaluation_id), run.known).spec
    return Stored(row, spec, outcomes, queries.environment(db, row.environment_id))


def write(
    stored: Stored, place: Workplace, path: Path, progress: Progress | None = None, *,
    device: str | None = None, threads: int | None = None,
) -> WrittenImages:  # fmt: skip
    """Craft the images again, check them, and write them to `path` (replaced if it is there).

    It is done on the device and with the threads of the record, unless others are given.

    The file holds, for n images in the order of the data set: `adversarial` float32 [n, C, H, W] in [0, 1] as crafted,
    `original` uint8 [n, C, H, W], `labels`, `clean_prediction`, `adversarial_prediction` and `index` (place in the
    whole test set, or among the validation images) int64 [n], `robust` bool [n]; the metadata (JSON under `bench`) say
    which evaluation they are of.

    Raises:
        BenchError: the data are missing or other images than were measured.
        JobError: the weights are damaged or others, memory runs out, or the outcomes are not the stored ones; then
            nothing is written.
    """
    with as_recorded(stored.environment, place, device=device, threads=threads) as place:
        return _write(stored, place, path, progress or Progress())


def _write(stored: Stored, place: Workplace, path: Path, progress: Progress) -> WrittenImages:
    row, spec = stored.row, stored.spec
    if row.weights_digest not in (None, recorded_weights(spec.run, place)):
        raise JobError(f"the weights in {place.run(row.run_id).weights} are not those that were measured")
    ensemble = load_ensemble(spec.run, place)
    splits = splits_of(spec.run, place, limit=spec.limit)
    images = splits.test if spec.split == "test" else splits.validation
    if images is None or images.digest != row.images_digest:
        raise BenchError(f"the {spec.split} images of {row.dataset} in {place.data} are not those that were measured")
    recorded = row.measurements.get("batch_sizes") or [batches.batch_size(ensemble, images)]
    batch_size = place.batch_size or recorded[-1]
    try:
        found = _craft(spec, ensemble, images, batch_size, place, progress)
    except RuntimeError as error:
        if not batches.is_out_of_memory(error):
            raise
        raise JobError(f"out of memory with {batch_size} images a batch; try --batch") from error
    _check(stored, found, place)
    whole = splits_of(spec.run, place, limit=None).test if spec.split == "test" else images
    found["index"] = _places(images, whole)
    metadata = _metadata(stored, place)
    checkpoint.save(path, found, metadata)
    clean = found["clean_prediction"] == found["labels"]
    return WrittenImages(path, len(clean), int(clean.sum()), int((clean & ~found["robust"]).sum()))


def _craft(
    spec: EvaluationSpec, ensemble: Ensemble, images: ImageSet, batch_size: int, place: Workplace, progress: Progress
) -> dict[str, Tensor]:
    """The attack as it was, with all its images kept."""
    attack: Attack = settings.build(registry.load("attacks", spec.plugin), spec.settings, f"attacks.{spec.attack}")
    progress.job(spec.label)
    with evaluation_mode(ensemble):
        before = predictions(ensemble, images, batch_size=batch_size)
        outcome = attack_images(
            attack, ensemble, images, conditions_of(spec, batch_size, place), clean=before == images.labels,
            keep_images=True, progress=progress,
        )  # fmt: skip
        adversarial = outcome.adversarial
        assert adversarial is not None
        parts = [
            predictions(ensemble, part.to(images.device), batch_size=batch_size)
            for part in adversarial.split(batch_size)  # type: ignore[no-untyped-call]
        ]
    return {
        "adversarial": adversarial,
        "original": images.images.cpu(),
        "labels": images.labels.cpu(),
        "clean_prediction": before.cpu(),
        "adversarial_prediction": torch.cat(parts).cpu(),
        "robust": outcome.robust,
    }


def _places(images: ImageSet, whole: ImageSet) -> Tensor:
    """Where each image of a part stands in the whole, int64 [n]; both are in the order of the files."""
    labels, position, places = whole.labels.tolist(), 0, []
    for image, label in zip(images.images, images.labels.tolist(), strict=True):
        while labels[position] != label or not torch.equal(whole.images[position], image):
            position += 1
        places.append(position)
        position += 1
    return torch.tensor(places)


def _check(stored: Stored, found: dict[str, Tensor], place: Workplace) -> None:
    """The outcomes must be the stored ones.

    Raises:
        JobError: they are not; the message says what was different when they were measured.
    """
    clean = (found["clean_prediction"] == found["labels"]).numpy()
    other = (clean != stored.outcomes.clean) | (found["robust"].numpy() != stored.outcomes.robust)
    if not other.any():
        return
    told = environment.differences(stored.environment, environment.describe(place.device))
    today = registry.load("attacks", stored.spec.plugin).version_on(select.draws_a_member(stored.spec.run))
    if today != stored.row.attack_version:
        told = (*told, f"attack version {stored.row.attack_version} then, {today} now")
    raise JobError(
        f"crafted again, {int(np.count_nonzero(other))} of {len(other)} outcomes are not the stored ones, so nothing "
        f"was written ({', '.join(told) or 'device, threads and versions are the same'})"
    )


def _metadata(stored: Stored, place: Workplace) -> dict[str, Any]:
    row, spec = stored.row, stored.spec
    return {
        "format": 1,
        "evaluation_id": row.evaluation_id,
        "run_id": row.run_id,
        "weights_digest": recorded_weights(spec.run, place),
        "method": row.method,
        "dataset": row.dataset,
        "split": spec.split,
        "limit": spec.limit,
        "images_digest": row.images_digest,
        "model": row.model,
        "members": row.members,
        "seed": row.seed,
        "attack": row.attack,
        "attack_plugin": spec.plugin,
        "attack_settings": spec.settings,
        **spec.later(),
        "budget_name": row.budget_name,
        "budget": row.budget,
        "stop": row.stop,
        "versions": {"bench": release.VERSION, **spec.run.versions, **spec.versions},
        "environment": environment.describe(place.device),
        "index": "place in the whole test set" if spec.split == "test" else "place among the validation images",
        "outcomes": "equal to the stored ones, bit by bit",
    }
