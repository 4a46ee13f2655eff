"""Diversity of pairs against closed forms on linear models, and against loops over images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from linear import Line
from torch import nn

from bench.baselines.dverge import Dverge
from bench.core.seeds import generator
from bench.data.base import ImageSet
from bench.evaluation.diversity import diversity
from bench.experiment.measurements import check
from bench.models.alignment import centred_kernel, cka
from bench.models.ensemble import Ensemble
from bench.models.features import pre_activation_points

pytestmark = pytest.mark.usefixtures("_one_thread")

SLOPES, OFFSETS = np.array([[6.0, 2.0], [4.0, 6.0], [-3.0, 1.0]]), np.array([-4.0, -5.2, 1.0])


@pytest.fixture
def points() -> ImageSet:
    fixed = torch.Generator().manual_seed(1)
    drawn = torch.randint(0, 256, (30, 1, 1, 2), generator=fixed, dtype=torch.uint8)
    return ImageSet(drawn, torch.randint(0, 2, (30,), generator=fixed))


@pytest.fixture
def lines() -> Ensemble:
    return Ensemble([Line(tuple(slope), offset) for slope, offset in zip(SLOPES, OFFSETS, strict=True)])


def test_three_lines_have_the_diversity_of_their_closed_forms(lines, points):
    record = diversity(lines, points, eps=0.3, steps=3, seed_axes=("tests",), batch_size=7)
    found = record["measurements"]
    check("diversity", found, 30, 3)
    x, y = points.floats().double().numpy().reshape(-1, 2), points.labels.numpy()
    lead = (1 - 2 * y)[:, None] * (x @ SLOPES.T + OFFSETS)
    losses = np.log1p(np.exp(-2 * lead))
    sizes = 2 * np.linalg.norm(SLOPES, axis=1) / (1 + np.exp(2 * lead))
    for m, told in enumerate(found["members"]):
        assert told["loss"] == pytest.approx(losses[:, m].mean(), rel=1e-5)
        assert told["gradient"] == pytest.approx(sizes[:, m].mean(), rel=1e-5)
    assert found["loss_variance"] == pytest.approx(losses.var(axis=1, ddof=1).mean(), rel=1e-5)
    for pair in found["pairs"]:
        i, j = pair["first"], pair["second"]
        cosine = SLOPES[i] @ SLOPES[j] / np.linalg.norm(SLOPES[[i, j]], axis=1).prod()
        assert pair["cosine"] == pytest.approx(cosine, rel=1e-4)
        assert pair["absolute_cosine"] == pytest.approx(abs(cosine), rel=1e-4)
        assert pair["gradient_ratio"] == pytest.approx(sizes[:, i].mean() / sizes[:, j].mean(), rel=1e-5)
        assert pair["loss_variance"] == pytest.approx(losses[:, [i, j]].var(axis=1, ddof=1).mean(), rel=1e-5)
        assert pair["disagreement"] == ((lead[:, i] > 0) != (lead[:, j] > 0)).sum()
        assert pair["double_fault"] == ((lead[:, i] < 0) & (lead[:, j] < 0)).sum()
        assert pair["cka"] == pytest.approx(1, abs=1e-6)  # the inputs of both linear layers are the images


def test_a_member_and_its_copy_are_not_diverse(digits_ensemble, digits):
    member = digits_ensemble.members[0]
    images = digits.test.take(slice(0, 40))
    record = diversity(Ensemble([member, member]), images, eps=0.2, steps=2, seed_axes=())
    (pair,) = record["measurements"]["pairs"]
    assert pair["cosine"] == pytest.approx(1)
    assert (pair["gradient_ratio"], pair["loss_variance"], pair["disagreement"]) == (1, 0, 0)
    assert pair["double_fault"] == 40 - record["n_clean"]
    assert pair["cka"] == pytest.approx(1)


def test_cka_is_that_of_the_inputs_of_the_last_linear_layers(digits_ensemble, digits):
    images, kernels = digits.test.take(slice(0, 50)), []
    for member in digits_ensemble.members:
        *_, linear = (part for part in member.modules() if isinstance(part, nn.Linear))
        seen = []
        handle = linear.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].double()))
        with torch.no_grad():
            member(images.floats())
        handle.remove()
        kernels.append(centred_kernel(seen[0]))
    record = diversity(digits_ensemble, images, eps=0.2, steps=1, seed_axes=(), batch_size=16)
    for pair in record["measurements"]["pairs"]:
        assert pair["cka"] == pytest.approx(float(cka(kernels[pair["first"]], kernels[pair["second"]])), abs=1e-6)


def test_distilled_features_are_those_of_dverge(digits_ensemble, digits):
    images = digits.test.take(slice(0, 12))
    order = torch.randperm(12, generator=generator("tests", "others")).tolist()
    near = [0] * 12  # the image next to which each one's features are distilled: never itself
    for place, image in enumerate(order):
        near[image] = order[place - 1]
    method, members = Dverge(eps=0.2, steps=3), digits_ensemble.members
    loss = torch.zeros(3, 3)
    layers = pre_activation_points(members[0], (1, 8, 8))
    assert len(layers) == 4
    for j, member in enumerate(members):
        for layer in layers:
            z = method.distil(member, layer, images.floats(torch.tensor(near)), images.floats())
            for i, other in enumerate(members):
                loss[i, j] += torch.nn.functional.cross_entropy(other(z), images.labels).detach() / 4
    record = diversity(digits_ensemble, images, eps=0.2, steps=3, seed_axes=("tests",), batch_size=5)
    assert sorted(near) == list(range(12))
    assert all(a != b for a, b in enumerate(near))
    for pair in record["measurements"]["pairs"]:
        i, j = pair["first"], pair["second"]
        assert pair["feature_distillation"] == pytest.approx(float(loss[i, j] + loss[j, i]) / 2, rel=1e-4)
