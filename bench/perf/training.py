"""One training step of every method beside the bare passes it needs, and of TRS beside the authors' own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from bench.core import seeds
from bench.core.numerics import as_torch_is, has_tf32, products_in_tf32
from bench.core.precision import OfPasses
from bench.core.recorded import Recorder
from bench.data.base import ImageSet
from bench.experiment.spec import RunSpec
from bench.jobs.ensembles import method_of
from bench.methods.trs import Trs
from bench.models.ensemble import Ensemble
from bench.models.passes import passes_on
from bench.perf.authors import AuthorsStep
from bench.perf.needs import Bare, Need, needs
from bench.perf.roofline import Bound, Rates, bound
from bench.perf.steps import STILL, ensemble_of, recorder_of
from bench.perf.timing import Clock, Spread, alternate, spread
from bench.training.adversary import layer_of_epoch
from bench.training.captured import WARM, Replayed
from bench.training.method import Batch, Method
from bench.training.optim import make_optimizer
from bench.training.trainer import Loss, Trainer, training_step

EPOCH, EPOCHS = 3, 10  # a step in the middle of a training: past every ramp of our settings
EXACT = 1e-5  # relative difference of the losses of ours and of the authors' step, in float64
COMPARED = 32  # images of the batch on which they are compared, float64 being slow


@dataclass(frozen=True)
class Step:
    """One method. `ours` and `authors` are ratios: our step over the floor, the authors' step over ours.

    Attributes:
        needed: the bare passes of the floor; empty where the formula is not known.
        loss, authors_loss: values of the loss before the update, from the same weights, batch and random numbers.
        exact: both again in float64, on the first 32 images. In float32 two orders of a sum put some units on
            different sides of their kinks, which a large λa carries into the third or fourth digit of the loss.
        by_rates: what the floor's passes take at the machine's rates.
        by_default: as `authors`, their step as torch runs it by default, with convolutions in TF32, if there is such.
        captured: whether our steps are recorded and replayed, as `bench run` does on a GPU.
    """

    method: str
    model: str
    members: int
    batch: int
    needed: tuple[Need, ...]
    ours: Spread | None
    clock: str
    loss: float
    authors: Spread | None = None
    authors_loss: float | None = None
    exact: tuple[float, float] | None = None
    by_rates: Bound | None = None
    by_default: Spread | None = None
    captured: bool = False

    @property
    def equal(self) -> bool | None:
        """Whether our loss is the authors', to 1e-5 relative in float64; None where there are no authors."""
        if self.exact is None:
            return None
        ours, authors = self.exact
        return abs(ours - authors) <= EXACT * abs(authors)


def measure(run: RunSpec, images: ImageSet, *, repeats: int, rates: Rates | None = None) -> Step:
    """One step of the method of `run` on a batch of all `images`, from fresh weights.

    Methods that train members one after another are measured at the last. `rates` are the machine's, for the floor by
    them.
    """
    ensemble, (_, method) = ensemble_of(run, images.device), method_of(run)
    counter = _Phases(run, ensemble, images)
    method.fit(counter)
    watch = _Measured(run, ensemble, images, method=method, phase=counter.phases - 1, repeats=repeats, rates=rates)
    method.fit(watch)
    assert watch.step is not None
    return watch.step


class _Phases(Trainer):
    """Counts the phases of a method instead of training."""

    def __init__(self, run: RunSpec, ensemble: Ensemble, images: ImageSet) -> None:
        training = run.training.model_copy(update={"lr": STILL, "batch_size": len(images)})
        given = dict.fromkeys(run.requires, ensemble)
        super().__init__(ensemble=ensemble, images=images, training=training, seed_axes=("perf",), prerequisites=given)
        self.run = run
        self.phases = 0

    def train(self, name: str, loss: Loss, *, members: Sequence[int] | None = None, **_: Any) -> bool:
        """What `Trainer.train` is called with, phase by phase."""
        self.phases += 1
        return False


