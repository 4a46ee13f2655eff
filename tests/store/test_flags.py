"""Every flag is raised by a case made for it, and not by the case just beside it; masked models raise them too."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from in_process import QUICK, bench, told
from torch import Tensor, nn

from bench.attacks.base import Attack
from bench.attacks.conditions import Conditions
from bench.attacks.cw import CW
from bench.attacks.fgsm import FGSM
from bench.attacks.iterative import PGD
from bench.attacks.judge import attack_images
from bench.attacks.problem import Problem
from bench.cli import show
from bench.cli.audit import _looked_for
from bench.core.bits import to_text
from bench.core.identity import content_id
from bench.evaluation import measure
from bench.models.ensemble import Ensemble
from bench.store import flags, standing
from bench.store.rules.base import NEEDS
from bench.store.typed_rows import EvaluationRow

counter = iter(range(10_000))


def row(robust: int | None = 500, **values: Any) -> EvaluationRow:
    """PGD-50 at ε .1 on 1,000 images, 950 right when clean; unremarkable unless `values` say otherwise."""
    told = {
        "evaluation_id": f"{next(counter):024x}", "run_id": "0" * 24, "family_id": "family", "attack_key": "key",
        "setting_id": "p", "targets": None, "precision": "float32", "split": "test", "provenance": "measured",
        "attempt_id": "a", "kind": "attack", "attack": "pgd", "plugin": "pgd",
        "settings": {"steps": 50, "rel_step": 0.1}, "budget_name": "eps", "budget": 0.1, "stop": "first_success",
        "image_limit": None, "images_digest": "images", "n": 1000, "n_clean": 950, "n_robust": robust,
        "measurements": {"attacked": 950, "zero_gradients": 0, "unmoved": 0, "largest_excess": 0.0,
                         "loss_curve": [1 - 0.9**step for step in range(50)]},
        "forwards": 1, "backwards": 1, "seconds": 1.0, "attack_version": 1, "evaluator_version": 1,
        "source_digest": "", "environment_id": "e", "started": "2026-01-01T00:00:00Z", "method": "m",
        "method_plugin": "m", "dataset": "digits", "model": "x", "recipe": "r", "training_limit": None, "members": 3,
        "fusion": "mean_probability", "seed": 0, "method_version": 1, "trainer_version": 1,
    }  # fmt: skip
    unknown = values.keys() - set(EvaluationRow.__dataclass_fields__)
    assert not unknown
    fields = {name: value for name, value in told.items() if name in EvaluationRow.__dataclass_fields__}
    rest = {name: None for name in EvaluationRow.__dataclass_fields__ if name not in fields}
    made = {**rest, **fields, **values}
    made["run_id"] = content_id(made["run_id"])
    about = ("kind", "plugin", "settings", "budget_name", "budget", "stop", "targets", "precision", "images_digest")
    made["attack_key"] = content_id([made[name] for name in about])
    return EvaluationRow(**made)


def measured(**values: Any) -> dict[str, Any]:
    return {**row().measurements, **values}


def raised(*rows: EvaluationRow) -> list[set[str]]:
    found = standing.judge((), rows).raised
    return [{item.flag.id for item in found.get(r.evaluation_id, ())} for r in rows]


def opinion(*rows: EvaluationRow) -> str:
    (verdict,) = standing.judge((), rows).verdicts.values()
    return verdict.opinion


def test_an_ordinary_result_raises_nothing() -> None:
    assert raised(row()) == [set()]
    assert standing.judge((), []).raised == {}


@pytest.mark.parametrize(
    ("flag", "bad", "good"),
    [
        ("outside-budget", {"largest_excess": 2e-4}, {"largest_excess": 0.9e-4}),
        ("not-finite", {"loss_curve": [1.0, None, 1.0]}, {"loss_curve": [1.0, 1.0, 1.0]}),
        ("zero-gradient", {"zero_gradients": 10}, {"zero_gradients": 9}),
        ("unmoved", {"unmoved": 10}, {"unmoved": 9}),
        ("still-rising", {"loss_curve": [0.1 * s for s in range(50)]}, {"loss_curve": [min(s, 40) for s in range(50)]}),
    ],
)
def test_flags_of_one_result(flag: str, bad: dict[str, Any], good: dict[str, Any]) -> None:
    assert raised(row(measurements=measured(**bad))) == [{flag}]
    assert raised(row(measurements=measured(**good))) == [set()]
    of_member = {"kind": "transfer", "n_robust": None}
    sources = [{"source": 0, **measured()}, {"source": 1, **measured(**bad)}]
    (found,) = standing.judge((), [row(**of_member, measurements={"sources": sources})]).raised.values()
    assert [item.flag.id for item in found] == [flag]
    assert found[0].evidence.startswith("member 2: ")


def test_cw_that_measures_its_first_step_alone() -> None:
    """On 8 × 8 digits a step of Adam .01 reaches .01 / 2 · √64 = .04 at most."""

    def cw(farthest: float, broken: int = 3, **values: Any) -> EvaluationRow:
        lengths = {name: dict.fromkeys(("min", "mean", "median", "max"), farthest) for name in ("l1", "l2")}
        told = {"plugin": "cw", "attack": "cw", "budget_name": "c", "settings": {"rate": 0.01, "steps": 1000}}
        return row(**{**told, "measurements": measured(distances={"broken": broken, **lengths}), **values})

    assert raised(cw(0.0399)) == [{"one-step"}]
    assert raised(cw(0.0401)) == [set()]
    assert raised(cw(0.0399, settings={"rate": 0.005})) == [set()]
    assert raised(cw(0.0399, plugin="ead")) == [set()]
    assert raised(cw(0.0399, dataset="my own")) == [set()]  # its number of pixels is not known
    assert raised(cw(0.0399, kind="transfer", n_robust=None)) == [set()]  # not a number of the ensemble's own
    sources = [{"source": 1, **cw(0.0399).measurements}]
    assert raised(cw(0.0399, kind="transfer", n_robust=None, measurements={"sources": sources})) == [{"one-step"}]
    assert raised(cw(0.0399, measurements=measured(distances={"broken": 5, "l2": None}))) == [set()]
    assert raised(cw(0.27, dataset="cifar10")) == [{"one-step"}]
    assert raised(row(plugin="cw", measurements=measured(distances={"broken": 0}), settings={"rate": 0.01})) == [set()]


def test_a_step_of_cw_reaches_no_farther_than_its_flag_says(digits_ensemble: Ensemble, digits: Any) -> None:
    images = digits.test.take(slice(0, 60))
    for rate in (0.2, 0.4):
        conditions = Conditions(budget=1e6, seed_axes=("tests",), batch_size=60)
        found = attack_images(CW(steps=2, rate=rate), digits_ensemble, images, conditions).measurements["distances"]
        assert found["broken"] > 0
        # Pixels that are black or white, of which digits have many, hardly move.
        assert 0.3 * rate / 2 * 8 < found["l2"]["max"] <= rate / 2 * 8


def test_each_stage_of_an_attack_rises_by_itself() -> None:
    flat, rising = [1.0 - 0.5**step for step in range(30)], [0.1 * step for step in range(30)]
    nine = [[f"target {k}", 30] for k in range(1, 10)]
    assert raised(row(measurements=measured(loss_curve=9 * flat))) == [{"still-rising"}]  # a tenth is a whole stage
    assert raised(row(measurements=measured(loss_curve=9 * flat, loss_stages=nine))) == [set()]
    stages = nine[:2]
    (found,) = standing.judge(
        (), [row(measurements=measured(loss_curve=flat + rising, loss_stages=stages))]
    ).raised.values()
    assert [item.flag.id for item in found] == ["still-rising"]
    assert found[0].evidence.startswith("target 2: mean loss 2.55 → 2.85 over the last 3 of 30 steps")
    (found,) = standing.judge(
        (), [row(measurements=measured(loss_curve=rising + flat, loss_stages=stages))]
    ).raised.values()
    assert found[0].evidence.startswith("target 1: mean loss 2.55")


@dataclass(frozen=True, kw_only=True)
class NineTargets(Attack):
    """A plug-in: towards each other class in turn, the least likely first."""

    iterative: ClassVar[bool] = True

    steps: int = 30
    rel_step: float = 0.1
    told_apart: bool = True

    def run(self, problem: Problem) -> Tensor:
        others = problem.scores(problem.images).scatter(1, problem.labels[:, None], torch.inf)
        order = others.argsort(1)  # the label comes last
        x = problem.images
        for rank in range(9):
            target, name = order[:, rank : rank + 1], f"target {rank + 1}" if self.told_apart else True

            def margin(scores: Tensor, labels: Tensor, target: Tensor = target) -> Tensor:
                return (scores.gather(1, target) - scores.gather(1, labels[:, None]))[:, 0]

            x = problem.images
            for step in range(self.steps):
                ask = problem.gradient if step % 2 else lambda *of, **how: problem.ask(*of, **how).gradient
                x = problem.project(x + self.rel_step * problem.budget * ask(x, margin, curve=name).sign())
        return x


def test_an_attack_of_nine_targets_has_nine_curves_and_does_not_seem_to_rise(
    digits_ensemble: Ensemble, digits: Any
) -> None:
    images = digits.test.take(slice(0, 30))

    def evaluated(attack: NineTargets) -> EvaluationRow:
        outcome = attack_images(attack, digits_ensemble, images, Conditions(budget=0.05, stop="last", batch_size=11))
        settings = {"steps": attack.steps, "rel_step": attack.rel_step}
        return row(settings=settings, measurements=json.loads(json.dumps(outcome.measurements)))

    together, apart = evaluated(NineTargets(told_apart=False)), evaluated(NineTargets())
    assert raised(together) == [{"still-rising"}]
    assert raised(apart) == [set()]
    assert apart.measurements["loss_stages"] == [[f"target {k}", 30] for k in range(1, 10)]
    assert "loss_stages" not in together.measurements  # records of one stage are as they always were
    assert apart.measurements["loss_curve"] == pytest.approx(together.measurements["loss_curve"])
    assert len(apart.measurements["loss_curve"]) == 9 * 30


def test_bim_may_rise_to_its_last_step_and_distance_attacks_have_no_rise() -> None:
    straight = measured(loss_curve=[0.1 * step for step in range(50)])
    bim = {"plugin": "bim", "settings": {"steps": 50, "rel_step": 0.02}}
    assert raised(row(**bim, measurements=straight)) == [set()]
    assert raised(row(plugin="cw", budget_name="c", settings={"steps": 50}, measurements=straight)) == [set()]


def test_more_robust_than_clean() -> None:
    assert raised(row(951)) == [{"robust-above-clean"}]
    assert raised(row(950)) == [set()]
    assert standing.judge((), [r := row(951)]).of(r.evaluation_id).state == "invalid"


@pytest.mark.parametrize("kind", ["attack", "blackbox"])
def test_what_guesses_says_nothing_of_robustness(kind: str) -> None:
    """Of ten classes odds 1.2 times those of guessing are a chance of .12 / 1.02."""
    from scipy.stats import binom

    most = int(binom.isf(0.01, 1000, 0.12 / 1.02))
    assert raised(row(120, n_clean=120, kind=kind)) == [{"guesses"}]
    assert raised(row(most, n_clean=most, kind=kind)) == [{"guesses"}]
    assert "guesses" not in raised(row(most, n_clean=most + 1, kind=kind))[0]
    assert "guesses" not in raised(row(19, n=199, n_clean=19, kind=kind))[0]  # too few images to tell
    assert "guesses" not in raised(row(0, n=1000, n_clean=950, kind=kind))[0]


def test_robust_accuracy_that_rises_with_the_radius() -> None:
    assert raised(row(500), row(505, budget=0.2)) == [set(), set()]
    assert raised(row(500), row(506, budget=0.2)) == [set(), {"rises-with-budget"}]
    for other in ({"settings": {"steps": 10}}, {"images_digest": "others"}, {"run_id": "a" * 24}, {"stop": "last"}):
        assert raised(row(500), row(600, budget=0.2, **other)) == [set(), set()]


def test_an_iterative_attack_weaker_than_fgsm() -> None:
    fgsm = {"plugin": "fgsm", "attack": "fgsm", "settings": {}, "attack_key": "fgsm"}
    assert raised(row(521), row(500, **fgsm)) == [{"weaker-than-fgsm"}, set()]
    assert raised(row(520), row(500, **fgsm)) == [set(), set()]
    assert raised(row(521), row(500, budget=0.2, **fgsm)) == [set(), set()]
    assert raised(row(600, plugin="pgd_l2"), row(500, **fgsm)) == [set(), set()]  # another ball


def test_only_results_of_one_precision_are_compared_and_another_than_float32_is_named() -> None:
    fgsm = {"plugin": "fgsm", "attack": "fgsm", "attack_key": "fgsm"}
    coarse: dict[str, Any] = {"precision": "bfloat16"}
    coarse_fgsm = fgsm | coarse
    assert raised(row(521), row(500, **coarse_fgsm)) == [set(), set()]
    assert raised(row(521), row(521, **fgsm), row(500, **coarse_fgsm)) == [set(), set(), set()]
    assert raised(row(521), row(500, **fgsm), row(521, **coarse_fgsm))[0] == {"weaker-than-fgsm"}
    weak, reference = row(521, **coarse), row(500, **coarse_fgsm)
    (told,) = standing.judge((), [weak, reference]).raised[weak.evaluation_id]
    assert told.evidence == "pgd eps 0.1, bfloat16: 52.1 %, fgsm eps 0.1, bfloat16: 50.0 %"
    blackbox = {"kind": "blackbox", "plugin": "blackbox", "attack": "blackbox", "settings": {}, "measurements": {}}
    assert raised(row(500), row(470, **coarse), row(480, **blackbox)) == [{"black-box-stronger"}, set(), set()]
    assert raised(row(500, **coarse), row(480, **blackbox)) == [set(), set()]


def test_the_audit_names_the_precision(files: Any, db: Any, tmp_path: Path) -> None:
    folder, ids = files.run(), {}
    masked = {"attacked": 8, "zero_gradients": 8}
    for number, harness in enumerate(({}, {"precision": "bfloat16"})):
        path = files.evaluation(folder, [True] * 9, [True] * 9, measurements=masked, **harness)
        ids[path.stem[:12]] = number
    files.ingest_all(db)
    told = json.loads(bench("audit", "--results", tmp_path, "--json"))["flags"]
    assert {(ids[item["evaluation"][:12]], item["precision"]) for item in told} == {(0, "float32"), (1, "bfloat16")}
    assert "pgd ε = 0.1, bfloat16" in bench("audit", "--results", tmp_path)


def test_what_was_not_run_in_a_precision_is_told_as_not_checked() -> None:
    coarse = {"precision": "bfloat16"}
    fgsm = row(plugin="fgsm", settings={})
    told = "weaker-than-fgsm: FGSM was not run"
    assert told in flags.unchecked([row()])
    assert not [text for text in flags.unchecked([row(), fgsm]) if "FGSM" in text]
    assert [text for text in flags.unchecked([row(), fgsm, row(**coarse)]) if "FGSM" in text] == [f"{told}, bfloat16"]
    suite = row(kind="blackbox", plugin="blackbox", settings={})
    for attacks, reasons in (
        ([row(**coarse)], ["black-box-stronger: no iterative white-box attack was run in float32, as the suite is"]),
        ([row(**coarse), row()], []),
        ([row(**coarse), row(plugin="mora", settings={})], []),
        ([], []),
    ):
        assert [text for text in flags.unchecked([suite, *attacks]) if "black-box" in text] == reasons


def test_invalid_and_replaced_results_are_compared_with_nothing() -> None:
    fgsm = {"plugin": "fgsm", "attack": "fgsm", "settings": {}, "attack_key": "fgsm"}
    broken = row(500, **fgsm, measurements=measured(largest_excess=0.01))
    assert raised(row(521), broken) == [set(), {"outside-budget"}]
    old, new = row(400, **fgsm, attack_version=0), row(521, **fgsm, attack_version=1)
    assert raised(row(521), old, new) == [set(), set(), set()]
    assert raised(row(521), new) == [set(), set()]
    assert raised(row(521), row(400, **fgsm, attack_version=1)) == [{"weaker-than-fgsm"}, set()]


def test_attacks_without_gradients_say_nothing_about_masked_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    fgsm = {"plugin": "fgsm", "attack": "fgsm", "settings": {}, "attack_key": "fgsm"}
    assert raised(row(600), row(500, **fgsm)) == [{"weaker-than-fgsm"}, set()]
    monkeypatch.setattr(PGD, "needs_gradient", False)
    assert raised(row(600), row(500, **fgsm)) == [set(), set()]


def test_black_box_stronger_than_white_box() -> None:
    blackbox = {"kind": "blackbox", "plugin": "blackbox", "attack": "blackbox", "settings": {}, "measurements": {}}
    weak, strong = row(500), row(480, plugin="mim", attack="mim")
    assert raised(weak, strong, row(469, **blackbox)) == [set(), {"black-box-stronger"}, set()]
    assert opinion(strong, row(469, **blackbox)) == "doubtful"  # no attack on the ensemble is as strong
    assert raised(weak, strong, row(470, **blackbox)) == [set(), set(), set()]
    fgsm = row(480, plugin="fgsm", attack="fgsm", settings={})  # images of 50 steps on others may well beat its one
    assert raised(fgsm, row(300, **blackbox)) == [set(), set()]
    assert "black-box-stronger" in flags.not_looked_for([fgsm, row(300, **blackbox)])
    # Black-box on a part of the images: 48 % of 1,000 and p of 200 differ by chance in up to 3 × 3.9 points.
    part = {"images_digest": "part", "n": 200, "n_clean": 190} | blackbox
    assert raised(strong, row(74, **part)) == [set(), set()]  # 37 %
    assert raised(strong, row(70, **part)) == [{"black-box-stronger"}, set()]  # 35 %: 13 points are over 11.2 + 1


def test_every_check_is_data_and_what_it_needs_can_be_lacking() -> None:
    for flag in flags.FLAGS.values():
        assert flag.when
        assert flag.explanation
        assert flag.source
        assert set(flag.needs) <= set(NEEDS)
    told = " ".join(flags.unchecked([]))
    assert all(flag.id in told for flag in flags.FLAGS.values() if flag.needs)


def test_the_page_of_the_audit_lists_every_check() -> None:
    text = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    listed = re.findall(r"^\| `([a-z0-9-]+)`( \*)? \| (\w+) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    assert listed == [
        (flag.id, " *" if flag.decisive else "", flag.severity, flag.when, flag.source) for flag in flags.FLAGS.values()
    ]


def test_a_spread_over_seeds_is_a_note_and_no_doubt() -> None:
    wide = [row(400, seed=0), row(500, seed=1, run_id="b" * 24)]
    judged = standing.judge((), wide)
    (found,) = judged.raised[wide[0].evaluation_id]
    assert found.flag.severity == "note"
    assert flags.doubts([found]) == []
    assert judged.verdicts[wide[0].run_id].opinion == "not checked enough"


def test_a_run_is_doubtful_by_a_flag_on_an_attack_in_a_ball() -> None:
    masked = measured(zero_gradients=10)
    (verdict,) = standing.judge((), [row(measurements=masked)]).verdicts.values()
    assert verdict.opinion == "doubtful"
    assert verdict.why == ("zero-gradient: 10 of 950 attacked images",)
    distance = row(plugin="cw", attack="cw", budget_name="c", budget=1.0, measurements=masked)
    (verdict,) = standing.judge((), [distance]).verdicts.values()
    assert verdict.opinion == "not checked enough"


def probe(name: str, images: int = 100, means: dict[str, float] | None = None, **counts: int) -> EvaluationRow:
    found = {"images": images, "counts": counts, "means": means or {}}
    return row(None, kind="audit", plugin=name, attack=name, settings={"count": images}, measurements=found)


def stages(robust: int, plugin: str = "crosscheck", of: dict[str, Any] | None = None, **broken: int) -> EvaluationRow:
    told = [{"attack": name.replace("_of_", " of ").replace("_1", " 1"), "broken": n, "bits": ""}
            for name, n in broken.items()]  # fmt: skip
    return row(robust, plugin=plugin, attack=plugin, settings={}, measurements=measured(stages=told), **(of or {}))


@pytest.mark.parametrize(
    ("flag", "bad", "good"),
    [
        ("unavailable-gradients", probe("gradients", zero_ce=6), probe("gradients", zero_ce=5)),
        ("not-a-gradient", probe("gradients", not_derivative=11), probe("gradients", not_derivative=10)),
        ("depends-on-others", probe("gradients", batch=3), probe("gradients", batch=2)),
        ("noise-as-strong", probe("gradients", noise=6, standing=50), probe("gradients", noise=5, standing=50)),
        ("unstable-predictions", probe("gradients", means={"instability": 0.31}),
         probe("gradients", means={"instability": 0.3})),
        ("unfinished-optimisation", probe("gradients", unfinished=13, standing=50),
         probe("gradients", unfinished=12, standing=50)),
        ("planted-missed", probe("planted", set_up=20, found=9), probe("planted", set_up=20, found=10)),
        ("members-stronger", stages(480, mean_of_members=6, member_1=5), stages(480, mean_of_members=10)),
        ("gradient-free-stronger", stages(480, square=11), stages(480, square=10)),
        ("attacks-too-weak", stages(439), stages(440)),
        ("more-steps-lower", row(479, settings={"steps": 100, "rel_step": 0.1}),
         row(480, settings={"steps": 100, "rel_step": 0.1})),
    ],
)  # fmt: skip
def test_flags_of_the_deep_audit(flag: str, bad: EvaluationRow, good: EvaluationRow) -> None:
    attack = row(500)
    found = standing.judge((), [attack, bad])
    assert flag in {item.flag.id for item in found.raised[attack.evaluation_id]}
    assert found.verdicts[attack.run_id].opinion == "doubtful"
    other = row(500)
    assert flag not in {item.flag.id for each in standing.judge((), [other, good]).raised.values() for item in each}


FLAGGED, PART = {"members-stronger"}, {"n": 200, "n_clean": 190, "images_digest": "part"}


def test_a_stronger_attack_speaks_against_rows_above_it_and_against_the_run_unless_it_is_taken_in() -> None:
    """On 200 images members leave 33 %, after which Square breaks 1 more: rows over 33.5 + 1 % are too high."""
    members = stages(66, of=PART, apgd_ce=100, mean_of_members=13, square=1)
    assert raised(row(345, plugin="mim"), row(346), members) == [set(), FLAGGED, set()]
    assert raised(row(346, plugin="mim"), row(400), members) == [FLAGGED] * 3  # nothing reaches it
    assert opinion(row(346), members) == "doubtful"
    auto = stages(345, "autoattack", apgd_ce=600)
    (verdict,) = standing.judge((), [row(416), members, auto]).verdicts.values()
    assert verdict.opinion == "not checked enough"
    # What Square or members break of it does not count: of 34.5 % that stand, gradients leave one more.
    assert opinion(row(416), members, stages(345, "autoattack", square=1)) == "doubtful"
    for other in ({"budget": 0.2}, {"precision": "bfloat16"}, {"run_id": "a" * 24, "seed": 1}):
        judged = standing.judge((), [row(416), members, stages(345, "autoattack", other)])
        assert judged.verdicts[members.run_id].opinion == "doubtful"
    assert opinion(row(416), members, row(345, plugin="pgd_l2")) == "doubtful"


def test_a_masked_network_is_doubted_though_square_within_autoattack_gets_far() -> None:
    auto = stages(300, "autoattack", apgd_ce=50, square=600)
    flagged = {"gradient-free-stronger", "gradient-free-adds"}
    assert raised(auto) == [flagged]
    assert raised(row(900), auto) == [{"gradient-free-stronger"}, flagged]
    assert opinion(row(900), auto) == "doubtful"
    assert raised(row(900), auto, row(310, plugin="mora")) == [
        {"gradient-free-stronger"},
        {"gradient-free-adds"},
        set(),
    ]
    assert opinion(row(900), auto, row(310, plugin="mora")) == "not checked enough"
    assert opinion(row(900), auto, row(311, plugin="mora")) == "doubtful"


def test_square_that_breaks_a_few_is_a_note() -> None:
    assert raised(row(495), stages(480, "autoattack", square=3)) == [set(), {"gradient-free-adds"}]
    assert raised(row(495), stages(480, "autoattack", square=2)) == [set(), set()]
    small = {"n": 100, "n_clean": 95}
    assert raised(stages(48, "autoattack", small, square=1)) == [set()]
    assert raised(stages(48, "autoattack", small, square=2)) == [{"gradient-free-adds"}]  # 2 %, but two images
    assert raised(stages(48, "autoattack", small, square=3)) == [{"gradient-free-adds", "gradient-free-stronger"}]
    alone = {"plugin": "square", "attack": "square", "settings": {}}
    assert raised(row(500), row(498, **alone)) == [set(), set()]
    assert raised(row(500), row(497, **alone)) == [set(), {"gradient-free-adds"}]
    assert raised(row(500), row(490, **alone)) == [set(), {"gradient-free-adds"}]
    assert raised(row(500), row(489, **alone)) == [{"gradient-free-stronger"}, {"gradient-free-adds"}]


def test_a_targeted_attack_on_the_ensemble_takes_in_itself_what_it_breaks() -> None:
    auto = stages(470, "autoattack", apgd_t=101, fab_t=10)  # 48 % after APGD-T
    assert raised(row(580), row(581), auto) == [set(), {"targeted-disagrees"}, set()]
    assert opinion(row(581), auto) == "not checked enough"
    assert raised(row(581), stages(470, "autoattack", apgd_t=100, fab_t=10)) == [set(), set()]


def test_an_attack_cannot_say_of_itself_that_it_is_taken_in() -> None:
    fgsm = {"plugin": "fgsm", "attack": "fgsm", "settings": {}}
    weak, again = row(521), row(500, **fgsm, stop="last")
    assert raised(weak, row(500, **fgsm), again) == [{"weaker-than-fgsm"}, set(), set()]
    assert opinion(weak, row(500, **fgsm), again) == "doubtful"
    assert opinion(weak, row(500, **fgsm), row(521, plugin="mim")) == "doubtful"
    assert opinion(weak, row(500, **fgsm), row(520, plugin="mim")) == "not checked enough"
    longer = row(400, settings={"steps": 100, "rel_step": 0.1})
    assert opinion(row(421), longer) == "doubtful"
    assert opinion(row(421), longer, row(421, plugin="mim")) == "doubtful"
    assert opinion(row(421), longer, row(420, plugin="mim")) == "not checked enough"
    others = stages(400, of={"images_digest": "others"})
    assert opinion(row(561), stages(500), others) == "doubtful"
    other_images = {"plugin": "autoattack", "images_digest": "others"}
    assert opinion(row(561), stages(500), row(561, **other_images)) == "doubtful"
    assert opinion(row(561), stages(500), row(560, **other_images)) == "not checked enough"


def test_a_verdict_says_what_is_too_high_and_which_attack_has_taken_it_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flags, "_lacking", lambda *_: {})
    auto = stages(316, "autoattack")
    members = stages(66, of=PART, mean_of_members=13)
    rows = [row(416), row(438, plugin="mim", attack="mim"), row(410, n=999, images_digest="fewer"), members, auto]
    (verdict,) = standing.judge((), rows).verdicts.values()
    assert verdict.opinion == "believed"
    assert verdict.why == ("members-stronger: pgd eps 0.1, mim eps 0.1 too high; autoattack eps 0.1 has taken it in",)
    (verdict,) = standing.judge((), [row(340), members, auto]).verdicts.values()
    assert (verdict.opinion, verdict.why) == ("believed", ())


def test_show_tells_the_evidence_of_a_verdict_and_what_is_lacking() -> None:
    run: dict[str, Any] = {"run_id": "4f0c1a" * 4, "seed": 0}
    for verdict, why, text in (
        ("believed", (), "believed"),
        ("believed", ("pgd too high",), "believed (pgd too high)"),
        ("doubtful", ("a", "b", "c", "d"), "doubtful (a; b; c and 1 more)"),
        ("not checked enough", ("a",), "not checked enough: `bench audit 4f0c1a4f0c1a --deep`"),
    ):
        assert show._judged({**run, "verdict": {"opinion": verdict, "why": why}}) == {"audit": text}


def test_the_expected_accuracy_of_a_drawn_member_counts_each_draw_by_its_odds() -> None:
    """Two draws, right on all images and on half: .75 if alike, .95 where the first has odds .9."""
    texts = [to_text(np.arange(1000) < right) for right in (1000, 500)]
    alike, odd = ({"draws": texts}, {"draws": texts, "odds": [0.9, 0.1]})
    assert raised(row(955, n_clean=1000, measurements=measured(**alike))) == [{"expected-lower"}]
    assert raised(row(955, n_clean=1000, measurements=measured(**odd))) == [set()]
    assert raised(row(965, n_clean=1000, measurements=measured(**odd))) == [{"expected-lower"}]


def test_one_image_of_few_is_no_case() -> None:
    few = {"n": 40, "n_clean": 39}
    longer = row(36, settings={"steps": 100, "rel_step": 0.1}, **few)
    assert raised(row(37, **few), longer) == [set(), set()]


def test_random_output_speaks_of_the_whole_run() -> None:
    clean = {"kind": "clean", "attack": "clean", "plugin": "clean", "budget": None, "budget_name": None}
    noisy = row(None, **clean, measurements={"random_output": 3})
    assert raised(noisy, row(), row(run_id="a" * 24, seed=1)) == [{"random-output"}, {"random-output"}, set()]
    assert raised(row(None, **clean, measurements={"random_output": 0}), row()) == [set(), set()]


def test_spread_over_seeds() -> None:
    wide = [row(400, seed=0), row(500, seed=1, run_id="b" * 24), row(450, seed=2, run_id="c" * 24)]  # 45 ± 5
    assert raised(*wide) == [{"spread-over-seeds"}] * 3
    narrow = [row(410, seed=0), row(490, seed=1, run_id="b" * 24), row(450, seed=2, run_id="c" * 24)]  # 45 ± 4
    assert raised(*narrow) == [set()] * 3
    tiny = [row(1, seed=0), row(15, seed=1, run_id="b" * 24)]  # .8 ± .99: less than a point
    assert raised(*tiny) == [set()] * 2


class Quantised(nn.Module):
    """Rounds the image to a few levels: right predictions, no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 4).round() / 4


