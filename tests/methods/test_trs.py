"""The TRS family against closed forms, finite differences, and plain eager code written from the definitions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.baselines.ece import Ece
from bench.core import config, registry, settings
from bench.core.errors import BenchError
from bench.core.seeds import generator
from bench.methods.trs import CosL2, CosOnly, Trs
from bench.models.digits_cnn import DigitsCNN
from bench.models.resnet import CifarResNet
from bench.training.gradients import cosines, loss_and_gradient, norms, search_mode
from bench.training.method import Batch

LOADED = config.load(Path(__file__).parents[2] / "bench.toml")
NAMES = ["trs", "trs_printed", "trs_official", "cos_l2", "cos_only"]


def configured(name: str, dataset: str = "mnist", **changes: Any) -> Any:
    """The method that `bench.toml` calls `name`, as a run on `dataset` builds it."""
    spec = LOADED.config.methods[name]
    table = {**spec.settings, **spec.datasets.get(dataset, {}), **changes}
    return settings.build(registry.load("methods", spec.plugin), table, name)


@dataclass(frozen=True)
class Recorded(Batch):
    """A batch that remembers the random starts it gave away."""

    starts: list[Tensor] = field(default_factory=list)

    def uniform(self, like: Tensor, radius: float) -> Tensor:
        noise = super().uniform(like, radius)
        self.starts.append(noise)
        return noise


def make_batch(x: Tensor, y: Tensor, *, epoch: int = 0, epochs: int = 10, progress: float = 0.99) -> Recorded:
    return Recorded(
        images=x,
        labels=y,
        indices=torch.arange(len(y)),
        epoch=epoch,
        epochs=epochs,
        progress=progress,
        generator=generator("noise"),
        others=lambda: x,
    )


def random_images(n: int, shape: tuple[int, ...], classes: int = 10) -> tuple[Tensor, Tensor]:
    g = generator("images", n)
    x = torch.rand(n, *shape, generator=g, dtype=torch.float64)
    # Real images are black in many places: there the ball is cut by [0, 1].
    x = torch.where(torch.rand(x.shape, generator=g) < 0.3, torch.zeros_like(x), x)
    return x, torch.randint(classes, (n,), generator=g)


def networks(build: Callable[[], nn.Module], members: int) -> list[nn.Module]:
    torch.manual_seed(5)
    return [build().double().train() for _ in range(members)]


def smooth() -> nn.Module:
    """Tiny and twice differentiable everywhere: finite differences are exact."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2), nn.Softplus(), nn.Flatten(), nn.Linear(27, 6), nn.Tanh(), nn.Linear(6, 4)
    )


def cnn() -> nn.Module:
    return DigitsCNN().build(shape=(1, 8, 8), classes=10)


def resnet() -> nn.Module:
    return CifarResNet(depth=8, width=4, shortcut="B").build(shape=(3, 16, 16), classes=10)


def padded_resnet() -> nn.Module:
    return CifarResNet(depth=8, width=4).build(shape=(3, 16, 16), classes=10)


def linear_member(weight: Tensor, bias: Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
    layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
    return nn.Sequential(nn.Flatten(), layer)


# ---------------------------------------------------------------- input gradients


def test_gradients_norms_and_cosines_equal_the_closed_form_of_linear_softmax_models():
    g = generator("linear")
    x, y = random_images(9, (1, 3, 4), classes=5)
    pairs = [
        (torch.randn(5, 12, generator=g, dtype=torch.float64), torch.randn(5, generator=g, dtype=torch.float64))
        for _ in range(3)
    ]
    points = x.clone().requires_grad_()
    got = [loss_and_gradient(linear_member(*pair), points, y) for pair in pairs]
    expected = []
    for (weight, bias), (loss, gradient) in zip(pairs, got, strict=True):
        p = torch.softmax(x.flatten(1) @ weight.T + bias, 1)
        by_hand = (p - functional.one_hot(y, 5)) @ weight  # ∇_x CE = Wᵀ (p − e_y)
        expected.append(by_hand)
        assert torch.allclose(loss, -p[torch.arange(9), y].log().sum())
        assert torch.allclose(gradient, by_hand, atol=1e-12)
        assert torch.allclose(norms(gradient), by_hand.norm(dim=1), atol=1e-12)
    by_hand = torch.stack([functional.cosine_similarity(expected[i], expected[j]) for i, j in [(0, 1), (0, 2), (1, 2)]])
    assert torch.allclose(cosines([gradient for _, gradient in got]), by_hand, atol=1e-12)


def test_each_row_is_the_gradient_of_that_images_own_loss():
    (member,) = networks(smooth, 1)
    x, y = random_images(3, (1, 8, 8), classes=4)
    rows = loss_and_gradient(member, x.clone().requires_grad_(), y)[1].detach()
    for image in range(3):
        one, label = x[image : image + 1], y[image : image + 1]
        for pixel in (0, 9, 27, 63):
            step = torch.zeros_like(one)
            step.view(-1)[pixel] = 1e-6
            with torch.no_grad():
                ahead, behind = (functional.cross_entropy(member(one + move), label) for move in (step, -step))
            assert float(rows[image, pixel]) == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-5, abs=1e-9)


