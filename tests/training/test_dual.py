"""Passes of pairs against double backward: every network, every method that differentiates gradients, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.core import config, registry, seeds, settings
from bench.core.progress import Progress
from bench.core.specs import Training
from bench.data.base import ImageSet
from bench.models import passes
from bench.models.build import build_member
from bench.models.ensemble import Ensemble
from bench.training import dual
from bench.training.batch import Batch
from bench.training.dropout import dropout
from bench.training.gradients import cosines, loss_and_gradient, norms
from bench.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("_one_thread", "_fresh")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LOADED = config.load()
MODELS = [name for name, spec in LOADED.config.models.items() if spec.plugin != "factory"]
BY_GRADIENTS = ["trs", "trs_printed", "trs_official", "trs_at", "trs_report", "cos_only", "cos_l2", "gal", "deg"]
GREY, COLOUR = (1, 8, 8), (3, 16, 16)


@pytest.fixture
def _fresh() -> Iterator[None]:
    dual._agreeing.clear()
    yield
    dual._agreeing.clear()


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Chooses the way on the CPU: by pairs, or by double backward as usual there."""

    def choose(wanted: bool) -> None:
        monkeypatch.setattr(dual, "BY_PAIRS", frozenset({"cpu"} if wanted else ()))

    return choose


def member(
    model: str, shape: tuple[int, int, int], *, activation: str = "relu", seed: int = 0, **changes: Any
) -> nn.Module:
    spec = LOADED.config.models.get(model)
    plugin, given = (model, changes) if spec is None else (spec.plugin, {**spec.settings, **changes})
    form: Any = SimpleNamespace(shape=shape, classes=10, mean=(0.4,) * shape[0], std=(0.3,) * shape[0])
    with seeds.isolated("dual", model, seed):
        return build_member(plugin, given, dataset=form, activation=activation).double().train()


def data(count: int, shape: tuple[int, ...], classes: int = 10) -> tuple[Tensor, Tensor]:
    g = seeds.generator("dual", count)
    return torch.rand(count, *shape, generator=g, dtype=torch.float64), torch.randint(classes, (count,), generator=g)


def second(net: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """Loss, image gradient, a function of both differentiated by images and parameters, and the buffers afterwards."""
    x = x.clone().requires_grad_()
    with seeds.isolated("second"):
        loss, slope = loss_and_gradient(net, x, y)
        value = 0.7 * loss + norms(slope).sum() + cosines([slope, slope.roll(1, 0)]).square().sum() + slope[0, :3].sum()
        towards = [x, *net.parameters()]
        found = torch.autograd.grad(value, towards, allow_unused=True)
        drawn = torch.rand(1)  # later random numbers are the same too
    made = [torch.zeros_like(t) if part is None else part for t, part in zip(towards, found, strict=True)]
    return [loss.detach(), slope.detach(), *made, *(buffer.double() for buffer in net.buffers()), drawn]


def assert_equal(mine: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-10) -> None:
    """To `tolerance` of a tensor's length; what is rounding beside the longest is nothing."""
    longest = max(float(tensor.norm()) for tensor in theirs)
    for place, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        assert a.shape == b.shape
        assert float((a - b).norm()) <= tolerance * float(b.norm()) + 1e-12 * longest, place


def both(net: nn.Module, x: Tensor, y: Tensor, pairs: Callable[[bool], None]) -> tuple[list[Tensor], list[Tensor]]:
    made = []
    for wanted in (True, False):
        pairs(wanted)
        made.append(second(copy.deepcopy(net), x, y))
    return made[0], made[1]


def is_by_pairs(net: nn.Module, x: Tensor, y: Tensor) -> bool:
    _, slope = loss_and_gradient(net, x.clone().requires_grad_(), y)
    return type(slope.grad_fn).__name__ == "_ByPairsBackward"


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("mode", ["train", "eval", "train, leaky_relu"])
@pytest.mark.parametrize("model", [*MODELS, "timm/resnet10t"])
def test_pairs_are_exact_on_every_network(model: str, mode: str, pairs: Callable[[bool], None]) -> None:
    shape = GREY if model == "digits_cnn" else COLOUR
    net, (x, y) = member(model, shape, activation="leaky_relu" if "leaky" in mode else "relu"), data(5, shape)
    net.train(mode != "eval")
    mine, theirs = both(net, x, y, pairs)
    assert_equal(mine, theirs)
    pairs(True)
    assert is_by_pairs(net, x, y)


def layers(*parts: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 6, 3), *parts, nn.Flatten(), nn.LazyLinear(10))


UNUSUAL: dict[str, Callable[[], nn.Module]] = {
    "no weights": lambda: layers(nn.BatchNorm2d(6, affine=False), nn.ReLU()),
    "no statistics": lambda: layers(nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU()),
    "in place": lambda: layers(nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.ReLU(inplace=True)),
    "dropout": lambda: layers(nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.4), nn.Dropout2d(0.3)),
    "one dimension": lambda: layers(nn.Flatten(), nn.LazyBatchNorm1d(), nn.Tanh(), nn.LazyLinear(7), nn.Softplus()),
    "pools": lambda: layers(nn.GELU(), nn.AvgPool2d(2), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.ELU()),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_pairs_are_exact_on_a_strangers_layers(name: str, pairs: Callable[[bool], None]) -> None:
    x, y = data(5, (3, 9, 9))
    net = UNUSUAL[name]()
    net(x.float())  # lazy layers learn their sizes
    net = net.double().train()
    assert_equal(*both(net, x, y, pairs))
    pairs(True)
    assert is_by_pairs(net, x, y)


