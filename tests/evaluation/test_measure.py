"""Clean accuracy, robust accuracy and the transferability matrix against loops over members and single images."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
import torch
from attacking import AXES
from linear import Line
from torch import Tensor, nn

from bench.attacks.apgd import APGDT
from bench.attacks.base import Attack
from bench.attacks.conditions import Conditions
from bench.attacks.cw import CW
from bench.attacks.fgsm import FGSM
from bench.attacks.iterative import BIM, PGD
from bench.attacks.judge import attack_images, target_classes
from bench.attacks.problem import Problem
from bench.attacks.square import Square
from bench.core.bits import classes_from_text, from_text
from bench.core.errors import JobError
from bench.core.numbers import ENSEMBLE
from bench.data.base import ImageSet
from bench.evaluation import measure
from bench.experiment.measurements import check, expected_accuracy
from bench.models.ensemble import Ensemble
from bench.store.rates import transfer_rates

pytestmark = pytest.mark.usefixtures("_one_thread")


def under(budget: float, **conditions: Any) -> Conditions:
    return Conditions(**{"budget": budget, "seed_axes": AXES, **conditions})


@pytest.fixture
def images(digits: Any) -> ImageSet:
    """61 test images: no multiple of 8, of a batch size used here, or of the members."""
    return digits.test.take(slice(0, 61))


@pytest.fixture
def different(digits_ensemble: Ensemble) -> Ensemble:
    """Three members of different quality, so that no two rows or columns are alike."""
    torch.manual_seed(3)
    with torch.no_grad():
        for strength, member in zip((0.0, 0.02, 0.06), digits_ensemble.members, strict=True):
            for parameter in member.parameters():
                parameter += strength * torch.randn_like(parameter)
    return digits_ensemble


def fused(members: nn.ModuleList, x: Tensor) -> int:
    """The ensemble's class for one image, from the mean of softmax."""
    return int(sum(member(x).softmax(1) for member in members).argmax())


def wrong(members: nn.ModuleList, target: int, x: Tensor, label: int) -> bool:
    with torch.no_grad():
        return (fused(members, x) if target == ENSEMBLE else int(members[target](x).argmax())) != label


def bim_by_hand(member: nn.Module, x: Tensor, label: Tensor, epsilon: float, steps: int) -> Tensor:
    """One image [1, C, H, W], `steps` sign steps of ε/`steps`."""
    point = x.clone()
    for _ in range(steps):
        point.requires_grad_()
        loss = -member(point).log_softmax(1)[0, label]
        (gradient,) = torch.autograd.grad(loss, point)
        moved = point.detach() + epsilon / steps * gradient.sign()
        point = torch.minimum(torch.maximum(moved, x - epsilon), x + epsilon).clamp(0, 1)
    return point


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_clean_rows_are_each_members_and_the_ensembles(different, images, batch_size):
    record = measure.clean(different, images, batch_size=batch_size)
    rows = {row["target"]: from_text(row["bits"], 61).tolist() for row in record["clean_rows"]}
    assert list(rows) == [0, 1, 2, -1]
    for target, row in rows.items():
        x, y = images.floats(), images.labels.tolist()
        assert row == [not wrong(different.members, target, x[k : k + 1], y[k]) for k in range(61)]
    assert len({tuple(row) for row in rows.values()}) > 2
    assert record["n"] == 61
    assert record["n_clean"] == sum(rows[-1])
    assert record["clean_bits"] == record["clean_rows"][-1]["bits"]
    shares = [sum(rows[member]) / 61 for member in range(3)]
    assert record["measurements"]["member_accuracy"] == pytest.approx(shares)
    assert (record["n_robust"], record["robust_bits"]) == (None, None)


