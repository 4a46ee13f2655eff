"""The training loop: phases of epochs, a curve record and an atomic checkpoint after each, bit-exact resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bench.core import seeds
from bench.core.errors import JobError
from bench.core.files import write_text
from bench.core.numerics import has_tf32, passes_in, products_in_tf32
from bench.core.precision import OfPasses
from bench.core.progress import Progress
from bench.core.recorded import Recorder
from bench.core.specs import Training
from bench.core.tensors import set_aside
from bench.data.base import ImageSet, unit
from bench.data.loader import batches
from bench.experiment.folder import RunFolder
from bench.experiment.spec import RunSpec
from bench.models.ensemble import Ensemble
from bench.models.passes import passes_on
from bench.training import checkpoint, dual
from bench.training.batch import Batch
from bench.training.captured import Replayed
from bench.training.compiled import Compiling
from bench.training.monitoring import Monitoring, value_of
from bench.training.optim import make_optimizer, rate_at, set_rate

CHECK_EVERY = 16  # steps between two looks at the loss: each look waits for the device
FORMAT: Final = 1  # of what stands beside the tensors of a checkpoint
EXPLODED = 1e6  # a loss beyond this never comes back
SAMPLE = 500  # images on which the accuracy of an epoch is measured

Loss = Callable[[Sequence[nn.Module], Batch], dict[str, Tensor]]


class Trainer:
    """Trains the members of `ensemble` for a method's `fit`.

    Args:
        ensemble: members on their device, freshly initialised.
        images: training images on the same device.
        validation: held-out images to measure each epoch on; without them a fixed sample of training images is used.
        training: the recipe.
        seed_axes: axes of the data order and of training-time randomness; the method is none of them.
        augment: gives augmented float images for a batch, or None.
        folder: where `train.jsonl` and the checkpoint are kept; None keeps nothing.
        prerequisites: the trained ensembles that the method asks for, by name.
        run: what is trained; its checkpoint says so, and one of another run is not gone on from.
        recorder: records training steps, to be replayed; None trains step by step.
        compiling: compiles plain passes of training steps; None makes them as usual.
        monitoring: what measures the epochs, and says which one of each phase is kept; without it the last.
    """

    def __init__(
        self,
        *,
        ensemble: Ensemble,
        images: ImageSet,
        training: Training,
        seed_axes: tuple[object, ...],
        validation: ImageSet | None = None,
        augment: Any = None,
        folder: Path | None = None,
        progress: Progress | None = None,
        prerequisites: dict[str, Ensemble] | None = None,
        run: RunSpec | None = None,
        recorder: Recorder | None = None,
        monitoring: Monitoring | None = None,
        compiling: Compiling | None = None,
    ) -> None:
        self.ensemble = ensemble
        self.images = images
        self.training = training
        self.prerequisites = prerequisites or {}
        self.memory: dict[str, Tensor] = {}
        """Tensors that a method keeps between phases (sample weights, say); stored in the checkpoint."""
        self.curve: list[dict[str, Any]] = []
        self.notes: list[str] = []
        """What readers of the run must know; a method adds to them with `note`."""
        self._trained: set[int] = set()
        self._axes = seed_axes
        self._augment = augment if training.augment else None
        self._folder = None if folder is None else RunFolder(folder)
        self._progress = progress or Progress()
        self._phase = 0
        self._restored: dict[str, Any] | None = None
        self._run = run
        self._recorder = recorder
        self._compiling = compiling
        self.captured = recorder is not None
        """Whether training steps are recorded and replayed, as far as anything was trained."""
        self.monitoring = monitoring
        self._best: dict[str, Tensor] = {}
        self.continues = False
        """Whether training goes on from a checkpoint."""
        self.measured_on = validation if validation is not None else _sample(images)
        """The images that the curve's accuracies are of."""
        self._measured_name = "validation" if validation is not None else "training sample"
        if self._folder is not None:
            self._restore(self._folder.checkpoint)

    def note(self, text: str) -> None:
        """Tell people something about the run, now and in its record."""
        if text not in self.notes:
            self.notes.append(text)
            self._progress.note(text)

    def start_from(self, members: Iterable[nn.Module]) -> None:
        """Give the members the weights of others, one by one; does nothing when training continues from a checkpoint.

        Raises:
            JobError: their number or shapes do not fit.
        """
        others = list(members)
        if len(others) != len(self.ensemble.members):
            raise JobError(f"{len(self.ensemble.members)} members cannot start from {len(others)}")
        if not self.continues:
            tensors = checkpoint.member_tensors(nn.ModuleList(others))
            checkpoint.load_members(self.ensemble.members, tensors)

    def train(
        self,
        name: str,
        loss: Loss,
        *,
        members: Sequence[int] | None = None,
        epochs: int | None = None,
        training: Training | None = None,
        before: Callable[[int], None] | None = None,
        after: Callable[[int], None] | None = None,
    ) -> bool:
        """One phase: minimise the sum of `loss`'s terms over the parameters of `members` (all by default).

        A phase that an earlier process finished is skipped, one that it began is continued. `after` is called after
        each step of the optimiser with the number of steps made, from 1 on, and may change weights.

        Args:
            before: is called before each epoch with its 0-based number, to set members or `memory` from what they are
                then; a resumed run calls it for the epochs that are left.

        Returns:
            Whether anything was trained in this process.

        Raises:
            JobError: a term of the loss is NaN, infinite or has exploded.
        """
        training = training or self.training
        epochs = epochs or training.epochs
        phase, self._phase = self._phase, self._phase + 1
        chosen = range(len(self.ensemble.members)) if members is None else members
        self._trained.update(chosen)
        restored = self._restored
        if restored is not None and phase < restored["phase"]:
            return False
        modules = [self.ensemble.members[index] for index in chosen]
        parameters = [parameter for module in modules for parameter in module.parameters()]
        recordable = None if self._recorder is None else True
        optimizer = make_optimizer(parameters, training, recordable=recordable)
        if training.precision == "tf32" and not has_tf32(self.images.images.device):
            self.note("this device has no TF32: trained in float32")
        first = 0
        if restored is None or phase != restored["phase"]:
            self._best = {}
        else:
            first = restored["epoch"]
            try:
                if first > epochs:
                    raise JobError(f"{name} has {epochs} epochs, the checkpoint is of epoch {first}")
                if first < epochs:
                    checkpoint.load_optimizer(optimizer, restored["tensors"], restored["optimizer"])
            except JobError as error:
                assert self._folder is not None
                told = set_aside(self._folder.checkpoint)
                raise JobError(f"{error}; {told}, the same command starts again from the first epoch") from error
            self._restored = None
        step = Replayed(
            training_step(loss, modules, optimizer, training.precision), self._recorder, self._progress.note
        )
        for epoch in range(first, epochs):
            started = time.perf_counter()
            if before is not None:
                before(epoch)
            rate = rate_at(training, epoch, epochs)
            set_rate(optimizer, rate)
            terms = self._epoch(step, modules, phase, epoch, epochs, training, after)
            self.captured &= not step.refused
            if epoch == first and any(dual.refused(module) for module in modules):
                self._progress.note(dual.REFUSED)
            record = {
                "phase": name,
                "epoch": epoch + 1,
                "lr": rate,
                "loss": sum(terms.values()),
                "terms": terms,
                **self._accuracy(),
                "seconds": time.perf_counter() - started,
            }
            self._watch(record, epochs)
            self.curve.append(record)
            self._save(phase, epoch + 1, optimizer)
            self._progress.epoch(record, epochs=epochs)
        if self._best:
            checkpoint.load_members(self.ensemble.members, self._best)
        return first < epochs

    def _watch(self, record: dict[str, Any], epochs: int) -> None:
        """Measure an epoch that is over, and keep its weights where it is the best of its phase so far."""
        if self.monitoring is None:
            return
        trained = self.ensemble.part(sorted(self._trained))
        if measured := self.monitoring.measure(trained, epoch=record["epoch"], epochs=epochs):
            record["monitored"] = measured
        keep = self.monitoring.keep
        value = value_of(keep, record) if keep else None
        if keep is None or value is None:
            return
        before = next((line for line in self.curve if line["phase"] == record["phase"] and line.get("kept")), None)
        if before is not None:
            best = value_of(keep, before)
            if best is not None and best >= value:
                return
            del before["kept"]
        record["kept"] = True
        tensors = checkpoint.member_tensors(self.ensemble.members)
        self._best = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def _epoch(
        self,
        train: Callable[[Batch], dict[str, Tensor]],
        modules: list[nn.Module],
        phase: int,
        epoch: int,
        epochs: int,
        training: Training,
        after: Callable[[int], None] | None,
    ) -> dict[str, float]:
        """One epoch; the mean of each term over its steps."""
        order = seeds.generator("order", *self._axes, phase, epoch)
        noise_seed = seeds.derive("noise", *self._axes, phase, epoch)
        noise = torch.Generator(device=self.images.images.device).manual_seed(noise_seed)
        steps = max(1, math.ceil(len(self.images) / training.batch_size))
        watch = _LossWatch()
        # Everything random in an epoch depends on the seed and the epoch alone, so that a resumed run needs no
        # generator state; dropout draws from the global generator.
        compiled = nullcontext() if self._compiling is None else self._compiling.here()
        with seeds.isolated("training", *self._axes, phase, epoch), products_in_tf32(training.precision), compiled:
            self.ensemble.eval()
            for module in modules:
                module.train()
            for step, (images, labels, indices) in enumerate(
                batches(self.images, batch_size=training.batch_size, generator=order, augment=self._augment)
            ):
                batch = Batch(
                    images=images,
                    labels=labels,
                    indices=indices,
                    epoch=epoch,
                    epochs=epochs,
                    progress=(epoch + step / steps) / epochs,
                    generator=noise,
                    others=partial(self._others, len(labels), phase, epoch, step),
                )
                watch.add(train(batch), epoch, step)
                if after is not None:
                    after(epoch * steps + step + 1)
                if step % CHECK_EVERY == 0:
                    self._progress.step(epoch=epoch, epochs=epochs, share=(step + 1) / steps)
        return watch.means()

    def _others(self, count: int, phase: int, epoch: int, step: int) -> Tensor:
        """Uniform draws from the training set, from a CPU generator: the same on every device."""
        generator = seeds.generator("others", *self._axes, phase, epoch, step)
        indices = torch.randint(len(self.images), (count,), generator=generator).to(self.images.device)
        pixels = self.images.images[indices]
        if self._augment is not None:
            pixels = self._augment(pixels, generator)
        return unit(pixels)

    @torch.no_grad()
    def _accuracy(self) -> dict[str, Any]:
        """Clean accuracy of each member trained so far and of their ensemble on the measured sample, as shares."""
        ensemble = self.ensemble.part(sorted(self._trained)).eval()
        right = torch.zeros(len(ensemble.members) + 1)
        for start in range(0, len(self.measured_on), 500):
            part = slice(start, start + 500)
            labels = self.measured_on.labels[part]
            logits = ensemble.member_logits(self.measured_on.floats(part))
            outputs = [*logits, ensemble.fuse(logits)]
            right += torch.stack([(output.argmax(1) == labels).sum().cpu() for output in outputs])
        shares = (right / len(self.measured_on)).tolist()
        return {
            "member_accuracy": shares[:-1],
            "ensemble_accuracy": shares[-1],
            "accuracy_on": self._measured_name,
        }

    def _save(self, phase: int, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        if self._folder is None:
            return
        write_text(self._folder.curve, _lines(self.curve))
        tensors, rest = checkpoint.optimizer_tensors(optimizer)
        tensors.update(checkpoint.member_tensors(self.ensemble.members))
        tensors.update({f"memory.{name}": tensor for name, tensor in self.memory.items()})
        tensors.update({f"best.{name}": tensor for name, tensor in self._best.items()})
        metadata = {"phase": phase, "epoch": epoch, "optimizer": rest, "curve": self.curve}
        if self._run is not None:
            metadata |= {"format": FORMAT, "run": self._run.model_dump(mode="json")}
        checkpoint.save(self._folder.checkpoint, tensors, metadata)

    def _restore(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            tensors, metadata, _, sealed = checkpoint.read(path)
            if missing := {"phase", "epoch", "optimizer", "curve"} - metadata.keys():
                raise JobError(f"{path} does not say where training was (no {', '.join(sorted(missing))})")
            if self._run is not None and _run_id(metadata, self._run) != self._run.run_id:
                raise JobError(f"{path} is of another run")
            best = _best(tensors, metadata, path)
            for kept in (best, tensors) if best else (tensors,):
                checkpoint.load_members(self.ensemble.members, kept)
        except JobError as error:
            self._progress.note(f"{error}; {set_aside(path)}, training starts again from the first epoch")
            return
        if not sealed:
            self.note("went on from a checkpoint of an older version, which carries no digest: it could not be checked")
        self.curve = metadata["curve"]
        self.memory = {
            name.removeprefix("memory."): tensor.to(self.images.images.device)
            for name, tensor in tensors.items()
            if name.startswith("memory.")
        }
        device = self.images.images.device
        self._best = {name: tensor.to(device) for name, tensor in best.items()}
        self._restored = {**metadata, "tensors": tensors}
        self.continues = True
        if self._folder is not None:  # it may be behind, or not have come along with the checkpoint
            write_text(self._folder.curve, _lines(self.curve))
        self._progress.note(f"resuming after epoch {metadata['epoch']}")


def training_step(
    loss: Loss, modules: list[nn.Module], optimizer: torch.optim.Optimizer, precision: OfPasses
) -> Callable[[Batch], dict[str, Tensor]]:
    """What trains `modules` on a batch, and gives the terms of its loss."""
    quick = passes_on(modules)
    parameters = [parameter for module in modules for parameter in module.parameters()]

    def step(batch: Batch) -> dict[str, Tensor]:
        with quick, passes_in(precision, batch.images.device.type):
            terms = _minimisable(loss(modules, batch))
        optimizer.zero_grad(set_to_none=True)
        gradients = torch.autograd.grad(sum(terms.values(), torch.zeros(())), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    return step


def _best(tensors: dict[str, Tensor], metadata: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights of the epoch that is the best so far; empty where none is kept.

    Raises:
        JobError: the curve speaks of such an epoch, and its weights are not there; or the other way round.
    """
    best = {name.removeprefix("best."): tensor for name, tensor in tensors.items() if name.startswith("best.")}
    phase = metadata["curve"][-1]["phase"] if metadata["curve"] else None
    if bool(best) != any(line.get("kept") and line["phase"] == phase for line in metadata["curve"]):
        raise JobError(f"{path} does not hold the best epoch that its curve speaks of")
    return best


def _lines(curve: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in curve)


def _run_id(metadata: dict[str, Any], run: RunSpec) -> str:
    """The run that a checkpoint says it is of; `run` where an older version did not let it say."""
    if "run" not in metadata:
        return run.run_id
    try:
        return RunSpec.model_validate(metadata["run"]).run_id
    except ValidationError:  # of another version
        return ""


class _LossWatch:
    """Sums the terms of an epoch and finds the first that is not a number, looking every few steps only."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._recent: list[Tensor] = []
        self._sum: Tensor | None = None
        self._steps = 0
        self._place = (0, 0)

    def add(self, terms: dict[str, Tensor], epoch: int, step: int) -> None:
        self._names = list(terms)
        values = torch.stack([value.double() for value in terms.values()])
        self._recent.append(values)
        self._sum = values if self._sum is None else self._sum + values
        self._steps += 1
        self._place = (epoch, step)
        if len(self._recent) == CHECK_EVERY:
            self._look()

    def _look(self) -> None:
        if not self._recent:
            return
        values = torch.stack(self._recent).cpu()
        wrong = ~torch.isfinite(values) | (values.abs() > EXPLODED)
        if bool(wrong.any()):
            row, column = (int(index) for index in wrong.nonzero()[0])
            value = float(values[row, column])
            epoch, step = self._place[0] + 1, self._place[1] - len(self._recent) + row + 2
            what = "exploded to" if math.isfinite(value) else "became"
            raise JobError(f"loss term {self._names[column]!r} {what} {value:g} in epoch {epoch}, step {step}")
        self._recent.clear()

    def means(self) -> dict[str, float]:
        self._look()
        assert self._sum is not None
        return dict(zip(self._names, (self._sum / self._steps).tolist(), strict=True))


def _minimisable(terms: Any) -> dict[str, Tensor]:
    """What a method's `loss` returned, if it is what it should be.

    Raises:
        JobError: no named terms, a term that is not a scalar, or none that a gradient leads from.
    """
    if not isinstance(terms, dict) or not terms:
        raise JobError(f"loss returns a dict from names to terms, such as {{'ce': term}}, not {_seen(terms)}")
    for name, value in terms.items():
        if not isinstance(value, Tensor) or value.dim():
            raise JobError(f"loss term {name!r} is a scalar tensor, not {_seen(value)}")
    if not any(value.requires_grad for value in terms.values()):
        told = "was the loss detached, or made under no_grad?"
        raise JobError(f"no gradient leads from {', '.join(map(str, terms))} to the members; {told}")
    return terms


def _seen(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"{type(value).__name__}"


def _sample(images: ImageSet) -> ImageSet:
    """A fixed sample of training images."""
    if len(images) <= SAMPLE:
        return images
    order = torch.randperm(len(images), generator=seeds.generator("training sample"))[:SAMPLE]
    return images.take(order.sort().values)
