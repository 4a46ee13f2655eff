"""The measurements of a trained ensemble: clean accuracy, robust accuracy, transferability.

Each returns the part of an evaluation record (`evaluations/ID.json`) that the measurement itself knows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks.base import Attack
from bench.attacks.conditions import Conditions
from bench.attacks.judge import AttackOutcome, attack_images, evaluation_mode, predictions, target_classes
from bench.attacks.unfinished import Unfinished
from bench.core.bits import classes_to_text, to_text
from bench.core.errors import JobError
from bench.core.numbers import ENSEMBLE
from bench.core.progress import PartProgress, Progress
from bench.core.terms import NOISE, WHOLE
from bench.data.base import ImageSet
from bench.models.ensemble import Ensemble

SAMPLES = 8  # adversarial images kept to be looked at
RANDOM_CHECK = 1000  # images whose output is computed twice


def clean(ensemble: Ensemble, images: ImageSet, *, batch_size: int = 500) -> dict[str, Any]:
    """Clean accuracy of the ensemble and of each member.

    `measurements.random_output` counts the images whose fused output differs between two passes of the same batch:
    attacks on such a network need gradients of the expectation (reference: Athalye et al. 2018).
    """
    started = time.perf_counter()
    rows = _correct_rows(ensemble, images, batch_size)
    count = [int(row.sum()) for row in rows]
    random = _random_outputs(ensemble, images, batch_size)
    return {
        **clean_record(rows),
        "measurements": {"member_accuracy": [value / len(images) for value in count[:-1]], "random_output": random},
        "forwards": 2 * len(images),
        "backwards": 0,
        "seconds": time.perf_counter() - started,
    }


def clean_record(rows: list[Tensor]) -> dict[str, Any]:
    """The outcomes of a pass over clean images; `rows`: of each member, then the ensemble, bool [n], is it right."""
    return {**right_record(rows[-1]), "clean_rows": _target_rows(rows)}


def right_record(right: Tensor) -> dict[str, Any]:
    """The same of the ensemble alone: `right`, bool [n]."""
    return {
        "n": len(right),
        "n_clean": int(right.sum()),
        "n_robust": None,
        "clean_bits": to_text(right.cpu().numpy()),
        "robust_bits": None,
    }


def robust_accuracy(
    ensemble: Ensemble,
    images: ImageSet,
    attack: Attack,
    conditions: Conditions,
    *,
    clean: Tensor | None = None,
    progress: Progress | None = None,
    unfinished: Unfinished | None = None,
) -> dict[str, Any]:
    """White-box robust accuracy of the ensemble: the share of all images still classified correctly.

    Where the attack leads to targets, `measurements.targeted_hits` counts the images that were right when clean and are
    classified as their target; where the ensemble draws a member for each prediction, `draws` are the images that each
    member gets right after the attack. `samples` are a few adversarial images. `clean`: bool [n], images known to be
    right when clean, which saves a pass. `unfinished`: as for `attack_images`.
    """
    outcome = attack_images(
        attack, ensemble, images, conditions, clean=clean, keep_images=True, progress=progress, unfinished=unfinished
    )
    outcome.measurements.update(draws(ensemble, images, outcome, conditions.batch_size))
    if outcome.hit is not None:
        outcome.measurements["targeted_hits"] = int((outcome.hit & outcome.clean).sum())
    return outcome_record(ensemble, images, outcome)


def outcome_record(ensemble: Ensemble, images: ImageSet, outcome: AttackOutcome) -> dict[str, Any]:
    """The part of a record that says what came of an attack on every image, with a few samples."""
    return {
        "samples": samples(ensemble, images, outcome),
        "n": len(images),
        "n_clean": int(outcome.clean.sum()),
        "n_robust": int(outcome.robust.sum()),
        "clean_bits": to_text(outcome.clean.numpy()),
        "robust_bits": to_text(outcome.robust.numpy()),
        "measurements": outcome.measurements,
        "forwards": outcome.forwards,
        "backwards": outcome.backwards,
        "seconds": outcome.seconds,
    }


def draws(ensemble: Ensemble, images: ImageSet, outcome: AttackOutcome, batch_size: int) -> dict[str, Any]:
    """Of an ensemble that draws a member for each prediction: bits [N, n], right after the attack with each draw.

    There are no other draws, so that their mean is the expected accuracy exactly: the plain mean, or with the `odds` of
    an ensemble whose weights say how probable each is.
    """
    if not ensemble.rule.draws_a_member:
        return {}
    assert outcome.adversarial is not None
    labels = images.labels.cpu()
    rows = class_rows(ensemble, images, batch_size, outcome.adversarial)[:-1]
    odds = {} if ensemble.weights is None else {"odds": ensemble.weights.tolist()}
    return {"draws": [to_text((row == labels).numpy()) for row in rows], **odds}


def transferability(
    ensemble: Ensemble,
    images: ImageSet,
    attack: Attack,
    conditions: Conditions,
    *,
    keep: list[Tensor] | None = None,
    beside: bool = True,
    others: Mapping[str, nn.Module] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The transferability matrix: images crafted on each member, evaluated on each member and on the ensemble.

    Every image is attacked and the last iterate is used (`stop = last`), whatever the conditions say. Bits of cell
    (source, target) say that the target misclassifies the images crafted on the source; rates for any population follow
    from them and from the clean rows (`bench.store.rates`). With targets, chosen on the ensemble, they say that the
    target outputs the class that the images were led to: the targeted transferability of Definition 6. `classes` of a
    cell are those that the target gives. `keep` takes the images crafted on each member, float32 [n, C, H, W], on the
    CPU.

    `beside` the members further sources stand in `other_cells`: the whole ensemble, random noise of the attack's size
    as a control (for attacks in a ball), and `others`, networks by the id of their run.
    """
    wanted = target_classes(ensemble, images, conditions)
    started = time.perf_counter()
    rows = _correct_rows(ensemble, images, conditions.batch_size)
    cells: list[dict[str, Any]] = []
    forwards = backwards = 0
    per_source: list[dict[str, Any]] = []
    last = replace(conditions, stop="last")
    networks: list[tuple[int | str, nn.Module]] = [*enumerate(ensemble.members)]
    networks += [(WHOLE, ensemble), *(others or {}).items()] if beside else []
    # A member costs its part of an ensemble.
    costs = [1 / len(ensemble.members) if isinstance(source, int) else 1.0 for source, _ in networks]
    for place, (source, network) in enumerate(networks):
        part = PartProgress(progress or Progress(), sum(costs[:place]) / sum(costs), costs[place] / sum(costs))
        outcome = attack_images(attack, network, images, last, targets=wanted, keep_images=True, progress=part)
        assert outcome.adversarial is not None
        if keep is not None and isinstance(source, int):
            keep.append(outcome.adversarial)
        cells += _cells(source, ensemble, images, outcome.adversarial, wanted, conditions.batch_size)
        forwards += outcome.forwards
        backwards += outcome.backwards
        per_source.append({"source": source, **outcome.measurements})
    if beside and attack.norm is not None:
        noisy = noise(images, attack.norm, conditions)
        cells += _cells(NOISE, ensemble, images, noisy, wanted, conditions.batch_size)
    return {
        **clean_record(rows),
        "cells": [cell for cell in cells if isinstance(cell["source"], int)],
        "other_cells": [cell for cell in cells if isinstance(cell["source"], str)],
        "measurements": {
            "sources": [each for each in per_source if isinstance(each["source"], int)],
            "other_sources": [each for each in per_source if isinstance(each["source"], str)],
        },
        "forwards": forwards,
        "backwards": backwards,
        "seconds": time.perf_counter() - started,
    }


