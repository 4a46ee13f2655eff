"""`bench perf training` on digits: what the floor counts, and the authors' step; never time."""

from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from in_process import bench, command
from torch import nn

from bench.baselines.dverge import Dverge
from bench.baselines.gal import Gal
from bench.core import config, registry
from bench.core.errors import BenchError
from bench.core.specs import Training
from bench.methods.trs import Trs
from bench.methods.trs_report import TrsReport
from bench.models.build import build_member
from bench.perf import training as perf
from bench.perf.authors import AuthorsStep
from bench.perf.needs import Bare, Need, needs
from bench.perf.steps import run_of
from bench.training.method import Batch
from bench.training.optim import make_optimizer

pytestmark = pytest.mark.usefixtures("_one_thread")
METHODS = [
    "ece", "adaboost", "gradientboost", "ckae", "adp", "gal", "dverge", "cos_only", "cos_l2", "smooth_only", "trs",
    "trs_printed", "trs_official", "trs_at", "at_ensemble", "at_fgsm", "at_pgd_l2", "at_pgd_linf", "trs_report",
    "trs_report_pretrained", "adv_oap", "mrboost", "mrboost_mce", "aute", "parl", "barre", "igat_adp", "igat_dverge",
    "deg", "deg_pdd", "fasten", "adv_fasten", "drt", "lotos",
]  # fmt: skip
SIZE = 20
ON_DIGITS = {"dataset": "digits", "model": "digits_cnn", "members": 3}


@pytest.fixture(scope="module")
def loaded() -> config.Loaded:
    return config.load()


def images_seen(members: Any, work: Any) -> int:
    """Images that went into the members, by hooks."""
    seen: Counter[str] = Counter()
    handles = [
        member.register_forward_pre_hook(lambda _, inputs: seen.update({"images": len(inputs[0])}))
        for member in members
    ]
    work()
    for handle in handles:
        handle.remove()
    return seen["images"]


@pytest.mark.parametrize("name", METHODS)
def test_a_step_makes_the_passes_that_its_formula_needs_and_so_does_the_floor(
    loaded: config.Loaded, digits: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, int] = {}

    def once(works: Any, *, repeats: int, clock: Any) -> Any:
        for which in ("ours", "floor"):
            seen[which] = images_seen(members, works[which])
        return {which: [1.0] for which in works}

    def gather(self: Any, modules: Any, loss: Any, original: Any = perf._Measured._measure) -> Any:
        members.extend(self.ensemble.members)
        return original(self, modules, loss)

    members: list[nn.Module] = []
    monkeypatch.setattr(perf, "alternate", once)
    monkeypatch.setattr(perf._Measured, "_measure", gather)
    images = digits.train.take(slice(0, SIZE))
    step = perf.measure(run_of(loaded, name, **ON_DIGITS), images, repeats=1)
    counted = sum(need.count * need.images for need in step.needed if need.kind != "maps")  # of layers by themselves
    assert seen["floor"] == counted > 0
    # The report's parts of a batch are not all of one size. Layers of features are looked for with one image.
    assert counted <= seen["ours"] + 21 * name.startswith("trs_report")
    assert seen["ours"] <= counted + name.endswith(("dverge", "fasten"))


def test_every_configured_method_has_a_floor(loaded: config.Loaded) -> None:
    assert set(METHODS) == set(loaded.config.methods)
    assert set(METHODS) >= {spec for spec in loaded.config.methods if loaded.config.methods[spec].paper}


def test_a_strangers_method_has_no_floor() -> None:
    from bench.training.method import Method

    class Unknown(Method):
        pass

    assert needs(Unknown(), members=3, size=128, coupled=True) is None


