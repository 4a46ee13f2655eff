"""Square: the authors' code step by step with the same random numbers, closed forms, what it asks."""

from __future__ import annotations

import importlib
from typing import Any
from unittest.mock import patch

import pytest
import torch
from attacking import AXES, attack
from torch import Tensor, nn

from bench.attacks.draws import Draws
from bench.attacks.judge import predictions
from bench.attacks.square import HALVED_AFTER, Square, SquareL2, pyramids
from bench.core.errors import BenchError
from bench.core.seeds import generator
from bench.data.base import ImageSet

pytestmark = pytest.mark.usefixtures("_one_thread")


class Numbers:
    """A `torch.rand` for the authors' code that gives the numbers of ours, in the order in which that draws them."""

    def __init__(self, which: Square, images: ImageSet, right: Tensor) -> None:
        self.shape = tuple(images.images.shape[1:])
        draws = Draws((*AXES, "attack"), self.shape)
        channels = self.shape[0]
        drawn = draws.shared(("squares", 0), which.queries * (5 + channels))
        queries = [drawn[k * (5 + channels) : (k + 1) * (5 + channels)] for k in range(which.queries)]
        self.numbers = iter(list((self._in_l2 if which.norm == "l2" else self._in_linf)(draws, right, queries)))

    def _in_linf(self, draws: Draws, right: Tensor, queries: list[list[float]]) -> Any:
        yield (draws.take("uniform", ("stripes", 0), right)[:, :, :1] >= 0).float()
        for query in queries:
            yield from (torch.tensor([number]) for number in query[:2])
            yield torch.tensor(query[5:]).view(-1, 1, 1)

    def _in_l2(self, draws: Draws, right: Tensor, queries: list[list[float]]) -> Any:
        _, height, width = self.shape
        signs = (draws.take("uniform", ("tiles", 0), right) >= 0).float()
        side, first = height // 5, (height - height // 5 * 5) // 2
        turned = draws.shared(("turned", 0), (height // side) * (width // side))
        for row in range(height // side):
            for column in range(width // side):
                yield torch.tensor([turned[row * (width // side) + column]])
                yield (
                    signs[:, :, first + row * side, first + column * side][:, :, None, None]
                    if (first + row * side < height and first + column * side < width)
                    else signs[:, :, :1, :1]
                )
        for query in queries:
            yield from (torch.tensor([number]) for number in query[:5])
            yield torch.tensor(query[5:]).view(1, -1, 1, 1)

    def __call__(self, shape: Any) -> Tensor:
        return next(self.numbers).expand(tuple(shape))


@pytest.mark.parametrize(
    ("which", "budget"), [(Square(queries=400), 0.1), (SquareL2(queries=400), 0.7)], ids=["linf", "l2"]
)
def test_it_goes_the_way_of_the_authors_code_image_by_image(digits, digits_ensemble, which, budget):
    library = importlib.import_module("pyautoattack.square")
    images = digits.test.take(slice(0, 80))
    ours = attack(which, digits_ensemble, images, budget, batch_size=500)
    right = ours.clean.nonzero().squeeze(1)
    theirs = library.SquareAttack(
        digits_ensemble, norm="L2" if which.norm == "l2" else "Linf", n_queries=which.queries, eps=budget, seed=0,
        resc_schedule=False, device="cpu",
    )  # fmt: skip
    with patch.object(torch, "rand", Numbers(which, images, right)), torch.random.fork_rng():
        made = theirs.perturb(images.floats(), images.labels)
    stands = (predictions(digits_ensemble, made) == images.labels) & ours.clean
    assert 15 < int(stands.sum()) < 65
    assert int((ours.robust != stands).sum()) <= 1  # rounding may decide one
    both = right[(~ours.robust & ~stands)[right]]
    assert ours.adversarial is not None
    apart = (ours.adversarial[both] - made[both]).flatten(1).abs().amax(1)
    assert int((apart > 1e-3).sum()) <= 2  # the same first success


class Linear(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(side * side, generator=generator("square")))
        self.bias = nn.Parameter(-0.5 * self.weight.detach().sum())

    def forward(self, x: Tensor) -> Tensor:
        margin = x.flatten(1) @ self.weight + self.bias
        return torch.stack([torch.zeros_like(margin), margin], 1)


@pytest.mark.parametrize(
    ("which", "budget", "near"),
    [(Square(queries=1500), 0.02, 0.6), (SquareL2(queries=1500), 0.1, 0.35)],
    ids=["linf", "l2"],
)
@pytest.mark.parametrize("stop", ["first_success", "last"])
def test_on_a_linear_model_it_breaks_what_is_near_and_nothing_that_no_attack_can(which, budget, near, stop):
    model, side = Linear(8), 8
    pixels = torch.randint(77, 179, (200, 1, side, side), generator=generator("grey")).to(torch.uint8)
    with torch.no_grad():
        margin = model(pixels / 255)[:, 1]
    images = ImageSet(pixels, (margin > 0).long())
    outcome = attack(which, model, images, budget, stop=stop)
    reach = budget * float(model.weight.detach().norm(p=2 if which.norm == "l2" else 1))
    assert bool(outcome.robust[margin.abs() > reach * 1.001].all())
    assert not bool(outcome.robust[margin.abs() < near * reach].any())
    assert 20 < int(outcome.robust.sum()) < 180
    change = (outcome.adversarial - images.floats()).flatten(1)
    assert float(change.norm(dim=1, p=2 if which.norm == "l2" else torch.inf).max()) <= budget * (1 + 1e-5)


def test_windows_shrink_as_in_autoattack():
    square = Square()
    shares = [square._side(query, 100, 100) ** 2 / 10_000 for query in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001)]
    for share, halvings in zip(shares, (0, 0, 1, 2, 3, 4, 5, 6, 7), strict=True):
        assert share == pytest.approx(0.8 / 2**halvings, rel=0.1)
    library = importlib.import_module("pyautoattack.square").SquareAttack(nn.Identity(), eps=0.1, resc_schedule=False)
    for query in range(0, 9000, 7):
        assert library.p_selection(query) == pytest.approx(0.8 / 2 ** sum(query > after for after in HALVED_AFTER))


@pytest.mark.parametrize("side", [3, 5, 6, 15])
def test_pyramids_are_the_authors(side):
    library = importlib.import_module("pyautoattack.square").SquareAttack(nn.Identity(), norm="L2", eps=1, device="cpu")
    for turned in (False, True):
        with patch.object(torch, "rand", lambda *_, turned=turned: torch.tensor([float(turned)])):
            assert torch.allclose(pyramids(side, turned=turned), library.eta(side), atol=1e-6)


def test_it_asks_forwards_only_and_no_image_that_is_done(digits, digits_ensemble):
    images = digits.test.take(slice(0, 40))
    outcome = attack(Square(queries=50), digits_ensemble, images, 0.15)
    assert outcome.backwards == 0
    right, stands = int(outcome.clean.sum()), int(outcome.robust.sum())
    judged = len(images) + right
    assert stands * 51 + judged <= outcome.forwards < right * 51 + judged  # the start, then each query
    assert 0 < stands < right


def test_it_leads_to_targets(digits, digits_ensemble):
    images = digits.test.take(slice(0, 60))
    targets = (images.labels + 1) % 10
    led = attack(Square(queries=300), digits_ensemble, images, 0.4, targets=targets)
    free = predictions(digits_ensemble, attack(Square(queries=300), digits_ensemble, images, 0.4).adversarial)
    assert int(led.hit.sum()) > int((free == targets).sum()) + 20


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"queries": 0}, "queries"), ({"p_init": 0.0}, "p_init"), ({"p_init": 1.5}, "p_init"), ({"eot": 2}, "eot")],
)
def test_settings_without_sense_are_refused(settings, told):
    with pytest.raises(BenchError, match=told):
        Square(**settings)
