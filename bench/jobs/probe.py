"""Single steps of a run, timed here on an untrained ensemble: what an estimate of missing work is made of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from bench.core.lazy import torch
from bench.core.numerics import numerics

if TYPE_CHECKING:
    from torch import Tensor

    from bench.data.base import ImageSet
    from bench.experiment.spec import EvaluationSpec, RunSpec
    from bench.jobs.workplace import Workplace

PROBE = 32  # images in a timed batch on a CPU; a GPU takes as long for few as for many, and gets a whole batch
QUICK = 0.05  # seconds of a step on a CPU below which a whole batch is timed: small steps cost little less than large
ATTACKED = 500  # images of a timed attack's step on a GPU
TIMED = 0.3  # seconds of steps that are timed: the machine may be busy, and so will it be for the jobs


class Span(NamedTuple):
    """Expected seconds, at least and at most; alike where nothing hangs on the outcome."""

    low: float
    high: float


class Probe:
    """Times single steps on an untrained ensemble of a run."""

    def __init__(self, run: RunSpec, place: Workplace) -> None:
        from bench.core import seeds
        from bench.jobs import ensembles

        self._run = run
        self._place = place
        self._plugin, self._method = ensembles.method_of(run)
        with seeds.isolated("probe"):
            self._ensemble = ensembles.fresh_ensemble(run, self._method, place).to(place.device)
        self._training: float | None = None
        self._gradient: float | None = None

    def _timed(self, step: Callable[[int], object], images: ImageSet, batch: int, on_gpu: int) -> float:
        """Seconds of a step on each of its images; `step` takes how many of `images` it uses, at most `batch`."""
        device = self._place.device
        if device.startswith("cuda"):
            size = min(on_gpu, len(images))
            return _seconds(lambda: step(size), device) / size
        size = min(PROBE, batch, len(images))
        step(size)
        started = time.perf_counter()
        step(size)
        if time.perf_counter() - started < QUICK:
            size = min(batch, len(images))
        return _seconds(lambda: step(size), device) / size

    def training(self) -> float:
        """Seconds of the whole training."""
        if self._training is None:
            from bench.core.recorded import usual_recorder
            from bench.jobs import ensembles
            from bench.training.captured import WARM, Replayed
            from bench.training.method import Batch, Method
            from bench.training.optim import make_optimizer

            images = ensembles.splits_of(self._run, self._place, limit=None).train
            training = self._run.training
            joint = type(self._method).loss is not Method.loss
            parameters = list(self._ensemble.parameters())
            captured = self._place.capture and self._plugin.is_replayable()
            recorder = usual_recorder(self._place.device) if captured else None
            # In a recording the optimiser costs next to nothing.
            optimizer = None if recorder else make_optimizer(parameters, training)

            @cache
            def batch(size: int) -> Batch:
                pixels = images.floats(slice(0, size))
                return Batch(
                    images=pixels,
                    labels=images.labels[:size],
                    indices=torch.arange(size, device=self._place.device),
                    epoch=0,
                    epochs=1,
                    progress=0.5,
                    generator=torch.Generator(device=self._place.device).manual_seed(0),
                    others=lambda: pixels.flip(0),
                )

            def step(batch: Batch) -> dict[str, Tensor]:
                if joint:
                    terms = self._method.loss(list(self._ensemble.members), batch)
                    total = torch.stack(list(terms.values())).sum()
                else:  # members one after another: one plain step of each
                    total = self._ensemble.member_logits(batch.images).logsumexp(2).sum()
                gradients = torch.autograd.grad(total, parameters, allow_unused=True)
                if optimizer is not None:
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        parameter.grad = gradient
                    optimizer.step()
                return {}

            replayed = Replayed(step, recorder, tell=lambda _: None)
            self._ensemble.train()

            def once(size: int) -> None:
                replayed(batch(size))

            for _ in range(WARM if recorder else 0):  # the next one is recorded
                once(min(training.batch_size, len(images)))
            steps = training.epochs * math.ceil(len(images) / training.batch_size)
            each = self._timed(once, images, training.batch_size, training.batch_size)
            self._training = each * training.batch_size * steps
        return self._training

    def attack(self, evaluation: EvaluationSpec) -> Span:
        """Seconds of one evaluation on the whole test set."""
        from bench.jobs import ensembles

        # Those of the job itself: no other images come to the device for this.
        images = ensembles.splits_of(self._run, self._place, limit=evaluation.limit).test
        if self._gradient is None:
            from bench.attacks.batches import batch_size

            self._ensemble.eval().requires_grad_(False)
            usual = self._place.batch_size or batch_size(self._ensemble, images)

            def step(size: int) -> None:
                x = images.floats(slice(0, size)).detach().requires_grad_()
                loss = torch.nn.functional.cross_entropy(self._ensemble(x), images.labels[:size])
                torch.autograd.grad(loss, x)

            self._gradient = self._timed(step, images, usual, ATTACKED)
            self._ensemble.requires_grad_(True)
        looked_at = evaluation.settings.get("count") if evaluation.kind == "audit" else None
        once = self._gradient * (looked_at or len(images))
        most = once * _passes(evaluation)
        leaves = evaluation.kind == "attack" and evaluation.stop == "first_success"
        return Span(min(once, most) if leaves else most, most)


def _passes(evaluation: EvaluationSpec) -> int:
    """Passes that the attack makes for an image that stands."""
    from bench.core import registry, settings
    from bench.experiment.spec import of_attack

    if evaluation.kind == "certify":  # forwards, a third of a pass each; further radii cost nothing
        return int(evaluation.settings["n0"] + evaluation.settings["n"]) // 3
    if evaluation.kind == "audit":  # a pass forwards is about a third of one with its gradient
        asked = evaluation.settings
        around = int(asked.get("steps", 0)) + int(asked.get("points", 0)) // 3 + 20
        return {"gradients": around, "planted": 450}.get(evaluation.plugin, 5)
    if evaluation.kind not in ("attack", "transfer"):
        return int(evaluation.settings.get("restarts", 1))
    plugin = registry.load("attacks", evaluation.plugin)
    own = of_attack(evaluation.kind, evaluation.settings)
    attack = settings.build(plugin, own, f"attacks.{evaluation.attack}")
    # A matrix attacks each member, then the ensemble of them all, and other ensembles where there are some.
    times = 2 + len(evaluation.surrogates) if evaluation.kind == "transfer" else 1
    return int(attack.passes * attack.eot * attack.restarts * times)


def _seconds(step: Callable[[], object], device: str) -> float:
    """Duration of one step, computed as jobs compute: the mean of what fits into a while, after a warm-up."""
    with numerics():
        step()
        _wait(device)
        started, made = time.perf_counter(), 0
        while made < 2 or time.perf_counter() - started < TIMED:
            step()
            _wait(device)
            made += 1
        return (time.perf_counter() - started) / made


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