def test_batch_normalisation_forbids_taking_gradients_of_one_batch_for_another() -> None:
    official = Trs(terms="official", ramp=0.0)
    with_it, without = (needs(official, members=3, size=128, coupled=coupled) for coupled in (True, False))
    search = Need(18, "curvature", 64)
    assert with_it == [search, Need(3, "second", 128), Need(3, "second", 128)]
    assert without == [search, Need(3, "second", 128), Need(3, "second", 64)]
    for dropout, again in ((0.4, 128), (0.0, 64)):  # with dropout each pass draws units of its own
        report = needs(TrsReport(dropout=dropout), members=3, size=128, coupled=False)
        assert report is not None
        assert report[-1] == Need(3, "second", again)
    printed = Trs(support="pair", support_fraction=1.0, ramp=0.0)
    assert needs(printed, members=5, size=10, coupled=True) == [
        Need(120, "curvature", 10), Need(5, "second", 10), Need(20, "second", 10),
    ]  # fmt: skip


def test_passes_for_the_running_statistics_count_where_there_are_any() -> None:
    trs = Trs(terms="official", ramp=0.0, running_statistics="public")
    for method, extra in ((trs, Need(3, "forward", 8)), (Gal(), Need(3, "forward", 8)), (Dverge(), None)):
        with_it, without = (needs(method, members=3, size=8, coupled=coupled) for coupled in (True, False))
        assert with_it is not None
        assert without is not None
        if extra:
            assert with_it[-1] == extra
            assert len(with_it) == len(without) + 1
        else:
            assert (with_it[0], without[0]) == (Need(30, "target", 8), Need(3, "target", 8))


def networks(model: str, settings: Any, dataset: str, count: int = 3) -> nn.ModuleList:
    torch.manual_seed(3)
    data = registry.load("datasets", dataset)()
    return nn.ModuleList([build_member(model, settings, dataset=data) for _ in range(count)]).train()


def batch_of(shape: tuple[int, ...], size: int) -> Batch:
    numbers = torch.Generator().manual_seed(5)
    images = torch.rand(size, *shape, generator=numbers)
    labels = torch.randint(10, (size,), generator=numbers)
    return Batch(
        images=images, labels=labels, indices=torch.arange(size), epoch=2, epochs=7, progress=0.3,
        generator=torch.Generator().manual_seed(9), others=lambda: images,
    )  # fmt: skip


@pytest.mark.parametrize(("model", "shortcut"), [("digits_cnn", ""), ("resnet", "A"), ("resnet", "B")])
@pytest.mark.parametrize(("size", "floor"), [(12, "product"), (13, "product"), (12, "each")])
def test_the_authors_step_moves_the_weights_and_statistics_as_ours_does(
    model: str, shortcut: str, size: int, floor: Any
) -> None:
    dataset, shape = ("digits", (1, 8, 8)) if model == "digits_cnn" else ("cifar10", (3, 32, 32))
    settings = {} if model == "digits_cnn" else {"depth": 8, "width": 4, "shortcut": shortcut}
    ours = networks(model, settings, dataset).double()  # in float32 the last bit turns a step of the search
    theirs = copy.deepcopy(ours)
    weight = 50_000.0 if model == "digits_cnn" else 500.0  # at which every term is felt
    trs = Trs(
        terms="official",
        ramp=0.0,
        lambda_a=40.0,
        lambda_b=weight,
        cosine_floor=floor,
        running_statistics="public",
    )
    recipe = Training(epochs=1, batch_size=size, optimizer="sgd", lr=0.1)
    optimizer = make_optimizer(ours.parameters(), recipe)
    batch = replace(batch_of(shape, size), images=batch_of(shape, size).images.double())
    again = replace(batch, generator=torch.Generator().manual_seed(9))
    terms = trs.loss(list(ours), batch)
    total = sum(terms.values())
    assert all(float(term.detach()) > 0.01 * float(total.detach()) for term in terms.values())
    total.backward()
    optimizer.step()
    loss = AuthorsStep(list(theirs), make_optimizer(theirs.parameters(), recipe), trs)(again)
    assert float(loss) == pytest.approx(float(total.detach()), rel=1e-8)
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-9, rtol=1e-7), name
    for (name, mine), other in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert torch.allclose(mine, other, atol=1e-9, rtol=1e-7), name


