"""CW and EAD: margins, closed forms on linear models, the shrinkage step."""

from __future__ import annotations

import pytest
import torch
from attacking import attack
from torch import Tensor, nn

from bench.attacks.cw import CW
from bench.attacks.ead import EAD, shrink
from bench.attacks.judge import AttackOutcome, predictions
from bench.attacks.losses import ce, cw, dlr, margin
from bench.core.errors import BenchError
from bench.core.seeds import generator
from bench.data.base import ImageSet

pytestmark = pytest.mark.usefixtures("_one_thread")


class Binary(nn.Module):
    """Logits [0, w·x + b] on 4×4 images."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, generator=generator("binary weight")))
        self.bias = nn.Parameter(-0.5 * self.weight.detach().sum())

    def margin(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight + self.bias

    def forward(self, x: Tensor) -> Tensor:
        value = self.margin(x)
        return torch.stack([torch.zeros_like(value), value], 1)


def grey_images(model: Binary, n: int) -> ImageSet:
    """Pixels of .3 to .7; labels as the model sees them."""
    pixels = torch.randint(77, 179, (n, 1, 4, 4), generator=generator("grey")).to(torch.uint8)
    return ImageSet(pixels, (model.margin(pixels / 255) > 0).long())


def l2(outcome: AttackOutcome, images: ImageSet) -> Tensor:
    return (outcome.adversarial - images.floats()).flatten(1).norm(dim=1)


# ---------------------------------------------------------------- losses


def naive_margin(row: list[float], k: int) -> float:
    return row[k] - max(value for index, value in enumerate(row) if index != k)


@pytest.mark.parametrize("log_probabilities", [True, False])
def test_margins_and_losses_equal_naive_ones(log_probabilities):
    scores = 4 * torch.randn(60, 7, generator=generator("scores"), dtype=torch.float64)
    if log_probabilities:
        scores = scores.log_softmax(1)
    labels, targets = torch.arange(60) % 7, (torch.arange(60) + 3) % 7
    for k, row in enumerate(scores.tolist()):
        y, t = int(labels[k]), int(targets[k])
        order = sorted(row, reverse=True)
        one = (scores[k : k + 1], labels[k : k + 1])
        aimed = (*one, targets[k : k + 1])
        total = torch.tensor(row).logsumexp(0)
        other = max(value for index, value in enumerate(row) if index != y)
        expected = {
            margin(*one): naive_margin(row, y),
            cw(*one): -max(naive_margin(row, y) + 0.1, 0),
            cw(*aimed, confidence=0.5): -max(-naive_margin(row, t) + 0.5, 0),
            ce(*one): float(total) - row[y],
            ce(*aimed): row[t] - float(total),
            dlr(*one): -(row[y] - other) / (order[0] - order[2]),
            dlr(*aimed): -(row[y] - row[t]) / (order[0] - (order[2] + order[3]) / 2),
        }
        for value, number in expected.items():
            assert float(value) == pytest.approx(number, rel=1e-5, abs=1e-6)


def test_the_margin_keeps_its_gradient_on_log_probabilities_where_a_zero_mask_would_kill_it():
    scores = torch.tensor([[2.0, 1.5, -3.0]], requires_grad=True)
    cw(scores.log_softmax(1), torch.tensor([0])).sum().backward()
    assert torch.allclose(scores.grad, torch.tensor([[-1.0, 1.0, 0.0]]), atol=1e-6)


def test_dlr_does_not_change_when_scores_are_shifted_and_scaled():
    scores, labels = torch.randn(20, 5, generator=generator("s"), dtype=torch.float64), torch.arange(20) % 5
    assert torch.allclose(dlr(3 * scores.log_softmax(1) + 7, labels), dlr(scores, labels), atol=1e-9)


def test_dlr_needs_three_classes_and_with_targets_four():
    labels = torch.zeros(2, dtype=torch.long)
    with pytest.raises(BenchError, match="three classes"):
        dlr(torch.zeros(2, 2), labels)
    with pytest.raises(BenchError, match="four classes"):
        dlr(torch.zeros(2, 3), labels, labels + 1)


# ---------------------------------------------------------------- CW


def test_the_distance_of_cw_grows_with_c_up_to_that_of_the_plane():
    """Carlini and Wagner's objective on a linear model: the way to the plane is |w·x + b| / ‖w‖."""
    model = Binary()
    images = grey_images(model, 60)
    with torch.no_grad():
        shortest = model.margin(images.floats()).abs() / model.weight.norm()
    clear = shortest > 0.05
    assert int(clear.sum()) > 30
    for c in (0.02, 0.3, 1.0, 10.0):
        # A small rate where the optimum lies before the plane: Adam's first steps swing over it.
        which = CW(confidence=0.001, rate=0.001 if c == 0.02 else 0.01)
        outcome = attack(which, model, images, c, stop="last")
        ratio = (l2(outcome, images) / shortest)[clear]
        if c == 0.02:
            assert outcome.robust[clear].all()
            assert float(ratio.max()) < 0.9
        else:
            assert not outcome.robust.any()
            assert float(ratio.min()) > 1 - 1e-4  # nothing on the other side is nearer than the plane
            assert float(ratio.max()) < 1.035
            assert float(ratio.median()) < 1.015


