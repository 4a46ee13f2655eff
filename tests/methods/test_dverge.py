"""DVERGE's distilled images, its layers, its start and its loss."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter

import pytest
import torch
from torch import nn

from bench.baselines.dverge import Dverge
from bench.core.errors import BenchError
from bench.models.digits_cnn import DigitsCNN
from bench.models.features import LOGITS, capture, features_at, pre_activation_points
from bench.models.lenet import LeNet
from bench.models.resnet import CifarResNet

NETWORKS = {
    "digits_cnn": (DigitsCNN(), (1, 8, 8)),
    "lenet": (LeNet(), (1, 28, 28)),
    "resnet": (CifarResNet(depth=8, width=4, shortcut="B"), (3, 16, 16)),
    "resnet_a": (CifarResNet(depth=8, width=4), (3, 16, 16)),
}


def network(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    model, shape = NETWORKS[name]
    return model.build(shape=shape, classes=10), torch.rand(8, *shape), torch.rand(8, *shape)


@pytest.mark.parametrize("name", NETWORKS)
def test_distilled_images_come_nearer_and_stay_in_the_ball(name):
    member, images, targets = network(name)
    method = Dverge(eps=0.1)
    for layer in pre_activation_points(member, tuple(images.shape[1:])):
        z = method.distil(member, layer, images, targets)
        assert not z.requires_grad
        assert (z - images).abs().max() <= 0.1 + 1e-6
        assert 0 <= z.min() <= z.max() <= 1
        with capture(member, [layer]) as features, torch.no_grad():
            read = []
            for x in (images, z, targets):
                member(x)
                read.append(features[layer])
        before, after = ((one - read[2]).square().mean() for one in read[:2])
        assert after < 0.95 * before, layer


def test_one_step_follows_the_sign_of_the_gradient_by_finite_differences():
    torch.manual_seed(2)
    member = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    images, targets = torch.rand(2, 1, 2, 3, dtype=torch.float64) * 0.4 + 0.3, torch.rand(2, 1, 2, 3).double()
    z = Dverge(eps=0.01, steps=1).distil(member, "2", images, targets)

    @torch.no_grad()
    def distance(x):
        return (member[:2](x) - member[:2](targets)).square().mean()

    for place in range(images.numel()):
        shift = torch.zeros(images.numel(), dtype=torch.float64)
        shift[place] = 1e-5
        slope = distance(images + shift.view_as(images)) - distance(images - shift.view_as(images))
        expected = images.flatten()[place] - 0.01 * slope.sign()
        assert z.flatten()[place].item() == pytest.approx(expected.item(), abs=1e-9)


def test_momentum_adds_up_gradients_of_unit_length():
    # A linear layer: two steps by hand.
    torch.manual_seed(3)
    member = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    images, targets = torch.rand(3, 1, 2, 2).double() * 0.4 + 0.3, torch.rand(3, 1, 2, 2).double()
    weight = member[1].weight.detach()
    x, direction = images.flatten(1), 0.0
    for _ in range(2):
        gradient = (x - targets.flatten(1)) @ weight.T @ weight
        direction = direction + gradient / gradient.abs().sum(1, keepdim=True)
        x = x - 0.05 * direction.sign()
    z = Dverge(eps=0.1, steps=2).distil(member, "2", images, targets)
    assert torch.allclose(z.flatten(1), x, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_at_is_what_a_whole_pass_captures(name):
    member, images, _ = network(name)
    member.eval()
    points = pre_activation_points(member, tuple(images.shape[1:]))
    with capture(member, points) as features:
        member(images)
        for point in points:
            expected = features[point].clone()
            hooks = [len(part._forward_pre_hooks) for part in member.modules()]
            # The early end of the pass is inside `capture`, whose own hooks must survive it.
            assert torch.equal(features_at(member, point, images), expected)
            assert hooks == [len(part._forward_pre_hooks) for part in member.modules()]
            member(images)
    with pytest.raises(BenchError, match="relu1"):
        features_at(member, "relu1x", images)


@pytest.mark.parametrize("name", ["resnet", "resnet_a"])
def test_the_search_moves_running_statistics_up_to_its_layer_only(name):
    member, images, targets = network(name)
    kept = {name: buffer.clone() for name, buffer in member.named_buffers() if name.endswith("running_mean")}
    Dverge(eps=0.1).distil(member, "stage2.0.relu1", images, targets)
    moved = {name for name, buffer in member.named_buffers() if name in kept and not torch.equal(buffer, kept[name])}
    assert moved == {"bn.running_mean", "stage1.0.bn1.running_mean", "stage1.0.bn2.running_mean",
                     "stage2.0.bn1.running_mean"}  # fmt: skip
    assert all(parameter.requires_grad for parameter in member.parameters())


def public_distillation(member, layer, images, targets, eps, steps=10):
    """The public code's loop, written from its description: both images pass the member in each step, x_t second."""
    x, total = images.clone(), torch.zeros_like(images)
    for _ in range(steps):
        x = x.detach().requires_grad_()
        with capture(member, [layer]) as features, contextlib.suppress(_Stop), stopping(member, layer):
            member(x)
        found = features[layer]
        with torch.no_grad(), capture(member, [layer]) as features, contextlib.suppress(_Stop), stopping(member, layer):
            member(targets)
        distance = torch.nn.MSELoss()(found, features[layer])
        (gradient,) = torch.autograd.grad(distance, x)
        total = total + gradient / gradient.flatten(1).norm(1, dim=1).view(-1, 1, 1, 1)
        x = x.detach() - eps / steps * total.sign()
        x = torch.max(torch.min(x, images + eps), images - eps).clamp(0, 1)
    return x