def test_the_authors_step_takes_three_members() -> None:
    two = networks("digits_cnn", {}, "digits", count=2)
    with pytest.raises(BenchError, match="3 members"):
        AuthorsStep(list(two), torch.optim.SGD(two.parameters(), 0.1), Trs(terms="official"))


@pytest.mark.parametrize("kind", ["forward", "images", "train", "curvature", "second", "target", "features", "layers"])
def test_bare_passes_leave_gradients_only_where_the_formula_has_them(kind: Any) -> None:
    members = networks("digits_cnn", {}, "digits")
    before = [parameter.clone() for parameter in members.parameters()]
    optimizer = torch.optim.SGD(members.parameters(), lr=0.1)
    Bare(list(members), optimizer, batch_of((1, 8, 8), 8), [Need(3, kind, 5)], "logits")()
    moved = [not torch.equal(a, b) for a, b in zip(members.parameters(), before, strict=True)]
    assert any(moved) == (kind in ("train", "second", "layers"))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in members.parameters())


def test_a_repeated_step_stays_the_same_step(loaded: config.Loaded, digits: Any) -> None:
    images = digits.train.take(slice(0, SIZE))
    run = run_of(loaded, "trs_official", **ON_DIGITS)
    one, other = (perf.measure(run, images, repeats=repeats) for repeats in (0, 1))
    assert one.equal is True
    assert (one.loss, one.authors_loss) == (other.loss, other.authors_loss)
    assert (one.ours, one.authors) == (None, None)
    assert other.authors is not None


def test_the_command_prints_floors_and_the_authors_loss() -> None:
    settings = ("--batch", 16, "--repeats", 1, "-m", "ece", "-m", "trs_official", "-m", "adaboost")
    out = bench("perf", "training", *settings)
    assert "3 × train(16)" in out
    assert "18 × curvature(8) + 3 × second(16) + 3 × second(8)" in out
    assert "PASS (1e-5)" in out
    assert out.count("this machine: float32 matrix products") == 1
    assert out.count("ours / limit ") == 3
    assert "ours / limit: median over methods" in out
    assert out.index("ours / limit ") < out.index("ours / the same passes, eager")
    record = json.loads(bench("perf", "training", *settings, "--json"))
    steps = record["steps"]
    assert [step["equal"] for step in steps] == [None, True, None]
    assert steps[0]["ours"]["low"] > 0
    assert record["rates"].keys() == {"operations", "bytes", "precision"}
    assert all(step["by_rates"]["operations"] > 0 and step["by_rates"]["ours_seconds"] > 0 for step in steps)


def test_where_there_is_tf32_the_authors_step_is_timed_as_torch_runs_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf, "has_tf32", lambda device: True)
    seen: list[bool] = []
    original = AuthorsStep.__call__

    def noted(self: AuthorsStep, batch: Any) -> Any:
        seen.append(torch.backends.cudnn.allow_tf32)
        return original(self, batch)

    monkeypatch.setattr(AuthorsStep, "__call__", noted)
    out = bench("perf", "training", "-m", "trs_official", "--batch", 8, "--repeats", 1)
    assert "as torch runs it by default (TF32 convolutions) " in out
    assert seen.count(True) == 2  # to warm up, and in the round
    assert seen.count(False) == 3  # in float64, and the same as in ours


def test_a_loss_that_is_not_the_authors_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    original = AuthorsStep.__call__
    monkeypatch.setattr(AuthorsStep, "__call__", lambda self, batch: original(self, batch) * 1.001)
    code, out, _ = command("perf", "training", "-m", "trs_official", "--batch", 8, "--repeats", 0)
    assert code == 1
    assert "FAIL" in out


def test_mistakes_are_told_in_a_line() -> None:
    for arguments, told in (
        (("-m", "trz"), "did you mean trs"), (("-d", "digit"), "did you mean digits"),
        (("--model", "lenett"), "did you mean lenet"), (("--batch", 10_000), "10000"),
    ):  # fmt: skip
        code, _, err = command("perf", "training", *arguments)
        assert code == 2
        assert told in err.replace(",", "")
        assert err.strip().count("\n") == 0
