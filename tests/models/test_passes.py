"""Fast passes against torch's own layers, by finite differences and by two derivatives in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.models import kernels, passes
from bench.models.lenet import LeNet
from bench.models.normalise import Normalise
from bench.models.passes import fast_passes, fit_for_channels_last, passes_on
from bench.models.residual import Shortcut
from bench.models.resnet import CifarResNet
from bench.training.gradients import coupled, loss_and_gradient

SHORTCUTS = pytest.mark.parametrize("shortcut", ["A", "B"])
SHAPES = {"grey": 1, "colour": 3, "features": 6}


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(channels: int, *, normed: bool) -> nn.Module:
    torch.manual_seed(2)
    norm = nn.BatchNorm2d(5) if normed else nn.Identity()
    parts = [nn.Conv2d(channels, 5, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 4, 3, stride=2),
             nn.Flatten(), nn.Linear(16, 4)]  # fmt: skip
    return nn.Sequential(*parts).double().train()


def derivatives(net: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """Loss, image gradient, and the gradients of a function of both with respect to images and parameters."""
    x = x.clone().requires_grad_()
    loss, gradient = loss_and_gradient(net, x, y)
    total = loss + gradient.square().sum() + (gradient * gradient.roll(1, 0)).sum()
    second = torch.autograd.grad(total, [x, *net.parameters()], allow_unused=True)
    return [loss.detach(), gradient.detach(), *(part for part in second if part is not None), *net.buffers()]


def by_torch(net: nn.Module, x: Tensor, y: Tensor, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(passes, "_FAST", {})
        return derivatives(net, x, y)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("channels", SHAPES.values(), ids=SHAPES)
def test_two_derivatives_and_statistics_equal_torchs(
    channels: int, normed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = images(6, channels, 10, 10), torch.arange(6) % 4
    net = small(channels, normed=normed)
    expected = by_torch(copy.deepcopy(net), x, y, monkeypatch)
    with passes_on([net]):  # as in a training step
        got = derivatives(copy.deepcopy(net), x, y)
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-12)


@SHORTCUTS
def test_parameter_gradients_with_the_channels_last_equal_torchs(shortcut: Shortcut) -> None:
    torch.manual_seed(4)
    net = CifarResNet(depth=8, width=4, shortcut=shortcut).build(shape=(3, 16, 16), classes=10).double().train()
    x, y = images(5, 3, 16, 16), torch.arange(5)
    expected = torch.autograd.grad(functional.cross_entropy(net(x), y), list(net.parameters()))
    with passes_on([net]):
        loss = functional.cross_entropy(net(x), y)
    for mine, theirs in zip(torch.autograd.grad(loss, list(net.parameters())), expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-12)


@SHORTCUTS
def test_two_derivatives_of_a_resnet_equal_torchs(shortcut: Shortcut, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    net = CifarResNet(depth=8, width=4, shortcut=shortcut).build(shape=(3, 16, 16), classes=10).double().train()
    assert fit_for_channels_last(net)
    x, y = images(5, 3, 16, 16), torch.arange(5)
    expected = by_torch(copy.deepcopy(net), x, y, monkeypatch)
    for mine, theirs in zip(derivatives(net, x, y), expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-8, atol=1e-9 * float(theirs.abs().max()))


@pytest.mark.parametrize("weights", [(0.7, -1.3, 2.0), (0.0, 0.0, 1.0)])
def test_batch_normalisation_is_differentiated_twice_as_finite_differences_say(weights: tuple[float, ...]) -> None:
    x = images(4, 3, 3, 2).requires_grad_()
    weight = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    bias = images(3, seed=1).requires_grad_()

    def normalise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with fast_passes(twice=True):
            return functional.batch_norm(x, None, None, weight, bias, True, 0.1, 1e-5)

    assert type(normalise(x, weight, bias).grad_fn).__name__ == "BatchNormBackward"
    assert torch.autograd.gradcheck(normalise, (x, weight, bias))
    assert torch.autograd.gradgradcheck(normalise, (x, weight, bias))


@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 0, 1), (2, 1, 1), (1, 1, 2)])
def test_convolutions_are_differentiated_twice_as_finite_differences_say(
    stride: int, padding: int, groups: int
) -> None:
    x, weight = images(2, 2, 5, 5).requires_grad_(), images(4, 2 // groups, 3, 3, seed=1).requires_grad_()
    bias = images(4, seed=2).requires_grad_()

    def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with fast_passes(twice=True):
            return functional.conv2d(x, weight, bias, stride, padding, 1, groups)

    assert type(convolve(x, weight, bias).grad_fn).__name__ == "ConvolvedBackward"
    assert torch.autograd.gradcheck(convolve, (x, weight, bias))
    assert torch.autograd.gradgradcheck(convolve, (x, weight, bias))


@pytest.mark.parametrize("settings", [{}, {"stride": 1}, {"kernel_size": 3, "padding": 1}, {"ceil_mode": True}])
def test_pooling_takes_the_same_pixel_where_several_are_largest(settings: dict[str, Any]) -> None:
    x = images(3, 4, 7, 7).mul(3).round().requires_grad_()  # full of ties
    pool = nn.MaxPool2d(**{"kernel_size": 2, **settings})
    plain = pool(x)
    with fast_passes():
        made = pool(x)
    assert type(made.grad_fn).__name__ == "PoolBackward"
    assert torch.equal(made, plain)
    weights = images(*plain.shape, seed=3)
    assert torch.equal(*(torch.autograd.grad((out * weights).sum(), x)[0] for out in (made, plain)))


@pytest.mark.parametrize("model", ["lenet", "A", "B"])
def test_a_forward_pass_that_is_differentiated_twice_is_torchs(model: str) -> None:
    torch.manual_seed(4)
    plugin = LeNet() if model == "lenet" else CifarResNet(depth=8, width=8, shortcut="A" if model == "A" else "B")
    shape = (1, 28, 28) if model == "lenet" else (3, 16, 16)
    net = plugin.build(shape=shape, classes=10).train()
    x, y = images(5, *shape).float(), torch.arange(5)
    with passes_on([net]):
        loss, _ = loss_and_gradient(net, x.clone().requires_grad_(), y)
    mine, theirs = float(loss.detach()), float(functional.cross_entropy(net(x), y, reduction="sum").detach())
    # With BatchNorm the channels are last in memory, and sums in another order.
    assert mine == (theirs if model == "lenet" else pytest.approx(theirs, rel=1e-5))


@SHORTCUTS
def test_a_resnet_differentiated_twice_keeps_the_channels_last(
    shortcut: Shortcut, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(4)
    net = CifarResNet(depth=8, width=8, shortcut=shortcut).build(shape=(3, 16, 16), classes=10).train()
    layouts: list[tuple[bool, ...]] = []
    kernel = torch.ops.aten.threshold_backward

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return watched if name == "threshold_backward" else getattr(torch.ops.aten, name)

    def watched(grad: Tensor, y: Tensor, threshold: float) -> Tensor:
        layouts.append(tuple(t.is_contiguous(memory_format=torch.channels_last) for t in (grad, y)))
        return kernel(grad, y, threshold)

    monkeypatch.setattr(kernels, "_aten", Watched())
    derivatives(net, images(5, 3, 16, 16).float(), torch.arange(5))
    # Where two layouts meet, the kernel is thirty times slower.
    assert len(layouts) == 3 * sum(isinstance(part, nn.ReLU) for part in net.modules())
    assert set(layouts) == {(True, True)}


@pytest.mark.parametrize("where", [nn.ReLU(), functional.relu, torch.relu])
def test_relu_is_differentiated_twice_as_torchs(where: Any) -> None:
    x = (images(4, 3, 3, 2) - 0.5).requires_grad_()

    def twice(x: Tensor) -> Tensor:
        y = where(x)
        (slope,) = torch.autograd.grad((y.square() * y).sum(), x, create_graph=True)
        return torch.stack([y.detach(), slope.detach(), *torch.autograd.grad(slope.square().sum(), x)])

    expected = twice(x)
    with fast_passes(twice=True):
        assert type(where(x).grad_fn).__name__ == "ReluBackward"
        assert torch.equal(twice(x), expected)


def test_the_innermost_holds_and_afterwards_all_is_as_before() -> None:
    net, x = small(3, normed=True), images(4, 3, 10, 10)
    with passes_on([net]):
        assert net[0](x).is_contiguous(memory_format=torch.channels_last)
        with fast_passes(twice=True):
            assert net[0](x).is_contiguous()
        assert net[0](x).is_contiguous(memory_format=torch.channels_last)
        with pytest.raises(ZeroDivisionError), fast_passes(twice=True):
            raise ZeroDivisionError
        assert net[0](x).is_contiguous(memory_format=torch.channels_last)
    assert net[0](x).is_contiguous()
    assert type(net[1](net[0](x)).grad_fn).__name__ == "NativeBatchNormBackward0"


def test_a_strangers_network_keeps_its_layout() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = small(3, normed=True)[:5]

        def forward(self, x: Tensor) -> Tensor:
            features = self.body(x)
            return features.view(len(features), -1)  # refuses channels last

    net = Viewing()
    assert not fit_for_channels_last(net)
    with passes_on([net]):
        assert net(images(4, 3, 10, 10)).shape == (4, 16)


def test_only_chains_of_known_layers_treat_each_image_by_itself() -> None:
    assert not coupled(nn.Sequential(Normalise([0.5], [0.2]), small(1, normed=False)))
    assert coupled(small(1, normed=True))
    assert coupled(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.2)))
    hooked = small(1, normed=False)
    hooked[6].register_forward_pre_hook(lambda *_: None)
    assert coupled(hooked)
