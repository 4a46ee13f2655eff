"""The fast copy is the same function, and where it would not be there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.attacks.conditions import Conditions
from bench.attacks.iterative import PGD
from bench.attacks.judge import attack_images, predictions
from bench.core import config, registry
from bench.core.numerics import numerics
from bench.core.progress import Progress
from bench.experiment import select
from bench.experiment.select import Selection
from bench.models.build import build_member
from bench.models.ensemble import Ensemble
from bench.models.fast import fast_copy

SHORTCUTS = pytest.mark.parametrize("shortcut", ["A", "B"])


@SHORTCUTS
def test_the_copy_is_the_same_function_without_batch_normalisation(shortcut: str) -> None:
    dataset = registry.load("datasets", "cifar10")()
    torch.manual_seed(0)
    settings = {"depth": 8, "shortcut": shortcut}
    ensemble = Ensemble([build_member("resnet", settings, dataset=dataset) for _ in range(2)])
    images = torch.rand(30, 3, 32, 32)
    with torch.no_grad():
        for _ in range(3):
            ensemble.train()(images)  # running statistics that are not those of a fresh network
    ensemble.eval()
    made = fast_copy(ensemble, images)
    assert made is not None
    assert any(isinstance(part, nn.BatchNorm2d) for part in ensemble.modules())
    assert not any(isinstance(part, nn.BatchNorm2d) for part in made.modules())
    with torch.no_grad():
        assert torch.allclose(made(images), ensemble(images), atol=1e-4)


def test_a_network_that_cannot_be_traced_has_no_copy() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            scores = x.flatten(1)[:, :4]
            return -scores if float(scores.sum()) > 1e9 else scores

    assert fast_copy(Ensemble([Branching()]), torch.rand(2, 1, 4, 4)) is None


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 16 * 4).reshape(4, 16))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


class Noisy(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.rand_like(x))


class CutOff(Linear):
    """Its outputs can be traced, but that it cuts the gradient cannot."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            kept = super().forward(x)
        return kept + 1e-3 * super().forward(x)


def test_a_network_with_random_outputs_or_a_gradient_cut_by_its_code_has_no_copy() -> None:
    images = torch.rand(3, 1, 4, 4)
    assert fast_copy(Linear(), images) is not None
    assert fast_copy(Noisy(), images) is None
    assert fast_copy(CutOff(), images) is None


def test_the_network_itself_judges_what_the_copy_finds(digits_ensemble: Ensemble, digits, monkeypatch) -> None:
    """A copy that calls everything broken breaks nothing more, one that sees nothing hides nothing at the end."""
    images = digits.test.take(slice(0, 40))
    usual = attack_images(PGD(steps=5), digits_ensemble, images, Conditions(budget=0.1))

    class Wrong(nn.Module):
        def __init__(self, model: nn.Module, sign: float) -> None:
            super().__init__()
            self.model, self.sign = model, sign

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.model(x)
            return scores + self.sign * 100 * torch.nn.functional.one_hot(scores.argmax(1), scores.shape[1])

    for sign in (-1.0, 0.0):
        monkeypatch.setattr("bench.attacks.judge.PIXELS", 1)
        monkeypatch.setattr("bench.attacks.judge.PASSES", 1)
        monkeypatch.setattr("bench.attacks.judge.fast_copy", lambda model, _, sign=sign, **__: Wrong(model, sign))
        found = attack_images(PGD(steps=5), digits_ensemble, images, Conditions(budget=0.1), keep_images=True)
        assert found.adversarial is not None
        right = predictions(digits_ensemble, found.adversarial) == images.labels
        assert torch.equal(found.robust, right & found.clean)
        # What it calls broken though it is not is attacked again, on the network itself and from the same start.
        assert torch.equal(found.robust, usual.robust)


@SHORTCUTS
def test_a_copy_in_bfloat16_sees_changes_below_the_coarseness_of_its_pixels(shortcut: str) -> None:
    dataset = registry.load("datasets", "cifar10")()
    torch.manual_seed(0)
    member = build_member("resnet", {"depth": 8, "shortcut": shortcut}, dataset=dataset).eval()
    images = torch.rand(8, 3, 32, 32) * 0.1 + 0.85
    made = fast_copy(member, images, precision="bfloat16")
    assert made is not None
    types = [parameter.dtype for parameter in made.parameters()]
    assert types[0] == types[-1] == torch.float32
    assert set(types) == {torch.float32, torch.bfloat16}
    moved = images + 5e-4  # pixels of bfloat16 are 2⁻⁸ = .0039 apart here
    assert not torch.equal(made(images), made(moved))
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(made(x).logsumexp(1).sum(), x)
    assert gradient.dtype == torch.float32


def test_what_bfloat16_calls_broken_is_broken_in_float32(digits_ensemble: Ensemble, digits) -> None:
    images = digits.test.take(slice(0, 150))
    usual = attack_images(PGD(), digits_ensemble, images, Conditions(budget=0.1))
    found = attack_images(
        PGD(), digits_ensemble, images, Conditions(budget=0.1, precision="bfloat16"), keep_images=True
    )
    assert found.adversarial is not None
    assert torch.equal(found.robust, (predictions(digits_ensemble, found.adversarial) == images.labels) & found.clean)
    assert 0 < int(found.robust.sum()) < int(found.clean.sum())
    assert int(found.robust.sum()) <= int(usual.robust.sum()) + 2


