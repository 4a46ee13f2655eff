"""Losses beside the functions of the authors' public codes, which were run once on the same networks and images.

Weights and pixels are cosines, everything is float64, and random draws are fixed in both: no noise, or cosines too, and
a ratio of one half. `VALUES` holds what the public function gave there: the loss that is differentiated, and the length
of its gradient towards all weights that learn. No code of theirs is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from bench.baselines.adv_oap import AdvOap
from bench.baselines.aute import Aute
from bench.baselines.barre import Barre
from bench.baselines.deg import Deg
from bench.baselines.fasten import Fasten
from bench.baselines.igat import Igat
from bench.baselines.lotos import Lotos
from bench.baselines.mrboost import MrBoost
from bench.baselines.parl import Parl
from bench.methods.drt import Drt
from bench.training.batch import Batch

LABELS = [3, 5, 5, 4, 5, 0]
COMMITS = {
    "adv_oap": "GuoJQ42/AdvOAP 517d81c",
    "mrboost": "zdhNarsil/Margin-Boosting cc88b1e",
    "mrboost_mce": "zdhNarsil/Margin-Boosting cc88b1e",
    "barre": "hsndbk4/BARRE 1a42d89",
    "fasten": "mesunhlf/FASTEN 5dc0756",
    "lotos": "Ali-E/LOTOS b8df958",
    "igat_adp": "xqsi/iGAT edc7c62",
    "deg": "ALIS-Lab/AAAI2021-PDD 5578b31",
    "parl": "shubhishukla10/PARL 3051b13",
    "aute": "mesunhlf/AUTE 0e0aaa5",
    "drt": "danielz02/hydra a9b5393",
}
ONE_BY_ONE = {"mrboost", "mrboost_mce", "barre"}  # the last member learns
VALUES = {
    "adv_oap": (-5.488071754962389, 10.09559337366474),
    "mrboost": (2.6126308484225107, 1.1353683322570125),
    "mrboost_mce": (5.839173513981953, 4.635579815725938),
    "barre": (5.885681387799307, 5.1304192779669275),
    "fasten": (5.911412419926624, 4.968915815963191),
    "lotos": (6.764129524824032, 4.816430408068127),
    "igat_adp": (15.689698258009978, 31.90402869464831),
    "deg": (2.133018482906834, 1.5949812382011386),
    "parl": (5.3556534915142855, 1.8333475292075387),
    "aute": (9.828688274212452, 8.918224416250018),
    "drt": (6.626505303607465, 5.917019545197766),
}


class Numbers:
    """Cosines in a row, the same on every machine."""

    def __init__(self, phase: float) -> None:
        self.phase, self.used = phase, 0

    def __call__(self, *shape: int) -> Tensor:
        count = int(torch.tensor(shape).prod())
        places = torch.arange(self.used, self.used + count, dtype=torch.float64)
        self.used += count
        return torch.cos(self.phase + 0.37 * places**2).view(shape)


def member(index: int) -> nn.Sequential:
    """Two convolutions and a linear layer, for images of 3×8×8."""
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(4, 5, 3, stride=2, padding=1), nn.Tanh(),
        nn.Flatten(), nn.Linear(20, 10),
    ).double()  # fmt: skip
    numbers = Numbers(0.4 + 0.2 * index)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(numbers(*parameter.shape) * (0.8 if parameter.dim() > 1 else 0.1))
    return layers


def members() -> list[nn.Module]:
    return [member(index) for index in range(3)]


def images() -> Tensor:
    return Numbers(0.1)(6, 3, 8, 8) / 2 + 0.5


@dataclass(frozen=True)
class Middle(Batch):
    """Noise that is none."""

    def uniform(self, like: Tensor, radius: float | Tensor) -> Tensor:
        return torch.zeros_like(like)


def batch(epoch: int = 0, epochs: int = 120) -> Batch:
    x = images()
    given = torch.tensor(LABELS), torch.arange(6), epoch, epochs, 0.5, torch.Generator().manual_seed(3)
    return Middle(x, *given, lambda: x.flip(0))


def vectors() -> dict[str, Tensor]:
    """In the place of the top singular vectors of the layers, by member and name."""
    shapes = {"0": (1, 3, 8, 8), "2": (1, 4, 4, 4), "5": (1, 20)}
    made = {f"{k}.{name}": Numbers(0.5 + k)(*shape) for k in range(3) for name, shape in shapes.items()}
    return {name: vector / vector.norm() for name, vector in made.items()}


def stage(method: MrBoost, earlier: list[nn.Module], last: nn.Module) -> dict[str, Tensor]:
    return method._stage([last], batch(), [each.eval() for each in earlier])


def terms(name: str, ensemble: list[nn.Module], monkeypatch) -> dict[str, Tensor]:
    """What our method minimises, in the public code's form where that is a setting."""
    *earlier, last = ensemble
    if name == "adv_oap":
        return AdvOap().loss(ensemble, batch())
    if name == "mrboost":
        return stage(MrBoost(), earlier, last)
    if name == "mrboost_mce":
        return stage(MrBoost(mce=1.0, trained="member"), earlier, last)
    if name == "barre":
        odds = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
        trainer = SimpleNamespace(memory={"odds.2": odds}, ensemble=SimpleNamespace(members=ensemble))
        return Barre()._stage([last], batch(), trainer, 2)
    if name == "fasten":  # the third member's image, then the first's mixed with it; noise is the shared one alone
        monkeypatch.setattr("bench.baselines.fasten.layer_of_epoch", lambda *_: "3")
        monkeypatch.setattr(Middle, "uniform", lambda self, like, radius: Numbers(1.3)(*like.shape) * radius)
        method, kept = Fasten(inert=True), Numbers(0.9)(6, 3, 8, 8) * 0.05
        made = method.distilled(ensemble, [2, 0], batch(epoch=1), SimpleNamespace(random=lambda: 0.5), kept)
        return method.learned(ensemble, batch(epoch=1), [made[0], made[1], made[1]])
    if name == "lotos":
        monkeypatch.setattr("bench.baselines.lotos.iterated", lambda layers, vectors, count: vectors)
        return Lotos(strength=0.05).loss(ensemble, batch(), vectors())
    if name == "igat_adp":
        monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.5, dtype=torch.float64))
        return Igat(on={"method": "adp", "plugin": "adp", "settings": {}}).loss(ensemble, batch())
    if name == "deg":
        return Deg().loss(ensemble, batch())
    if name == "parl":  # its correlation is (B − 1)/B of Pearson's
        return Parl(gamma=0.25 * 5 / 6, layers=2).loss(ensemble, batch())
    if name == "aute":
        return Aute(unlearned="by_index").loss(ensemble, batch(epoch=59))
    assert name == "drt"
    monkeypatch.setattr(torch, "randn", lambda shape, **_: Numbers(0.7)(*shape))
    return Drt().loss(ensemble, batch())


@pytest.mark.parametrize("name", COMMITS)
def test_a_loss_and_its_gradient_are_those_of_the_public_code(name, monkeypatch):
    ensemble = members()
    found = terms(name, ensemble, monkeypatch)
    loss = sum(found.values())
    learning = ensemble[-1:] if name in ONE_BY_ONE else ensemble
    weights = [parameter for each in learning for parameter in each.parameters()]
    slopes = torch.autograd.grad(loss, weights)
    length = torch.cat([slope.flatten() for slope in slopes]).norm()
    digits = 1e-11 if name in ("aute", "parl") else 1e-13  # these add 1e-12 before a logarithm or a division
    assert (loss.item(), length.item()) == pytest.approx(VALUES[name], rel=digits, abs=0)