# ---------------------------------------------------------------- methods


def method_of(name: str, **changes: Any) -> Any:
    spec = LOADED.config.methods[name]
    table = {**spec.settings_on("digits", 3), **changes}
    return settings.build(registry.load("methods", spec.plugin), table, name)


def batch_of(x: Tensor, y: Tensor, *, step: int = 0, steps: int = 1) -> Batch:
    share = step / steps
    return Batch(x, y, torch.arange(len(y)), int(10 * share), 10, share, seeds.generator("noise", step), lambda: x)


def stepped(method: Any, nets: list[nn.Module], batch: Batch) -> list[Tensor]:
    """The terms of a step, its parameter gradients, and the running statistics after it."""
    with seeds.isolated("step"), dropout(nets, getattr(method, "dropout", 0.0)):
        terms = method.loss(nets, batch)
        parameters = [parameter for net in nets for parameter in net.parameters()]
        found = torch.autograd.grad(sum(terms.values(), torch.zeros(())), parameters)
    buffers = [buffer.double() for net in nets for buffer in net.buffers()]
    return [*(term.detach() for term in terms.values()), *found, *buffers, batch.generator.get_state().double()]


CHANGES: dict[str, dict[str, Any]] = {
    "gal, floor": {"cosine_floor": "product"},
    "trs_official, each": {"cosine_floor": "each"},
    "trs_report, official": {"terms": "official"},
    "cos_l2, official": {"terms": "official"},
}


@pytest.mark.parametrize("model", ["digits_cnn", "resnet8"])
@pytest.mark.parametrize("name", [*BY_GRADIENTS, *CHANGES])
def test_a_step_of_every_method_is_the_same_both_ways(name: str, model: str, pairs: Callable[[bool], None]) -> None:
    shape, changes = (GREY, {}) if model == "digits_cnn" else (COLOUR, {"width": 4})
    method = method_of(name.partition(",")[0], **CHANGES.get(name, {}))
    x, y = data(7, shape)
    made = []
    for wanted in (True, False):
        pairs(wanted)
        nets = [member(model, shape, activation=method.activation, seed=seed, **changes) for seed in range(3)]
        made.append(stepped(method, nets, batch_of(x, y, step=5, steps=10)))
        assert [net in dual._agreeing for net in nets] == [wanted] * 3
        assert not any(map(dual.refused, nets))
    assert_equal(*made, tolerance=1e-9)


@pytest.mark.parametrize(("name", "changes"), [("trs", {"steps": 3}), ("gal", {})])
def test_fifty_steps_make_the_same_curve(name: str, changes: dict[str, Any], pairs: Callable[[bool], None]) -> None:
    method, (x, y) = method_of(name, **changes), data(24, GREY, classes=3)
    curves = []
    for wanted in (True, False):
        pairs(wanted)
        torch.manual_seed(2)
        nets = [
            nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
            for _ in range(3)
        ]
        nets = [net.double().train() for net in nets]
        optimizer = torch.optim.Adam([parameter for net in nets for parameter in net.parameters()], lr=1e-2)
        curve = []
        for step in range(50):
            part = torch.arange(12) + 12 * (step % 2)
            terms = method.loss(nets, batch_of(x[part], y[part], step=step, steps=50))
            optimizer.zero_grad()
            sum(terms.values(), torch.zeros(())).backward()
            optimizer.step()
            curve.append(torch.stack([term.detach() for term in terms.values()]))
        curves.append(torch.stack(curve))
    assert float(curves[1][-1].sum()) < float(curves[1][5].sum())  # it learns
    assert torch.allclose(*curves, rtol=1e-6, atol=0)
    assert not torch.equal(*curves)  # two ways indeed


# ---------------------------------------------------------------- which way


def test_a_cpu_differentiates_twice() -> None:
    x, y = data(4, GREY)
    net = member("digits_cnn", GREY)
    assert "cuda" in dual.BY_PAIRS
    assert "cpu" not in dual.BY_PAIRS
    assert not is_by_pairs(net, x, y)
    assert not dual._agreeing  # nor was it tried