class _Stop(Exception):  # noqa: N818 - no error
    pass


@contextlib.contextmanager
def stopping(member, layer):
    """The pass ends where the features are read, as that of the public networks does."""

    def stop(*_):
        raise _Stop

    part = member if layer == LOGITS else member.get_submodule(layer)
    handle = part.register_forward_hook(stop) if layer == LOGITS else part.register_forward_pre_hook(stop)
    try:
        yield
    finally:
        handle.remove()


def buffers(member):
    return {name: buffer.clone() for name, buffer in member.named_buffers()}


@pytest.mark.parametrize("layer", ["relu", "stage1.0.relu1", "stage2.0.relu2", "logits"])
def test_running_statistics_move_as_in_the_public_code_and_the_images_do_not_depend_on_it(layer):
    member, images, targets = network("resnet")
    theirs, before = copy.deepcopy(member), copy.deepcopy(member)
    z = Dverge(eps=0.1).distil(member, layer, images, targets)
    assert torch.equal(z, Dverge(eps=0.1, running_statistics="needed").distil(before, layer, images, targets))
    assert torch.allclose(z, public_distillation(theirs, layer, images, targets, 0.1), atol=1e-6)
    assert int(member.bn.num_batches_tracked) == 20
    assert int(before.bn.num_batches_tracked) == 11  # version 1
    for (name, got), want in zip(buffers(member).items(), buffers(theirs).values(), strict=True):
        assert torch.allclose(got, want, rtol=1e-5, atol=1e-7), name
    assert not torch.allclose(member.bn.running_mean, before.bn.running_mean, rtol=1e-2)


@pytest.mark.parametrize("passes", ["public", "needed"])
def test_a_step_has_the_bits_of_version_1_where_there_is_no_batch_normalisation(small, passes):
    torch.manual_seed(5)
    members = [DigitsCNN(dropout=0.3).build(shape=(1, 8, 8), classes=10) for _ in range(3)]
    images, others, labels = torch.rand(6, 1, 8, 8), torch.rand(6, 1, 8, 8), torch.arange(6)
    torch.manual_seed(6)
    terms = Dverge(eps=0.2, running_statistics=passes).loss(members, small.batch(images, labels, others=others))
    gradients = torch.autograd.grad(terms["distilled"], [p for member in members for p in member.parameters()])
    torch.manual_seed(6)
    expected = version_1(members, images, labels, others, Dverge().layer(members[0], small.batch(images, labels)))
    assert torch.equal(terms["distilled"], expected)
    wanted = torch.autograd.grad(expected, [p for member in members for p in member.parameters()])
    assert all(torch.equal(got, want) for got, want in zip(gradients, wanted, strict=True))


