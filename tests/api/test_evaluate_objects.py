"""`bench.evaluate` of networks in memory: the numbers of a stored run, one id for one content, no pickles."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import command
from torch import Tensor, nn

import bench
from bench.core.errors import BenchError
from bench.models import memory
from bench.models.memory import structure

ASKED = {"dataset": "digits", "attack": ("fgsm", "pgd"), "eps": 0.1, "limit": 40, "threads": 1, "quiet": True}


class Scaled(nn.Module):
    """A network with a number that is no parameter."""

    def __init__(self, inner: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.inner = inner
        self.factor = factor

    def forward(self, x: Tensor) -> Any:
        return self.factor * self.inner(x)


class Other(Scaled):
    """Another code, other weights within."""

    def forward(self, x: Tensor) -> Any:
        return self.inner(x) + 0.1


def outcomes(results: Path, run_id: str) -> dict[tuple[str, float | None], tuple[str, str]]:
    found = [json.loads(path.read_text()) for path in (results / "runs" / run_id / "evaluations").glob("*.json")]
    return {(each["attack"], each["budget"]): (each["clean_bits"], each["robust_bits"]) for each in found}


def test_objects_get_the_numbers_of_a_run_and_are_measured_once(digits_ensemble: Any, tmp_path: Path) -> None:
    results = tmp_path / "results"
    nets = list(digits_ensemble.members)
    asked = {**ASKED, "results": results, "name": "mine", "fusion": "mean_logits"}
    run = bench.evaluate(nets, **asked)
    direct = bench.attack(
        bench_ensemble(nets), *images(40), attack="fgsm", eps=0.1
    )  # another room: no random numbers in FGSM  # fmt: skip
    table = run.table().set_index("attack")["robust_accuracy"]
    assert table["fgsm"] == pytest.approx(direct.robust_accuracy)
    assert 0 < table["pgd"] <= table["fgsm"] < direct.clean_accuracy
    assert run.worst_case(eps=0.1) <= table["pgd"]
    record = json.loads((results / "runs" / run.run_id / "run.json").read_text())
    assert record["origin"] == "objects given to bench.evaluate"
    assert "nobody repeats it without these objects" in record["notes"][0]
    files = [path.suffix for path in results.rglob("*") if path.is_file()]
    assert ".safetensors" in files
    assert not {".pt", ".pth", ".pkl"} & set(files)
    before = {path: path.stat().st_mtime_ns for path in (results / "runs").rglob("*.json")}
    again = bench.evaluate(nets, **asked)
    assert again.run_id == run.run_id
    assert {path: path.stat().st_mtime_ns for path in (results / "runs").rglob("*.json")} == before
    more = bench.evaluate(nets, **{**asked, "eps": (0.1, 0.2)})
    assert (more.run_id, len(more.table())) == (run.run_id, 5)
    # Trained on: other weights of the same structure are the next seed.
    with torch.no_grad():
        next(nets[0].parameters()).mul_(1.5)
    other = bench.evaluate(nets, **asked)
    assert (other.spec.seed, other.spec.family_id) == (1, run.spec.family_id)
    assert other.run_id != run.run_id
    # Another rule, another structure or an unlike member is another ensemble, and needs a name of its own.
    with pytest.raises(BenchError, match="give this ensemble another --name"):
        bench.evaluate(nets, **{**asked, "fusion": "mean_probability"})
    with pytest.raises(BenchError, match="another --name"):
        bench.evaluate([Scaled(net, 2.0).eval() for net in nets], **asked)


def bench_ensemble(nets: list[nn.Module]) -> nn.Module:
    from bench.models.ensemble import Ensemble

    return Ensemble(nets, fusion="mean_logits").eval()


def images(count: int) -> tuple[Tensor, Tensor]:
    from bench.data.base import load_splits

    test = load_splits("digits", folder=Path(), test_limit=count).test
    return test.images, test.labels


def test_members_of_different_code_are_each_their_own(
    digits_ensemble: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = digits_ensemble.members
    nets = [Scaled(first, 3.0).eval(), Other(second).eval()]
    run = bench.evaluate(nets, **{**ASKED, "attack": "fgsm"}, name="two", results=tmp_path)
    assert run.spec.model == "Scaled + Other"
    x = images(40)[0] / 255
    with torch.no_grad():
        rebuilt = torch.stack([member(x) for member in run.ensemble().members])
        assert torch.allclose(rebuilt, torch.stack([net(x) for net in nets]), atol=1e-6)
    # The command line measures nothing new on it: its code is in another process.
    asked = "run -m two -d digits --attack pgd --eps 0.1 --limit 40 --threads 1 -q --results"
    code = "import sys; from bench.cli import main; sys.exit(main.run(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *asked.split(), tmp_path], capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "gives these objects to bench.evaluate again can use them" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    shown = command("show", run.run_id, "--results", tmp_path)
    assert shown.code == 0, shown.text
    assert "nobody repeats it without these objects" in " ".join(shown.text.split())
    # Nor can it write state dicts: their names and order are those of the objects.
    export = ("db", "export", run.run_id, "--format", "torch", "--results", tmp_path)
    assert command(*export, "-o", tmp_path / "here").code == 0  # where they are
    monkeypatch.setattr(memory, "_held", {})
    there = command(*export, "-o", tmp_path / "there")
    assert (there.code, len(there.text.splitlines())) == (2, 1)
    assert "torch.save(network.state_dict(), FILE) of each" in there.err
    assert not (tmp_path / "there").exists()


def test_structure_is_code_numbers_and_buffers_that_no_state_dict_has() -> None:
    def kinds() -> list[nn.Module]:
        plain = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        aside = nn.Flatten()
        aside.register_buffer("mask", torch.ones(2), persistent=False)
        other = nn.Flatten()
        other.register_buffer("mask", torch.zeros(2), persistent=False)
        hooked = nn.Flatten()
        hooked.register_forward_hook(lambda *_: None)
        return [plain, nn.Sequential(nn.Flatten(2), nn.Linear(4, 2)), Scaled(plain), Scaled(plain, 2.0), Other(plain),
                aside, other, hooked]  # fmt: skip

    first, second = [structure(each) for each in kinds()], [structure(each) for each in kinds()]
    assert first == second
    assert len(set(first)) == len(first)


def test_mistakes_are_told_in_one_sentence(digits_ensemble: Any, tmp_path: Path) -> None:
    nets = list(digits_ensemble.members)
    training = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    few = nn.Sequential(nn.Flatten(), nn.Linear(64, 7)).eval()
    for given, more, told in (
        ([], {}, "one network or more"),
        (training, {}, "training mode"),
        ([few, few], {}, r"network 1 gives \(2, 7\) for two images, not \(2, 10\) logits"),
        ([nets[0], "a.pth"], {}, "is a torch.nn.Module.*not str"),
        (["a.pth"], {"model": "digits_cnn"}, "there is no file a.pth"),
        (nets, {"model": "digits_cnn"}, "model are for files of weights"),
        (nets, {"fusion": "mean"}, "unknown fusion"),
        (nets, {"name": "trs"}, "a configured method already"),
        (nets, {"dataset": "digit"}, "did you mean digits"),
        (nets, {"attack": "fgsn"}, "did you mean fgsm"),
        (nets, {"weights": [1.0, 2.0], "fusion": "sum_logits"}, "3 members need as many"),
    ):
        with pytest.raises(BenchError, match=told):
            bench.evaluate(given, **{**ASKED, "name": "x", "results": tmp_path / "results", **more})


def test_files_are_what_the_command_takes(digits_ensemble: Any, tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.pth" for index in range(3)]
    for file, member in zip(files, digits_ensemble.members, strict=True):
        torch.save(member.get_submodule("network").state_dict(), file)
    asked = {**ASKED, "attack": "fgsm", "name": "files", "results": tmp_path / "results"}
    run = bench.evaluate(files, model="digits_cnn", **asked)
    words = [
        "--model",
        "digits_cnn",
        "-d",
        "digits",
        "--name",
        "files",
        "--attack",
        "fgsm",
        "--eps",
        "0.1",
        "--limit",
        "40",
        "--threads",
        "1",
        "--json",
    ]
    done = command("evaluate", *files, *words, "--results", tmp_path / "results")
    told = json.loads(done.out)
    assert (told["runs"], told["done"]) == ([run.run_id], 0)
    assert {row["attack"]: row["mean"] for row in told["table"]}["fgsm"] == pytest.approx(
        100 * run.table().set_index("attack")["robust_accuracy"]["fgsm"]
    )


def test_what_was_given_is_kept_as_it_was(digits_ensemble: Any) -> None:
    net = digits_ensemble.members[0]
    held = memory.hold([net])
    with torch.no_grad():
        next(net.parameters()).zero_()
    kept = memory.Memory(**held).build(shape=(1, 8, 8), classes=10)
    assert next(kept.parameters()).abs().sum() > 0
    with pytest.raises(BenchError, match=r"gives these objects to bench\.evaluate again can use them"):
        memory.Memory(networks="Net", structure="0" * 24).build(shape=(1, 8, 8), classes=10)


def test_a_radius_in_pixel_steps_is_refused_before_anything_is_stored(digits_ensemble: Any, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="not 8: 8/255 is meant, perhaps"):
        bench.evaluate(list(digits_ensemble.members), **{**ASKED, "results": tmp_path, "name": "mine", "eps": 8})
    assert not list(tmp_path.rglob("run.json"))