class Strange(nn.Module):
    """A function of one's own, without a tangent."""

    class Squared(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return 2 * grad * ctx.saved_tensors[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.Squared.apply(x)  # type: ignore[no-any-return, no-untyped-call]


class Direct(nn.BatchNorm2d):
    """Batch normalisation by a function of torch that pairs do not know: its tangent is there, its gradient wrong."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.batch_norm(x, self.weight, self.bias, None, None, True, 0.1, self.eps, False)


@pytest.mark.parametrize("part", [Strange, lambda: Direct(6)], ids=["no tangent", "wrong"])
def test_where_pairs_are_not_exact_the_other_way_stays_and_is_told_once(
    part: Callable[[], nn.Module], pairs: Callable[[bool], None]
) -> None:
    notes: list[str] = []
    curves = []

    class Heard(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    for wanted in (True, False):
        pairs(wanted)
        nets = [nn.Sequential(nn.Conv2d(1, 6, 3), part(), nn.Flatten(), nn.LazyLinear(4)) for _ in range(3)]
        for number, net in enumerate(nets):
            torch.manual_seed(number)
            net[0].reset_parameters()
            net(torch.rand(2, 1, 8, 8))
        images = ImageSet((torch.rand(16, 1, 8, 8, generator=seeds.generator("strange")) * 255).byte(),
                          torch.arange(16) % 4)  # fmt: skip
        trainer = Trainer(ensemble=Ensemble(nets), images=images, training=Training(epochs=2, batch_size=8),
                          seed_axes=("dual",), progress=Heard())  # fmt: skip
        trainer.train("joint", method_of("trs").loss)
        assert not trainer.notes  # what was computed is the same
        curves.append([record["terms"] for record in trainer.curve])
    assert notes == [dual.REFUSED]
    assert curves[0] == curves[1]


def test_weights_that_start_from_zero_hide_nothing() -> None:
    """Behind a last layer of zeros every derivative is zero, the wrong ones of a layer normalisation too."""
    x, y = data(4, GREY)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LayerNorm([6, 6]), nn.Tanh(), nn.Flatten(), nn.Linear(144, 10)).double()
    for parameter in net[-1].parameters():
        nn.init.zeros_(parameter)
    assert not dual.agree(net, x, y)
    net[1] = nn.Identity()
    assert dual.agree(net, x, y)


def test_batch_normalisation_by_torch_is_found_to_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    net, (x, y) = member("resnet8", COLOUR), data(5, COLOUR)
    assert dual.agree(net, x, y)
    monkeypatch.delitem(passes._PAIRS, functional.batch_norm)
    assert not dual.agree(net, x, y)
    assert dual.agree(net.eval(), x, y)  # there the statistics are constants indeed


@pytest.mark.parametrize("function", [functional.batch_norm, functional.relu])
def test_a_rule_that_is_wrong_by_a_thousandth_is_seen(
    function: Any, monkeypatch: pytest.MonkeyPatch, pairs: Callable[[bool], None]
) -> None:
    net, (x, y) = member("resnet8", COLOUR), data(5, COLOUR)
    rule = passes._PAIRS[function]

    def spoiled(*args: Any, **kwargs: Any) -> Any:
        made = rule(*args, **kwargs)
        value, tangent = torch.autograd.forward_ad.unpack_dual(made)
        return torch.autograd.forward_ad.make_dual(value, 1.001 * tangent)

    monkeypatch.setitem(passes._PAIRS, function, spoiled)
    assert not dual.agree(net, x, y)
    monkeypatch.setattr(dual, "agree", lambda *_: True)  # trusted all the same
    mine, theirs = both(net, x, y, pairs)
    with pytest.raises(AssertionError):
        assert_equal(mine, theirs)


def test_weights_that_changed_in_between_are_told(pairs: Callable[[bool], None]) -> None:
    pairs(True)
    net, (x, y) = member("digits_cnn", GREY), data(4, GREY)
    _, slope = loss_and_gradient(net, x.requires_grad_(), y)
    with torch.no_grad():
        next(net.parameters()).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        slope.square().sum().backward()


def test_a_network_that_is_tried_stays_as_it_is(pairs: Callable[[bool], None]) -> None:
    pairs(True)
    net, (x, y) = member("resnet8", COLOUR), data(4, COLOUR)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    with seeds.isolated("tried"):
        expected = torch.rand(3)
    with seeds.isolated("tried"):
        assert dual.serves(net, x, y)
        assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert net.training


def test_autocast_is_that_of_the_first_pass(pairs: Callable[[bool], None]) -> None:
    x, y = data(6, COLOUR)
    net, x = member("resnet8", COLOUR).float(), x.float()
    made = []
    for wanted in (True, False):
        pairs(wanted)
        twin, images = copy.deepcopy(net), x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss, slope = loss_and_gradient(twin, images, y)
        made.append(torch.cat([part.flatten() for part in torch.autograd.grad(
            loss + slope.square().sum(), list(twin.parameters()))]))  # fmt: skip
    coarse = 0.1  # of the length: bfloat16 has eight bits
    assert float((made[0] - made[1]).norm()) <= coarse * float(made[1].norm())
    assert not torch.equal(made[0], made[1])


@GPU
@pytest.mark.parametrize("model", ["digits_cnn", "resnet20"])
def test_on_a_gpu_pairs_are_taken_and_are_exact(model: str) -> None:
    shape = GREY if model == "digits_cnn" else COLOUR
    net, (x, y) = member(model, shape), data(5, shape)
    theirs = second(copy.deepcopy(net), x, y)
    there = copy.deepcopy(net).cuda(), x.cuda(), y.cuda()
    assert is_by_pairs(*there)
    assert_equal([tensor.cpu() for tensor in second(*there)], theirs, tolerance=1e-8)
