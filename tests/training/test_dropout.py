"""Dropout before the last layer, and the probabilities of PDD's bins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench.core.errors import BenchError
from bench.training.dropout import dropout, keep_chances


def test_dropout_acts_in_training_only_and_leaves_no_trace():
    torch.manual_seed(1)
    member, x = (
        nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 4)),
        torch.rand(6, 1, 8, 8),
    )
    member.eval()
    plain = member(x)
    with dropout([member], 0.4):
        assert torch.equal(member(x), plain)
        member[3].train()
        torch.manual_seed(0)
        dropped = torch.stack([member(x) for _ in range(2000)])
        assert not torch.equal(dropped[0], dropped[1])
        assert torch.allclose(dropped.mean(0), plain, atol=0.15)
    assert torch.equal(member(x), plain)
    with pytest.raises(BenchError, match="dropout must be"), dropout([member], 1.0):
        pass
    with pytest.raises(BenchError, match="needs a linear layer"), dropout([nn.Conv2d(1, 1, 1)], 0.5):
        pass


def chances_by_hand(features: np.ndarray, bins: int, kept: float, others: float) -> np.ndarray:
    n, size, count = features.shape
    found = np.zeros_like(features)
    for b in range(size):
        low, high = features[:, b].min(), features[:, b].max()
        place = np.minimum(((features[:, b] - low) * bins / (high - low)).astype(int), bins - 1)
        totals = np.bincount(place.ravel(), minlength=bins)
        fullest = sorted(range(bins), key=lambda one: -totals[one])
        for k in range(n):
            shares = np.bincount(place[k], minlength=bins) / count
            found[k, b] = [kept if p == fullest[k] else others * (1 - shares[p]) for p in place[k]]
    return found


def test_the_probabilities_are_those_of_the_bins_by_hand():
    features = torch.randn(3, 7, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64).relu()
    found = keep_chances(features, bins=10, kept=0.9, others=0.1)
    assert np.allclose(found.numpy(), chances_by_hand(features.numpy(), 10, 0.9, 0.1), atol=1e-15)
    equal = keep_chances(torch.ones(2, 3, 4), bins=5, kept=0.9, others=0.1)  # all lie in the bin of the first member
    assert torch.allclose(equal, torch.tensor([0.9, 0.0]).view(2, 1, 1).expand(2, 3, 4))
