"""What a training step needs: the bare passes that a method's formula cannot do without, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.baselines.adaboost import AdaBoost
from bench.baselines.adp import Adp
from bench.baselines.adv_oap import AdvOap
from bench.baselines.adversarial import AtEnsemble, AtPgdLinf
from bench.baselines.aute import Aute
from bench.baselines.barre import Barre
from bench.baselines.ckae import Ckae
from bench.baselines.deg import Deg, DegPdd
from bench.baselines.dverge import Dverge
from bench.baselines.ece import Ece
from bench.baselines.fasten import AdvFasten, Fasten
from bench.baselines.gal import Gal
from bench.baselines.gradientboost import GradientBoost
from bench.baselines.igat import Igat
from bench.baselines.lotos import Lotos
from bench.baselines.mrboost import MrBoost
from bench.baselines.parl import Parl, responses
from bench.methods.drt import Drt
from bench.methods.trs import CosOnly, Trs
from bench.methods.trs_report import TrsReport
from bench.models.features import features_at
from bench.models.passes import passes_on
from bench.perf.roofline import Work, count
from bench.training.compound import AtJoint
from bench.training.gradients import loss_and_gradient
from bench.training.method import Batch, Method
from bench.training.spectral import iterated, linear_maps, mapped, singular_vectors

PassKind = Literal["forward", "images", "train", "curvature", "second", "target", "features", "layers", "maps"]


@dataclass(frozen=True)
class Need:
    """`count` passes of one kind through one member, with `images` images each; `depth`: of how many "layers"."""

    count: int
    kind: PassKind
    images: int
    depth: int = 1

    def __str__(self) -> str:
        return f"{self.count} × {self.kind}({self.images})"


def needs(method: Method, *, members: int, size: int, coupled: bool) -> list[Need] | None:
    """The passes of one step on a batch of `size` images; None for a method whose formula is not known here.

    Args:
        coupled: whether images of a batch act on one another (BatchNorm in training mode). Without it a gradient at
            a clean image that one term has computed serves another term too; with it, passes that are made for the
            running statistics alone count as well.
    """
    n, b = members, size
    public = coupled and getattr(method, "running_statistics", "needed") == "public"
    if isinstance(method, AtJoint):
        inner = needs(method.inner, members=n, size=b, coupled=coupled)
        return inner and [*inner, Need(n * method.attack_steps, "images", b), Need(n, "train", b)]
    if isinstance(method, Igat):
        attacked = b - b // 2
        inner = needs(method.inner, members=n, size=b if method.rest == "mixed" else b // 2, coupled=coupled)
        return inner and [Need(n * method.steps, "images", attacked), *inner, Need(n, "train", b)]
    if isinstance(method, TrsReport):
        attacked = b - b // 2
        return [
            Need(method.steps * n, "images", -(-attacked // n)),
            Need(n, "second", b),
            Need(n, "second", b if coupled or method.dropout else attacked),  # dropout: each pass draws its own units
        ]
    if isinstance(method, Trs):
        return _trs(method, n, b, coupled) + ([Need(n, "forward", b)] if public else [])
    if isinstance(method, DegPdd):  # all features are known before any mask
        return [Need(n, "forward", b), Need(n, "second", b)]
    if isinstance(method, (CosOnly, Gal, Deg)):  # and Cos-ℓ2: the norms are those of the cosine's gradients
        return [Need(n, "second", b)] + ([Need(n, "forward", b)] if public else [])
    if isinstance(method, Dverge):
        targets = n * method.steps if public else n
        return [Need(targets, "target", b), Need(n * method.steps, "features", b), Need(n * (n - 1), "train", b)]
    if isinstance(method, AdvOap):  # and the clean batch, for the running statistics
        clean = [Need(n, "forward", b)] if public else []
        return [Need(n * method.steps, "images", b), Need(n, "train", b), *clean]
    if isinstance(method, Drt):
        return [Need(n * method.draws, "second", b)]
    if isinstance(method, Fasten):
        own = [Need(2, "target", b), Need(2, "features", b), Need(n, "forward", b), Need(n, "train", b)]
        return own + ([Need(n, "images", b), Need(n, "train", b)] if isinstance(method, AdvFasten) else [])
    if isinstance(method, (AtEnsemble, Aute)):
        return [Need(n * method.steps, "images", b), Need(n, "train", b)]
    if isinstance(method, MrBoost):  # its last member
        others = [Need(n - 1, "forward", b)] if method.trained == "mean" else []
        return [Need(n * method.steps, "images", b), Need(1, "train", b), *others]
    if isinstance(method, Barre):  # its last member, but for the odds, which are found between epochs
        return [Need(n * method.steps, "images", b), Need(1, "train", b)]
    if isinstance(method, Parl):
        return [Need(n, "layers", b, method.layers)]
    if isinstance(method, AtPgdLinf):
        return [Need(n * method.steps, "images", max(1, round(method.share * b))), Need(n, "train", b)]
    if isinstance(method, GradientBoost):  # its last member
        return [Need(n - 1, "forward", b), Need(1, "train", b)]
    if isinstance(method, AdaBoost):
        return [Need(1, "train", b)]
    if isinstance(method, Lotos):  # a power iteration of each layer, and how far it stretches the others' vectors
        return [Need(n, "train", b), Need(n, "maps", n - 1)]
    if isinstance(method, (Ece, Adp, Ckae)):
        return [Need(n, "train", b)]
    return None


def _trs(method: Trs, n: int, b: int, coupled: bool) -> list[Need]:
    official = method.terms == "official"
    searched = b - b // 2 if official else max(1, round(b * method.support_fraction))
    visits = n if method.support == "shared" else 2 * comb(n, 2)  # members asked about support points, over all groups
    found = [Need(visits * method.steps, "curvature", searched), Need(n, "second", b)]
    found.append(Need(visits, "second", b if official and coupled else searched))
    return found


class Bare:
    """Makes the passes, on the members in turn, with nothing in between; then the optimiser's update.

    With the fastest kernels known to us, which are those of our own steps (`bench.models.passes`).

    Args:
        members: in the mode in which they are trained.
        optimizer: of their parameters.
        layer: the point where "target" and "features" passes end.
    """

    def __init__(
        self, members: Sequence[nn.Module], optimizer: torch.optim.Optimizer, batch: Batch, needed: Sequence[Need],
        layer: str,
    ) -> None:  # fmt: skip
        self._members = members
        self._optimizer = optimizer
        self._images, self._labels = batch.images.detach(), batch.labels
        self._needed = needed
        self._layer = layer
        mapped_alone = any(need.kind == "maps" for need in needed)
        self._vectors = singular_vectors(members[:1], tuple(batch.images.shape[1:])) if mapped_alone else {}

    def __call__(self) -> None:
        """One step's worth."""
        totals: dict[int, list[Any]] = {}
        for need in self._needed:
            for index in range(need.count):
                which = index % len(self._members)
                found = self._pass(need, self._members[which])
                if found is not None:
                    known = totals.get(which)
                    totals[which] = list(found) if known is None else [a + b for a, b in zip(known, found, strict=True)]
        for which, gradients in totals.items():
            for parameter, gradient in zip(self._members[which].parameters(), gradients, strict=True):
                parameter.grad = gradient
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def work(self) -> Work:
        """What the passes compute and move, one of each counted; the update, of weights only, is left out."""
        passes = [count(lambda: self._pass(need, self._members[0])) * need.count for need in self._needed]  # noqa: B023
        return sum(passes, Work())

    def _pass(self, need: Need, member: nn.Module) -> Sequence[Tensor] | None:
        with passes_on([member]):
            return self._made(need, member)

    def _made(self, need: Need, member: nn.Module) -> Sequence[Tensor] | None:
        images, labels = self._images[-need.images :], self._labels[-need.images :]
        parameters = list(member.parameters())
        grad, cross_entropy = torch.autograd.grad, torch.nn.functional.cross_entropy
        if need.kind in ("forward", "target"):
            with torch.no_grad():
                member(images) if need.kind == "forward" else features_at(member, self._layer, images)
            return None
        if need.kind == "train":
            return grad(cross_entropy(member(images), labels), parameters)
        if need.kind == "layers":
            logits, _, slopes = responses(member, images, need.depth)
            return grad(cross_entropy(logits, labels) + torch.cat(slopes).square().sum(), parameters)
        if need.kind == "maps":
            maps = linear_maps([member])
            found = iterated([maps[key] for key in self._vectors], list(self._vectors.values()), 1)
            reached = [
                mapped(maps[key], vector.expand(need.images, *vector.shape[1:])).square().sum()
                for key, vector in zip(self._vectors, found, strict=True)
                if isinstance(maps[key], nn.Conv2d)
            ]
            return grad(torch.stack(reached).sum(), parameters, materialize_grads=True)
        frozen = need.kind != "second"
        x = images.clone().requires_grad_()
        for parameter in parameters:
            parameter.requires_grad_(not frozen)
        if need.kind == "features":
            grad(features_at(member, self._layer, x).square().sum(), x)
        else:
            loss, slope = loss_and_gradient(member, x, labels, create_graph=need.kind != "images")
        for parameter in parameters:
            parameter.requires_grad_(True)
        if need.kind == "curvature":
            grad(slope.square().sum(), x)
        if need.kind == "second":
            return grad(loss + slope.square().sum(), parameters)
        return None
