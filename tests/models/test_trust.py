"""Fast passes stand back where they do not fit: another device, autocast, `torch.func`, unusual calls."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.models import kernels, trust
from bench.models.passes import DIFFERENTIATED_TWICE, fast_passes
from bench.models.resnet import CifarResNet
from bench.training.gradients import loss_and_gradient

GPU = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _unknown_devices() -> Iterator[None]:
    yield
    trust.trusted.cache_clear()


def resnet() -> nn.Module:
    torch.manual_seed(4)
    return CifarResNet(depth=8, width=4, shortcut="B").build(shape=(3, 16, 16), classes=10).train()


def second(net: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    loss, slope = loss_and_gradient(net, x, y)
    return [loss.detach(), slope.detach(), *torch.autograd.grad(loss + slope.square().sum(), list(net.parameters()))]


def test_kernels_that_agree_with_torch_are_trusted_and_others_are_not(monkeypatch) -> None:
    device = torch.device("cpu")
    assert trust.agree(device, DIFFERENTIATED_TWICE)
    dots = kernels._dots
    monkeypatch.setattr(kernels, "_dots", lambda a, b: 1.01 * dots(a, b))
    assert not trust.agree(device, DIFFERENTIATED_TWICE)
    monkeypatch.setattr(kernels, "_dots", lambda a, b: dots(a, b) * torch.nan)
    assert not trust.agree(device, DIFFERENTIATED_TWICE)
    monkeypatch.setattr(kernels, "_dots", dots)
    assert trust.agree(device, DIFFERENTIATED_TWICE)


def test_where_a_kernel_raises_or_differs_torchs_own_serve(monkeypatch) -> None:
    """A CPU that plays a device of which nothing is known."""
    net, x, y = resnet(), torch.rand(5, 3, 16, 16), torch.arange(5)
    expected = second(copy.deepcopy(net), x, y)
    asked: list[str] = []

    def failing(a: Tensor, b: Tensor) -> Tensor:
        asked.append("dots")
        raise RuntimeError("tensor does not have a device")

    trust.trusted.cache_clear()
    monkeypatch.setattr(trust, "TESTED", "another")
    monkeypatch.setattr(kernels, "_dots", failing)
    for mine, theirs in zip(second(copy.deepcopy(net), x, y), expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))
    assert asked == ["dots"]  # found out once


@GPU
def test_two_derivatives_on_a_gpu_equal_torchs() -> None:
    assert trust.agree(torch.device("cuda"), DIFFERENTIATED_TWICE)
    net, x, y = resnet().double().cuda(), torch.rand(5, 3, 16, 16).double().cuda(), torch.arange(5).cuda()
    expected = second(copy.deepcopy(net).cpu(), x.cpu(), y.cpu())
    for mine, theirs in zip(second(net, x, y), expected, strict=True):
        assert torch.allclose(mine.cpu(), theirs, rtol=1e-8, atol=1e-9 * float(theirs.abs().max()))


@pytest.mark.parametrize("twice", [False, True])
def test_a_network_may_compute_under_autocast(twice: bool) -> None:
    class Coarse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = resnet()

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.net(x).float()

    net, x = Coarse(), torch.rand(4, 3, 16, 16).requires_grad_()
    (expected,) = torch.autograd.grad(net(x).sum(), x)
    with fast_passes([net], twice=twice):
        (found,) = torch.autograd.grad(net(x).sum(), x)
    assert torch.allclose(found, expected, atol=0.05 * float(expected.abs().max()))


@pytest.mark.parametrize("twice", [False, True])
def test_images_may_be_given_by_name_and_functions_transformed(twice: bool) -> None:
    x, weight = torch.rand(2, 3, 8, 8).requires_grad_(), torch.rand(4, 3, 3, 3).requires_grad_()
    norm = torch.ones(4).requires_grad_(), torch.zeros(4).requires_grad_()

    def passed(x: Tensor) -> Tensor:
        y = functional.conv2d(input=x, weight=weight, stride=1)
        y = functional.batch_norm(input=y, running_mean=None, running_var=None, weight=norm[0], bias=norm[1],
                                  training=True)  # fmt: skip
        return functional.max_pool2d(input=functional.relu(input=y), kernel_size=2).square().sum()

    (expected,) = torch.autograd.grad(passed(x), x)
    with fast_passes(twice=twice):
        (found,) = torch.autograd.grad(passed(x), x)
        transformed = torch.func.grad(passed)(x.detach())
    for slope in (found, transformed):
        assert torch.allclose(slope, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("call", [
    lambda: functional.relu("no tensor"), lambda: functional.conv2d(), lambda: functional.batch_norm(
        torch.rand(4, 3, 2, 2), None, None, torch.ones(3), torch.zeros(3), True, 0.1, 0.0),
])  # fmt: skip
def test_what_torch_refuses_is_refused_in_its_words(call: Any) -> None:
    with pytest.raises(Exception) as plain:  # noqa: PT011 - whatever it is
        call()
    with fast_passes(twice=True), pytest.raises(type(plain.value)) as fast:
        call()
    assert str(fast.value) == str(plain.value)