def test_flat_images_have_no_cosine_and_finite_gradients():
    flat = [torch.zeros(2, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    total = cosines(flat).abs().sum() + norms(flat[0]).sum()
    assert float(total.detach()) < 1e-11
    for gradient in torch.autograd.grad(total, flat):
        assert bool(gradient.isfinite().all())


def test_the_papers_cosine_does_not_depend_on_the_size_of_gradients_the_authors_is_damped():
    g = generator("cosine")
    a, b = torch.randn(2, 4, 30, generator=g, dtype=torch.float64)
    for size in (1.0, 1e-4, 1e-8):
        assert torch.allclose(cosines([a * size, b * size])[0], functional.cosine_similarity(a, b), atol=1e-6)
    zeros = cosines([a * 0, b])[0]
    assert torch.equal(zeros, torch.zeros(4, dtype=torch.float64))
    batch = 128
    for size in (1.0, 1e-3, 1e-5):
        ours = cosines([a * size, b * size], scale=1 / batch, floor=1e-8)[0]
        u, v = a * size / batch, b * size / batch
        assert torch.allclose(ours, (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1)).clamp_min(1e-8), atol=1e-12)
    assert float(ours.abs().max()) < 1e-2  # at norms of 5e-5 hardly anything is left


# ---------------------------------------------------------------- the paper's formula, image by image


def one_gradient(member: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    """Per-sample gradient [1, D] that can be differentiated; `image` is [1, C, H, W] and requires a gradient."""
    loss = functional.cross_entropy(member(image), label)
    return torch.autograd.grad(loss, image, create_graph=True)[0].flatten(1)


def worst_point(group: Sequence[nn.Module], image: Tensor, label: Tensor, start: Tensor, delta: float) -> Tensor:
    """argmax of the sum of gradient norms by six sign steps of δ/3 from x + start, inside the ball and [0, 1]."""
    point = (image + start).clamp(0, 1)
    for _ in range(6):
        point = point.detach().requires_grad_()
        value = sum(one_gradient(member, point, label).norm() for member in group)
        (ascent,) = torch.autograd.grad(value, point)
        moved = point.detach() + delta / 3 * ascent.sign()
        point = torch.min(torch.max(moved, image - delta), image + delta).clamp(0, 1)
    return point.detach().requires_grad_()


def naive_paper(method: Any, members: Sequence[nn.Module], batch: Recorded, delta: float) -> dict[str, Tensor]:
    """mean_k CE_k + mean over pairs of [λa |cos| + λb max (‖g_i‖ + ‖g_j‖)], one image and one pair at a time."""
    x, y = batch.images, batch.labels
    pairs = list(combinations(range(len(members)), 2))
    searched = range(len(y) - max(1, round(len(y) * method.support_fraction)), len(y))
    ce, cosine, norm = [], [], []
    for b in range(len(y)):
        image, label = x[b : b + 1].clone().requires_grad_(), y[b : b + 1]
        ce += [functional.cross_entropy(member(image), label) for member in members]
        g = [one_gradient(member, image, label)[0] for member in members]
        cosine += [(g[i] @ g[j] / (g[i].norm() * g[j].norm())).abs() for i, j in pairs]
        if b not in searched:
            continue
        place = b - searched.start
        for number, (i, j) in enumerate(pairs):
            group = members if method.support == "shared" else [members[i], members[j]]
            start = batch.starts[0 if method.support == "shared" else number][place : place + 1]
            point = worst_point(group, image.detach(), label, start, delta)
            norm.append(one_gradient(members[i], point, label).norm() + one_gradient(members[j], point, label).norm())
    return {
        "ce": torch.stack(ce).mean(),
        "cosine": method.lambda_a * torch.stack(cosine).mean(),
        "norm": method.lambda_b * torch.stack(norm).mean(),
    }


@pytest.mark.parametrize("members", [2, 3, 4])
@pytest.mark.parametrize("name", ["trs", "trs_printed"])
def test_paper_terms_equal_the_printed_formula(name, members):
    method = configured(name)
    nets, batch = networks(smooth, members), make_batch(*random_images(5, (1, 8, 8), classes=4), epoch=3)
    terms = method.loss(nets, batch)
    delta = 0.1 + (0.2 - 0.1) * 3 / 10
    expected = naive_paper(method, nets, batch, delta)
    assert len(batch.starts) == (1 if name == "trs" else members * (members - 1) // 2)
    assert all(float(start.abs().max()) <= delta for start in batch.starts)
    assert terms.keys() == expected.keys()
    for term, value in expected.items():
        assert torch.allclose(terms[term], value, rtol=1e-7), term


def test_the_configured_names_are_what_the_reference_says():
    trs, printed, official = (configured(name) for name in NAMES[:3])
    assert (trs.terms, trs.support, trs.support_fraction, trs.ramp) == ("paper", "shared", 0.5, 0.2)
    assert (printed.terms, printed.support, printed.support_fraction, printed.ramp) == ("paper", "pair", 1.0, 0.0)
    assert (official.terms, official.ramp) == ("official", 0.0)
    assert (printed.lambda_a, printed.lambda_b) == (official.lambda_a, official.lambda_b) == (10, 10)
    assert (trs.delta_start, trs.delta_end) == (0.1, 0.2)
    for name in NAMES[1:3]:
        for dataset in ("cifar10", "cifar100"):
            method = configured(name, dataset)
            assert (method.lambda_a, method.lambda_b, method.delta_start, method.delta_end) == (40, 2.5, 0.01, 0.03)
    assert all(configured(name).steps == 6 for name in NAMES[:3])


# ---------------------------------------------------------------- the authors' public code, difference by difference


def cosine_of_then(a: Tensor, b: Tensor) -> Tensor:
    """torch's `cosine_similarity` before 1.12: the product of the squared norms is kept above 1e-8 squared."""
    return (a * b).sum(1) / ((a * a).sum(1) * (b * b).sum(1)).clamp_min(1e-8**2).sqrt()


def cosine_of_today(a: Tensor, b: Tensor) -> Tensor:
    return functional.cosine_similarity(a, b, dim=1, eps=1e-8)


COSINES = {"product": cosine_of_then, "each": cosine_of_today}


def authors_step(
    members: Sequence[nn.Module], x: Tensor, y: Tensor, start: Tensor, *, method: Any, epoch: int, epochs: int
) -> dict[str, Tensor]:
    """One loss of the authors' code for three members, written from the table of its differences (rows 1–9).

    All passes are made as there, in that order: running statistics depend on it.
    """
    delta = method.delta_start + (method.delta_end - method.delta_start) * epoch / epochs  # row 9
    half = len(y) // 2
    criterion = nn.CrossEntropyLoss()  # row 1: mean over the batch

    def gradients(points: Tensor, labels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        losses = [criterion(member(points), labels) for member in members]  # row 8: training mode throughout
        return losses, [torch.autograd.grad(loss, points, create_graph=True)[0].flatten(1) for loss in losses]

    losses, (a, b, c) = gradients(x.clone().requires_grad_(), y)
    cosine = sum(COSINES[method.cosine_floor](u, v).abs() for u, v in ((a, b), (a, c), (b, c))) / 3

    second, labels = x[half:], y[half:]
    point = (second + start).clamp(0, 1).detach().requires_grad_()
    for _ in range(6):
        _, g = gradients(point, labels)
        sum((gradient**2).sum() for gradient in g).backward()  # row 7: point.grad is never cleared
        moved = point.data + delta / 3 * point.grad.sign()
        point.data = torch.min(torch.max(moved, second - delta), second + delta).clamp(0, 1)
    for member in members:
        member.zero_grad(set_to_none=True)

    mixed = torch.cat([x[:half], point.detach()]).requires_grad_()  # rows 5 and 6
    _, g = gradients(mixed, y)
    squares = [(gradient**2).sum(1) for gradient in g]  # row 2
    for member in members:
        member(x)  # the accuracy is watched, in training mode
    return {
        "ce": losses[0] + losses[1] + losses[2],  # row 3
        "cosine": method.lambda_a * cosine.mean(),
        "norm": method.lambda_b * (2 * (squares[0] + squares[1] + squares[2]) / 3).mean(),  # row 4
    }


@pytest.mark.parametrize("floor", COSINES)
@pytest.mark.parametrize("flatness", [1.0, 1e-3])
@pytest.mark.parametrize("epoch", [0, 7])
@pytest.mark.parametrize(
    ("build", "shape", "size"),
    [(resnet, (3, 16, 16), 12), (padded_resnet, (3, 16, 16), 12), (cnn, (1, 8, 8), 13)],
)
def test_official_terms_equal_the_authors_code(build, shape, size, epoch, flatness, floor):
    method = configured("trs_official", "cifar10" if shape[0] == 3 else "mnist", cosine_floor=floor)
    nets = networks(build, 3)
    for net in nets:
        net[-1].weight.data *= flatness
    theirs = copy.deepcopy(nets)
    batch = make_batch(*random_images(size, shape), epoch=epoch)
    ours = method.loss(nets, batch)
    (start,) = batch.starts
    assert start.shape == (size - size // 2, *shape)
    expected = authors_step(theirs, batch.images, batch.labels, start, method=method, epoch=epoch, epochs=10)
    assert ours.keys() == expected.keys()
    for term, value in expected.items():
        assert float(ours[term].detach()) == pytest.approx(float(value.detach()), rel=1e-5), term
    parameters = [p for net in nets for p in net.parameters()]
    counterparts = [p for net in theirs for p in net.parameters()]
    mine = torch.autograd.grad(sum(ours.values()), parameters)
    for got, want in zip(mine, torch.autograd.grad(sum(expected.values()), counterparts), strict=True):
        assert torch.allclose(got, want, rtol=1e-5, atol=1e-7)
    # Row 8: the running statistics have moved: clean batch, six times in the search, mixed batch, clean batch again.
    for got, want in zip([b for n in nets for b in n.buffers()], [b for n in theirs for b in n.buffers()], strict=True):
        assert torch.allclose(got, want, rtol=1e-9)
    if build is resnet:
        assert int(nets[0].bn.num_batches_tracked) == int(nets[0].stage2[0].shortcut.bn.num_batches_tracked) == 9


@pytest.mark.parametrize("build", [resnet, cnn])
def test_the_passes_that_are_only_watched_change_no_gradient(build):
    shape = (3, 16, 16) if build is resnet else (1, 8, 8)
    made = []
    for name in ("needed", "public"):
        nets = networks(build, 3)
        terms = configured("trs_official", running_statistics=name).loss(nets, make_batch(*random_images(9, shape)))
        gradients = torch.autograd.grad(sum(terms.values()), [p for net in nets for p in net.parameters()])
        made.append([*terms.values(), *gradients])
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-6])
@pytest.mark.parametrize("floor", COSINES)
def test_floored_cosines_and_their_gradients_are_those_of_torch(floor, size):
    g = generator("floors")
    first, second = (torch.randn(40, 30, generator=g, dtype=torch.float64) * size for _ in range(2))
    second *= 10.0 ** torch.linspace(-4, 4, 40, dtype=torch.float64).unsqueeze(1)  # pairs on both sides of a floor
    made = []
    for work in (
        lambda a, b: cosines([a, b], floor=1e-8, each=floor == "each")[0],
        COSINES[floor],
    ):
        a, b = first.clone().requires_grad_(), second.clone().requires_grad_()
        value = work(a, b)
        made.append((value.detach(), *torch.autograd.grad(value.abs().sum(), (a, b))))
    for got, want in zip(*made, strict=True):
        assert torch.allclose(got, want, rtol=1e-5, atol=0)  # ours smooth the norms by 1e-12


def test_the_two_floors_are_two_methods_on_flat_images():
    nets, (x, y) = networks(smooth, 3), random_images(64, (1, 8, 8), classes=4)
    for net in nets:
        net[-1].weight.data *= 1e-2
    then, today = (
        CosOnly(lambda_a=1, ramp=0, terms="official", cosine_floor=floor).loss(nets, make_batch(x, y))["cosine"]
        for floor in ("product", "each")
    )
    assert float(then.detach()) < 0.5 * float(today.detach())
    parameters = [p for net in nets for p in net.parameters()]
    below, above = (torch.cat([g.flatten() for g in torch.autograd.grad(term, parameters)]) for term in (then, today))
    assert float((below - above).norm()) > 0.5 * float(above.norm())


def test_the_official_norm_term_is_divided_by_the_square_of_the_batch_size():
    x, y = random_images(128, (1, 8, 8))
    nets = networks(cnn, 3)
    official = CosL2(terms="official", lambda_a=0, lambda_b=10, ramp=0).loss(nets, make_batch(x, y))["norm"].detach()
    squares = [loss_and_gradient(net, x.clone().requires_grad_(), y)[1].detach().square().sum(1) for net in nets]
    per_sample = 10 * sum((squares[i] + squares[j]).mean() for i, j in [(0, 1), (0, 2), (1, 2)]) / 3
    assert float(official) == pytest.approx(float(per_sample) / 16_384, rel=1e-9)
    paper = CosL2(lambda_a=0, lambda_b=10, ramp=0).loss(nets, make_batch(x, y))["norm"].detach()
    by_hand = 10 * 2 * torch.stack([s.sqrt() for s in squares]).mean()
    assert float(paper) == pytest.approx(float(by_hand), rel=1e-9)
    assert float(official) < 1e-3 * float(paper)


@pytest.mark.parametrize("flatness", [1.0, 1e-3])
def test_the_official_cosine_fades_on_flat_images_and_the_papers_does_not(flatness):
    nets, (x, y) = networks(smooth, 3), random_images(6, (1, 8, 8), classes=4)
    for net in nets:
        net[0].weight.data *= flatness
    a, b, c = (loss_and_gradient(net, x.clone().requires_grad_(), y)[1].detach() / 6 for net in nets)
    pairs = [(a, b), (a, c), (b, c)]
    plain = torch.stack([functional.cosine_similarity(u, v, eps=0).abs() for u, v in pairs]).mean()
    damped = [((u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1)).clamp_min(1e-8)).abs() for u, v in pairs]
    method = CosOnly(lambda_a=3, ramp=0)
    assert torch.allclose(method.loss(nets, make_batch(x, y))["cosine"], 3 * plain, rtol=1e-6)
    official = CosOnly(lambda_a=3, ramp=0, terms="official").loss(nets, make_batch(x, y))["cosine"]
    assert torch.allclose(official, 3 * torch.stack(damped).mean(), rtol=1e-6)
    assert bool(official < 2 * plain) == (flatness < 1)


# ---------------------------------------------------------------- all five names


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("members", [2, 4])
def test_parameter_gradients_equal_finite_differences(name, members):
    method = configured(name, ramp=0.5)
    nets = networks(smooth, members)
    x, y = random_images(4, (1, 8, 8), classes=4)
    parameters = [p for net in nets for p in net.parameters()]

    def loss() -> Tensor:
        return sum(method.loss(nets, make_batch(x, y, epoch=2, progress=0.2)).values(), torch.zeros(()))

    gradients = torch.autograd.grad(loss(), parameters)
    g = generator("direction")
    # The search moves by signs, so its points stay where they are under a small change of the weights.
    for _ in range(3):
        direction = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in parameters]
        slope = sum(float((a * b).sum()) for a, b in zip(gradients, direction, strict=True))
        values = []
        for sign in (1, -1):
            for parameter, step in zip(parameters, direction, strict=True):
                parameter.data += sign * 1e-6 * step
            values.append(float(loss().detach()))
            for parameter, step in zip(parameters, direction, strict=True):
                parameter.data -= sign * 1e-6 * step
        assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_cos_only_is_trs_without_the_norm_term_and_searches_nothing():
    nets, (x, y) = networks(smooth, 3), random_images(6, (1, 8, 8), classes=4)
    batch = make_batch(x, y)
    only = CosOnly(lambda_a=3, ramp=0).loss(nets, batch)
    full = Trs(lambda_a=3, lambda_b=1, ramp=0).loss(nets, make_batch(x, y))
    assert only.keys() == {"ce", "cosine"}
    assert not batch.starts
    assert all(torch.equal(only[term], full[term]) for term in only)
    point = Trs(lambda_a=3, lambda_b=1, ramp=0, delta_start=0, delta_end=0, support_fraction=1.0)
    at_image = CosL2(lambda_a=3, lambda_b=1, ramp=0).loss(nets, make_batch(x, y))
    assert torch.allclose(point.loss(nets, make_batch(x, y))["norm"], at_image["norm"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("ramp", "progress", "share"), [(0.2, 0, 0), (0.2, 0.05, 0.25), (0.2, 0.7, 1), (0, 0, 1)])
def test_weights_grow_linearly_over_the_ramp(name, ramp, progress, share):
    nets, (x, y) = networks(smooth, 3), random_images(4, (1, 8, 8), classes=4)
    full = configured(name, ramp=0).loss(nets, make_batch(x, y, progress=progress))
    ramped = configured(name, ramp=ramp).loss(nets, make_batch(x, y, progress=progress))
    assert ramped.keys() == full.keys()
    for term, value in full.items():
        assert torch.allclose(ramped[term], value * (1 if term == "ce" else share)), term


def test_ece_sums_over_members_and_averages_over_images():
    nets, (x, y) = networks(smooth, 3), random_images(6, (1, 8, 8), classes=4)
    by_hand = -sum(float(net(x).detach().log_softmax(1)[b, y[b]]) for net in nets for b in range(6)) / 6
    assert float(Ece().loss(nets, make_batch(x, y))["ce"].detach()) == pytest.approx(by_hand, rel=1e-12)


# ---------------------------------------------------------------- the search


def batch_norms(nets: Sequence[nn.Module]) -> list[nn.BatchNorm2d]:
    return [layer for net in nets for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]


def test_support_points_keep_the_budget_and_raise_the_norm(digits, digits_ensemble):
    members = list(digits_ensemble.members)
    x, y = digits.train.floats(slice(0, 60)), digits.train.labels[:60]
    radius = 0.05

    def total(points: Tensor) -> Tensor:
        return sum(norms(loss_and_gradient(m, points.clone().requires_grad_(), y[-30:])[1]) for m in members).detach()

    for terms in ("paper", "official"):
        method = Trs(terms=terms, delta_start=radius, delta_end=radius)
        batch = make_batch(x, y)
        (points,) = method.support_points(members, batch)
        assert points.shape == (30, 1, 8, 8)
        assert float((points - x[-30:]).abs().max()) <= radius + 1e-6
        assert 0 <= float(points.min()) <= float(points.max()) <= 1
        assert not points.requires_grad
        before, random_corner = total(x[-30:]), total((x[-30:] + radius * batch.starts[0].sign()).clamp(0, 1))
        assert float(total(points).mean()) > 1.3 * float(before.mean())
        assert float(total(points).mean()) > 1.3 * float(random_corner.mean())
        assert float((total(points) > before).float().mean()) > 0.9


@pytest.mark.parametrize("support", ["shared", "pair"])
def test_the_papers_search_leaves_statistics_and_flags_alone(support):
    nets = networks(resnet, 3)
    nets[1].linear.bias.requires_grad_(False)
    flags = [p.requires_grad for net in nets for p in net.parameters()]
    once = copy.deepcopy(nets)
    x, y = random_images(8, (3, 16, 16))
    Trs(support=support, steps=2).loss(nets, make_batch(x, y))
    with torch.no_grad():
        for net in once:
            net(x)
    # The one pass over the clean batch is all that the running statistics have seen.
    for got, want in zip([b for n in nets for b in n.buffers()], [b for n in once for b in n.buffers()], strict=True):
        assert torch.allclose(
            got, want, rtol=1e-5, atol=1e-7
        )  # sums in another order; a second look moves them by 10 %
    assert [p.requires_grad for net in nets for p in net.parameters()] == flags
    assert all(p.grad is None for net in nets for p in net.parameters())
    assert all(layer.track_running_stats for layer in batch_norms(nets))


def test_the_papers_search_uses_the_batchs_own_statistics():
    (net,) = networks(resnet, 1)
    x, y = random_images(8, (3, 16, 16))
    plain = copy.deepcopy(net)
    net.bn.running_mean += 100  # what eval mode would use
    with search_mode([net]):
        _, inside = loss_and_gradient(net, x.clone().requires_grad_(), y)
    assert torch.allclose(inside, loss_and_gradient(plain, x.clone().requires_grad_(), y)[1], atol=1e-10)


def test_a_search_that_raises_restores_everything():
    nets = networks(resnet, 2)
    with pytest.raises(ZeroDivisionError), search_mode(nets):
        raise ZeroDivisionError
    assert all(p.requires_grad for net in nets for p in net.parameters())
    assert all(layer.track_running_stats for layer in batch_norms(nets))


def test_delta_grows_with_the_epoch_and_never_quite_reaches_its_end():
    nets, (x, y) = networks(smooth, 2), random_images(40, (1, 8, 8), classes=4)
    for epoch, expected in [(0, 0.01), (30, 0.015), (119, 0.01 + 0.02 * 119 / 120)]:
        batch = make_batch(x, y, epoch=epoch, epochs=120)
        points = configured("trs_official", "cifar10").support_points(nets, batch)
        assert math.isclose(float((points[0] - x[-20:]).abs().max()), expected, rel_tol=1e-9)
        assert 0.97 * expected < float(batch.starts[0].abs().max()) <= expected


@pytest.mark.parametrize("share", [1 / 3, 0.05, 0.5])
def test_the_search_steps_by_a_share_of_delta(share):
    nets, (x, y) = networks(smooth, 2), random_images(6, (1, 8, 8), classes=4)
    x = 0.3 + 0.4 * x  # away from 0 and 1
    batch = make_batch(x, y)
    method = Trs(steps=1, delta_start=0.2, delta_end=0.2, rel_step=share, support_fraction=1.0)
    (points,) = method.support_points(nets, batch)
    start = (x + batch.starts[0]).clamp(0, 1)
    moved, room = (points - start).abs(), 0.2 - batch.starts[0].abs()
    free = (room > 0.2 * share + 1e-9) & (moved > 0)  # the network does not see the last row and column
    assert torch.allclose(moved[free], torch.full_like(moved[free], 0.2 * share), atol=1e-12)
    assert float(moved.max()) <= 0.2 * share + 1e-12
    assert bool(free.any())


def test_the_usual_step_has_the_bits_that_it_had_before_it_could_be_set():
    for radius in (0.03, 0.15, *torch.rand(1000, dtype=torch.float64).tolist()):
        assert radius / (1 / Trs().rel_step) == radius / 3
    assert settings.build(Trs, {"rel_step": "1/3"}, "trs") == Trs()


@pytest.mark.parametrize(("size", "fraction", "searched"), [(5, 0.5, 2), (4, 0.5, 2), (4, 0.1, 1), (5, 1.0, 5)])
def test_the_searched_images_are_the_last_of_the_batch(size, fraction, searched):
    nets, (x, y) = networks(smooth, 2), random_images(size, (1, 8, 8), classes=4)
    (points,) = Trs(support_fraction=fraction, delta_start=0.01).support_points(nets, make_batch(x, y))
    assert len(points) == searched
    assert float((points - x[-searched:]).abs().max()) <= 0.01 + 1e-12


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"terms": "official", "support": "pair"}, "official"),
        ({"terms": "official", "support_fraction": 1.0}, "official"),
        ({"support_fraction": 0.0}, "support_fraction"),
        ({"ramp": 1.5}, "ramp"),
        ({"lambda_a": -1.0}, "lambda_a"),
        ({"lambda_b": -1.0}, "lambda_b"),
        ({"steps": 0}, "steps"),
        ({"delta_end": -0.1}, "delta_end"),
        ({"rel_step": 0.0}, "rel_step"),
        ({"cosine_floor": "each"}, "terms"),
        ({"running_statistics": "public"}, "terms"),
    ],
)
def test_settings_without_sense_are_refused(changes, names):
    with pytest.raises(BenchError, match=names):
        Trs(**changes)
