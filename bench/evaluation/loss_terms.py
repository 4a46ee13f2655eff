"""Whether every term of a method's loss still pulls at the weights when training ends."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench.attacks.judge import predictions
from bench.core import seeds
from bench.data.base import ImageSet
from bench.evaluation.measure import right_record
from bench.models.ensemble import Ensemble
from bench.training.batch import Batch
from bench.training.method import Method


def measure(
    ensemble: Ensemble, images: ImageSet, method: Method, train: ImageSet, seed_axes: tuple[object, ...], *, count: int,
    batch_size: int,
) -> dict[str, Any]:  # fmt: skip
    """The length of each term's gradient over all weights, as a share of the longest, on one batch of training images.

    The loss is that of the last epoch, on a copy of the ensemble in training mode. `measurements.means` holds the share
    of each term by its name; nothing where the method trains its members one after another, or has one term alone.
    """
    started = time.perf_counter()
    clean = predictions(ensemble, images, batch_size=batch_size) == images.labels
    size = min(count, len(train))
    shares: dict[str, float] = {}
    if type(method).loss is not Method.loss:
        members = list(copy.deepcopy(ensemble).train().requires_grad_(True).members)
        x = train.floats(slice(0, size))
        batch = Batch(
            images=x, labels=train.labels[:size], indices=torch.arange(size, device=x.device), epoch=0, epochs=1,
            progress=1.0, generator=seeds.generator(*seed_axes, "terms", device=x.device), others=lambda: x.flip(0),
        )  # fmt: skip
        parameters = [parameter for member in members for parameter in member.parameters()]
        lengths = {}
        with torch.enable_grad():
            terms = method.loss(members, batch)
            for name, term in terms.items():
                found: Sequence[Tensor | None] = ()
                if term.requires_grad:
                    found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
                lengths[name] = sum(float(each.double().square().sum()) for each in found if each is not None) ** 0.5
        longest = max(lengths.values(), default=0.0)
        if len(lengths) > 1 and longest > 0:
            shares = {name: length / longest for name, length in lengths.items()}
    return {
        **right_record(clean),
        "measurements": {"images": size, "counts": {}, "means": shares},
        "forwards": len(images) + size,
        "backwards": size,
        "seconds": time.perf_counter() - started,
    }
