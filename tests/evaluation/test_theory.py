"""The terms of the theorems against closed forms on linear models, and against suprema on a grid in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from attacking import AXES
from linear import Line
from torch import Tensor, nn

from bench.attacks.conditions import Conditions
from bench.attacks.iterative import PGDL2
from bench.attacks.judge import target_classes
from bench.core.bits import from_text
from bench.core.theorems import Terms, lower_bound, upper_bound
from bench.data.base import ImageSet
from bench.evaluation import measure
from bench.evaluation.theory import Search, theory
from bench.models.ensemble import Ensemble
from bench.store.rates import transfer_rates

pytestmark = pytest.mark.usefixtures("_one_thread")

READINGS = ("seen", "least")


def under(eps: float, targets: Any) -> Conditions:
    return Conditions(budget=eps, stop="last", targets=targets, seed_axes=AXES)


def outcomes(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Clean [N+1, n] and attacked [N, N+1, n] bits of a record."""
    n, count = record["n"], len(record["clean_rows"])
    clean = np.stack([from_text(row["bits"], n) for row in record["clean_rows"]])
    hits = np.stack([from_text(cell["bits"], n) for cell in record["cells"]]).reshape(count - 1, count, n)
    return clean, hits


def terms_of(record: dict[str, Any], pair: dict[str, Any], reading: str, eps: float, targeted: bool) -> Terms:
    clean, hits = outcomes(record)
    f, g = pair["source"], pair["target"]
    members = record["measurements"]["members"]
    return Terms(
        eps=eps, alpha=1 - hits[f, f].mean(), risk=2 - clean[f].mean() - clean[g].mean(),
        loss=members[f]["loss"] + members[g]["loss"], l_min=pair["l_min"], targeted=targeted, **pair[reading],
    )  # fmt: skip


def assert_between(record: dict[str, Any], eps: float, targeted: bool) -> int:
    """Measured transferability lies between both bounds, for each pair and reading; how many upper bounds limit it."""
    rates, _ = transfer_rates(*outcomes(record), rate="definition6")
    limits = 0
    for pair in record["measurements"]["pairs"]:
        measured = rates[pair["source"], pair["target"]]
        for reading in READINGS:
            terms = terms_of(record, pair, reading, eps, targeted)
            low, high = lower_bound(terms), upper_bound(terms)
            assert low.value is None or low.value <= measured + 1e-9
            assert high.value is None or high.value >= measured - 1e-9
            assert not low.limits  # as docs/theory.md proves
            limits += high.limits
    return limits


# ---------------------------------------------------------------- two classes, two pixels: everything in closed form


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


@pytest.fixture
def lines() -> Ensemble:
    return Ensemble([Line((6.0, 2.0), -4.0), Line((4.0, 6.0), -5.2)])