def _cells(
    source: int | str, ensemble: Ensemble, images: ImageSet, adversarial: Tensor, wanted: Tensor | None, batch_size: int
) -> list[dict[str, Any]]:
    """The cells of one source: what each member, then the ensemble, makes of its images."""
    labels = images.labels.cpu()
    classes = class_rows(ensemble, images, batch_size, adversarial)
    hits = [row != labels if wanted is None else row == wanted.cpu() for row in classes]
    return [
        {
            "source": source,
            "target": _target(index, hits),
            "bits": to_text(hit.numpy()),
            "classes": classes_to_text(row.numpy()),
        }
        for index, (hit, row) in enumerate(zip(hits, classes, strict=True))
    ]


def noise(images: ImageSet, norm: str, conditions: Conditions) -> Tensor:
    """The images, float32 [n, C, H, W] on the CPU, with random noise of the size that an attack in the ball may have.

    Each pixel goes up or down by the radius (ℓ∞), or the image along a uniform direction of that length (ℓ2); what
    leaves [0, 1] is clipped, as an attack's is.
    """
    draws = conditions.draws(tuple(images.images.shape[1:]))
    rows = torch.arange(len(images))
    if norm == "linf":
        step = draws.take("uniform", NOISE, rows).sign()
    else:
        normal = draws.take("normal", NOISE, rows)
        step = normal / normal.flatten(1).norm(dim=1).clamp_min(1e-30).view(-1, 1, 1, 1)
    return (images.floats(slice(None)).cpu() + conditions.budget * step).clamp(0, 1)