def test_cw_with_a_small_c_stops_where_the_distance_costs_more():
    """Minimum of ‖δ‖² + c·(m − ‖w‖·‖δ‖ + κ): ‖δ‖ = c‖w‖/2, so an image breaks where this passes the plane."""
    model, c = Binary(), 0.05
    images = grey_images(model, 200)
    outcome = attack(CW(rate=0.001), model, images, c, stop="last")
    with torch.no_grad():
        shortest = model.margin(images.floats()).abs() / model.weight.norm()
        reach = c * float(model.weight.norm()) / 2
    clear = (shortest / reach - 1).abs() > 0.05
    assert torch.equal(outcome.robust[clear], (shortest > reach)[clear])
    assert 40 < int(outcome.robust.sum()) < 160
    failed = outcome.robust & clear
    # A failed image is the minimum of the objective, not the clean image: it has to be worth transferring.
    assert torch.allclose(l2(outcome, images)[failed], torch.tensor(reach), rtol=0.02)


def test_the_first_success_of_cw_breaks_what_the_last_breaks():
    model = Binary()
    images = grey_images(model, 100)
    images.labels[::10] = 1 - images.labels[::10]
    first, last = (attack(CW(steps=300), model, images, 0.04, stop=stop) for stop in ("first_success", "last"))
    assert not bool((first.robust & ~last.robust).any())
    assert 10 < int(first.robust.sum()) < 80
    assert first.backwards < last.backwards
    assert float(l2(first, images)[first.clean & ~first.robust].mean()) > 0


def test_confident_results_lead_by_the_confidence(digits, digits_ensemble):
    images = digits.test.take(slice(0, 40))
    which = CW(steps=150, confident=True, confidence=0.3)
    outcome = attack(which, digits_ensemble, images, 1.0, stop="last")
    with torch.no_grad():
        leads = -margin(digits_ensemble(outcome.adversarial), images.labels)
    broken = outcome.clean & ~outcome.robust
    assert int(broken.sum()) > 20
    assert float(leads[broken].quantile(0.1)) >= 0.3 - 1e-3


# ---------------------------------------------------------------- EAD


def test_shrinkage_equals_the_naive_rule():
    """Chen et al. 2018, equation (5), pixel by pixel."""
    z = 3 * torch.rand(4, 1, 5, 5, generator=generator("z"), dtype=torch.float64) - 1
    images = torch.rand(4, 1, 5, 5, generator=generator("images"), dtype=torch.float64)
    beta = 0.2
    expected = torch.empty_like(z)
    for index in range(z.numel()):
        value, x = float(z.flatten()[index]), float(images.flatten()[index])
        if value - x > beta:
            result = min(value - beta, 1.0)
        elif value - x < -beta:
            result = max(value + beta, 0.0)
        else:
            result = x
        expected.view(-1)[index] = result
    assert torch.allclose(shrink(z, images, beta), expected, atol=1e-12)
    assert bool((expected == images).any())
    assert bool((expected == 1).any())
    assert bool((expected == 0).any())


def test_shrinkage_minimises_its_quadratic():
    z, x = (torch.tensor(row, dtype=torch.float64) for row in ([0.9, 0.42, 0.1, 1.7], [0.4, 0.4, 0.5, 0.9]))
    grid, beta = torch.linspace(0, 1, 100_001, dtype=torch.float64), 0.05
    for k in range(4):
        cost = (grid - z[k]).square() / 2 + beta * (grid - x[k]).abs()
        assert float(shrink(z[k], x[k], beta)) == pytest.approx(float(grid[cost.argmin()]), abs=2e-5)


def test_ead_follows_fista_image_by_image():
    """A naive loop over one image, with the gradient of the objective by autograd."""
    model, c, beta, steps = Binary(), 2.0, 0.01, 25
    images = grey_images(model, 5)
    outcome = attack(EAD(steps=steps, beta=beta), model, images, c, stop="last")
    for k in range(5):
        x, label = images.floats()[k : k + 1], int(images.labels[k])
        point, slack, best, least = x.clone(), x.clone(), None, float("inf")
        for step in range(steps):
            y = slack.clone().requires_grad_()
            scores = model(y)[0]
            hinge = (scores[label] - scores[1 - label] + 0.1).clamp_min(0)
            (slope,) = torch.autograd.grad(c * hinge + (y - x).square().sum(), y)
            z = slack - 0.01 * (1 - step / steps) ** 0.5 * slope
            moved = torch.where(z - x > beta, (z - beta).clamp_max(1), x)
            moved = torch.where(z - x < -beta, (z + beta).clamp_min(0), moved)
            slack, point = moved + step / (step + 3) * (moved - point), moved
            distance = float(beta * (point - x).abs().sum() + (point - x).square().sum())
            if int(model(point).argmax()) != label and distance < least:
                best, least = point, distance
        assert torch.allclose(outcome.adversarial[k : k + 1], point if best is None else best, atol=1e-5)


