"""A sound attack, and the same with one fault each."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor

from bench.attacks.base import Attack


@dataclass(frozen=True, kw_only=True)
class Sound(Attack):
    """Sign steps with momentum."""

    takes_targets: ClassVar[bool] = True

    steps: int = 10

    def start(self, problem: Any) -> Tensor:
        return problem.images

    def gradient(self, problem: Any, x: Tensor) -> Tensor:
        return problem.gradient(x)

    def narrow(self, problem: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        return problem.drop_broken(*tensors)

    def move(self, problem: Any, x: Tensor, momentum: Tensor) -> Tensor:
        return problem.project(x + problem.budget / 5 * momentum.sign())

    def run(self, problem: Any) -> Tensor:
        x = self.start(problem)
        momentum = torch.zeros_like(x)
        for _ in range(self.steps):
            x, gradient, momentum = self.narrow(problem, x, self.gradient(problem, x), momentum)
            if not len(x):
                return x
            momentum = momentum + gradient / gradient.flatten(1).abs().sum(1).clamp_min(1e-30).view(-1, 1, 1, 1)
            x = self.move(problem, x, momentum)
        return x


@dataclass(frozen=True, kw_only=True)
class SoundL2(Sound):
    """Steps in the ℓ2 ball."""

    norm: ClassVar[str | None] = "l2"


@dataclass(frozen=True, kw_only=True)
class SoundNoise(Attack):
    """Random corners, no gradient and one point."""

    needs_gradient: ClassVar[bool] = False
    iterative: ClassVar[bool] = False

    def run(self, problem: Any) -> Tensor:
        return problem.project(problem.images + problem.budget * problem.uniform().sign())


@dataclass(frozen=True, kw_only=True)
class SoundMembers(Sound):
    """Looks at the members, and says so."""

    asks_members: ClassVar[bool] = True

    def gradient(self, problem: Any, x: Tensor) -> Tensor:
        return problem.ascend(x, lambda point: sum(problem.loss(m(point), "ce") for m in problem.members))[0]


@dataclass(frozen=True, kw_only=True)
class Idle(Sound):
    """Asks, and returns the clean images."""

    def move(self, problem: Any, x: Tensor, momentum: Tensor) -> Tensor:
        return x


@dataclass(frozen=True, kw_only=True)
class Descends(Sound):
    """A sign wrong: lowers the loss."""

    def move(self, problem: Any, x: Tensor, momentum: Tensor) -> Tensor:
        return problem.project(x - problem.budget / 5 * momentum.sign())


@dataclass(frozen=True, kw_only=True)
class MovesImages(Sound):
    """Steps in place, on the problem's own images."""

    def move(self, problem: Any, x: Tensor, momentum: Tensor) -> Tensor:
        return problem.project(x.add_(0.01 * momentum.sign()))


@dataclass(frozen=True, kw_only=True)
class MovesLabels(Sound):
    """Writes into the labels."""

    def start(self, problem: Any) -> Tensor:
        problem.labels[0] = (problem.labels[0] + 1) % 10
        return problem.images


@dataclass(frozen=True, kw_only=True)
class MovesBudget(Sound):
    """Gives itself a smaller ball."""

    def start(self, problem: Any) -> Tensor:
        problem.budget = problem.budget / 2
        return problem.images