def samples(ensemble: Ensemble, images: ImageSet, outcome: AttackOutcome) -> dict[str, Tensor]:
    """Up to `SAMPLES` images that were right when clean, broken ones first: clean, adversarial, both predictions."""
    assert outcome.adversarial is not None
    broken = outcome.clean & ~outcome.robust
    order = torch.cat([broken.nonzero().squeeze(1), (outcome.clean & ~broken).nonzero().squeeze(1)])[:SAMPLES]
    rows = order.to(images.device)
    clean_images = images.floats(rows)
    adversarial = outcome.adversarial[order].to(images.device)
    with evaluation_mode(ensemble):
        return {
            "index": order,
            "labels": images.labels[rows],
            "clean": clean_images,
            "adversarial": adversarial,
            "clean_prediction": predictions(ensemble, clean_images) if len(rows) else rows,
            "adversarial_prediction": predictions(ensemble, adversarial) if len(rows) else rows,
        }


@torch.no_grad()
def _random_outputs(ensemble: Ensemble, images: ImageSet, batch_size: int) -> int:
    """How many images get another fused output from a second pass of the same batch; the first 1,000 are looked at."""
    count = 0
    with evaluation_mode(ensemble):
        for start in range(0, min(len(images), RANDOM_CHECK), batch_size):
            x = images.floats(slice(start, min(start + batch_size, RANDOM_CHECK)))
            first, second = ensemble(x), ensemble(x)
            count += int((~torch.isclose(first, second, rtol=1e-4, atol=1e-5)).any(1).sum())
    return count


def _correct_rows(ensemble: Ensemble, images: ImageSet, batch_size: int) -> list[Tensor]:
    """For each member, then the ensemble: bool [n] on the CPU, correctly classified when clean.

    Raises:
        JobError: an output is not finite.
    """
    labels = images.labels.cpu()
    return [row == labels for row in class_rows(ensemble, images, batch_size)]


@torch.no_grad()
def class_rows(ensemble: Ensemble, images: ImageSet, batch_size: int, replaced: Tensor | None = None) -> list[Tensor]:
    """For each member, then the ensemble: int64 [n] on the CPU, the predicted class.

    `replaced` are float images [n, C, H, W] to classify in place of the set's own.

    Raises:
        JobError: an output is not finite; its argmax would be some class all the same.
    """
    parts: list[Tensor] = []
    with evaluation_mode(ensemble):
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            x = images.floats(part) if replaced is None else replaced[part].to(images.images.device)
            logits = ensemble.member_logits(x)
            outputs = [*logits, ensemble.fuse(logits)]
            if not all(bool(output.isfinite().all()) for output in outputs):
                raise JobError("a member's output is not finite (NaN or infinite)")
            parts.append(torch.stack([output.argmax(1) for output in outputs]))
    return list(torch.cat(parts, dim=1).cpu())


def _target(index: int, rows: list[Tensor]) -> int:
    return ENSEMBLE if index == len(rows) - 1 else index


def _target_rows(rows: list[Tensor]) -> list[dict[str, Any]]:
    return [{"target": _target(index, rows), "bits": to_text(row.numpy())} for index, row in enumerate(rows)]