class Told(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Sampled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10] + torch.rand(10)


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores


class ThreeLayers(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        sizes = ((64, 20), (20, 16), (16, 10))
        first, second, third = (nn.Linear(a, b) for a, b in sizes)
        self.net = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), third)
        for layer in (first, second, third):
            layer.weight.data *= 3

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores


@pytest.mark.parametrize("network", [Sampled, TwoLayers])
def test_a_network_without_a_copy_in_bfloat16_is_attacked_in_float32_and_says_so(digits, network) -> None:
    """One has no copy at all; of the other, the first and last layer are all there is."""
    told, images = Told(), digits.test.take(slice(0, 20))
    usual = attack_images(PGD(steps=2), network(), images, Conditions(budget=0.1))
    found = attack_images(PGD(steps=2), network(), images, Conditions(budget=0.1, precision="bfloat16"), progress=told)
    assert told.notes == ["this network cannot be asked in bfloat16 or gives other outputs; attacked in float32"]
    assert found.measurements["asked_in"] == "float32"
    assert "asked_in" not in usual.measurements


def test_attacks_ask_in_the_precision_that_they_say(digits_ensemble: Ensemble, digits, monkeypatch) -> None:
    made: list[tuple[str, set[torch.dtype]]] = []

    def watched(model: nn.Module, images: Tensor, *, precision: Any = "float32") -> nn.Module | None:
        copied = fast_copy(model, images, precision=precision)
        seen: set[torch.dtype] = set()
        made.append((precision, seen))
        if copied is not None:  # what its layers get while it is attacked
            for part in copied.modules():
                if isinstance(part, nn.Conv2d):
                    part.register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].dtype))
        return copied

    monkeypatch.setattr("bench.attacks.judge.fast_copy", watched)
    monkeypatch.setattr("bench.attacks.judge.PIXELS", 1)
    monkeypatch.setattr("bench.attacks.judge.PASSES", 1)
    images = digits.test.take(slice(0, 20))
    outcome = attack_images(PGD(steps=2), digits_ensemble, images, Conditions(budget=0.1, precision="bfloat16"))
    assert outcome.measurements["asked_in"] == "bfloat16"
    assert made == [("bfloat16", {torch.float32, torch.bfloat16})]
    attack_images(PGD(steps=2), digits_ensemble, images, Conditions(budget=0.1))
    assert made[1:] == [("float32", {torch.float32})]
    # Where bfloat16 would be another function, the copy in float32 serves, and is told.
    monkeypatch.setattr("bench.models.fast.CLOSE", {"float32": 1e-4, "bfloat16": 0.0})
    outcome = attack_images(PGD(steps=2), digits_ensemble, images, Conditions(budget=0.1, precision="bfloat16"))
    assert outcome.measurements["asked_in"] == "float32"
    assert made[2:] == [("bfloat16", set()), ("float32", {torch.float32})]


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("plugin", ["pgd", "pgd_l2", "mim", "apgd_ce", "apgd_dlr", "cw"])
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), budget=st.sampled_from([0.03, 0.06, 0.1]))
def test_mixed_breaks_whatever_float32_alone_breaks(
    digits, plugin: str, restarts: int, seed: int, budget: float
) -> None:
    """Image by image, so that no rounding depends on which others are still attacked."""
    network, images = ThreeLayers(seed), digits.test.take(slice(0, 12))
    scale = {"pgd_l2": 10, "cw": 50}.get(plugin, 1)
    attack = registry.load("attacks", plugin)(restarts=restarts, steps=4)
    found = {
        precision: attack_images(
            attack, network, images,
            Conditions(budget=scale * budget, precision=precision, seed_axes=(seed,), batch_size=1),
        )
        for precision in ("float32", "mixed")
    }  # fmt: skip
    assume(found["mixed"].measurements["asked_in"] == "mixed")  # some of these networks turn too far in bfloat16
    assert not bool((found["mixed"].robust & ~found["float32"].robust).any())


def test_mixed_goes_on_in_float32_with_what_its_first_run_left(digits_ensemble: Ensemble, digits) -> None:
    """A first run that breaks nothing is followed by all of float32's, one that breaks everything by nothing."""
    images, some = digits.test.take(slice(0, 40)), PGD(steps=10, restarts=2)
    for budget in (0.0, 1.0, 0.1):
        found = {
            precision: attack_images(
                some, digits_ensemble, images, Conditions(budget=budget, precision=precision), keep_images=True
            )
            for precision in ("float32", "bfloat16", "mixed")
        }
        mixed, broke = found["mixed"], found["mixed"].measurements["first_run_broke"]
        assert mixed.measurements["loss_curve"] == found["bfloat16"].measurements["loss_curve"]
        assert mixed.adversarial is not None
        stand = predictions(digits_ensemble, mixed.adversarial) == images.labels
        assert torch.equal(mixed.robust, stand & mixed.clean)
        right = int(mixed.clean.sum())
        if budget == 0.0:  # 40 clean passes stand in every count; a run of bfloat16 is half of its two restarts
            assert broke == 0
            assert mixed.forwards - 40 == (found["bfloat16"].forwards - 40) // 2 + found["float32"].forwards - 40
            assert mixed.backwards == found["bfloat16"].backwards // 2 + found["float32"].backwards
        elif budget == 1.0:
            assert broke == right > 30
            assert (mixed.forwards, mixed.backwards) == (found["bfloat16"].forwards, found["bfloat16"].backwards)
        else:
            assert 0 < broke < right
            assert int(mixed.robust.sum()) <= int(found["float32"].robust.sum())


