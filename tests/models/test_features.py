"""Intermediate features against forward passes written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.core.errors import BenchError
from bench.data.digits import Digits
from bench.data.vision import CIFAR10, MNIST
from bench.models.build import build_member
from bench.models.features import capture, pre_activation_points

SHORTCUTS = pytest.mark.parametrize("shortcut", ["A", "B"])


class Twice(nn.Module):
    """One in-place activation used twice, and a GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.act, self.gelu, self.gate = nn.ReLU(inplace=True), nn.GELU(), nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.two(self.act(self.one(x.flatten(1)))))
        return self.three(self.gelu(x) * self.gate(x))


@SHORTCUTS
def test_resnet_points_are_the_stem_and_two_a_block_in_order(shortcut):
    member = build_member("resnet", {"shortcut": shortcut}, dataset=CIFAR10())
    points = pre_activation_points(member, (3, 32, 32))
    blocks = [f"network.stage{s}.{b}.relu{r}" for s in (1, 2, 3) for b in range(3) for r in (1, 2)]
    assert points == ["network.relu", *blocks, "logits"]


def test_lenet_and_digits_cnn_points_follow_convolutions_and_linear_layers():
    for model, dataset in (("lenet", MNIST()), ("digits_cnn", Digits())):
        points = pre_activation_points(build_member(model, {}, dataset=dataset), dataset.shape)
        assert points == [*(f"network.relu{i}" for i in (1, 2, 3)), "logits"]


@SHORTCUTS
def test_resnet_features_equal_a_pass_by_hand(shortcut):
    member = build_member("resnet", {"depth": 8, "shortcut": shortcut}, dataset=CIFAR10())
    x = torch.rand(4, 3, 32, 32)
    network = member.network
    with torch.no_grad():
        for _ in range(3):
            member(x)
        member.eval()
        names = pre_activation_points(member, (3, 32, 32))
        with capture(member, [*names, "penultimate"]) as values:
            output = member(x)
        stem = network.bn(network.conv(member.normalise(x)))
        expected = {"network.relu": stem}
        hidden = stem.clamp(min=0)
        for stage in (1, 2, 3):
            block = getattr(network, f"stage{stage}")[0]
            inner = block.bn1(block.conv1(hidden))
            short = hidden
            if stage > 1 and shortcut == "B":
                weight = block.shortcut.conv.weight[:, :, 0, 0]
                short = block.shortcut.bn(torch.einsum("oc,bchw->bohw", weight, hidden[:, :, ::2, ::2]))
            elif stage > 1:
                padding = torch.zeros(4, hidden.shape[1] // 2, hidden.shape[2] // 2, hidden.shape[3] // 2)
                short = torch.cat([padding, hidden[:, :, ::2, ::2], padding], dim=1)
            total = block.bn2(block.conv2(inner.clamp(min=0))) + short
            expected |= {f"network.stage{stage}.0.relu1": inner, f"network.stage{stage}.0.relu2": total}
            hidden = total.clamp(min=0)
        expected["penultimate"] = hidden.mean((2, 3))
        expected["logits"] = expected["penultimate"] @ network.linear.weight.T + network.linear.bias
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(values[name], value, atol=1e-5), name
    assert values["logits"] is output
    assert (values["network.relu"] < 0).any()  # before the ReLU, not after it


@pytest.mark.parametrize("point", ["network.relu1", "network.relu2", "penultimate"])
def test_features_can_be_differentiated_twice_and_by_the_input(point):
    torch.manual_seed(0)  # a difference that crosses a kink is no derivative
    member = build_member("lenet", {}, dataset=MNIST()).double()
    x = torch.rand(2, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    with capture(member, [point]) as values:
        member(x)
        (gradient,) = torch.autograd.grad(values[point].square().sum(), x, create_graph=True)
        direction = torch.randn_like(x)
        step = 1e-6 * direction
        with torch.no_grad():
            member(x + step)
            up = values[point].square().sum()
            member(x - step)
            down = values[point].square().sum()
    assert torch.allclose((gradient * direction).sum(), (up - down) / 2e-6, rtol=1e-4)
    gradient.square().sum().backward()
    assert member.network.conv1.weight.grad.abs().sum() > 0


def test_a_module_called_twice_has_two_points_and_in_place_ones_are_read_before_the_change():
    net = Twice()
    points = pre_activation_points(net, (1, 2, 2))
    assert points == ["act", "act#2", "gelu", "logits"]
    x = torch.randn(8, 1, 2, 2)
    with capture(net, [*points, "penultimate"]) as values:
        output = net(x)
    first = net.one(x.flatten(1))
    second = net.two(first.clamp(min=0))
    kept = second.clamp(min=0)
    assert torch.allclose(values["act"], first)
    assert torch.allclose(values["act#2"], second)
    assert torch.allclose(values["gelu"], kept)
    assert torch.allclose(values["penultimate"], nn.functional.gelu(kept) * kept.sigmoid())
    assert torch.allclose(output, net.three(values["penultimate"]))
    assert (values["act"] < 0).any()
    values["act#2"].sum().backward()
    assert net.one.weight.grad.abs().sum() > 0


def test_timm_networks_have_points_too():
    member = build_member("timm/resnet18", {}, dataset=CIFAR10())
    points = pre_activation_points(member, (3, 32, 32))
    assert len(points) == 1 + 2 * 8 + 1
    with capture(member.eval(), [points[0], "penultimate"]) as values:
        x = torch.rand(2, 3, 32, 32)
        member(x)
    network = member.network
    assert torch.allclose(values[points[0]], network.bn1(network.conv1(member.normalise(x))), atol=1e-5)
    assert values["penultimate"].shape == (2, 512)


def test_the_dry_pass_changes_nothing():
    member = build_member("resnet", {"dropout": 0.3}, dataset=CIFAR10())
    member.network.stage2.eval()  # a mixture of flags
    flags = [part.training for part in member.modules()]
    state = {name: value.clone() for name, value in member.state_dict().items()}
    before = torch.get_rng_state()
    pre_activation_points(member, (3, 32, 32))
    assert [part.training for part in member.modules()] == flags
    assert all(torch.equal(value, state[name]) for name, value in member.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)
    assert hooks(member) == 0


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def test_hooks_go_also_when_the_block_or_the_dry_pass_raises():
    member = build_member("lenet", {}, dataset=MNIST())
    with pytest.raises(RuntimeError), capture(member, ["network.relu1", "penultimate", "logits"]):
        member(torch.rand(1, 3, 28, 28))
    assert hooks(member) == 0
    with pytest.raises(RuntimeError):
        pre_activation_points(member, (3, 28, 28))
    assert hooks(member) == 0
    assert member.training


def test_each_pass_replaces_the_values_of_the_one_before():
    member = build_member("lenet", {}, dataset=MNIST())
    with capture(member, ["logits"]) as values:
        one = member(torch.rand(1, 1, 28, 28))
        two = member(torch.rand(2, 1, 28, 28))
        assert one.shape[0] == 1
        assert values["logits"] is two


def test_points_that_do_not_exist_are_refused():
    member = build_member("lenet", {}, dataset=MNIST())
    with pytest.raises(BenchError, match=r"did you mean .*network.relu1"), capture(member, ["network.relu"]):
        pass
    assert hooks(member) == 0
    with (
        pytest.raises(BenchError, match=r"no feature 'network.relu1#2'"),
        capture(member, ["network.relu1#2"]),
    ):
        member(torch.rand(1, 1, 28, 28))
    with pytest.raises(BenchError, match="no linear layer"), capture(nn.ReLU(), ["penultimate"]):
        pass
