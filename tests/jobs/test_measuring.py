"""What a measurement does when memory runs out, and what it leaves beside its record."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bench.attacks.batched import BatchedAttack
from bench.attacks.conditions import Conditions
from bench.core import config
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import Job
from bench.jobs import work
from bench.jobs.ensembles import data_axes
from bench.jobs.measuring import conditions_of
from bench.jobs.workplace import Workplace

pytestmark = pytest.mark.usefixtures("_one_thread")
TINY = ("training.epochs=2", "training.limit=200", "attacks.pgd.steps=4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, list[Job]]:
    """A trained run, and its jobs: clean accuracy and PGD."""
    folder = tmp_path_factory.mktemp("measuring")
    loaded = config.load(changes=TINY)
    selection = Selection(methods=("ece",), attacks=("pgd",), eps=(0.1,), limit=50)
    run = select.run_spec(loaded, selection, "ece", 0)
    place = Workplace(results=folder / "results", data=folder, batch_size=32)
    ok, path = work.perform(Job(run=run), place)
    assert ok, path.read_text()
    return place, [Job(run=run, evaluation=spec) for spec in select.evaluations(loaded, selection, run)]


def test_an_attack_is_run_under_the_conditions_of_its_evaluation(trained: tuple[Workplace, list[Job]]) -> None:
    """Under all of them: what a condition more is not taken from would be its default, whatever the evaluation says."""
    _, (_, job) = trained
    unusual: dict[str, Any] = {"budget": 0.3, "stop": "last", "targets": "random", "precision": "bfloat16"}
    assert job.evaluation is not None
    spec = job.evaluation.model_copy(update=unusual)
    found = conditions_of(spec, 7)
    assert found == Conditions(**unusual, seed_axes=data_axes(job.run), batch_size=7)
    assert all(getattr(found, field.name) != field.default for field in dataclasses.fields(found))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), RuntimeError("can't allocate memory: 9 GB")])
def test_less_memory_means_smaller_batches_and_the_same_result(
    trained: tuple[Workplace, list[Job]], monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    place, (_, job) = trained
    ok, path = work.perform(job, place)
    assert ok
    enough = json.loads(path.read_text())
    usual = BatchedAttack.run

    def scarce(self: BatchedAttack, rows: Any, *arguments: Any) -> Any:
        if len(rows) > 10:
            raise error
        return usual(self, rows, *arguments)

    monkeypatch.setattr(BatchedAttack, "run", scarce)
    ok, path = work.perform(job, place)
    assert ok, path.read_text()
    record = json.loads(path.read_text())
    assert record["measurements"]["batch_sizes"] == [32, 16, 8]
    assert enough["measurements"]["batch_sizes"] == [32]
    for name in ("n_robust", "robust_bits", "clean_bits", "evaluation_id"):
        assert record[name] == enough[name]

    ok, path = work.perform(job, dataclasses.replace(place, oom_retry=False))
    assert not ok
    assert "out of memory" in json.loads(path.read_text())["error"]


def test_other_errors_are_not_tried_again(
    trained: tuple[Workplace, list[Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, (_, job) = trained
    calls = []

    def broken(*arguments: Any) -> Any:
        calls.append(arguments)
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(BatchedAttack, "run", broken)
    ok, path = work.perform(job, place)
    assert not ok
    assert json.loads(path.read_text())["error"] == "RuntimeError: shapes do not fit"
    assert len(calls) == 1


def test_records_name_the_weights_and_leave_samples(trained: tuple[Workplace, list[Job]]) -> None:
    place, (clean, attack) = trained
    run = attack.run.run_id
    wanted = json.loads(place.run(run).record.read_text())["weights_digest"]
    for job in (clean, attack):
        ok, path = work.perform(job, place)
        assert ok
        assert json.loads(path.read_text())["weights_digest"] == wanted
    samples = load_file(place.run(run).samples(attack.job_id))
    assert samples["adversarial"].shape == samples["clean"].shape == (8, 1, 8, 8)
    assert not place.run(run).samples(clean.job_id).exists()


def test_the_clean_evaluation_saves_later_ones_a_pass_and_changes_nothing(trained: tuple[Workplace, list[Job]]) -> None:
    place, (clean, attack) = trained
    assert clean.evaluation is not None
    file = place.run(clean.run.run_id).evaluation(clean.evaluation.evaluation_id)
    file.unlink(missing_ok=True)
    before = json.loads(work.perform(attack, place)[1].read_text())
    assert work.perform(clean, place)[0]
    after = json.loads(work.perform(attack, place)[1].read_text())
    assert before["forwards"] - after["forwards"] == before["n"] == 50
    for name in ("n_robust", "robust_bits", "clean_bits", "evaluation_id"):
        assert before[name] == after[name]
    # Of other weights or images it says nothing.
    file.write_text(json.dumps(json.loads(file.read_text()) | {"weights_digest": "0" * 64}))
    assert json.loads(work.perform(attack, place)[1].read_text())["forwards"] == before["forwards"]
    file.unlink()


@pytest.mark.parametrize("kind", ["attack", "transfer"])
def test_a_job_asks_in_the_precision_of_its_evaluation(trained: tuple[Workplace, list[Job]], kind: str) -> None:
    place, jobs = trained
    spec = jobs[1].evaluation
    assert spec is not None
    update: dict[str, Any] = {"precision": "bfloat16", "kind": kind, "stop": spec.stop if kind == "attack" else "last"}
    ok, path = work.perform(Job(run=jobs[1].run, evaluation=spec.model_copy(update=update)), place)
    assert ok, path.read_text()
    measured = json.loads(path.read_text())["measurements"]
    parts = [measured] if kind == "attack" else measured["sources"]
    # Each network is asked in bfloat16 where it turns its gradient little: a barely trained member's it may turn more.
    assert "bfloat16" in {part["asked_in"] for part in parts}
