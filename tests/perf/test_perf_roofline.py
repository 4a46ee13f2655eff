"""The floor by the machine's rates: what passes compute and move, in closed form; the rates; the line."""

from __future__ import annotations

import io
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from bench.cli.perf import printing
from bench.models.fast import fast_copy
from bench.models.passes import fast_passes
from bench.perf import roofline
from bench.perf.floor import Passes, work_of
from bench.perf.needs import Bare, Need
from bench.perf.roofline import Rates, Work, bound, count, measure_rates
from bench.training.method import Batch

pytestmark = pytest.mark.usefixtures("_one_thread")
B = 6
# Multiply-adds are two: convolutions of 3 to 8 channels, of 8 to 4 in two groups, a layer of 10 classes.
FIRST, SECOND, LAST = 2 * B * 8 * 64 * 27, 2 * B * 4 * 64 * 36, 2 * B * 256 * 10
ALL = FIRST + SECOND + LAST


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1, groups=2), nn.Flatten(),
        nn.Linear(256, 10),
    )  # fmt: skip


@pytest.fixture
def images() -> Tensor:
    return torch.rand(B, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def frozen(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


# ---------------------------------------------------------------- operations


@pytest.mark.parametrize("kernels", [nullcontext, fast_passes, lambda: fast_passes(twice=True)],
                         ids=["torch", "ours", "ours twice"])  # fmt: skip
def test_operations_are_those_of_the_definition_whichever_kernel_makes_them(
    network: nn.Module, images: Tensor, kernels: Any
) -> None:
    labels = torch.zeros(B, dtype=torch.long)
    with kernels():
        forward, gradient = (
            work_of(frozen(network), images, labels, Passes(((B, gradient),))) for gradient in (False, True)
        )
    assert forward.operations == ALL
    assert gradient.operations == 2 * ALL
    assert 0 < forward.bytes < gradient.bytes


def test_passes_are_counted_once_and_scaled_by_their_images(network: nn.Module, images: Tensor) -> None:
    labels = torch.zeros(B, dtype=torch.long)
    found = work_of(frozen(network), images, labels, Passes(((B, True), (B, False), (2, True), (1, False))))
    assert found.operations == pytest.approx(ALL * (2 * (B + 2) + (B + 1)) / B)


@pytest.mark.parametrize(
    ("kind", "operations"),
    [
        ("forward", ALL),
        ("images", 2 * ALL),
        ("train", 3 * ALL - FIRST),  # nobody asks for the images' gradient
        ("curvature", 4 * ALL),
        ("second", 6 * ALL - FIRST),
    ],
)
def test_a_training_floor_counts_what_its_formula_needs(
    network: nn.Module, images: Tensor, kind: Any, operations: int
) -> None:
    batch = Batch(
        images=images, labels=torch.zeros(B, dtype=torch.long), indices=torch.arange(B), epoch=0, epochs=1,
        progress=0.0, generator=torch.Generator(), others=lambda: images,
    )  # fmt: skip
    before = [parameter.clone() for parameter in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    bare = Bare([network], optimizer, batch, [Need(3, kind, B)], "logits")
    assert bare.work().operations == 3 * operations
    for parameter, weight in zip(network.parameters(), before, strict=True):
        assert torch.equal(parameter, weight)
        assert parameter.requires_grad


def test_the_fastest_layout_has_the_operations_of_the_network_and_fewer_bytes_with_batch_norm(images: Tensor) -> None:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32)]
    plain = frozen(nn.Sequential(*parts, nn.Flatten(), nn.Linear(512, 10)))
    labels, passes = torch.zeros(B, dtype=torch.long), Passes(((B, True), (B, False)))
    before = work_of(plain, images, labels, passes)
    for precision in ("float32", "bfloat16"):
        quick = fast_copy(plain, images, precision=precision)  # type: ignore[arg-type]
        assert quick is not None
        after = work_of(quick, images, labels, passes)
        assert after.operations == before.operations
        assert after.bytes < before.bytes
        before = after


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize(
    ("work", "moved"),
    [
        (lambda x: x + 1, 2 * 4000),
        (lambda x: x + x[0], 2 * 4000 + 40),
        (lambda x: x.bfloat16(), 4000 + 2000),
        (lambda x: x.view(10, 100), 0),
        (lambda x: x.t()[3:].unsqueeze(0).detach(), 0),
        (lambda x: x.contiguous(), 0),
        (lambda x: x.expand(5, 100, 10).sum(), 4000 + 4),
        (lambda x: torch.empty_like(x), 0),
    ],
)
def test_bytes_are_what_operations_read_and_write_and_views_do_neither(work: Any, moved: int) -> None:
    x = torch.rand(100, 10)
    assert count(lambda: work(x)) == Work(0, moved)


def test_the_input_of_a_convolution_is_not_read_for_the_images_gradient() -> None:
    x, layer = torch.rand(2, 8, 5, 5), nn.Conv2d(8, 8, 3, padding=1, bias=False)
    tensor, weights = x.numel() * 4, layer.weight.numel() * 4
    y = layer(x.requires_grad_())
    grad = torch.ones_like(y)
    towards = {"images": x, "weights": layer.weight}
    moved = {
        name: count(lambda end=end: torch.autograd.grad(y, end, grad, retain_graph=True)).bytes
        for name, end in towards.items()
    }
    assert moved["images"] == 2 * tensor + weights
    assert moved["weights"] == 2 * tensor + 2 * weights


# ---------------------------------------------------------------- rates


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_rates_are_positive_and_leave_everything_as_it_was(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "SIDES", (64, 128))
    monkeypatch.setattr(roofline, "COPIED", {"cpu": 2**20})
    before = torch.random.get_rng_state()
    found = measure_rates("cpu", precision=precision)
    assert 0 < found.operations < float("inf")
    assert 0 < found.bytes < float("inf")
    assert found.precision == precision
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_line_has_both_times_and_ours() -> None:
    limit = bound(Work(12.34e9, 2.1e9), Rates(101e9, 9.8e9), 0.35)
    assert limit.operations_seconds == pytest.approx(0.1222, rel=1e-3)
    assert limit.bytes_seconds == pytest.approx(0.2143, rel=1e-3)
    line = printing._limit(limit)
    assert line == "ours / limit 1.63 by the machine's rates: 12.3 Gop in 122 ms, 2.1 GB in 214 ms; ours 350 ms"
    out = io.StringIO()
    printing.rates(Rates(101e9, 9.8e9, "bfloat16"), Console(file=out, width=40))
    assert out.getvalue() == "this machine: bfloat16 matrix products 101 Gop/s, copies 9.8 GB/s\n"


@pytest.mark.parametrize(
    ("value", "told"),
    [(0, "0 s"), (4.2e-10, "0.42 ns"), (3e-6, "3 µs"), (0.9996, "1 s"), (999.4, "999 s"), (999.9, "1 ks"),
     (2.5e15, "2.5 Ps")],
)  # fmt: skip
def test_three_digits_and_a_prefix(value: float, told: str) -> None:
    assert printing._si(value, "s") == told