@pytest.mark.parametrize("batch_size", [10, 250])
def test_the_matrix_equals_a_loop_over_members_and_images(different, images, batch_size):
    epsilon, steps = 0.15, 4
    attack = BIM(steps=steps, rel_step=1 / steps)
    record = measure.transferability(different, images, attack, under(epsilon, batch_size=batch_size))
    cells = {(cell["source"], cell["target"]): from_text(cell["bits"], 61).tolist() for cell in record["cells"]}
    assert list(cells) == [(source, target) for source in range(3) for target in (0, 1, 2, -1)]
    x, members = images.floats(), different.members
    missed = {key: [] for key in cells}
    for source in range(3):
        for k in range(61):
            label = images.labels[k]
            crafted = bim_by_hand(members[source], x[k : k + 1], label, epsilon, steps)
            for target in (0, 1, 2, -1):
                missed[source, target].append(wrong(members, target, crafted, int(label)))
    assert cells == missed
    assert len({tuple(cell) for cell in cells.values()}) == 12  # a swapped index would show
    rows = {row["target"]: from_text(row["bits"], 61).tolist() for row in record["clean_rows"]}
    for target, row in rows.items():
        assert row == [not wrong(members, target, x[k : k + 1], int(images.labels[k])) for k in range(61)]
    assert record["n_clean"] == sum(rows[-1])
    assert [entry["source"] for entry in record["measurements"]["sources"]] == [0, 1, 2]
    assert all(entry["attacked"] == 61 for entry in record["measurements"]["sources"])
    # Each member and the ensemble: once clean, each step, once to judge.
    assert (record["forwards"], record["backwards"]) == (4 * 61 * (1 + steps + 1), 4 * 61 * steps)


def test_the_diagonal_is_each_members_own_white_box_rate(different, images):
    attack = PGD(steps=5)
    record = measure.transferability(different, images, attack, under(0.12))
    for source, member in enumerate(different.members):
        alone = measure.robust_accuracy(Ensemble([member]), images, attack, under(0.12, stop="last"))
        (own,) = (cell["bits"] for cell in record["cells"] if cell["source"] == cell["target"] == source)
        robust, clean = (from_text(alone[key], 61) for key in ("robust_bits", "clean_bits"))
        assert (robust == clean & ~from_text(own, 61)).all()


def test_the_ensemble_and_others_are_sources_too_and_classes_are_kept(different, images):
    attack, other = PGD(steps=4), Ensemble([different.members[1]])
    record = measure.transferability(different, images, attack, under(0.15), others={"a" * 24: other})
    cells = {(cell["source"], cell["target"]): cell for cell in (*record["cells"], *record["other_cells"])}
    targets = (0, 1, 2, -1)
    assert [*cells] == [(s, t) for s in (0, 1, 2, "ensemble", "a" * 24, "noise") for t in targets]
    labels = images.labels.numpy()
    sources = {0: different.members[0], "ensemble": different, "a" * 24: other}
    for source, network in sources.items():
        outcome = attack_images(attack, network, images, under(0.15, stop="last"), keep_images=True)
        for target in targets:
            evaluated = different if target == ENSEMBLE else different.members[target]
            with torch.no_grad():
                classes = evaluated(outcome.adversarial).argmax(1).numpy()
            cell = cells[source, target]
            assert (classes_from_text(cell["classes"], 61) == classes).all()
            assert (from_text(cell["bits"], 61) == (classes != labels)).all()
    # A surrogate that is a member in all but its id leaves what the member leaves.
    assert [cells["a" * 24, target] | {"source": 1} for target in targets] == [cells[1, target] for target in targets]
    measured = record["measurements"]
    assert [each["source"] for each in measured["sources"]] == [0, 1, 2]
    assert [each["source"] for each in measured["other_sources"]] == ["ensemble", "a" * 24]


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.1), ("l2", 0.8)])
def test_the_noise_of_the_control_row_has_the_size_of_the_attack(images, norm, radius):
    grey = ImageSet(torch.full_like(images.images, 128), images.labels)  # far from 0 and 1, so that nothing is clipped
    change = measure.noise(grey, norm, under(radius)) - grey.floats().cpu()
    size = change.abs().flatten(1).amax(1) if norm == "linf" else change.flatten(1).norm(dim=1)
    assert size.tolist() == pytest.approx([radius] * 61, rel=1e-5)
    if norm == "linf":
        assert change.abs().min() == pytest.approx(radius, rel=1e-5)
    assert abs(float(change.mean())) < 0.05 * radius
    assert len({tuple(row) for row in change.flatten(1).tolist()}) == 61
    whole = measure.noise(images, norm, under(radius))
    assert float(whole.min()) >= 0
    assert float(whole.max()) <= 1
    assert torch.equal(whole[7:8], measure.noise(images, norm, under(radius))[7:8])