class Sharp(nn.Module):
    """Logits so large that the softmax saturates."""

    def forward(self, x: Tensor) -> Tensor:
        return 3e4 * x


def evaluated(ensemble: Ensemble, images: Any) -> list[set[str]]:
    rows = []
    for name, attack in (("fgsm", FGSM()), ("pgd", PGD())):
        conditions = Conditions(budget=0.15, seed_axes=("tests",))
        record = measure.robust_accuracy(ensemble, images, attack, conditions)
        fields = {key: record[key] for key in ("n", "n_clean", "measurements")}
        rows.append(
            row(
                record["n_robust"],
                plugin=name,
                attack=name,
                budget=0.15,
                settings={"steps": 50, "rel_step": 0.1},
                **fields,
            )
        )
    return raised(*rows)


@pytest.mark.usefixtures("_one_thread")
def test_masked_models_raise_the_masking_flags_and_a_plain_one_none(digits_ensemble: Ensemble, digits: Any) -> None:
    images = digits.test.take(slice(0, 100))
    assert evaluated(digits_ensemble, images) == [set(), set()]
    shattered = Ensemble([nn.Sequential(Quantised(), copy.deepcopy(m)) for m in digits_ensemble.members])
    first, second = evaluated(shattered, images)
    assert {"zero-gradient", "unmoved"} <= first
    assert "zero-gradient" in second
    saturated = Ensemble([nn.Sequential(copy.deepcopy(m), Sharp()) for m in digits_ensemble.members])
    assert all("zero-gradient" in found for found in evaluated(saturated, images))


