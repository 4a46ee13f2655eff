"""What a measurement does when memory runs out, and what it leaves beside its record."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import in_process
import pytest
import torch
from in_process import bench, command
from safetensors.torch import load_file, save_file
from tape import Tape
from torch import nn

from bench.api import evaluating
from bench.attacks.batched import BatchedAttack
from bench.attacks.conditions import Conditions
from bench.baselines.ece import Ece
from bench.core import config
from bench.core.errors import BenchError
from bench.core.progress import Progress
from bench.data import base
from bench.data.base import ImageSet
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import Job
from bench.jobs import ensembles, measuring, outside, unfinished, work
from bench.jobs.ensembles import data_axes
from bench.jobs.measuring import conditions_of
from bench.jobs.probe import PROBE
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


def test_an_attack_is_run_under_the_conditions_of_its_evaluation(
    trained: tuple[Workplace, list[Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under all of them: what a condition more is not taken from would be its default, whatever the evaluation says."""
    _, (_, job) = trained
    unusual: dict[str, Any] = {"budget": 0.3, "stop": "last", "targets": "random", "precision": "bfloat16"}
    assert job.evaluation is not None
    spec = job.evaluation.model_copy(update=unusual)
    monkeypatch.setattr(measuring, "usual_recorder", lambda device: Tape(nn.Module()))
    found = conditions_of(spec, 7, Workplace(results=Path(), data=Path()))
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

    def scarce(self: BatchedAttack, rows: Any, *arguments: Any, **named: Any) -> Any:
        if len(rows) > 10:
            raise error
        return usual(self, rows, *arguments, **named)

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

    def broken(*arguments: Any, **named: Any) -> Any:
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


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often images are brought to the device, and members made, from now on."""
    counts = {"images": 0, "members": 0}

    def count(owner: Any, name: str, what: str) -> None:
        usual = getattr(owner, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            counts[what] += 1
            return usual(*arguments, **named)

        monkeypatch.setattr(owner, name, wrapped)

    count(ImageSet, "to", "images")
    count(ensembles, "load_ensemble", "members")
    return counts


def test_the_jobs_of_a_process_share_images_and_ensemble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base.let_go()
    counts = counted(monkeypatch)
    attacks = ("--attack", "fgsm,bim", "--eps", "0.05,0.1")
    bench("run", "-m", "ece", *in_process.TINY, *attacks, "--threads", "1", "--results", tmp_path)
    # Training and test images once each, for a training, a clean pass and four attacks; no file of weights is read.
    assert counts == {"images": 2, "members": 0}
    first = {path.name: json.loads(path.read_text())["robust_bits"] for path in tmp_path.glob("runs/*/evaluations/*")}
    assert len(first) == 5
    # Each job in a process of its own, as it were: the same outcomes.
    for path in tmp_path.glob("runs/*/evaluations/*"):
        path.unlink()
    (tmp_path / "bench.db").unlink()
    usual = work.perform

    def alone(*arguments: Any) -> Any:
        base.let_go()
        ensembles.let_go()
        return usual(*arguments)

    monkeypatch.setattr(work, "perform", alone)
    bench("run", "-m", "ece", *in_process.TINY, *attacks, "--threads", "1", "--results", tmp_path)
    assert counts == {"images": 2 + 5, "members": 5}
    assert first == {
        path.name: json.loads(path.read_text())["robust_bits"] for path in tmp_path.glob("runs/*/evaluations/*")
    }


def test_so_do_the_jobs_on_an_ensemble_from_elsewhere(
    trained: tuple[Workplace, list[Job]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bench evaluate`: the test images come to the device once, and the files of weights are read once."""
    place, (job, _) = trained
    whole = load_file(place.run(job.run.run_id).weights)
    for number in range(2):
        start = f"members.{number}."
        member = {name.removeprefix(start): part for name, part in whole.items() if name.startswith(start)}
        save_file(member, tmp_path / f"{number}.safetensors")
    base.let_go()
    ensembles.let_go()
    counts = counted(monkeypatch)
    bench(
        "evaluate", tmp_path / "0.safetensors", tmp_path / "1.safetensors", "--model", "digits_cnn", "-d", "digits",
        "--name", "theirs", "--attack", "fgsm", "--eps", "0.05,0.1", "--threads", "1",
        "--results", tmp_path / "results",
    )  # fmt: skip
    assert len([*tmp_path.glob("results/runs/*/evaluations/*")]) == 3
    assert counts == {"images": 1, "members": 1}


