"""iGAT: which member learns what, its two terms by hand, and its place on another method."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.baselines.adp import Adp
from bench.baselines.dverge import Dverge
from bench.baselines.igat import Igat, dealt_and_wrong
from bench.core.errors import BenchError

ON_ADP = {"method": "adp", "plugin": "adp", "settings": {}}
ON_DVERGE = {"method": "dverge", "plugin": "dverge", "settings": {"steps": 2}}


def tables(seed: int = 0, n: int = 3, size: int = 12, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, size, classes, generator=generator, dtype=torch.float64)
    return logits, torch.arange(size) % classes


def by_hand(logits: torch.Tensor, labels: torch.Tensor, draws: np.ndarray) -> tuple[float, float]:
    """Both sums in numpy, image by image; `draws` in [0, 1) deal an image along the members' shares, in their order."""
    p = np.exp(logits.numpy())
    p /= p.sum(2, keepdims=True)
    dealt = wrong = 0.0
    for b, y in enumerate(labels.tolist()):
        if p[:, b].mean(0).argmax() == y:
            continue
        true = p[:, b, y]
        shares = np.array([2.0 ** sum(true < own) for own in true])
        chosen = int((np.cumsum(shares / shares.sum()) <= draws[b]).sum())
        dealt -= np.log(true[chosen])
        others = np.delete(p[:, b], y, axis=1).max(1)
        wrong -= np.log(1 - np.minimum(others, 0.99)).sum()
    return dealt / len(labels), wrong / len(labels)


def test_both_sums_by_hand():
    logits, labels = tables()
    logits[1, 2] = torch.tensor([20.0, 0, 0, 0])  # surer than .99 of a wrong class
    generator = torch.Generator().manual_seed(4)
    draws = torch.rand(len(labels), generator=torch.Generator().manual_seed(4)).numpy()
    dealt, wrong = dealt_and_wrong(logits, labels, generator)
    expected = by_hand(logits, labels, draws)
    assert dealt.item() == pytest.approx(expected[0], rel=1e-12)
    assert wrong.item() == pytest.approx(expected[1], rel=1e-12)


def test_the_surer_a_member_the_more_images_it_is_dealt():
    # The true class is 0, the ensemble says 1; by true probability the members rank 1 < 2 < 0: shares 4/7, 1/7, 2/7.
    logits = torch.tensor([[0.4, 0.5, 0.1], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1]], dtype=torch.float64).log()
    count = 70_000
    many, labels = logits[:, None].expand(-1, count, -1), torch.zeros(count, dtype=torch.long)
    dealt, _ = dealt_and_wrong(many, labels, torch.Generator().manual_seed(0))
    mean = -(4 * np.log(0.4) + np.log(0.1) + 2 * np.log(0.2)) / 7
    assert dealt.item() == pytest.approx(mean, abs=5 * 0.45 / count**0.5)  # five standard errors


def test_images_that_the_ensemble_has_right_count_for_nothing():
    logits, labels = tables(1)
    sure = 40.0 * torch.nn.functional.one_hot(labels, 4).double().expand(3, -1, -1)
    assert [term.item() for term in dealt_and_wrong(sure, labels, torch.Generator())] == [0, 0]
    half = torch.cat([sure[:, :6], logits[:, 6:]], 1)
    alone = dealt_and_wrong(logits[:, 6:], labels[6:], torch.Generator().manual_seed(0))[1]
    mixed = dealt_and_wrong(half, labels, torch.Generator().manual_seed(0))[1]
    assert mixed.item() == pytest.approx(alone.item() / 2, rel=1e-12)  # over B, not over those that are wrong


def test_on_adp_its_terms_are_of_the_mixed_batch_and_replace_the_cross_entropy(small):
    x, y = small.one_hot_images(torch.arange(8) % 4).floats(), torch.arange(8) % 4
    generator = torch.Generator().manual_seed(0)
    members = [small.lookup(torch.randn(8, 4, generator=generator)) for _ in range(3)]
    terms = Igat(on=ON_ADP, eps=0.0, alpha=2.0, beta=3.0).loss(members, small.batch(x, y))
    plain = Adp().loss(members, small.batch(x, y))
    assert list(terms) == ["dealt", "wrong", "entropy", "log_det"]
    for name in ("entropy", "log_det"):
        assert terms[name].item() == pytest.approx(plain[name].item(), rel=1e-6)
    logits = torch.stack([member(x) for member in members])
    batch = small.batch(x, y)
    batch.uniform(x[4:], 1.0)  # the start of the attack is drawn first
    dealt, wrong = dealt_and_wrong(logits, y, batch.generator)
    assert terms["dealt"].item() == pytest.approx(2 * dealt.item(), rel=1e-6)
    assert terms["wrong"].item() == pytest.approx(3 * wrong.item(), rel=1e-6)


def test_on_dverge_that_sees_the_clean_half(small):
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8) % 4
    members = [small.network().eval() for _ in range(2)]
    batch = small.batch(x, y)
    terms = Igat(on=ON_DVERGE, rest="clean", steps=1).loss(members, batch)
    half = small.batch(x[:4], y[:4], others=x.flip(0)[:4])
    expected = Dverge(steps=2).loss(members, half)
    assert terms["distilled"].item() == pytest.approx(expected["distilled"].item(), rel=1e-6)


@pytest.mark.parametrize("on", [ON_ADP, ON_DVERGE])
def test_training_resumes(small, tmp_path, on):
    method = Igat(on=on, eps=0.1, step=0.05, steps=2, rest="clean" if on is ON_DVERGE else "mixed")
    small.assert_resumes(tmp_path, method, 2, prerequisites={on["method"]: small.ensemble()})


@pytest.mark.parametrize("on", [ON_ADP, ON_DVERGE])
def test_training_reduces_its_loss(small, on):
    method = Igat(on=on, eps=0.05, step=0.02, steps=2, rest="clean" if on is ON_DVERGE else "mixed")
    trainer = small.trainer(small.ensemble(), small.images(), prerequisites={on["method"]: small.ensemble()}, epochs=12)
    method.fit(trainer)
    assert trainer.curve[-1]["loss"] < 0.9 * trainer.curve[0]["loss"]


def test_settings_are_checked():
    with pytest.raises(BenchError, match="steps is at least 1"):
        Igat(on=ON_ADP, steps=0)