def test_how_many_flags_were_looked_for_in_many_runs_is_told_of_all_of_them() -> None:
    of = len(flags.FLAGS)
    assert _looked_for({}) == ""
    assert _looked_for({"a": [], "b": []}) == f"looked for all {of} flags in each of 2 runs"
    some = {"a": [], "b": ["unmoved"], "c": ["unmoved", "planted"]}
    assert _looked_for(some) == f"looked for {of} flags in 3 runs; in 2 of them 1 to 2 could not be looked for"
    assert flags.not_looked_for([]) == [name for name, flag in flags.FLAGS.items() if flag.needs]


def test_flags_in_table_card_and_audit(tmp_path: Path) -> None:
    bench("run", "-m", "ece", *QUICK, "--results", tmp_path, "--threads", "1", "-q")
    text = bench("audit", "--results", tmp_path)  # nobody has tried an attack without gradients
    assert "0 of 10 evaluations flagged." in text
    assert "nothing speaks against them" not in text
    assert "not checked enough" in text
    (told_of,) = (line for line in text.splitlines() if line.startswith("looked for"))
    (lacking,) = json.loads(bench("audit", "--results", tmp_path, "--json"))["not_looked_for"].values()
    looked = told_of.partition(": ")[2].partition(";")[0].split(", ")
    assert {*looked, *lacking} == flags.FLAGS.keys()
    assert "zero-gradient" in looked
    assert "planted-missed" in lacking
    assert told_of.startswith(f"looked for {len(looked)} of {len(flags.FLAGS)} flags: ")
    assert told_of.endswith(f"; {len(lacking)} could not be looked for")
    reasons = [line for line in text.splitlines() if line.startswith("not checked: ")]
    assert {name for line in reasons for name in line.split(": ")[1].split(", ")} == {*lacking}
    files = {
        (record["attack"], record["budget"]): (path, record)
        for path in tmp_path.glob("runs/*/evaluations/*.json")
        if (record := json.loads(path.read_text()))["kind"] == "attack"
    }
    path, record = files["pgd", 0.1]
    record["measurements"]["zero_gradients"] = record["measurements"]["attacked"]
    path.write_text(json.dumps(record))
    path, record = files["mim", 0.15]
    record["measurements"]["largest_excess"] = 0.5
    path.write_text(json.dumps(record))
    bench("db", "rebuild", "--results", tmp_path)

    table = bench("table", "core", *QUICK, "--results", tmp_path, "--format", "markdown")
    cells = {tuple(part.strip() for part in line.split("|")[1:4]) for line in table.splitlines() if "| ε" in line}
    by_row = {(attack, budget): text for attack, budget, text in cells}
    assert by_row["PGD (50)", "ε = 0.1"].endswith("†")
    assert by_row["MIM (50)", "ε = 0.15"] == "✗"
    assert not by_row["BIM (50)", "ε = 0.1"].endswith("†")
    assert "† zero-gradient" in table
    assert "✗ invalid: an adversarial image lies outside" in table
    rows = json.loads(bench("table", "core", *QUICK, "--results", tmp_path, "--json"))
    long = {(cell["attack"], cell["budget"]): cell for cell in rows}
    assert long["mim", 0.15]["mean"] is None
    assert "outside-budget" in long["mim", 0.15]["flags"]
    assert ("worst_linf", 0.15) not in long or long["worst_linf", 0.15]["mean"] is None

    code, text = told("audit", "--results", tmp_path, "--json")
    assert code == 1
    assert {(item["flag"], item["severity"], item["attack"]) for item in json.loads(text)["flags"]} == {
        ("zero-gradient", "suspect", "pgd"),
        ("outside-budget", "invalid", "mim"),
    }
    run_id = path.parents[1].name
    assert "zero-gradient" in bench("show", run_id[:8], "--results", tmp_path)
    text = bench("audit", files["pgd", 0.1][1]["evaluation_id"][:12], "--results", tmp_path)
    assert "outside-budget" not in text.partition("looked for")[0]
    assert "the black-box suite was not run" in " ".join(text.split())