def test_an_ensemble_that_is_not_that_of_its_record_any_more_is_read_again(
    trained: tuple[Workplace, list[Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, (clean, _) = trained
    assert work.perform(clean, place)[0]
    counts = counted(monkeypatch)
    kept = ensembles.measured_ensemble(clean.run, place)
    assert counts["members"] == 0
    with torch.no_grad():
        next(kept.parameters()).add_(1)
    again = ensembles.measured_ensemble(clean.run, place)
    assert counts["members"] == 1
    assert ensembles.measured_ensemble(clean.run, place) is again is not kept
    weights = place.run(clean.run.run_id).weights
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])  # another file now
    ok, path = work.perform(clean, place)
    assert not ok
    assert "damaged" in json.loads(path.read_text())["error"]
    weights.write_bytes(whole)


def test_memory_that_runs_out_is_given_back_and_a_training_keeps_its_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smaller batches would train another ensemble under the same id."""
    sizes: list[int] = []

    def scarce(self: Any, members: Any, batch: Any) -> Any:
        sizes.append(len(batch.images))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Ece, "loss", scarce)
    done = in_process.command("run", "-m", "ece", *in_process.TINY, "--threads", "1", "--results", tmp_path)
    assert done.code == 1
    assert "out of memory" in done.out
    timed = 64 if torch.cuda.is_available() else PROBE  # on a GPU a whole batch
    assert sizes == [timed, 64]  # the estimate's, then one try
    (failure,) = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/failures/*.json")]
    assert failure["kind"] == "train"
    assert failure["error"].startswith("out of memory: ")
    assert base._part.cache_info().currsize == 0
    assert not list(tmp_path.glob("runs/*/run.json"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_with_too_little_memory_takes_smaller_batches(trained: tuple[Workplace, list[Job]]) -> None:
    """A planted limit: what the attack needs at 1,024 images, halved."""
    place, (_, job) = trained
    place = dataclasses.replace(place, device="cuda", batch_size=1024)
    assert job.evaluation is not None
    job = Job(run=job.run, evaluation=job.evaluation.model_copy(update={"limit": None}))
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    ok, path = work.perform(job, place)
    assert ok, path.read_text()
    enough = json.loads(path.read_text())
    limit = torch.cuda.max_memory_allocated() / 2
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        ok, path = work.perform(job, place)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert ok, path.read_text()
    found = json.loads(path.read_text())
    assert len(enough["measurements"]["batch_sizes"]) == 1 < len(found["measurements"]["batch_sizes"])
    assert abs(found["n_robust"] - enough["n_robust"]) <= 2  # other batches, other kernels


class Stopped(BaseException):
    """The process is killed."""


def test_a_killed_evaluation_goes_on_after_its_last_batch(
    trained: tuple[Workplace, list[Job]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, (_, job) = trained
    assert job.evaluation is not None
    told: list[str] = []
    batches: list[int] = []
    usual = BatchedAttack.run

    class Telling(Progress):
        def note(self, text: str) -> None:
            told.append(text)

    def fragile(self: BatchedAttack, rows: Any, *arguments: Any, **named: Any) -> Any:
        batches.append(len(rows))
        if len(batches) == kill_at:
            raise Stopped
        return usual(self, rows, *arguments, **named)

    def record() -> dict[str, Any]:
        ok, path = work.perform(job, small, Telling())
        assert ok, path.read_text()
        found: dict[str, Any] = json.loads(path.read_text())
        return {name: found[name] for name in found if name not in ("attempt_id", "started", "seconds")}

    small = dataclasses.replace(place, batch_size=5)
    file = place.run(job.run.run_id).unfinished(job.evaluation.evaluation_id)
    monkeypatch.setattr(unfinished, "EVERY", 0.0)
    monkeypatch.setattr(unfinished, "SHARE", float("inf"))
    monkeypatch.setattr(BatchedAttack, "run", fragile)
    kill_at = 0
    whole, in_one_go = record(), len(batches)
    assert not told
    assert not file.exists()

    def killed() -> None:
        nonlocal kill_at
        batches.clear()
        kill_at = 3
        with pytest.raises(Stopped):
            work.perform(job, small)
        kill_at = 0
        batches.clear()
        assert file.exists()

    killed()
    assert record() == whole
    assert len(batches) == in_one_go - 2
    assert [note for note in told if "goes on with image 11 of" in note]
    assert not file.exists()

    # What was kept of other weights, by other code, or is damaged is begun anew.
    for spoil in (lambda: file.write_bytes(file.read_bytes()[:-4]), lambda: monkeypatch.setattr(
        measuring, "recorded_weights", lambda *_: "0" * 24)):  # fmt: skip
        killed()
        spoil()
        assert record()["robust_bits"] == whole["robust_bits"]
        assert len(batches) == in_one_go


def test_further_radii_are_certified_by_the_draws_of_the_first(tmp_path: Path) -> None:
    changes = ("certify.n=200", "certify.n0=20", "certify.limit=10", *TINY)
    loaded = config.load(changes=changes)
    selection = Selection(methods=("ece",), suite="certify")
    run = select.run_spec(loaded, selection, "ece", 0)
    specs = [spec for spec in select.evaluations(loaded, selection, run) if spec.kind == "certify"]
    assert [spec.budget for spec in specs] == [0.1, 0.25, 0.5]
    assert len({spec.evaluation_id for spec in specs}) == len({spec.attack_key for spec in specs}) == 3
    place = Workplace(results=tmp_path, data=tmp_path)
    records = []
    for job in (Job(run=run), *(Job(run=run, evaluation=spec) for spec in specs)):
        ok, path = work.perform(job, place)
        assert ok, path.read_text()
        records.append(json.loads(path.read_text()))
    first, *others = records[1:]
    assert (first["n"], first["forwards"], first["stop"]) == (10, 2200, "last")
    assert all(record["forwards"] == 0 for record in others)
    assert all(record["measurements"]["radii"] == first["measurements"]["radii"] for record in others)
    assert first["n_clean"] >= first["n_robust"] >= others[0]["n_robust"] >= others[1]["n_robust"]
    # Other noise, other draws.
    louder = specs[0].model_copy(update={"settings": {**specs[0].settings, "sigma": 0.5}})
    ok, path = work.perform(Job(run=run, evaluation=louder), place)
    assert ok
    assert json.loads(path.read_text())["forwards"] == 2200


def test_certified_accuracy_is_a_row_of_the_table_and_of_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = ("certify.n=200", "certify.limit=10", "certify.radii.digits=[0.1, 0.3]", *TINY)
    asked = ("run", "-m", "ece", "-d", "digits", "--suite", "certify", *(f"--set={text}" for text in texts))
    assert all(text in bench(*asked) for text in ("certified ℓ2 (σ = 0.25)", "ε = 0.3"))
    (row,) = json.loads(bench("list", "runs", "--json"))
    assert "certify" in bench("show", row["id"])
    made = json.loads(bench("show", row["id"], "--json"))["evaluations"]
    identifier = next(each["evaluation_id"] for each in made if each["kind"] == "certify")
    assert "sigma 0.25" in bench("show", identifier)
    exported = command("show", identifier, "--export", "x.safetensors")
    assert (exported.code, "has no adversarial images" in exported.text) == (2, True)
    bench("db", "verify", row["id"])
    bench("report", "-o", "site")
    bench("db", "rebuild")
    table = bench("table", "certify", "-d", "digits", *(f"--set={text}" for text in texts))
    assert "ε = 0.3" in table
    assert "Certified accuracy in % of all images: " in table
    assert "after the attack" not in table  # there is none


@pytest.mark.parametrize(("device", "looked"), [(None, "cuda"), ("cpu", "cpu")])
def test_the_first_look_at_given_weights_is_taken_where_their_jobs_run(
    device: str | None, looked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU where there is one: a large network on the CPU takes longer than the attacks that follow."""
    seen = []

    def take_in(base: Any, given: Any, loaded: Any, place: Workplace, **_: Any) -> Any:
        seen.append(place.device)
        raise BenchError("seen")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(outside, "take_in", take_in)
    monkeypatch.setattr(evaluating, "take_in", take_in)
    file = tmp_path / "0.safetensors"
    save_file({"weight": torch.zeros(1)}, file)
    options = () if device is None else ("--device", device)
    command(
        "evaluate", file, "--model", "digits_cnn", "-d", "digits", "--name", "theirs", *options, "--results", tmp_path
    )
    with pytest.raises(BenchError, match="seen"):
        evaluating.evaluate(file, dataset="digits", name="theirs", model="digits_cnn", device=device, results=tmp_path)
    assert seen == [looked, looked]
