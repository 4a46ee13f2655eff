"""What FASTEN keeps of a step, who learns what, and its terms in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench.baselines.fasten import AdvFasten, Fasten
from bench.core.errors import BenchError


def tables(n: int = 3, size: int = 6, classes: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2 * size, classes, generator=generator, dtype=torch.float64) for _ in range(n)]


def probabilities(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits)
    return p / p.sum(1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * (np.log(p) - np.log(q))).sum(1).mean())


@pytest.mark.parametrize("inert", [False, True])
def test_the_terms_by_hand(small, inert):
    """Images 0 to 5 are the clean ones, 6 to 11 those that are learned: a member is a table of logits for each."""
    made = tables()
    members, labels = [small.lookup(table) for table in made], torch.tensor([0, 1, 2, 3, 1, 2])
    every = torch.eye(12, dtype=torch.float64).view(12, 1, 1, 12)
    batch = small.batch(every[:6], labels)
    terms = Fasten(beta=2.0, gamma=0.5, inert=inert).learned(members, batch, [every[6:]] * 3)
    clean, learned = ([probabilities(t.numpy()[part]) for t in made] for part in (slice(6), slice(6, 12)))
    means = [(a + b) / 2 for a, b in zip(clean, learned, strict=True)]
    geometric = [np.exp((np.log(a) + np.log(b)) / 2) for a, b in zip(clean, learned, strict=True)]
    ce = -sum(np.log(p[range(6), labels]).mean() for p in learned)
    agreement = sum((kl(m, a) + kl(m, b)) / 2 for m, a, b in zip(means, clean, learned, strict=True))
    distance = sum(kl(means[j], geometric[k]) for k in range(3) for j in range(3) if j != k) / 2
    assert terms["distilled"].item() == pytest.approx(ce, rel=1e-12)
    assert terms["agreement"].item() == pytest.approx(2 * agreement, rel=1e-12)
    assert terms["distance"].item() == pytest.approx(-0.5 * distance, rel=1e-12)
    assert terms["distance"].requires_grad != inert
    # Clean logits and those of the others are held fixed: a member's gradient is that of its own learned images.
    weight = members[0][1].weight
    (gradient,) = torch.autograd.grad(sum(terms.values()), weight)
    assert gradient[:, :6].abs().max() == 0
    with torch.no_grad():
        weight[1, 8] += 1e-5
    own = probabilities(weight.detach().numpy().T[6:])
    moved = -np.log(own[range(6), labels]).mean() + 2 * (
        kl((clean[0] + own) / 2, clean[0]) + kl((clean[0] + own) / 2, own)
    ) / 2  # fmt: skip
    q = np.exp((np.log(clean[0]) + np.log(own)) / 2)
    moved -= 0 if inert else 0.5 * (kl(means[1], q) + kl(means[2], q)) / 2
    before = -np.log(learned[0][range(6), labels]).mean() + kl(means[0], clean[0]) + kl(means[0], learned[0])
    before -= 0 if inert else 0.5 * (kl(means[1], geometric[0]) + kl(means[2], geometric[0])) / 2
    assert gradient[1, 8].item() == pytest.approx((moved - before) / 1e-5, rel=1e-4)


class Drawn:
    """Stands for the draws: the ratios are given."""

    def __init__(self, *ratios: float) -> None:
        self.ratios = list(ratios)

    def random(self) -> float:
        return self.ratios.pop(0)


def test_changes_are_mixed_with_the_kept_ones_from_the_second_epoch_on(small):
    torch.manual_seed(4)
    members = [nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)) for _ in range(3)]
    x, y = torch.rand(4, 1, 2, 3) * 0.4 + 0.3, torch.arange(4) % 3
    method, kept = Fasten(), torch.zeros(4, 1, 2, 3, dtype=torch.float16)
    first = method.distilled(members, [2, 0], small.batch(x, y), Drawn(), kept)
    assert torch.allclose(kept.float(), first[1] - x, atol=1e-4)
    assert max((z - x).abs().max() for z in first) == pytest.approx(0.06, abs=1e-6)
    before = kept.clone().float()
    second = method.distilled(members, [2, 0], small.batch(x, y, epoch=1), Drawn(0.25, 0.75), kept)
    alone = [z - x for z in first]  # the same noise and layer: the same steps
    mixed = 0.25 * alone[0] + 0.75 * before
    assert torch.allclose(second[0], x + mixed, atol=1e-6)
    assert torch.allclose(second[1], x + 0.75 * alone[1] + 0.25 * mixed, atol=1e-6)
    assert torch.allclose(kept.float(), second[1] - x, atol=1e-4)


def test_the_two_learn_each_others_images_and_the_rest_one_of_both(small, monkeypatch):
    members = [small.lookup(torch.zeros(4, 2)) for _ in range(5)]
    x, seen = torch.eye(4).view(4, 1, 1, 4), []
    marks = {member: torch.full_like(x, 0.1 * k) for k, member in enumerate(members)}
    monkeypatch.setattr(
        "bench.baselines.fasten.away", lambda member, layer, images, points, eps: images + marks[member]
    )
    monkeypatch.setattr(Fasten, "learned", lambda self, members, batch, images: seen.append([
        round(float((z - x).mean()), 3) for z in images]))  # fmt: skip
    for step in range(20):
        Fasten(eps=1.0).loss(members, small.batch(x * 0.5, torch.zeros(4, dtype=torch.long), progress=step / 20))
    marked = [sorted(set(row)) for row in seen]
    assert all(len(row) == 2 for row in marked)
    assert len({tuple(row) for row in marked}) > 4  # other members in each batch
    assert len({tuple(row) for row in seen}) > len({tuple(row) for row in marked})  # and the rest draws


@pytest.mark.parametrize("method", [Fasten(), Fasten(own_start=0.06), AdvFasten()])
def test_training_resumes(small, tmp_path, method):
    small.assert_resumes(tmp_path, method, 2, prerequisites={"ece": small.ensemble()})


@pytest.mark.parametrize("method", [Fasten(), AdvFasten()])
def test_training_reduces_its_loss(small, method):
    trainer = small.trainer(small.ensemble(), small.images(), prerequisites={"ece": small.ensemble()}, epochs=15)
    method.fit(trainer)
    assert trainer.curve[-1]["loss"] < 0.9 * trainer.curve[0]["loss"]
    assert set(trainer.curve[0]["terms"]) - {"attacked"} == {"distilled", "agreement", "distance"}


def test_settings_are_checked():
    with pytest.raises(BenchError, match="is at least 0"):
        Fasten(eps=-1)
