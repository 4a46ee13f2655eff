"""Input gradients and what methods measure on them; shared by TRS, its variants and gradient-based baselines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from bench.core.lazy import torch
from bench.models.running import frozen_statistics as frozen_statistics
from bench.models.running import tracks_statistics as tracks_statistics
from bench.training.streams import abreast

if TYPE_CHECKING:
    from torch import Tensor, nn

TINY = 1e-12  # floor of a per-sample gradient norm; far below any gradient that matters
TORCH_FLOOR = 1e-8  # eps of torch's cosine_similarity


def loss_and_gradient(
    member: nn.Module, images: Tensor, labels: Tensor, *, create_graph: bool = True
) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over the batch, and its gradient with respect to the images.

    The sum makes each row the gradient of that image's own loss (with BatchNorm in training mode it also carries
    terms through the batch statistics).

    The forward pass is bit by bit that of a plain call, but for networks with BatchNorm on a CPU: these run with the
    channels last in memory, where sums are taken in another order. How the gradient is differentiated once more depends
    on the device (`bench.training.dual`): it may take another forward pass of `member`, which until then has to stay in
    its mode and keep its hooks.

    Args:
        member: gives logits [B, C].
        images: [B, ...], which must require a gradient.
        labels: int64 [B].
        create_graph: keep the graph of the gradient, to differentiate it once more.

    Returns:
        The scalar sum, and the gradients as [B, D] rows.
    """
    from bench.training import dual

    if create_graph and dual.serves(member, images, labels):
        return dual.by_pairs(member, images, labels)
    return dual.by_torch(member, images, labels, create_graph=create_graph)


def losses_and_gradients(
    members: Sequence[nn.Module], images: Tensor, labels: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """`loss_and_gradient` of each member at the same images: N sums, and N gradients [B, D]."""
    found = abreast(lambda member: loss_and_gradient(member, images, labels), members, images)
    return [loss for loss, _ in found], [gradient for _, gradient in found]


def scores_and_gradient(
    member: nn.Module, images: Tensor, labels: Tensor, objective: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits [B, C], and the gradient of a function of them with respect to the images, [B, D]; as `loss_and_gradient`.

    Args:
        labels: int64 [B]; on them it is tried which way serves the network.
        objective: from logits to a value an image, [B]; it is twice differentiable.
    """
    from bench.training import dual

    if dual.serves(member, images, labels):
        return dual.by_pairs(member, images, labels, objective)
    return dual.by_torch(member, images, labels, objective)


def coupled(member: nn.Module) -> bool:
    """Whether what `member` gives for an image may depend on the others in its batch, or on chance.

    False only for chains of layers known to treat each image by itself; a gradient at an image that one pass has
    computed is then that of any other pass.
    """
    nn = torch.nn
    from bench.models.normalise import Normalise

    alone = (
        nn.Sequential, nn.Conv2d, nn.Linear, nn.ReLU, nn.LeakyReLU, nn.Softplus, nn.Tanh, nn.MaxPool2d, nn.AvgPool2d,
        nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, Normalise,
    )  # fmt: skip
    for part in member.modules():
        hooked = part is not member and (part._forward_pre_hooks or part._forward_hooks)
        if hooked or type(part) not in alone:
            return True
    return False


def norms(gradients: Tensor) -> Tensor:
    """ℓ2 norm of each row of [B, D]; differentiable at zero (where it gives TINY)."""
    return (gradients.square().sum(1) + TINY**2).sqrt()


def cosines(gradients: Sequence[Tensor], *, scale: float = 1.0, floor: float = TINY**2, each: bool = False) -> Tensor:
    """Signed cosine of each pair of members: [pairs, B] from N gradients [B, D], taken of the gradients times `scale`.

    Computed as dot / max(‖a‖·‖b‖, floor), as torch's `cosine_similarity` did before 1.12. Below the floor the lengths
    are not part of the gradient.

    Args:
        floor: of the product of the norms; of each norm with `each`.
        each: dot / (max(‖a‖, floor)·max(‖b‖, floor)), as torch does since 1.12. Also below the floor the lengths are
            part of the gradient: only their values are raised.
    """
    scaled = [gradient * scale for gradient in gradients] if scale != 1.0 else list(gradients)
    lengths = [norms(gradient) for gradient in scaled]
    pairs = list(combinations(range(len(scaled)), 2))
    if each:
        with torch.no_grad():
            raised = [(floor - length).clamp_min(0) for length in lengths]
        units = [g / (n + more).unsqueeze(1) for g, n, more in zip(scaled, lengths, raised, strict=True)]
        return torch.stack([(units[i] * units[j]).sum(1) for i, j in pairs])
    return torch.stack([(scaled[i] * scaled[j]).sum(1) / (lengths[i] * lengths[j]).clamp_min(floor) for i, j in pairs])


@contextlib.contextmanager
def search_mode(members: Sequence[nn.Module], *, statistics: bool = False) -> Iterator[None]:
    """Inside: no gradients of parameters; BatchNorm in training mode uses the batch's own statistics, and the
    running ones stay as they are unless `statistics`.

    For inner searches over images.
    """
    parameters = [p for member in members for p in member.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        with contextlib.nullcontext() if statistics else frozen_statistics(members):
            yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def pass_again(members: Sequence[nn.Module], images: Tensor) -> None:
    """A pass in training mode that nothing is computed from, as public codes make some: it moves running statistics.

    Networks that have none are not asked.
    """
    with torch.no_grad():
        for member in members:
            if tracks_statistics(member):
                member(images)
