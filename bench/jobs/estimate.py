"""How long missing work will take on this machine: from earlier runs of the same kind, else from a few timed steps."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.numerics import numerics
from bench.store import queries

if TYPE_CHECKING:
    from torch import Tensor

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


def from_earlier(plan: Plan, db: Database) -> dict[str, float | None]:
    """Seconds that each missing job should take, from finished ones of the same kind; None where there is none.

    Of the same kind is another seed of the same cell, else a training of the same method, data set and model (scaled
    by epochs and images), or a measurement with the same attack on as many members of the same model (by images).
    """
    missing = plan.missing
    datasets = {job.run.dataset for job in missing}
    attacks = {job.evaluation.attack for job in missing if job.evaluation}
    runs, evaluations = defaultdict(list), defaultdict(list)
    for row in queries.runs(db, dataset=datasets):
        runs[row.plugin, row.dataset, row.model, row.members].append(row)
    for found in queries.evaluations(db, dataset=datasets, attack=attacks) if attacks else ():
        evaluations[found.kind, found.attack, found.dataset, found.model, found.members].append(found)

    def training(run: RunSpec) -> float | None:
        like = runs[run.plugin, run.dataset, run.model, run.members]
        same = [row.seconds for row in like if row.family_id == run.family_id]
        if same:
            return sum(same) / len(same)
        limit, epochs = run.training.limit, run.training.epochs
        scaled = [
            row.seconds
            * epochs
            / row.training["epochs"]
            * ((limit or 0) / row.training_limit if row.training_limit else 1)
            for row in like
            if (row.training_limit is None) == (limit is None) and row.training.get("epochs")
        ]
        return sum(scaled) / len(scaled) if scaled else None

    def measuring(evaluation: EvaluationSpec) -> float | None:
        run, limit = evaluation.run, evaluation.limit
        like = evaluations[evaluation.kind, evaluation.attack, run.dataset, run.model, run.members]
        exact = [row for row in like if row.attack_key == evaluation.attack_key]
        best = [row for row in exact if row.family_id == run.family_id] or exact
        times = [row.seconds for row in best]
        if not best and limit:
            times = [row.seconds / row.n * limit for row in like if row.settings == evaluation.settings and row.n]
        return sum(times) / len(times) if times else None

    known: dict[tuple[str, str], float | None] = {}  # the seeds of a cell take the same time
    for job in missing:
        key = (job.run.family_id, job.evaluation.attack_key if job.evaluation else "")
        if key not in known:
            known[key] = measuring(job.evaluation) if job.evaluation else training(job.run)
    return {
        job.job_id: known[job.run.family_id, job.evaluation.attack_key if job.evaluation else ""] for job in missing
    }


def estimate(plan: Plan, earlier: Mapping[str, float | None], place: Workplace) -> Estimate:
    """Expected time for the missing jobs of a plan: what `from_earlier` knows of them, else from timed steps.

    A step on 32 images (GPU: a batch) is timed and scaled by the batch size and the number of steps.

    Raises:
        BenchError: no run of the plan can be built (a network for other images, say).
    """
    training = attacks = 0.0
    unknown: dict[str, None] = {}
    refused: list[BenchError] = []
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
        known = earlier[job.job_id]
        if job.evaluation is None:
            training += known if known is not None else timed(job.run, None)
        elif job.evaluation.kind != "clean":
            attacks += known if known is not None else timed(job.run, job.evaluation)
    if refused and len(unknown) == len({job.run.method for job in plan.missing}):
        raise refused[0]  # nothing could be done at all: a mistake in the selection
    return Estimate(training, attacks, tuple(unknown))


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
        self._splits = ensembles.splits_of(run, place, limit=None)
        self._train = self._splits.train
        self._training: float | None = None
        self._gradient: float | None = None

    def _size(self, on_gpu: int) -> int:
        return on_gpu if self._place.device.startswith("cuda") else PROBE

    def training(self) -> float:
        """Seconds of the whole training."""
        if self._training is None:
            from bench.training.captured import WARM, Replayed, usual_recorder
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

            def step(batch: Batch) -> dict[str, Tensor]:
                if joint:
                    terms = self._method.loss(list(self._ensemble.members), batch)
                    total = torch.stack(list(terms.values())).sum()
                else:  # members one after another: one plain step of each
                    total = self._ensemble.member_logits(batch.images).logsumexp(2).sum()
                torch.autograd.grad(total, parameters, allow_unused=True)
                return {}

            captured = self._place.capture and self._plugin.is_replayable()
            recorder = usual_recorder(self._place.device) if captured else None
            replayed = Replayed(step, recorder, tell=lambda _: None)
            self._ensemble.train()
            for _ in range(WARM if recorder else 0):  # the next one is recorded
                replayed(batch)
            training = self._run.training
            steps = training.epochs * math.ceil(len(images) / training.batch_size)
            self._training = _seconds(lambda: replayed(batch), self._place.device) * training.batch_size / size * steps
        return self._training

    def attack(self, evaluation: EvaluationSpec) -> float:
        """Seconds of one evaluation on the whole test set."""
        if self._gradient is None:
            size = min(self._size(ATTACKED), len(self._train))
            images, labels = self._train.floats(slice(0, size)), self._train.labels[:size]
            self._ensemble.eval().requires_grad_(False)

            def step() -> None:
                x = images.detach().requires_grad_()
                loss = torch.nn.functional.cross_entropy(self._ensemble(x), labels)
                torch.autograd.grad(loss, x)

            self._gradient = _seconds(step, self._place.device) / size
            self._ensemble.requires_grad_(True)
        looked_at = evaluation.settings.get("count") if evaluation.kind == "audit" else None
        return self._gradient * _passes(evaluation) * (looked_at or evaluation.limit or len(self._splits.test))


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