def test_ead_changes_few_pixels_where_cw_changes_all():
    model = Binary()
    images = grey_images(model, 40)
    sparse, dense = (attack(which, model, images, 5.0, stop="last") for which in (EAD(beta=0.02), CW()))
    changed = [((o.adversarial - images.floats()).abs() > 1e-4).flatten(1).sum(1).float() for o in (sparse, dense)]
    assert float(changed[0].mean()) < 0.8 * float(changed[1].mean())


# ---------------------------------------------------------------- both


@pytest.mark.parametrize("stop", ["first_success", "last"])
@pytest.mark.parametrize(("which", "c"), [(CW(steps=20, rate=0.1), 1.0), (EAD(steps=20), 2.0)], ids=["cw", "ead"])
def test_images_stay_in_the_cube_and_do_not_depend_on_the_batch(digits, digits_ensemble, which, c, stop):
    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return double(x.double())

    double, images = digits_ensemble.double(), digits.test.take(slice(0, 40))
    settings = {"stop": stop}
    one, *others = (attack(which, Double(), images, c, batch_size=size, **settings) for size in (128, 7, 1))
    assert 0 <= float(one.adversarial.min()) <= float(one.adversarial.max()) <= 1
    for other in others:
        assert torch.equal(other.robust, one.robust)
        assert torch.allclose(other.adversarial, one.adversarial, atol=1e-5)
        assert (other.forwards, other.backwards) == (one.forwards, one.backwards)
    order = torch.randperm(40, generator=generator("order"))
    shuffled = attack(which, Double(), images.take(order), c, **settings)
    assert torch.equal(shuffled.robust, one.robust[order])
    assert torch.equal(one.clean & (predictions(Double(), one.adversarial) == images.labels), one.robust)
    assert int(one.robust.sum()) < int(one.clean.sum()) - 5


@pytest.mark.parametrize("stop", ["first_success", "last"])
@pytest.mark.parametrize(("which", "c"), [(CW(steps=60), 0.3), (EAD(steps=60), 2.0)], ids=["cw", "ead"])
def test_distances_of_broken_images_are_measured(digits, digits_ensemble, which, c, stop):
    images = digits.test.take(slice(0, 50))
    outcome = attack(which, digits_ensemble, images, c, stop=stop, batch_size=20)
    broken = outcome.clean & ~outcome.robust
    change = (outcome.adversarial - images.floats()).flatten(1)[broken]
    told = outcome.measurements["distances"]
    assert told["broken"] == int(broken.sum()) > 5
    for norm, values in (("l1", change.abs().sum(1)), ("l2", change.norm(dim=1))):
        for name, value in (("mean", values.mean()), ("min", values.min()), ("max", values.max())):
            assert told[norm][name] == pytest.approx(float(value), rel=1e-4)
        assert told[norm]["median"] == pytest.approx(float(values.quantile(0.5)), rel=1e-4)


def test_without_c_nothing_breaks(digits, digits_ensemble):
    images = digits.test.take(slice(0, 40))
    for which in (CW(steps=20), EAD(steps=20)):
        outcome = attack(which, digits_ensemble, images, 0.0)
        assert torch.equal(outcome.robust, outcome.clean)
        assert outcome.measurements["distances"] == {"broken": 0}


@pytest.mark.parametrize(("which", "c"), [(CW(steps=80, rate=0.05), 3.0), (EAD(steps=50), 5.0)], ids=["cw", "ead"])
def test_targets_are_reached(digits, digits_ensemble, which, c):
    images = digits.test.take(slice(0, 60))
    targets = (images.labels + 1) % 10
    outcome = attack(which, digits_ensemble, images, c, stop="last", targets=targets)
    assert torch.equal(predictions(digits_ensemble, outcome.adversarial) == targets, outcome.hit)
    assert int(outcome.hit.sum()) > 20
    first = attack(which, digits_ensemble, images, c, stop="first_success", targets=targets)
    assert not bool((outcome.hit & outcome.clean & ~first.hit).any())


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: CW(steps=0), "steps"),
        (lambda: CW(rate=0.0), "rate"),
        (lambda: CW(confidence=-1.0), "confidence"),
        (lambda: EAD(beta=-0.1), "beta"),
        (lambda: EAD(restarts=0), "restarts"),
    ],
)
def test_settings_without_sense_are_refused(make, what):
    with pytest.raises(BenchError, match=what):
        make()
