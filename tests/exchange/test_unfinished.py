"""A training that was interrupted, moved to another machine in an archive: it goes on there, to the same weights."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exchanged import fill, spec, tree
from in_process import bench, command, refused
from safetensors.torch import save_file

from bench.experiment.folder import RunFolder
from bench.jobs.work import ELSEWHERE
from bench.store import provenance
from bench.training import checkpoint
from bench.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("_one_thread")
EPOCHS = 4
RUN = ["run", "-m", "trs", "--limit", "20", "--attack", "fgsm", "--eps", "0.1", "--threads", "1",
       "--set", f"training.epochs={EPOCHS}", "--set", "training.limit=64"]  # fmt: skip
Tensors, Told = dict[str, torch.Tensor], dict[str, Any]


def interrupted(results: Path, after: int, *more: str) -> RunFolder:
    """The folder of the run, whose training was stopped when the checkpoint of an epoch was written."""
    usual = Trainer._save

    def stops(self: Trainer, phase: int, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        usual(self, phase, epoch, optimizer)
        if len(self.curve) == after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "_save", stops)
        assert command(*RUN, *more, "--results", results).code == 130
    (path,) = results.glob("runs/*/checkpoint.safetensors")
    assert not RunFolder(path.parent).record.exists()
    return RunFolder(path.parent)


def table(results: Path) -> Any:
    """Its numbers; ids and times differ from run to run."""
    rows = json.loads(bench(*RUN, "--json", "--results", results))["table"]
    return [{key: value for key, value in row.items() if "second" not in key and "id" not in key} for row in rows]


def curve(folder: RunFolder) -> list[Told]:
    return [json.loads(line) | {"seconds": 0} for line in folder.curve.read_text().splitlines()]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, _one_thread: None) -> Path:
    """A results folder with a training stopped after two epochs."""
    results = tmp_path_factory.mktemp("begun") / "results"
    interrupted(results, 2)
    return results


@pytest.fixture
def archive(begun: Path, tmp_path: Path) -> Path:
    bench("db", "export", "--unfinished", "-o", tmp_path / "begun.zip", "--results", begun)
    return tmp_path / "begun.zip"


@pytest.mark.parametrize("after", [2, EPOCHS])
def test_it_goes_on_elsewhere_to_the_weights_and_numbers_of_an_undisturbed_one(after: int, tmp_path: Path) -> None:
    bench(*RUN, "--results", tmp_path / "undisturbed")
    here = interrupted(tmp_path / "here", after)
    told = bench("db", "export", "--unfinished", "-o", tmp_path / "x.zip", "--results", tmp_path / "here")
    assert "1 run (1 of them not done), 1 file," in told
    there = RunFolder(tmp_path / "there" / "runs" / here.run_id)
    done = command("db", "import", tmp_path / "x.zip", "--results", tmp_path / "there")
    assert done.code == 0, done.text
    assert "1 unfinished training new" in done.out
    assert f"goes on with it after epoch {after}" in done.err
    told = bench(*RUN, "--results", tmp_path / "there")
    assert f"resuming after epoch {after}" in told
    first = RunFolder(tmp_path / "undisturbed" / "runs" / here.run_id)
    assert there.weights.read_bytes() == first.weights.read_bytes()
    assert curve(there) == curve(first)
    assert table(tmp_path / "there") == table(tmp_path / "undisturbed")
    record = json.loads(there.record.read_text())
    assert ELSEWHERE in record["notes"]
    assert provenance.of(there.record, record["attempt_id"], record["started"]) == "imported"
    assert not there.checkpoint.exists()


def test_the_command_that_the_import_names_goes_on_with_it(archive: Path, tmp_path: Path) -> None:
    import shlex

    told = command("db", "import", archive, "--results", tmp_path / "there").err
    words = shlex.split(told.split("`")[1])
    assert words[:2] == ["bench", "run"]
    out = bench(*words[1:], "--limit", "20", "--attack", "fgsm", "--eps", "0.1", "--results", tmp_path / "there")
    assert "resuming after epoch 2" in out


def test_only_what_was_asked_for_is_in_an_archive(begun: Path, tmp_path: Path) -> None:
    fill(tmp_path / "mine", spec())
    shutil.copytree(begun / "runs", tmp_path / "mine" / "runs", dirs_exist_ok=True)
    # What a complete training left of its checkpoint stays at home, too.
    (source,) = begun.glob("runs/*/checkpoint.safetensors")
    shutil.copy(source, tmp_path / "mine" / "runs" / spec().run_id)
    bench("db", "rebuild", "--results", tmp_path / "mine")

    def names(*more: str) -> tuple[set[str], Told]:
        bench("db", "export", "-o", tmp_path / "x.zip", *more, "--results", tmp_path / "mine")
        with zipfile.ZipFile(tmp_path / "x.zip") as found:
            return {name.split("/")[-1] for name in found.namelist()}, json.loads(found.read("manifest.json"))

    kinds, manifest = names()
    assert "checkpoint.safetensors" not in kinds
    assert set(manifest) == {"format", "kind", "made_by", "weights", "runs", "files"}
    assert manifest["runs"] == [spec().run_id]
    kinds, manifest = names("--unfinished")
    assert manifest["unfinished"] == [source.parent.name]
    assert len(manifest["runs"]) == 2
    for selector in (
        ("--method", "trs", "--seeds", "0", "-d", "digits", "--recipe", "standard"),
        (source.parent.name[:8],),
    ):
        kinds, manifest = names("--unfinished", *selector)
        assert kinds == {"manifest.json", "checkpoint.safetensors"}
        assert manifest["runs"] == [source.parent.name]
    export = ("db", "export", "-o", tmp_path / "y.zip", "--results", tmp_path / "mine")
    assert "no run fits" in refused(*export, "--unfinished", "--method", "trs", "--seeds", "7")
    assert "no run fits" in refused(*export, "--method", "trs")
    assert "goes on from its weights" in refused(*export, "--unfinished", "--no-weights")
    assert "leave --unfinished out" in refused(*export, "--unfinished", "--format", "torch")


def rewritten(archive: Path, change: Callable[[Path], None], *, told: Told | None = None) -> Path:
    """A copy of the archive with another checkpoint in it, its manifest made to fit."""
    copy, file = archive.with_name("other.zip"), archive.with_name("checkpoint")
    with zipfile.ZipFile(archive) as old:
        manifest = json.loads(old.read("manifest.json"))
        (entry,) = manifest["files"]
        file.write_bytes(old.read(entry["path"]))
    change(file)
    data = file.read_bytes()
    entry |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    with zipfile.ZipFile(copy, "w") as new:
        new.writestr("manifest.json", json.dumps(manifest | (told or {})))
        new.writestr(entry["path"], data)
    return copy


def sealed(change: Callable[[Tensors, Told], None]) -> Callable[[Path], None]:
    """Another content, with a digest that is right."""

    def rewrite(path: Path) -> None:
        tensors, metadata = checkpoint.load(path)
        change(tensors, metadata)
        checkpoint.save(path, tensors, metadata)

    return rewrite


def _unsealed(path: Path) -> None:
    tensors, metadata = checkpoint.load(path)
    save_file(
        {name: tensor.clone() for name, tensor in tensors.items()}, path, metadata={"bench": json.dumps(metadata)}
    )


class _Trap:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('unpickled')",))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "damaged"),
    "another bit": (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x55"), "damaged"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps(_Trap())), "no safetensors"),
    "torch.save": (lambda path: torch.save({"members.0.x": torch.zeros(1)}, path), "no safetensors"),
    "no digest": (_unsealed, "carries no digest"),
    "no run": (sealed(lambda _, told: told.pop("run")), "does not say of which training"),
    "another run": (sealed(lambda _, told: told["run"].update(seed=1)), "it is of run"),
    "settings that no trs has": (sealed(lambda _, told: told["run"]["settings"].update(steps="many")), "it is of run"),
    "no run's configuration": (sealed(lambda _, told: told["run"].update(members="three")), "another version"),
    "another epoch": (sealed(lambda _, told: told.update(epoch=3)), "curve ends with epoch 2"),
    "epoch of text": (sealed(lambda _, told: told.update(epoch="2")), "epoch"),
    "no curve": (sealed(lambda _, told: told.update(curve=[])), "curve"),
    "a curve of something else": (sealed(lambda _, told: told["curve"].insert(0, {"x": 1})), "curve"),
    "an optimiser of text": (sealed(lambda _, told: told["optimizer"].update({"0.step": "x"})), "optimizer"),
    "letters that move a cursor": (sealed(lambda _, told: told.update(more="\x1b[2J")), "control characters"),
    "nested deep": (sealed(lambda _, told: told.update(more=json.loads("[" * 200 + "]" * 200))), "deep"),
    "a number too large": (sealed(lambda _, told: told.update(more=10**40)), "63 bits"),
    "a member too few": (
        sealed(lambda tensors, _: [tensors.pop(name) for name in [*tensors] if name.startswith("members.2")]),
        "weights of 3 members",
    ),
    "strange tensors": (sealed(lambda tensors, _: tensors.update(code=torch.zeros(1))), "tensors that no training"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_or_foreign_checkpoint_is_refused_and_nothing_changes(
    fault: str, archive: Path, begun: Path, tmp_path: Path
) -> None:
    change, words = FAULTS[fault]
    shutil.copytree(begun, tmp_path / "there")
    for results in (tmp_path / "there", tmp_path / "new"):
        before = tree(results) if results.exists() else None
        line = refused("db", "import", rewritten(archive, change), "--results", results)
        assert words in line
        assert "nothing was taken in" in line
        assert (tree(results) if results.exists() else None) == before


def test_a_checkpoint_comes_in_only_as_what_it_is(archive: Path, tmp_path: Path) -> None:
    """Nor does a training that is not done bring anything else."""
    other = rewritten(archive, lambda path: None, told={"unfinished": []})
    assert "is not a file of a run" in refused("db", "import", other, "--results", tmp_path / "there")
    with zipfile.ZipFile(archive) as old:
        manifest = json.loads(old.read("manifest.json"))
        data = old.read(manifest["files"][0]["path"])
    extra = {"path": f"runs/{manifest['runs'][0]}/train.jsonl", "size": 1, "sha256": hashlib.sha256(b"\n").hexdigest()}
    with zipfile.ZipFile(other, "w") as new:
        new.writestr("manifest.json", json.dumps(manifest | {"files": [*manifest["files"], extra]}))
        new.writestr(manifest["files"][0]["path"], data)
        new.writestr(extra["path"], b"\n")
    assert "is not a file of a run" in refused("db", "import", other, "--results", tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_of_one_training_the_later_checkpoint_stays_and_of_two_ours(archive: Path, begun: Path, tmp_path: Path) -> None:
    take = ("db", "import", archive, "--results", tmp_path / "there")
    bench(*take)
    assert "1 file was here already" in bench(*take)
    there = interrupted(tmp_path / "there", 3)  # it goes on for an epoch
    later = there.checkpoint.read_bytes()
    assert "1 file was here already" in bench(*take)
    assert there.checkpoint.read_bytes() == later
    # The other way round: what went on elsewhere comes back.
    bench("db", "export", "--unfinished", "-o", tmp_path / "later.zip", "--results", tmp_path / "there")
    shutil.copytree(begun, tmp_path / "back")
    bench("db", "import", tmp_path / "later.zip", "--results", tmp_path / "back")
    assert RunFolder(tmp_path / "back" / "runs" / there.run_id).checkpoint.read_bytes() == later
    # The same run begun twice, at other speeds, is not the same training.
    other = interrupted(tmp_path / "other", 1)
    before = tree(tmp_path / "other")
    line = refused("db", "import", archive, "--results", tmp_path / "other")
    assert f"delete {other.checkpoint} to take theirs" in line
    assert tree(tmp_path / "other") == before


def test_where_the_run_is_done_its_checkpoint_is_of_no_use(archive: Path, tmp_path: Path) -> None:
    bench(*RUN, "--results", tmp_path / "there")
    before = tree(tmp_path / "there")
    assert "1 file was here already" in bench("db", "import", archive, "--results", tmp_path / "there")
    assert tree(tmp_path / "there") == before


UNFIT: dict[str, Callable[[Tensors, Told], object]] = {
    "another shape": lambda tensors, _: tensors.update({"optimizer.0.exp_avg": torch.zeros(2)}),
    "a number missing": lambda tensors, _: tensors.pop("optimizer.0.step"),
    "of a parameter that is not there": lambda tensors, _: tensors.update({"optimizer.999.step": torch.zeros(())}),
    "beyond the last epoch": lambda _, told: (told.update(epoch=9), told["curve"][-1].update(epoch=9)),
}


@pytest.mark.parametrize("fault", UNFIT)
def test_what_does_not_fit_the_optimiser_is_moved_aside_and_told(fault: str, archive: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    bench("db", "import", rewritten(archive, sealed(UNFIT[fault])), "--results", there)
    done = command(*RUN, "--results", there)
    assert done.code == 1
    assert "moved aside as checkpoint.damaged" in done.text
    assert "Traceback" not in done.text
    (kept,) = there.glob("runs/*/checkpoint.damaged")
    assert "resuming" not in bench(*RUN, "--results", there)
    record = json.loads((kept.parent / "run.json").read_text())
    assert ELSEWHERE not in record["notes"]


def test_a_checkpoint_that_cannot_leave_is_named(begun: Path, tmp_path: Path) -> None:
    shutil.copytree(begun, tmp_path / "mine")
    (path,) = (tmp_path / "mine").glob("runs/*/checkpoint.safetensors")
    fill(tmp_path / "mine", spec())
    bench("db", "rebuild", "--results", tmp_path / "mine")
    _unsealed(path)
    done = command("db", "export", "--unfinished", "-o", tmp_path / "x.zip", "--results", tmp_path / "mine")
    assert done.code == 1
    assert f"left out: {path}" in done.err
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert not [name for name in archive.namelist() if "checkpoint" in name]