@dataclass(frozen=True, kw_only=True)
class WideMomentum(Sound):
    """Narrows all but its momentum, which is cut to length instead: every image gets another's."""

    def narrow(self, problem: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        x, gradient, momentum = tensors
        x, gradient = problem.drop_broken(x, gradient)
        return x, gradient, momentum[: len(x)]


@dataclass(frozen=True, kw_only=True)
class BatchMean(Sound):
    """Steps along the mean gradient of the batch."""

    def gradient(self, problem: Any, x: Tensor) -> Tensor:
        gradient = problem.gradient(x)
        return gradient + gradient.mean(0, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Training(Sound):
    """Leaves the model in training mode."""

    def start(self, problem: Any) -> Tensor:
        problem.model.train()
        return problem.images


@dataclass(frozen=True, kw_only=True)
class Weights(Sound):
    """Changes a weight."""

    def start(self, problem: Any) -> Tensor:
        with torch.no_grad():
            next(problem.model.parameters()).mul_(1.001)
        return problem.images


@dataclass(frozen=True, kw_only=True)
class Buffers(Sound):
    """Moves running statistics by a pass in training mode, and is in evaluation mode again afterwards."""

    def start(self, problem: Any) -> Tensor:
        problem.network.train()
        problem.scores(problem.images)
        problem.network.eval()
        return problem.images


@dataclass(frozen=True, kw_only=True)
class Gradients(Sound):
    """Thaws the parameters and leaves gradients on them."""

    def start(self, problem: Any) -> Tensor:
        for parameter in problem.network.parameters():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            problem.loss(problem.network(problem.images), "ce").sum().backward()
        for parameter in problem.network.parameters():
            parameter.requires_grad_(False)
        return problem.images


@dataclass(frozen=True, kw_only=True)
class Directly(Sound):
    """Differentiates the model by itself."""

    def gradient(self, problem: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            loss = torch.nn.functional.cross_entropy(problem.model(point), problem.labels, reduction="sum")
            return torch.autograd.grad(loss, point)[0]


@dataclass(frozen=True, kw_only=True)
class Uncounted(Sound):
    """Differentiates the copy that is there to be asked, without the problem's knowledge."""

    def gradient(self, problem: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            loss = problem.loss(problem.network(point), "ce").sum()
            return torch.autograd.grad(loss, point)[0]


@dataclass(frozen=True, kw_only=True)
class TwoPasses(Sound):
    """Makes two passes in `ascend` and says one."""

    def gradient(self, problem: Any, x: Tensor) -> Tensor:
        def evaluate(point: Tensor) -> Tensor:
            return problem.loss(problem.network(point), "ce") + problem.loss(problem.network(point * 0.99), "ce")

        return problem.ascend(x, evaluate)[0]


@dataclass(frozen=True, kw_only=True)
class DeniesMembers(SoundMembers):
    """Looks at the members, and does not say so."""

    asks_members: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class ClaimsMembers(Sound):
    """Says that it looks at the members."""

    asks_members: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class DeniesGradient(Sound):
    """Says that it takes no gradient."""

    needs_gradient: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class ClaimsGradient(SoundNoise):
    """Says that it takes gradients."""

    needs_gradient: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class DeniesSteps(Sound):
    """Says that it takes one step."""

    iterative: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class ClaimsSteps(Sound):
    """Says that it takes several steps."""

    steps: int = 1

    def move(self, problem: Any, x: Tensor, momentum: Tensor) -> Tensor:
        return problem.project(x + problem.budget * momentum.sign())


@dataclass(frozen=True, kw_only=True)
class ClaimsLinf(Sound):
    """Keeps to the ℓ2 ball and says ℓ∞."""

    def move(self, problem: Any, x: Tensor, momentum: Tensor) -> Tensor:
        change = x + problem.budget / 5 * momentum.sign() - problem.images
        length = change.flatten(1).norm(dim=1).clamp_min(max(problem.budget, 1e-9)).view(-1, 1, 1, 1)
        return (problem.images + problem.budget * change / length).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class ClaimsL2(SoundL2):
    """Keeps to the ℓ∞ ball and says ℓ2."""

    def move(self, problem: Any, x: Tensor, momentum: Tensor) -> Tensor:
        low, high = problem.images - problem.budget, problem.images + problem.budget
        return torch.clamp(x + problem.budget / 5 * momentum.sign(), low, high).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class NoBall(Sound):
    """A radius, and no ball that it would be the radius of."""

    norm: ClassVar[str | None] = None

    def move(self, problem: Any, x: Tensor, momentum: Tensor) -> Tensor:
        return (x + 0.02 * problem.budget * momentum.sign()).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Outside(Sound):
    """Leaves the ball by so little that the harness moves it back without a word."""

    def run(self, problem: Any) -> Tensor:
        x = super().run(problem)
        return (problem.images + (x - problem.images) * 1.0005).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Negative(Sound):
    """Leaves [0, 1] by as little."""

    def run(self, problem: Any) -> Tensor:
        return super().run(problem) - 5e-5


@dataclass(frozen=True, kw_only=True)
class OwnBudget(Sound):
    """A radius of its own."""

    def move(self, problem: Any, x: Tensor, momentum: Tensor) -> Tensor:
        step = 0.01 * momentum.sign()
        return torch.clamp(x + step, problem.images - 0.05, problem.images + 0.05).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Unseeded(Sound):
    """Starts from random numbers that nothing decides."""

    def start(self, problem: Any) -> Tensor:
        generator = torch.Generator()
        generator.seed()
        noise = torch.rand(problem.images.shape, generator=generator) * 2 - 1
        return problem.project(problem.images + problem.budget * noise)


@dataclass(frozen=True, kw_only=True)
class GlobalTorch(Sound):
    """Starts from torch's global generator."""

    def start(self, problem: Any) -> Tensor:
        return problem.project(problem.images + problem.budget * (torch.rand_like(problem.images) * 2 - 1))


@dataclass(frozen=True, kw_only=True)
class GlobalNumpy(Sound):
    """Starts from NumPy's global generator."""

    def start(self, problem: Any) -> Tensor:
        noise = torch.from_numpy(numpy.random.uniform(-1, 1, problem.images.shape)).float()
        return problem.project(problem.images + problem.budget * noise)


@dataclass(frozen=True, kw_only=True)
class GlobalQuiet(Sound):
    """Reads the global generator and puts it back."""

    def start(self, problem: Any) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            noise = torch.rand_like(problem.images) * 2 - 1
        return problem.project(problem.images + problem.budget * noise)


@dataclass(frozen=True, kw_only=True)
class Resets(Sound):
    """Seeds the global generators."""

    def start(self, problem: Any) -> Tensor:
        torch.manual_seed(0)
        random.seed(0)
        return problem.images


@dataclass(frozen=True, kw_only=True)
class Shared(Sound):
    """The same random numbers for the first image of each batch, for the second, and so on."""

    def start(self, problem: Any) -> Tensor:
        noise = torch.rand(problem.images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        return problem.project(problem.images + problem.budget * noise)


@dataclass(frozen=True, kw_only=True)
class Remembers(Sound):
    """Goes on from where the last run ended."""

    memory: ClassVar[list[Tensor]] = []

    def run(self, problem: Any) -> Tensor:
        x = super().run(problem)
        last = self.memory[-1] if self.memory else torch.zeros(1)
        self.memory.append(x.mean())
        return problem.project(x + last)


@dataclass(frozen=True, kw_only=True)
class ForgetsTargets(Sound):
    """A loss of its own that leads to no target, though it says so."""

    def gradient(self, problem: Any, x: Tensor) -> Tensor:
        def own(scores: Tensor, labels: Tensor) -> Tensor:
            return torch.nn.functional.cross_entropy(scores, labels, reduction="none")

        return problem.gradient(x, own)


@dataclass(frozen=True, kw_only=True)
class Double(Sound):
    """Images in float64."""

    def run(self, problem: Any) -> Tensor:
        return super().run(problem).double()


@dataclass(frozen=True, kw_only=True)
class Flat(Sound):
    """Rows of pixels, no images."""

    def run(self, problem: Any) -> Tensor:
        return super().run(problem).flatten(1)