def version_1(members, images, labels, others, layer):
    """DVERGE's loss as it was before x_t was passed in each step."""
    distilled = []
    for member in members:
        low, high = (images - 0.2).clamp_min(0), (images + 0.2).clamp_max(1)
        points, direction = images, torch.zeros_like(images)
        with torch.no_grad():
            wanted = features_at(member, layer, others)
        for _ in range(10):
            points.requires_grad_()
            distance = torch.nn.functional.mse_loss(features_at(member, layer, points), wanted)
            (gradient,) = torch.autograd.grad(distance, points)
            direction = direction + gradient / gradient.flatten(1).abs().sum(1).clamp_min(1e-12).view(-1, 1, 1, 1)
            points = (points.detach() - 0.2 / 10 * direction.sign()).clamp(low, high)
        distilled.append(points.detach())
    cross_entropy = torch.nn.functional.cross_entropy
    losses = [cross_entropy(m(distilled[j]), labels) for i, m in enumerate(members) for j in range(3) if i != j]
    return torch.stack(losses).sum()


def test_a_layer_an_epoch_drawn_uniformly(small):
    member, images, _ = network("digits_cnn")
    labels, method, drawn = torch.zeros(8, dtype=torch.int64), Dverge(), Counter()
    for seed in range(400):
        batch = small.batch(images, labels, seed=seed)
        first = method.layer(member, batch)
        batch.uniform(images, 1.0)  # what other code draws in the same epoch changes nothing
        assert method.layer(member, batch) == first
        drawn[first] += 1
    assert set(drawn) == {"relu1", "relu2", "relu3", "logits"}
    assert min(drawn.values()) > 70


def test_the_loss_is_the_others_images_and_no_clean_term(small):
    torch.manual_seed(5)
    members = [DigitsCNN().build(shape=(1, 8, 8), classes=10) for _ in range(3)]
    images, others, labels = torch.rand(6, 1, 8, 8), torch.rand(6, 1, 8, 8), torch.arange(6)
    method, batch = Dverge(eps=0.2), small.batch(images, labels, others=others)
    terms = method.loss(members, batch)
    layer = method.layer(members[0], batch)
    z = [method.distil(member, layer, images, others) for member in members]
    total = 0.0
    for i in range(3):
        for j in range(3):
            if i != j:
                total -= members[i](z[j]).log_softmax(1)[torch.arange(6), labels].mean().item()
    assert list(terms) == ["distilled"]
    assert terms["distilled"].item() == pytest.approx(total, rel=1e-5)


def test_other_images_are_independent_draws_of_the_training_set(small):
    images, seen = small.images(), []

    def loss(members, batch):
        first = batch.others()
        assert torch.equal(first, batch.others())
        seen.append(first)
        return {"ce": torch.nn.functional.cross_entropy(members[0](first), batch.labels)}

    small.trainer(small.ensemble(), images, augment=False, epochs=4).train("joint", loss, members=[0])
    pool = [tuple(one.tolist()) for one in images.floats().flatten(1)]
    found = Counter(pool.index(tuple(one.tolist())) for one in torch.cat(seen).flatten(1))
    assert sum(found.values()) == 160
    assert len(found) > 35
    assert not torch.equal(seen[0], seen[3])


def test_starts_from_the_plain_ensemble_and_resumes(small, tmp_path):
    plain = small.ensemble(3)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(0.5)
    trainer = small.trainer(small.ensemble(3), small.images(), lr=1e-30, epochs=1, prerequisites={"ece": plain})
    Dverge(eps=0.1).fit(trainer)
    for name, parameter in trainer.ensemble.named_parameters():
        assert torch.allclose(parameter, dict(plain.named_parameters())[name], rtol=0, atol=1e-20)
    small.assert_resumes(tmp_path, Dverge(eps=0.1), 2, prerequisites={"ece": plain})
