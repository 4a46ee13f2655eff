"""What a network of a model plug-in gives: for each shape and number of classes, in eval mode, made twice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import BenchError, cause
from bench.doctor.installation import Check
from bench.doctor.rules import Checks, ModelState, Rule, judged, listed, random_state, seen, unlike, world
from bench.models.build import build_member

SHAPES = ((1, 8, 8), (1, 28, 28), (3, 32, 32))  # digits, MNIST, CIFAR
CLASSES, OTHER_CLASSES = 10, 7


@dataclass(frozen=True)
class Images:
    """What a member needs to know of a data set (a `bench.models.build.ImageFormat`)."""

    shape: tuple[int, int, int]
    classes: int = CLASSES

    @property
    def mean(self) -> tuple[float, ...]:
        return (0.5,) * self.shape[0]

    @property
    def std(self) -> tuple[float, ...]:
        return (0.25,) * self.shape[0]

    @property
    def told(self) -> str:
        channels, height, width = self.shape
        return f"{channels}×{height}×{width} images of {self.classes} classes"

    def draw(self, count: int = 4) -> Tensor:
        """Random images [count, *shape]."""
        with world("images"):
            return torch.rand(count, *self.shape)


@dataclass(frozen=True)
class ModelTrials:
    """A model plug-in with its settings, and the images that it takes of those tried."""

    name: str
    values: dict[str, Any]
    images: Images

    def build(self, images: Images | None = None) -> nn.Module:
        """A member in eval mode, from the global generator as it is."""
        return build_member(self.name, self.values, dataset=images or self.images).eval()

    @cached_property
    def pair(self) -> tuple[nn.Module, nn.Module]:
        """Two members made one after the other, as those of an ensemble are."""
        with world("here"):
            return self.build(), self.build()

    @property
    def member(self) -> nn.Module:
        return self.pair[0]

    @cached_property
    def x(self) -> Tensor:
        return self.images.draw()

    @cached_property
    def logits(self) -> Tensor:
        """[4, classes], with its graph; computed in a world of its own."""
        with world("here"):
            logits: Tensor = self.member(self.x)
            return logits


def _output(member: nn.Module, images: Images) -> str:
    """What is wrong with the logits for some images."""
    with torch.no_grad(), world("here"):
        output: Any = member(images.draw())
    if not isinstance(output, Tensor) or output.shape != (4, images.classes):
        return f"{seen(output)} for 4 {images.told}"
    if output.dtype != torch.float32:
        return f"logits are torch.float32, not {output.dtype}"
    return "" if bool(output.isfinite().all()) else f"logits of {images.told} are NaN or infinite"


def _classes(trials: ModelTrials) -> str:
    images = Images(trials.images.shape, OTHER_CLASSES)
    fault = _output(trials.build(images), images)
    return f"{fault}; build(shape=…, classes=…) makes as many outputs as classes" if fault else ""


def _shapes(trials: ModelTrials) -> str:
    for shape in SHAPES:
        images = Images(shape)
        try:
            fault = _output(trials.build(images), images)
        except BenchError:
            continue  # a clear word about what it is not made for
        except Exception as error:
            fault = f"{cause(error)} for {images.told}"
        if fault:
            return f"{fault}; build heeds its shape, or raises a BenchError that says which it takes"
    return ""


def _logits(trials: ModelTrials) -> str:
    logits = trials.logits.detach()
    wanted = "return the logits as the last layer gives them, losses and fusion take the softmax"
    if bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones(4), atol=1e-4):
        return f"each output sums to 1: probabilities (a softmax); {wanted}"
    if torch.allclose(logits.logsumexp(1), torch.zeros(4), atol=1e-4):
        return f"each output is a log-probability (a log_softmax); {wanted}"
    return ""


def _apart(trials: ModelTrials) -> str:
    first, second = ({**dict(part.named_parameters()), **dict(part.named_buffers())} for part in trials.pair)
    places = {tensor.data_ptr() for tensor in first.values() if tensor.numel()}
    shared = [name for name, tensor in second.items() if tensor.numel() and tensor.data_ptr() in places
              and not name.startswith("normalise.")]  # fmt: skip
    return f"two members share {listed(shared)}; build makes new layers each time" if shared else ""


def _unlike(trials: ModelTrials) -> str:
    first, second = (dict(part.named_parameters()) for part in trials.pair)
    drawn = not first or any(name in first and not torch.equal(first[name], second[name]) for name in second)
    told = (
        "two members made one after the other have the same weights; draw them from torch's global generator as it is"
    )
    return "" if drawn else f"{told}, without a seed"


def _repeatable(trials: ModelTrials) -> str:
    with world("here"):
        again = trials.build()
    changed = unlike(trials.pair[0].state_dict(), again.state_dict())
    return f"{listed(changed)} come out otherwise with one seed; draw from torch's global generator" if changed else ""


def _relus(trials: ModelTrials) -> str:
    calls: dict[nn.Module, int] = {}
    relus = _relu_modules(trials)
    handles = [module.register_forward_hook(lambda module, *_: calls.update({module: calls.get(module, 0) + 1}))
               for module in relus]  # fmt: skip
    with torch.no_grad():
        trials.member(trials.x)
    for handle in handles:
        handle.remove()
    plain = not any(module.inplace for module in relus) and all(count == 1 for count in calls.values())
    return "" if plain else "nn.ReLU(inplace=False), one instance a place: methods exchange them by hooks"


def _relu_modules(trials: ModelTrials) -> list[nn.ReLU]:
    return [module for module in trials.member.modules() if isinstance(module, nn.ReLU)]


def _steady(trials: ModelTrials) -> str:
    before = ModelState(trials.member)
    with torch.no_grad():
        outputs = []
        for start in ("here", "elsewhere"):
            with world(start):
                state = random_state()
                outputs.append(trials.member(trials.x))
                if random_state() != state:
                    return "it draws random numbers in eval mode; dropout as nn.Dropout, or with training=self.training"
    if not torch.equal(*outputs):
        return "two passes in eval mode differ; what is random is so while self.training only"
    changed = before.buffers(trials.member) or before.weights(trials.member)
    return f"a pass in eval mode changes it: {changed}" if changed else ""


def _alone(trials: ModelTrials) -> str:
    with torch.no_grad():
        alone = torch.cat([trials.member(image[None]) for image in trials.x])
    told = "an image alone has other logits than in a batch; take no statistics over the batch in eval mode"
    return "" if torch.allclose(alone, trials.logits, atol=1e-4) else told


def _uses(trials: ModelTrials) -> str:
    x = trials.x.clone().requires_grad_()
    named = list(trials.member.named_parameters())
    output = trials.member(x)
    if not output.requires_grad:
        return "no gradient leads through it; leave out detach() and no_grad()"
    found = torch.autograd.grad(output.square().sum(), [x, *(part for _, part in named)], allow_unused=True)
    unused = [name for (name, _), gradient in zip(named, found[1:], strict=True) if gradient is None]
    if found[0] is None or not bool(found[0].any()):
        return "no gradient leads to the images: attacks would find nothing; leave out detach() and rounding"
    return f"no gradient leads to {listed(unused)}" if unused else ""


STEADY, APART = "is the same in each pass", "makes members that share nothing"
RULES: tuple[Rule[ModelTrials], ...] = (
    Rule("heeds the number of classes", _classes),
    Rule("heeds the shape of the images", _shapes),
    Rule("gives logits", _logits),
    Rule(STEADY, _steady),
    Rule(APART, _apart),
    Rule("makes members that differ", _unlike, after=(APART,)),
    Rule("is repeatable", _repeatable, after=(STEADY, APART)),
    Rule("judges each image by itself", _alone, after=(STEADY,)),
    Rule("uses all its weights", _uses),
    Rule("has exchangeable ReLUs", _relus, lambda trials: f"{len(_relu_modules(trials))}"),
)


def checks(name: str, values: dict[str, Any]) -> Checks:
    """All checks of a model with its settings, on the first images of `SHAPES` that it takes."""
    refused = []
    for shape in SHAPES:
        trials = ModelTrials(name, values, Images(shape))
        try:
            member = trials.member
        except BenchError as error:
            refused.append(f"{trials.images.told}: {error}")
            continue
        break
    else:
        yield Check("runs", False, f"it can be built for none of digits, MNIST and CIFAR images ({'; '.join(refused)})")
        return
    fault = _output(member, trials.images)
    yield Check("runs", not fault, fault or f"{seen(trials.logits)} for 4 {trials.images.told}")
    if not fault:
        yield from judged(RULES, trials)
