"""Unbiased linear CKA: identities of Kornblith et al. 2019, and the U-statistic of Song et al. 2012 by brute force."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest
import torch

from bench.baselines.ckae import Ckae
from bench.models.alignment import centred_kernel, cka


def draws(n: int, width: int, seed: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def brute_hsic(first: torch.Tensor, second: torch.Tensor) -> float:
    """The mean over four different images of K_ij (L_ij + L_qr − 2 L_iq)."""
    k, el = (first @ first.T).tolist(), (second @ second.T).tolist()
    values = [k[i][j] * (el[i][j] + el[q][r] - 2 * el[i][q]) for i, j, q, r in permutations(range(len(k)), 4)]
    return sum(values) / len(values)


def reference(first: torch.Tensor, second: torch.Tensor) -> float:
    """Nguyen et al. 2020, equation 3, as printed, in float64."""

    def hsic(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        n, one = len(a), torch.ones(len(a), dtype=torch.float64)
        k, el = a @ a.T, b @ b.T
        k, el = k - torch.diag(k.diag()), el - torch.diag(el.diag())
        inner = torch.trace(k @ el) + (one @ k @ one) * (one @ el @ one) / ((n - 1) * (n - 2))
        return (inner - 2 / (n - 2) * (one @ k @ el @ one)) / (n * (n - 3))

    first, second = first.double(), second.double()
    return float(hsic(first, second) / (hsic(first, first) * hsic(second, second)).sqrt())


def ours(first: torch.Tensor, second: torch.Tensor) -> float:
    return cka(centred_kernel(first), centred_kernel(second)).item()


def test_agrees_with_the_printed_formula_and_with_brute_force():
    first, second = draws(7, 5, 0), draws(7, 3, 1) + draws(7, 5, 0)[:, :3] + 2.0
    brute = brute_hsic(first, second) / (brute_hsic(first, first) * brute_hsic(second, second)) ** 0.5
    assert reference(first, second) == pytest.approx(brute, rel=1e-9)
    assert ours(first, second) == pytest.approx(brute, rel=1e-6)


def test_identities():
    features = draws(32, 10, 2) + 1
    rotation = torch.linalg.qr(draws(10, 10, 3))[0]
    other = torch.relu(features @ draws(10, 10, 4))
    assert ours(features, features) == pytest.approx(1)
    assert ours(features, 3.7 * features @ rotation) == pytest.approx(1)
    assert ours(other, 0.01 * features @ rotation) == pytest.approx(ours(other, features))
    assert 0 < ours(other, features) < 1
    assert abs(ours(draws(256, 8, 5), draws(256, 8, 6))) < 0.05


def test_float32_survives_features_with_a_large_mean():
    first, second = draws(64, 30, 7) + 100, draws(64, 30, 7) + draws(64, 30, 8) + 100
    assert ours(first.float(), second.float()) == pytest.approx(reference(first, second), abs=1e-3)


def test_features_without_structure_have_a_finite_gradient():
    flat = torch.zeros(8, 5, requires_grad=True)
    value = cka(centred_kernel(flat), centred_kernel(draws(8, 5, 9, torch.float32)))
    value.backward()
    assert value.item() == 0
    assert flat.grad.isfinite().all()


def test_the_loss_is_mean_cross_entropy_plus_mean_positive_cka(small):
    ensemble, images = small.ensemble(3).eval(), small.images()
    x, y = images.floats(), images.labels
    terms = Ckae(strength=0.7).loss(list(ensemble.members), small.batch(x, y))
    features = [member[:-2](x).detach() for member in ensemble.members]
    log_p = [member[-1](z).log_softmax(1) for member, z in zip(ensemble.members, features, strict=True)]
    ce = -sum(one[torch.arange(len(y)), y].mean() for one in log_p) / 3
    pairs = [max(reference(a, b), 0.0) for a, b in combinations(features, 2)]
    assert terms["ce"].item() == pytest.approx(ce.item(), rel=1e-5)
    assert terms["cka"].item() == pytest.approx(0.7 * sum(pairs) / 3, rel=1e-3)


def test_a_negative_cka_costs_nothing(small):
    for seed in range(50):
        first, second = draws(6, 4, 100 + seed), draws(6, 4, 200 + seed)
        if reference(first, second) < -0.05:
            break
    members = [small.lookup(draws(6, 3, 1)), small.lookup(draws(6, 3, 2))]
    members[0].insert(1, small.lookup(first)[1])
    members[1].insert(1, small.lookup(second)[1])
    for member, features in zip(members, (first, second), strict=True):
        member[2] = torch.nn.Linear(features.shape[1], 3, dtype=torch.float64)
    labels = torch.arange(6) % 3
    x = small.one_hot_images(labels).floats().double()
    assert Ckae().loss(members, small.batch(x, labels))["cka"].item() == 0
