"""MRBoost: its losses in numpy, its attack on linear members, and which member learns when."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench.baselines.mrboost import MrBoost, margin_loss, wrong_margin
from bench.core.errors import BenchError

STILL = {"eps": 0.0, "step": 0.0, "steps": 1}  # the images themselves


def log_softmax(values: np.ndarray) -> np.ndarray:
    return values - np.log(np.exp(values).sum(-1, keepdims=True))


def losses(logits: np.ndarray, labels: list[int]) -> tuple[float, float]:
    """The cross-entropy and the term of the wrong classes, image by image."""
    rows, classes = range(len(labels)), logits.shape[1]
    wrong = [-log_softmax(-logits)[i, c] for i in rows for c in range(classes) if c != labels[i]]
    return -log_softmax(logits)[rows, labels].mean(), float(np.mean(wrong))


def tables(n: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(n)]


LABELS = [0, 1, 2, 3, 4, 2]


@pytest.mark.parametrize("trained", ["mean", "member"])
@pytest.mark.parametrize("mce", [0.0, 1.5])
def test_the_loss_is_what_numpy_makes_of_it(small, trained, mce):
    *earlier, own = tables()
    x, y = small.one_hot_images(torch.tensor(LABELS)).floats().double(), torch.tensor(LABELS)
    method = MrBoost(mce=mce, trained=trained, **STILL)
    terms = method._stage([small.lookup(own)], small.batch(x, y), [small.lookup(table) for table in earlier])
    ce, wrong = losses((sum([*earlier, own]) / 3 if trained == "mean" else own).numpy(), LABELS)
    assert list(terms) == (["ce", "mce"] if mce else ["ce"])
    assert terms["ce"].item() == pytest.approx(ce, rel=1e-12)
    if mce:
        assert terms["mce"].item() == pytest.approx(mce * wrong, rel=1e-12)


def test_the_term_of_the_wrong_classes_by_hand():
    # Two classes: −log softmax(−f)_c = −log(e^{−f_c} / (e^{−f_y} + e^{−f_c})), the cross-entropy itself.
    logits, labels = torch.tensor([[1.0, 3.0], [2.0, -1.0]], dtype=torch.float64), torch.tensor([0, 0])
    by_hand = (np.log1p(np.exp(2)) + np.log1p(np.exp(-3))) / 2
    assert wrong_margin(logits, labels).item() == pytest.approx(by_hand, rel=1e-12)
    assert margin_loss(logits, labels, 2.0).item() == pytest.approx(3 * by_hand, rel=1e-12)


def linear_member(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()


@pytest.mark.parametrize("mce", [0.0, 1.0])
def test_a_step_of_the_attack_raises_the_loss_of_the_mean_logits(small, mce):
    """By finite differences at the start, which lies within half of the ball."""
    members, seen = [linear_member(seed) for seed in range(3)], []
    for member in members:
        member.train().register_forward_pre_hook(
            lambda module, x: seen.append((module.training, x[0].detach().clone()))
        )
    x, y = torch.rand(2, 1, 3, 4).double() * 0.4 + 0.3, torch.tensor([1, 2])
    MrBoost(mce=mce, trained="member", eps=0.1, step=0.04, steps=1)._stage(members[2:], small.batch(x, y), members[:2])
    assert [training for training, _ in seen] == [False] * 3 + [True]
    start, end = seen[0][1], seen[-1][1]
    assert 0.03 < float((start - x).abs().max()) <= 0.05

    def value(images: torch.Tensor) -> float:
        ce, wrong = losses(sum(member(images) for member in members).detach().numpy() / 3, y.tolist())
        return ce + mce * wrong

    for place in np.ndindex(2, 1, 3, 4):
        shift = torch.zeros_like(x)
        shift[place] = 1e-5
        slope = value(start + shift) - value(start - shift)
        assert float(end[place] - start[place]) == pytest.approx(0.04 * np.sign(slope), abs=1e-12)


def test_earlier_members_are_frozen_and_in_eval_mode(small):
    modes = []

    class Spy(MrBoost):
        def _stage(self, members, batch, earlier):
            modes.append(([m.training for m in members], [m.training for m in earlier]))
            return super()._stage(members, batch, earlier)

    trainer, kept = small.trainer(small.ensemble(fusion="mean_logits"), small.images(), epochs=1), []
    real = trainer.train

    def train(*given, **named):
        kept.append(small.numbers(trainer.ensemble))
        return real(*given, **named)

    trainer.train = train
    Spy(steps=2).fit(trainer)
    assert all(own == [True] and not any(others) for own, others in modes)
    final = small.numbers(trainer.ensemble)
    assert all(torch.equal(kept[2][name], final[name]) for name in final if name.startswith(("members.0", "members.1")))
    assert not all(torch.equal(kept[2][name], final[name]) for name in final if name.startswith("members.2"))
    assert all(parameter.requires_grad for parameter in trainer.ensemble.parameters())


def test_a_persistent_member_starts_from_the_one_before_it(small):
    trainer = small.trainer(small.ensemble(fusion="mean_logits"), small.images(), lr=1e-30, optimizer="sgd", epochs=1)
    before = small.numbers(trainer.ensemble)
    MrBoost(steps=1, persistent=True).fit(trainer)
    after = small.numbers(trainer.ensemble)
    weights = [name for name in before if name.startswith("members.0") and name.endswith("weight")]
    for name in weights:
        for other in (name.replace("members.0", f"members.{k}") for k in (1, 2)):
            assert torch.equal(after[other], before[name])
    assert not torch.equal(before["members.1.0.weight"], before["members.0.0.weight"])


@pytest.mark.parametrize("settings", [{"mce": -1}, {"eps": -0.1}, {"steps": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(BenchError):
        MrBoost(**settings)


@pytest.mark.parametrize("settings", [{}, {"mce": 1.0, "trained": "member", "persistent": True}])
def test_resumes_bit_equal(small, tmp_path, settings):
    small.assert_resumes(tmp_path, MrBoost(steps=2, **settings), 6, fusion="mean_logits")


@pytest.mark.parametrize("settings", [{}, {"mce": 1.0, "trained": "member"}])
def test_learns_digits(small, digits, settings):
    small.assert_learns(MrBoost(eps=0.1, step=0.05, steps=3, **settings), digits)
