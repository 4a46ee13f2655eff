"""How long missing work will take on this machine: from earlier runs of the same kind, else from a few timed steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.numerics import numerics

if TYPE_CHECKING:
    from bench.experiment.spec import EvaluationSpec, RunSpec
    from bench.jobs.plan import Plan
    from bench.jobs.workplace import Workplace
    from bench.store.database import Database

PROBE = 32  # images in a timed batch on a CPU; a GPU takes as long for few as for many, and gets a whole batch
ATTACKED = 500  # images of a timed attack's step on a GPU
LONG = 600.0  # seconds beyond which people want to be told of a shorter way


@dataclass(frozen=True)
class Estimate:
    """Expected seconds; an upper bound for attacks, since broken images leave the batch."""

    training: float
    attacks: float
    unknown: tuple[str, ...] = ()
    """Methods of which no step could be timed; their job will say why."""

    @property
    def total(self) -> float:
        """Training and attacks."""
        return self.training + self.attacks


def estimate(plan: Plan, db: Database, place: Workplace) -> Estimate:
    """Expected time for the missing jobs of a plan.

    A finished run of the same family (another seed) gives its own time; otherwise a step on 32 images (GPU: a batch) is
    timed and scaled by the batch size and the number of steps.

    Raises:
        BenchError: no run of the plan can be built (a network for other images, say).
    """
    from bench.store import queries

    training = attacks = 0.0
    unknown: dict[str, None] = {}
    refused: list[BenchError] = []
    families = {job.run.family_id for job in plan.missing}
    past_runs = {row.family_id: row.seconds for row in queries.runs(db, family_ids=families)}
    past = {(row.family_id, row.attack_key): row.seconds for row in queries.evaluations(db, family_ids=families)}
    probes: dict[str, Probe] = {}

    def timed(run: RunSpec, evaluation: EvaluationSpec | None) -> float:
        try:
            if run.family_id not in probes:
                probes[run.family_id] = Probe(run, place)
            probe = probes[run.family_id]
            return probe.training() if evaluation is None else probe.attack(evaluation)
        except BenchError as error:
            refused.append(error)
            unknown[run.method] = None
            return 0.0
        except Exception:  # whatever it is, it is the job's failure to record, not a reason to start nothing
            unknown[run.method] = None
            return 0.0

    for job in plan.missing:
        if job.evaluation is None:
            known = past_runs.get(job.run.family_id)
            training += known if known is not None else timed(job.run, None)
        elif job.evaluation.kind != "clean":
            known = past.get((job.run.family_id, job.evaluation.attack_key))
            attacks += known if known is not None else timed(job.run, job.evaluation)
    if refused and len(unknown) == len({job.run.method for job in plan.missing}):
        raise refused[0]  # nothing could be done at all: a mistake in the selection
    return Estimate(training, attacks, tuple(unknown))


class Probe:
    """Times single steps on an untrained ensemble of a run."""

    def __init__(self, run: RunSpec, place: Workplace) -> None:
        from bench.core import registry, seeds, settings
        from bench.jobs import work

        self._run = run
        self._place = place
        self._plugin = registry.load("methods", run.plugin)
        self._method = settings.build(self._plugin, run.settings, f"methods.{run.method}")
        with seeds.isolated("probe"):
            self._ensemble = work.fresh_ensemble(run, self._plugin, place).to(place.device)
        splits = work.splits_of(run, place, limit=None)
        self._train, self._test = splits.train, splits.test
        self._training: float | None = None
        self._gradient: float | None = None

    def _size(self, on_gpu: int) -> int:
        return on_gpu if self._place.device.startswith("cuda") else PROBE

    def training(self) -> float:
        """Seconds of the whole training."""
        if self._training is None:
            from bench.training.method import Batch, Method

            images, size = self._train, min(self._size(self._run.training.batch_size), len(self._train))
            joint = type(self._method).loss is not Method.loss
            pixels = images.floats(slice(0, size))
            batch = Batch(
                images=pixels,
                labels=images.labels[:size],
                indices=torch.arange(size, device=self._place.device),
                epoch=0,
                epochs=1,
                progress=0.5,
                generator=torch.Generator(device=self._place.device).manual_seed(0),
                others=lambda: pixels.flip(0),
            )
            parameters = list(self._ensemble.parameters())

            def step() -> None:
                if joint:
                    terms = self._method.loss(list(self._ensemble.members), batch)
                    total = torch.stack(list(terms.values())).sum()
                else:  # members one after another: one plain step of each
                    total = self._ensemble.member_logits(batch.images).logsumexp(2).sum()
                torch.autograd.grad(total, parameters, allow_unused=True)

            self._ensemble.train()
            training = self._run.training
            steps = training.epochs * math.ceil(len(images) / training.batch_size)
            self._training = _seconds(step, self._place.device) * training.batch_size / size * steps
        return self._training

    def attack(self, evaluation: EvaluationSpec) -> float:
        """Seconds of one evaluation on the whole test set."""
        if self._gradient is None:
            size = min(self._size(ATTACKED), len(self._test))
            images, labels = self._test.floats(slice(0, size)), self._test.labels[:size]
            self._ensemble.eval().requires_grad_(False)

            def step() -> None:
                x = images.detach().requires_grad_()
                loss = torch.nn.functional.cross_entropy(self._ensemble(x), labels)
                torch.autograd.grad(loss, x)

            self._gradient = _seconds(step, self._place.device) / size
            self._ensemble.requires_grad_(True)
        steps = int(evaluation.settings.get("steps", 1)) * int(evaluation.settings.get("restarts", 1))
        images_count = evaluation.limit or len(self._test)
        return self._gradient * steps * images_count


def _seconds(step: Callable[[], None], device: str) -> float:
    """Duration of one step, computed as jobs compute: the faster of two after a warm-up."""
    times = []
    with numerics():
        step()
        for _ in range(2):
            _wait(device)
            started = time.perf_counter()
            step()
            _wait(device)
            times.append(time.perf_counter() - started)
    return min(times)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def spoken(seconds: float) -> str:
    """`0.4 s`, `40 s`, `12 min`, `3 h 20 min`, `2 days 4 h`."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{round(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h"