@pytest.fixture
def points() -> ImageSet:
    """60 points inside [.2, .8]²; of 10 near the boundaries the label is that of the line x₁ + x₂ = 1."""
    drawn = torch.randint(51, 205, (60, 1, 1, 2), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return ImageSet(drawn, (drawn.sum((1, 2, 3)) < 255).long())


@pytest.mark.parametrize("targets", ["random", None])
@pytest.mark.parametrize("eps", [0.02, 0.15])
def test_two_lines_have_the_terms_of_their_closed_forms(lines, points, targets, eps):
    record = theory(lines, points, PGDL2(steps=300), under(eps, targets), Search(pairs=240, steps=200, searched=64))
    x, y = points.floats().double().numpy().reshape(-1, 2), points.labels.numpy()
    sign = 1 - 2 * y  # the lead of class 0 over 1 is 2z
    slopes, offsets = np.array([[6.0, 2.0], [4.0, 6.0]]), np.array([-4.0, -5.2])
    z = x @ slopes.T + offsets.astype(np.float32)
    lengths = np.linalg.norm(slopes, axis=1)
    clean, hits = outcomes(record)
    for m, told in enumerate(record["measurements"]["members"]):
        assert (clean[m] == ((z[:, m] > 0) == (y == 0))).all()  # the risk η
        own = np.log1p(np.exp(-2 * sign * z[:, m]))
        assert told["loss"] == pytest.approx(own.mean())  # ξ
        assert told["loss_deviation"] == pytest.approx(own.std(ddof=1))
        # ‖∇ℓ‖ = 2‖w‖σ of the other class's lead: over both classes the larger one
        assert told["gradient"] == pytest.approx((2 * lengths[m] * sigmoid(2 * np.abs(z[:, m]))).max())
        # ∇²ℓ = 4σ(1 − σ)wwᵀ is largest on the line, ‖w‖², which some ball reaches if a point is within ε of it
        assert (np.abs(z[:, m]) < eps * lengths[m]).any()
        assert told["drawn"] <= told["searched"] <= lengths[m] ** 2 + 1e-9
        assert told["searched"] == pytest.approx(lengths[m] ** 2, rel=2e-2)
    cosine = slopes[0] @ slopes[1] / lengths.prod()
    for pair in record["measurements"]["pairs"]:
        f, g = pair["source"], pair["target"]
        # The best attack goes straight across the line of F, and so does PGD.
        lead = sign[:, None] * z
        moved = np.stack([lead[:, m] - eps * (slopes[m] @ slopes[f]) / lengths[f] for m in (f, g)])
        assert (hits[f, f] == (moved[0] < 0)).all()  # α
        assert (hits[f, g] == (moved[1] < 0)).all()
        for reading in READINGS:
            assert pair[reading]["lower"] == pytest.approx(cosine)
            assert pair[reading]["upper"] == pytest.approx(cosine)
        towards = np.log1p(np.exp(2 * lead))  # the loss of the other class
        assert pair["l_min"] == pytest.approx(towards.min())
        beta = pair["seen"]["smoothness"]
        reached = [np.log1p(np.exp(-2 * np.abs(part))) for part in moved]
        if targets:
            own, slope = towards, 2 * lengths * sigmoid(2 * lead)
        else:
            own, slope = np.log1p(np.exp(-2 * lead)), 2 * lengths * sigmoid(-2 * lead)
            reached = [np.log1p(np.exp(2 * part)) for part in moved]
        half, side = beta * eps**2 / 2, 1 if targets else -1
        c_f = (reached[0] - own[:, f] + side * half) / slope[:, f]
        c_g = (reached[1] - own[:, g] - side * half) / slope[:, g]
        assert pair["seen"]["c_f"] == pytest.approx(c_f.max() if targets else c_f.min(), rel=1e-4)
        assert pair["seen"]["c_g"] == pytest.approx(c_g.min() if targets else c_g.max(), rel=1e-4)
        rates, _ = transfer_rates(clean, hits, rate="definition6")
        both = (lead > 0).all(1)
        assert rates[f, g] == pytest.approx((both & (moved < 0).all(0)).mean())  # Definition 6
    assert_between(record, eps, targets is not None)


def test_far_from_the_lines_the_upper_bound_says_something(lines):
    """Two clouds of points that both lines tell apart well: few are led across by a small step, and Theorem 2 knows."""
    generator = torch.Generator().manual_seed(2)
    low = torch.randint(0, 40, (40, 1, 1, 2), generator=generator, dtype=torch.uint8)
    images = ImageSet(torch.cat([low, 255 - low]), torch.cat([torch.ones(40), torch.zeros(40)]).long())
    record = theory(lines, images, PGDL2(steps=20), under(0.05, "random"), Search())
    assert assert_between(record, 0.05, True) == 4  # both pairs, both readings


# ---------------------------------------------------------------- linear softmax models in more dimensions


class Softmax(nn.Module):
    """A linear model of 16 pixels and five classes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 5)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.linear.weight.copy_(2 * torch.randn(5, 16, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


@pytest.fixture
def patches() -> ImageSet:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (50, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.randint(0, 5, (50,), generator=generator))


@pytest.mark.parametrize("targets", ["random", "least_likely", None])
def test_softmax_models_have_the_terms_of_their_closed_forms(patches, targets):
    models = [Softmax(1), Softmax(2), Softmax(3)]
    ensemble, conditions = Ensemble(models), under(0.3, targets)
    record = theory(ensemble, patches, PGDL2(steps=20), conditions, Search(pairs=150))
    x, rows = patches.floats().double().flatten(1), torch.arange(50)
    gradients, losses = [], []
    for model in models:
        weight, bias = (part.detach().double() for part in model.linear.parameters())
        probabilities = (x @ weight.T + bias).softmax(1)
        # ∇ℓ(x, y) = Wᵀ(p − e_y)
        gradients.append(torch.stack([(probabilities - torch.eye(5)[y]) @ weight for y in range(5)], 1).detach())
        losses.append(-probabilities.log().detach())
        # ∇²ℓ is the covariance of the rows of W under p: at most (the largest distance of two rows)² / 4
        told = record["measurements"]["members"][len(losses) - 1]
        limit = float(torch.cdist(weight, weight).max()) ** 2 / 4
        assert 0 < told["drawn"] <= told["searched"] <= limit
        assert told["loss"] == pytest.approx(float(losses[-1][rows, patches.labels].mean()))
        assert told["gradient"] == pytest.approx(float(gradients[-1].norm(dim=2).max()))
        assert told["gradient_ball"] >= told["gradient"]
    wanted = target_classes(ensemble, patches, conditions)
    for pair in record["measurements"]["pairs"]:
        f, g = gradients[pair["source"]], gradients[pair["target"]]
        cosine = torch.nn.functional.cosine_similarity(f, g, dim=2)
        assert pair["seen"]["lower"] == pytest.approx(float(cosine.min()))
        assert pair["seen"]["upper"] == pytest.approx(float(cosine.max()))
        assert pair["similarity"] == pytest.approx(np.quantile(cosine, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]).tolist())
        led = patches.labels if wanted is None else wanted
        assert pair["least"]["lower"] == pytest.approx(float(cosine[rows, led].min()))
        both = torch.stack([losses[pair["source"]], losses[pair["target"]]])
        if wanted is None:
            both[:, rows, patches.labels] = torch.inf
            assert pair["l_min"] == pytest.approx(float(both.min()))
        else:
            assert pair["l_min"] == pytest.approx(float(both[:, rows, wanted].min()))
        assert pair["least"]["smoothness"] <= pair["seen"]["smoothness"]
    assert_between(record, 0.3, targets is not None)


def test_the_terms_do_not_depend_on_how_many_images_are_held_at_once(patches, monkeypatch):
    ensemble = Ensemble([Softmax(1), Softmax(2)])
    once = theory(ensemble, patches, PGDL2(steps=3), under(0.2, "random"), Search())
    monkeypatch.setattr("bench.evaluation.theory.NUMBERS", 16 * 5 * 2 * 7)
    monkeypatch.setattr("bench.evaluation.theory._last", {})
    again = theory(ensemble, patches, PGDL2(steps=3), under(0.2, "random"), Search())
    for name in ("members", "pairs"):
        for one, other in zip(once["measurements"][name], again["measurements"][name], strict=True):
            assert flat(one) == pytest.approx(flat(other), rel=1e-9)


def flat(value: Any) -> list[float]:
    if isinstance(value, dict | list):
        return [number for part in (value.values() if isinstance(value, dict) else value) for number in flat(part)]
    return [float(value)]


# ---------------------------------------------------------------- small smooth networks, whose suprema a grid finds


def small_network(seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(1.5 * torch.randn(parameter.shape, generator=generator))
    return network


def on_a_grid(networks: Sequence[nn.Module], size: int = 121) -> dict[str, Any]:
    """Suprema over [0, 1]² and all classes: B and β of each network, both similarities of each pair."""
    axis = torch.linspace(0, 1, size, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)
    slopes, bounds, smooth = [], [], []
    for network in networks:
        at = x.clone().requires_grad_()
        losses = -network.double()(at).log_softmax(1)
        gradients, curvature = [], torch.zeros(())
        for label in range(3):
            (slope,) = torch.autograd.grad(losses[:, label].sum(), at, create_graph=True)
            rows = [torch.autograd.grad(slope[..., k].sum(), at, retain_graph=True)[0].view(-1, 2) for k in range(2)]
            curvature = torch.maximum(curvature, torch.linalg.matrix_norm(torch.stack(rows, 1), 2).max())
            gradients.append(slope.detach().view(-1, 2))
        slopes.append(torch.stack(gradients, 1))
        bounds.append(float(slopes[-1].norm(dim=2).max()))
        smooth.append(float(curvature))
        network.float()
    cosine = {
        (i, j): torch.nn.functional.cosine_similarity(slopes[i], slopes[j], dim=2)
        for i, j in permutations(range(len(networks)), 2)
    }
    return {"gradient": bounds, "smoothness": smooth, "cosine": cosine}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("targets", ["random", None])
def test_estimates_err_on_their_side_of_what_a_grid_finds(seed, targets):
    """Beyond the grid's own coarseness (1 %) nothing that was seen passes the supremum; with that, the bounds hold."""
    networks = [small_network(2 * seed), small_network(2 * seed + 1)]
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (80, 1, 1, 2), generator=generator, dtype=torch.uint8)
    labels = networks[0](pixels / 255).argmax(1)  # one network is right everywhere, the other sometimes
    images, eps = ImageSet(pixels, labels), (0.01, 0.05, 0.2)[seed % 3]
    conditions = under(eps, targets)
    crafted: list[Tensor] = []
    ensemble = Ensemble(networks)
    measure.transferability(ensemble, images, PGDL2(steps=20), conditions, keep=crafted)
    record = theory(ensemble, images, PGDL2(steps=20), conditions, Search(pairs=150))
    true = on_a_grid(networks)
    for m, told in enumerate(record["measurements"]["members"]):
        assert told["gradient"] <= told["gradient_ball"] <= true["gradient"][m] * 1.01
        assert told["searched"] <= true["smoothness"][m] * 1.01
    rates, _ = transfer_rates(*outcomes(record), rate="definition6")
    x = images.floats().double()
    wanted = target_classes(ensemble, images, conditions)
    led = labels if wanted is None else wanted
    for pair in record["measurements"]["pairs"]:
        f, g = pair["source"], pair["target"]
        cosine, seen = true["cosine"][f, g], pair["seen"]
        assert seen["lower"] >= float(cosine.min()) - 0.01
        assert seen["upper"] <= float(cosine.max()) + 0.01
        assert pair["least"]["smoothness"] <= max(true["smoothness"]) * 1.01
        # The theorems with the suprema of the grid, c_F and c_G from their definition.
        beta = 1.01 * max(true["smoothness"])
        half, side = beta * eps**2 / 2, 1 if wanted is not None else -1
        c = []
        for m, sign in ((f, side), (g, -side)):
            at = x.clone().requires_grad_()
            losses = -networks[m].double()(at).log_softmax(1)
            (slope,) = torch.autograd.grad(losses.gather(1, led[:, None]).sum(), at)
            there = -networks[m](crafted[f].double()).log_softmax(1)
            networks[m].float()
            if wanted is None:
                there = there.scatter(1, labels[:, None], torch.inf)
            ratio = there.amin(1) - losses.gather(1, led[:, None]).squeeze(1) + sign * half
            c.append((ratio / slope.flatten(1).norm(dim=1)).detach())
        targeted = wanted is not None
        terms = Terms(
            **{
                **vars(terms_of(record, pair, "seen", eps, targeted)),
                "smoothness": beta, "gradient": 1.01 * max(true["gradient"]),
                "lower": max(-1.0, float(cosine.min()) - 0.01), "upper": min(1.0, float(cosine.max()) + 0.01),
                "c_f": float(c[0].max() if targeted else c[0].min()),
                "c_g": float(c[1].min() if targeted else c[1].max()),
            }
        )  # fmt: skip
        low, high = lower_bound(terms), upper_bound(terms)
        assert low.value is None or low.value <= min(0, rates[f, g])
        assert high.value is None or high.value >= rates[f, g]
        tighter = upper_bound(terms_of(record, pair, "seen", eps, targeted))
        assert tighter.value is None or high.value is None or tighter.value <= high.value
    assert_between(record, eps, targeted)
