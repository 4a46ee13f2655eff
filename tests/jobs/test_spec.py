"""What evaluations are told apart by, and how a record is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from exchanged import attack, spec
from pydantic import ValidationError

from bench.core import config
from bench.core.errors import BenchError
from bench.experiment import select
from bench.experiment.labels import failed_label
from bench.experiment.select import Selection
from bench.experiment.spec import FORMAT, EvaluationSpec, Job, RunSpec
from bench.jobs.plan import jobs_of


def record_of(evaluation: EvaluationSpec, written: int = FORMAT) -> dict[str, Any]:
    """As `bench.jobs.measuring` writes it, without the outcome; format 1 as it was written before."""
    fields = evaluation.model_dump(mode="json", exclude={"run", "targets", "precision", "versions", "settings"})
    told = {"settings": evaluation.settings, **evaluation.later()}
    if written == 1:
        told = {"settings": {**evaluation.settings, **evaluation.later()}}
    return {
        **fields, **told, "format": written, "attack_version": evaluation.versions["attack"],
        "evaluator_version": evaluation.versions["evaluator"], "evaluation_id": evaluation.evaluation_id,
    }  # fmt: skip


@pytest.fixture
def run() -> RunSpec:
    return spec()


def test_ids_differ_by_targets_and_precision_and_are_as_before_where_both_are_as_usual(run: RunSpec) -> None:
    usual = attack(run)
    changes = [{}, {"targets": "random"}, {"precision": "bfloat16"}, {"targets": "random", "precision": "bfloat16"}]
    made = [usual.model_copy(update=change) for change in changes]
    fresh = [EvaluationSpec.model_validate(one.model_dump()) for one in made]
    assert len({one.evaluation_id for one in fresh}) == len({one.attack_key for one in fresh}) == 4
    assert (fresh[0].later(), fresh[3].later()) == ({}, {"targets": "random", "precision": "bfloat16"})
    usual = attack(RunSpec.model_validate({**run.model_dump(), "settings": {"strength": 0.5}}))
    assert usual.evaluation_id == "ac301678e74ac3a9faf0e9f2"  # results that people hold have such ids


def test_the_precision_of_a_training_is_part_of_its_id_and_float32_leaves_ids_as_they_are(run: RunSpec) -> None:
    made = [run.model_copy(update={"training": run.training.model_copy(update={"precision": precision})})
            for precision in ("float32", "tf32", "bfloat16")]  # fmt: skip
    assert len({one.run_id for one in made}) == len({one.family_id for one in made}) == 3
    assert run.run_id == made[0].run_id == "3a279ba694a6dd1a10f88e5d"  # before there was another


def test_the_precision_of_a_training_is_asked_for_by_set() -> None:
    loaded = config.load(changes=("training.precision=tf32",))
    run = select.run_spec(loaded, Selection(dataset="digits"), "trs", 0)
    assert run.training.precision == "tf32"
    assert run.recipe_changes == ("training.precision=tf32",)  # named wherever the run is shown
    with pytest.raises(BenchError, match="'float32', 'tf32' or 'bfloat16'"):
        select.run_spec(config.load(changes=("training.precision=fp8",)), Selection(dataset="digits"), "trs", 0)


@pytest.mark.parametrize(
    ("told", "own"),
    [
        ({}, {}),
        ({}, {"precision": "bfloat16"}),
        ({}, {"targets": "random"}),
        ({"targets": "random"}, {}),
        ({"targets": "random"}, {"precision": "bfloat16"}),
        ({"precision": "bfloat16"}, {}),
        ({"precision": "bfloat16"}, {"targets": "random"}),
        ({"targets": "random", "precision": "bfloat16"}, {}),
    ],
)
@pytest.mark.parametrize("written", [1, FORMAT])
def test_a_record_is_read_back_also_where_a_setting_has_a_name_of_the_harness(
    run: RunSpec, told: dict[str, str], own: dict[str, str], written: int
) -> None:
    made = attack(run).model_copy(update={**told, "settings": {"steps": 5, **own}})
    evaluation = EvaluationSpec.model_validate(made.model_dump())
    found = EvaluationSpec.of_record(record_of(evaluation, written), run)
    assert found.evaluation_id == evaluation.evaluation_id
    if written == FORMAT:
        assert (found.settings, found.later()) == (evaluation.settings, evaluation.later())


def test_labels_and_failures_name_another_precision_than_float32(run: RunSpec) -> None:
    usual = attack(run)
    coarse = usual.model_copy(update={"precision": "bfloat16"})
    assert (usual.label, coarse.label) == ("pgd ε=0.1", "pgd ε=0.1, bfloat16")
    first, second = (Job(run=run, evaluation=one).describe() for one in (usual, coarse))
    assert "precision" not in first
    assert second == {**first, "precision": "bfloat16"}


@pytest.mark.parametrize("suite", ["core", "figure2", "targeted", "certify"])
def test_a_failed_job_has_the_label_that_it_has_in_a_plan(suite: str) -> None:
    loaded = config.load(changes=("attacks.fgsm.precision=bfloat16",))
    jobs = jobs_of(loaded, Selection(methods=("dverge",), dataset="digits", suite=suite))
    labels = {failed_label(job.kind, job.describe()): job.label for job in jobs}
    for targets in (None, "random"):
        theory = Job(
            run=jobs[0].run, evaluation=attack(jobs[0].run).model_copy(update={"kind": "theory", "targets": targets})
        )
        labels[failed_label(theory.kind, theory.describe())] = theory.label
    assert len(labels) > 4
    assert all(found == wanted for found, wanted in labels.items())


def test_a_failure_that_says_little_has_a_label() -> None:
    told = {"method": "dverge", "seed": 3, "attack": "fgsm", "settings": {"restarts": 1}}
    assert failed_label("attack", {}) == "– on –, seed –: –"
    assert failed_label("attack", told | {"budget": 0.02, "budget_name": "eps"}) == "dverge on –, seed 3: fgsm ε=0.02"


def test_a_record_of_nothing_is_refused(run: RunSpec) -> None:
    record = record_of(attack(run))
    with pytest.raises(ValidationError):
        EvaluationSpec.of_record({**record, "kind": "guess"}, run)
    with pytest.raises(KeyError):
        EvaluationSpec.of_record({}, run)


@pytest.mark.parametrize("name", ["resnet8", "resnet20"])
@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_padded_networks_keep_their_ids_under_the_names_that_they_have_now(name: str, dataset: str) -> None:
    releases = Path(__file__).parents[1] / "releases"
    first, now = config.load(releases / "first.toml"), config.load(config.defaults("bench.toml"))

    def run_id(loaded: config.Loaded, model: str) -> str:
        return select.run_spec(loaded, Selection(dataset=dataset, model=model), "ece", 0).run_id

    assert run_id(now, f"{name}a") == run_id(first, name)
    assert run_id(now, name) != run_id(first, name)