def test_under_last_mixed_is_float32(digits_ensemble: Ensemble, digits) -> None:
    images = digits.test.take(slice(0, 20))
    one, other = (
        attack_images(PGD(steps=2), digits_ensemble, images, Conditions(budget=0.1, stop="last", precision=precision))
        for precision in ("float32", "mixed")
    )
    assert other.measurements == {**one.measurements, "asked_in": "float32"}
    assert (one.forwards, one.robust.tolist()) == (other.forwards, other.robust.tolist())


def test_a_device_without_tf32_is_asked_in_float32_and_says_so(digits_ensemble: Ensemble, digits) -> None:
    told, images = Told(), digits.test.take(slice(0, 20))
    one, other = (
        attack_images(PGD(steps=2), digits_ensemble, images, Conditions(budget=0.1, precision=precision), progress=told)
        for precision in ("float32", "tf32")
    )
    assert told.notes == ["cpu has no TF32; attacked in float32"]
    assert other.measurements == {**one.measurements, "asked_in": "float32"}
    assert torch.equal(one.robust, other.robust)


def test_passes_in_tf32_may_use_it_in_both_directions_and_judges_may_not(
    digits_ensemble: Ensemble, digits, monkeypatch
) -> None:
    monkeypatch.setattr("bench.attacks.judge.has_tf32", lambda _: True)
    products = torch.backends.cuda.matmul
    seen: dict[str, set[bool]] = {"forward": set(), "backward": set(), "judge": set()}

    def watched(model: nn.Module, images: Tensor, **given: Any) -> nn.Module | None:
        copied = fast_copy(model, images, **given)
        assert copied is not None

        def forward(_: nn.Module, __: Any, output: Tensor) -> None:
            seen["forward"].add(products.allow_tf32)
            if output.requires_grad:
                output.register_hook(lambda _: seen["backward"].add(products.allow_tf32))

        copied.register_forward_hook(forward)
        return copied

    monkeypatch.setattr("bench.attacks.judge.fast_copy", watched)

    def judged(module: nn.Module, *_: Any) -> None:
        if module is digits_ensemble:  # hooks are copied too
            seen["judge"].add(products.allow_tf32)

    digits_ensemble.register_forward_hook(judged)
    with numerics():
        found = attack_images(
            PGD(steps=3), digits_ensemble, digits.test.take(slice(0, 20)), Conditions(budget=0.1, precision="tf32")
        )
    assert found.measurements["asked_in"] == "tf32"
    assert seen == {"forward": {True}, "backward": {True}, "judge": {False}}


def test_large_outputs_may_differ_by_their_rounding() -> None:
    """Logits of hundreds, some near 0 by chance: those near 0 are rounded as the others are."""
    dataset = registry.load("datasets", "cifar10")()
    torch.manual_seed(0)
    member = build_member("resnet", {"depth": 8}, dataset=dataset).eval()
    with torch.no_grad():
        list(member.parameters())[-2].mul_(300)
    images = torch.rand(8, 3, 32, 32)
    for precision in ("float32", "bfloat16"):
        assert fast_copy(member, images, precision=precision) is not None


def test_a_matrix_whose_images_are_all_attacked_to_the_end_is_never_mixed() -> None:
    selection, found = Selection(dataset="digits", suite="core"), {}
    for precision in ("float32", "mixed"):
        loaded = config.load().with_precision(precision)
        run = select.run_spec(loaded, selection, "ece", 0)
        found[precision] = {spec.kind: spec for spec in select.evaluations(loaded, selection, run)}
    assert found["mixed"]["attack"].precision == "mixed"
    assert found["mixed"]["transfer"].evaluation_id == found["float32"]["transfer"].evaluation_id


def test_attacks_that_ask_members_ask_in_float32_whatever_is_chosen() -> None:
    loaded = config.load().with_precision("bfloat16")
    for attack, expected in (("mora", "float32"), ("ila", "float32"), ("pgd", "bfloat16"), ("di2_fgsm", "bfloat16")):
        selection = Selection(dataset="digits", attacks=(attack,), eps=(0.1,))
        run = select.run_spec(loaded, selection, "ece", 0)
        (spec,) = [found for found in select.evaluations(loaded, selection, run) if found.kind == "attack"]
        assert spec.precision == expected, attack