def test_an_attack_without_a_ball_has_no_control_row(different, images):
    few = images.take(slice(0, 9))
    record = measure.transferability(different, few, CW(steps=3), under(1.0))
    assert {cell["source"] for cell in record["other_cells"]} == {"ensemble"}


def test_rates_of_the_matrix_follow_from_its_bits(different, images):
    import numpy as np

    record = measure.transferability(different, images, FGSM(), under(0.15))
    clean = np.stack([from_text(row["bits"], 61) for row in record["clean_rows"]])
    missed = np.stack([from_text(cell["bits"], 61) for cell in record["cells"]]).reshape(3, 4, 61)
    rates, _ = transfer_rates(clean, missed)
    every = [k for k in range(61) if clean[0, k] and clean[1, k] and clean[2, k]]
    assert 20 < len(every) < 61
    for source in range(3):
        for target in range(4):
            assert rates[source, target] == pytest.approx(sum(missed[source, target, k] for k in every) / len(every))


@pytest.mark.parametrize("stop", ["first_success", "last"])
def test_robust_accuracy_counts_all_images(different, images, stop):
    record = measure.robust_accuracy(different, images, FGSM(), under(0.08, stop=stop, batch_size=9))
    robust = []
    for k in range(61):
        x, label = images.floats()[k : k + 1], images.labels[k]
        point = x.clone().requires_grad_()
        loss = -(sum(member(point).softmax(1) for member in different.members) / 3).log()[0, label]
        (gradient,) = torch.autograd.grad(loss, point)
        moved = (x + 0.08 * gradient.sign()).clamp(0, 1)
        robust.append(
            not wrong(different.members, -1, x, int(label)) and not wrong(different.members, -1, moved, int(label))
        )
    assert from_text(record["robust_bits"], 61).tolist() == robust
    assert record["n_robust"] == sum(robust)
    assert 5 < record["n_robust"] < record["n_clean"] <= record["n"] == 61