class _Measured(_Phases):
    """Measures one step of one phase."""

    def __init__(
        self, run: RunSpec, ensemble: Ensemble, images: ImageSet, *, method: Method, phase: int, repeats: int,
        rates: Rates | None,
    ) -> None:  # fmt: skip
        super().__init__(run, ensemble, images)
        self._method, self._wanted, self._repeats, self._rates = method, phase, repeats, rates
        self.step: Step | None = None

    def train(self, name: str, loss: Loss, *, members: Sequence[int] | None = None, **_: Any) -> bool:
        """Measure when it is the phase that is wanted; inside, so that a method's own hooks are there."""
        if self.phases == self._wanted:
            chosen = range(len(self.ensemble.members)) if members is None else members
            self.ensemble.eval()
            modules = [self.ensemble.members[index].train() for index in chosen]
            self.step = self._measure(modules, loss)
        return super().train(name, loss, members=members)

    def batch(self, size: int | None = None, dtype: torch.dtype = torch.float32) -> Batch:
        """The same batch (of the first `size` images) and the same random numbers at every call."""
        images, size = self.images.floats()[:size].to(dtype), min(size or len(self.images), len(self.images))
        noise = torch.Generator(device=images.device).manual_seed(seeds.derive("perf", "noise"))
        return Batch(
            images=images, labels=self.images.labels[:size], indices=torch.arange(size, device=images.device),
            epoch=EPOCH, epochs=EPOCHS, progress=EPOCH / EPOCHS, generator=noise, others=lambda: images.flip(0),
        )  # fmt: skip

    def _measure(self, modules: list[nn.Module], loss: Loss) -> Step:
        method, size, clock = self._method, len(self.images), Clock(self.images.device)
        values: dict[str, Tensor] = {}
        exact = None
        twin = copy.deepcopy(nn.ModuleList(modules))
        recorder = recorder_of(self.run, self.images.device)
        ours = _Ours(modules, loss, self._optimizer(modules), self.batch, self.training.precision, recorder)
        works: dict[str, Callable[[], Any]] = {"ours": ours}
        if type(method) is Trs and method.terms == "official" and not method.ramp and len(modules) == 3:
            authors = AuthorsStep(list(twin), self._optimizer(twin, recordable=False), method)

            def again() -> None:
                values.setdefault("authors", authors(self.batch()))

            works["authors"] = again
            if has_tf32(self.images.device):

                def by_default() -> None:
                    with as_torch_is():
                        authors(self.batch())

                works["by default"] = by_default
            exact = self._exact(modules, loss, method)
        everyone = len(self.ensemble.members)
        coupled = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in modules[0].modules())
        needed = needs(method, members=everyone, size=size, coupled=coupled) or []
        bare = by_rates = None
        if needed:
            passing = modules if len(modules) > 1 else [*modules * everyone]
            bare = Bare(passing, self._optimizer(modules), self.batch(), needed, self._layer(modules))
            works["floor"] = bare
        for work in works.values():  # the first step is the one whose losses are compared; and it warms up
            work()
        for _ in range(WARM if recorder else 0):  # then it is recorded
            ours()
        seconds = alternate(works, repeats=self._repeats, clock=clock) if self._repeats else {}
        if bare and seconds and self._rates:
            by_rates = bound(bare.work(), self._rates, median(seconds["ours"]))
        return Step(
            method=self.run.method,
            model=self.run.model,
            members=everyone,
            batch=size,
            needed=tuple(needed),
            ours=spread(seconds["ours"], seconds["floor"]) if seconds and needed else None,
            clock=clock.name,
            loss=float(ours.first),
            authors=spread(seconds["authors"], seconds["ours"]) if "authors" in seconds else None,
            authors_loss=float(values["authors"]) if "authors" in values else None,
            exact=exact,
            by_rates=by_rates,
            by_default=spread(seconds["by default"], seconds["ours"]) if "by default" in seconds else None,
            captured=ours.is_captured,
        )

    def _exact(self, modules: list[nn.Module], loss: Loss, method: Trs) -> tuple[float, float]:
        """The losses of ours and of the authors' step in float64."""
        mine, theirs = (copy.deepcopy(nn.ModuleList(modules)).double() for _ in range(2))
        total = _total(list(mine), loss, self.batch(COMPARED, torch.float64))
        authors = AuthorsStep(list(theirs), self._optimizer(theirs), method)
        return float(total.detach()), float(authors(self.batch(COMPARED, torch.float64)))

    def _optimizer(self, modules: Any, *, recordable: bool | None = None) -> torch.optim.Optimizer:
        parameters = [parameter for module in modules for parameter in module.parameters()]
        return make_optimizer(parameters, self.training, recordable=recordable)

    def _layer(self, modules: list[nn.Module]) -> str:
        """The layer that a method which reads features draws in this step."""
        return layer_of_epoch(modules[0], self.batch())


def _total(modules: list[nn.Module], loss: Loss, batch: Batch) -> Tensor:
    """The loss of a step, as the trainer makes it in float32 and float64."""
    with passes_on(modules):
        terms = loss(modules, batch)
    return sum(terms.values(), torch.zeros((), device=batch.images.device))


class _Ours:
    """Our step, as the trainer makes it; `first` is the first loss."""

    def __init__(
        self, modules: list[nn.Module], loss: Loss, optimizer: torch.optim.Optimizer, batch: Callable[[], Batch],
        precision: OfPasses, recorder: Recorder | None,
    ) -> None:  # fmt: skip
        self._step = Replayed(training_step(loss, modules, optimizer, precision), recorder, tell=lambda _: None)
        self._batch, self._precision, self._recorder = batch, precision, recorder
        self.first: Tensor = torch.zeros(0)

    def __call__(self) -> None:
        with products_in_tf32(self._precision):
            terms = self._step(self._batch())
        if not self.first.numel():
            self.first = torch.stack([term.detach() for term in terms.values()]).sum()

    @property
    def is_captured(self) -> bool:
        """Whether it is recorded."""
        return self._recorder is not None and not self._step.refused