def test_records_are_json_and_the_ensemble_is_as_before(different, images):
    different.members[1].train()
    different.members[0][1].linear.bias.requires_grad_(False)
    modes = [module.training for module in different.modules()]
    flags = [parameter.requires_grad for parameter in different.parameters()]
    state = torch.get_rng_state()
    for record in (
        measure.clean(different, images),
        measure.transferability(different, images, PGD(steps=2), under(0.1)),
        measure.robust_accuracy(different, images, PGD(steps=2), under(0.1, stop="last")),
    ):
        record.pop("samples", None)  # tensors, for a file of their own
        assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert [module.training for module in different.modules()] == modes
    assert [parameter.requires_grad for parameter in different.parameters()] == flags
    assert all(parameter.grad is None for parameter in different.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_member_whose_output_is_no_number_fails_every_measurement(different, images):
    """Its argmax would be some class, right for a tenth of the images."""
    with torch.no_grad():
        different.members[2][1].linear.bias[4] = float("nan")
    with pytest.raises(JobError, match="not finite"):
        measure.clean(different, images)
    with pytest.raises(JobError, match="not finite"):
        measure.transferability(different, images, FGSM(), under(0.1))
    with pytest.raises(JobError, match="not finite"):
        measure.robust_accuracy(different, images, FGSM(), under(0.1, stop="last"))


def test_targets_are_other_classes(different, images):
    def chosen(**conditions: Any) -> Tensor:
        return target_classes(different, images, under(0.1, **conditions))

    random = chosen(targets="random")
    assert bool((random != images.labels).all())
    assert len(set(random.tolist())) == 10
    assert torch.equal(random, chosen(targets="random", batch_size=7))
    assert not torch.equal(random, chosen(targets="random", seed_axes=("tests", 1)))
    least = chosen(targets="least_likely", batch_size=16)
    with torch.no_grad():
        scores = different(images.floats())
    for row, label, target in zip(scores, images.labels.tolist(), least.tolist(), strict=True):
        assert target == min((c for c in range(10) if c != label), key=lambda c: float(row[c]))


def test_the_targeted_matrix_counts_outputs_of_the_target_class(different, images):
    few = images.take(slice(0, 21))
    conditions = under(0.3, targets="random", batch_size=8)
    record = measure.transferability(different, few, PGD(steps=4), conditions)
    targets = target_classes(different, few, conditions)
    hits = 0
    for source, member in enumerate(different.members):
        last = under(0.3, stop="last", batch_size=8)
        outcome = attack_images(PGD(steps=4), member, few, last, targets=targets, keep_images=True)
        for cell in (cell for cell in record["cells"] if cell["source"] == source):
            network = different if cell["target"] == ENSEMBLE else different.members[cell["target"]]
            with torch.no_grad():
                wanted = network(outcome.adversarial).argmax(1) == targets
            assert from_text(cell["bits"], 21).tolist() == wanted.tolist()
            hits += int(wanted.sum())
    assert 0 < hits < 12 * 21


def test_a_targeted_attack_tells_its_hits(different, images):
    record = measure.robust_accuracy(different, images, PGD(steps=10), under(0.3, targets="least_likely"))
    untargeted = measure.robust_accuracy(different, images, PGD(steps=10), under(0.3))
    assert 0 < record["measurements"]["targeted_hits"] <= record["n_clean"]
    assert record["n_robust"] >= untargeted["n_robust"]
    assert "targeted_hits" not in untargeted["measurements"]


def test_samples_show_broken_images_first(different, images):
    record = measure.robust_accuracy(different, images, PGD(steps=10), under(0.2))
    samples = record["samples"]
    clean, robust = (from_text(record[name], 61) for name in ("clean_bits", "robust_bits"))
    broken = [index for index in range(61) if clean[index] and not robust[index]]
    assert len(broken) > 8
    assert samples["index"].tolist() == broken[:8]
    assert torch.equal(samples["clean"], images.floats()[samples["index"]])
    assert float((samples["adversarial"] - samples["clean"]).abs().max()) <= 0.2 + 1e-6
    with torch.no_grad():
        assert torch.equal(samples["adversarial_prediction"], different(samples["adversarial"]).argmax(1))
    assert bool((samples["adversarial_prediction"] != samples["labels"]).all())
    assert torch.equal(samples["clean_prediction"], samples["labels"])


class Noisy(nn.Module):
    """Random at every pass, in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.rand_like(x)


def test_random_outputs_are_counted(different, images):
    assert measure.clean(different, images)["measurements"]["random_output"] == 0
    different.members[1] = nn.Sequential(Noisy(), different.members[1])
    assert measure.clean(different, images)["measurements"]["random_output"] == 61


class Tour(Attack):
    """Shows the model one point after another and returns the last unseen; it is done with an image at a success."""

    ends_at_success = True
    stops: ClassVar[list[tuple[float, float]]] = []
    left: ClassVar[list[int]] = []

    def run(self, problem: Problem) -> torch.Tensor:
        self.left.clear()
        *asked, last = (torch.tensor(stop).view(1, 1, 1, 2) for stop in self.stops)
        for stop in asked:
            problem.scores(stop.expand_as(problem.images))
            problem.drop_broken()
            self.left.append(len(problem.images))
        return last.expand_as(problem.images)


@pytest.mark.parametrize(
    ("stops", "kept", "left"),
    [
        ([(0.3, 0.5), (0.3, 0.3), (0.5, 0.5)], (0.3, 0.3), [1, 0]),  # one right; none: done
        ([(0.45, 0.45), (0.3, 0.41), (0.5, 0.5)], (0.3, 0.41), [1, 1]),  # both right, one, both: the best is kept
        ([(0.3, 0.41), (0.3, 0.3)], (0.3, 0.3), [1]),  # and so is what it returns
        ([(0.0, 0.0), (0.45, 0.5)], (0.45, 0.5), [1]),  # outside of the ball
    ],
)
def test_what_ends_at_a_success_goes_on_while_a_member_that_may_be_drawn_is_right(stops, kept, left):
    ensemble = Ensemble([Line((10, 0), -4.0), Line((0, 10), -4.0)], fusion="random_member")  # lines at .4
    images = ImageSet(torch.full((1, 1, 1, 2), 128, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    Tour.stops = stops
    outcome = attack_images(Tour(), ensemble, images, under(0.25, stop="last"), keep_images=True)
    assert outcome.adversarial.flatten().tolist() == pytest.approx(kept)
    assert Tour.left == left


@pytest.mark.parametrize("which", [APGDT(steps=10), Square(queries=200)], ids=["apgd_t", "square"])
def test_what_ends_at_a_success_leaves_hardly_more_draws_right_than_its_vote(digits, digits_ensemble, which):
    """Three members: where the vote falls, going on lets most of the others fall as well."""
    images = digits.test.take(slice(0, 40))
    ensemble = Ensemble(digits_ensemble.members, fusion="random_member")
    result = measure.robust_accuracy(ensemble, images, which, under(0.15, stop="last"))
    assert expected_accuracy("attack", result["measurements"], 40) <= result["n_robust"] / 40 + 0.02


def test_the_expected_accuracy_of_two_linear_members_reaches_its_known_value() -> None:
    """Members look at a pixel each, so that one attack can break both: whose pixel is within ε of its line is lost."""
    ensemble = Ensemble([Line((10, 0), -4.0), Line((0, 10), -4.0)], fusion="random_member")  # lines at .4
    grid = torch.tensor([[a, b] for a in range(110, 250, 20) for b in range(110, 250, 20)], dtype=torch.uint8)
    images = ImageSet(grid.view(-1, 1, 1, 2), torch.zeros(len(grid), dtype=torch.int64))
    eps = 0.2
    left = (grid.double() / 255 - eps > 0.4).double()  # [images, members]: right whatever is done to the pixel
    assert 0 < float(left.mean()) < 1
    result = measure.robust_accuracy(ensemble, images, PGD(steps=20), under(eps, stop="last"))
    draws = torch.tensor([from_text(text, len(grid)).tolist() for text in result["measurements"]["draws"]])
    assert torch.equal(draws.T.double(), left)
    expected = expected_accuracy("attack", result["measurements"], len(grid))
    assert expected == pytest.approx(float(left.mean()))
    plain = measure.robust_accuracy(Ensemble(ensemble.members), images, PGD(steps=20), under(eps, stop="last"))
    assert expected_accuracy("attack", plain["measurements"], len(grid)) is None
    odd = Ensemble(ensemble.members, fusion="random_member", weights=[3.0, 1.0])
    measured = measure.robust_accuracy(odd, images, PGD(steps=20), under(eps, stop="last"))["measurements"]
    assert measured["odds"] == [0.75, 0.25]
    expected = expected_accuracy("attack", measured, len(grid))
    assert expected == pytest.approx(float(left.mean(0) @ torch.tensor([0.75, 0.25], dtype=torch.float64)))
    check("attack", measured, len(grid))
    for wrong in ([0.75, 0.2], [1.0]):
        with pytest.raises(ValueError, match="odds of 2 draws"):
            check("attack", {**measured, "odds": wrong}, len(grid))
