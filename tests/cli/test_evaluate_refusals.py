"""`bench evaluate`: what it refuses is told in one line, and nothing is written."""

from __future__ import annotations

import hashlib
import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluating import State, bench, contents, evaluate, refused, saved

import bench as python
from bench.core.errors import BenchError
from bench.models.build import model_plugin


class Hostile:
    """An object that would run code when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran_code"),))


def test_mistakes_are_told_in_one_line_and_nothing_is_written(
    trained: tuple[Path, list[State]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, states = trained
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results"
    files = saved(tmp_path, states[:1])

    def fault(*arguments: object, file: Path | None = None) -> str:
        return refused(evaluate(results, [file or files[0]], "--name", "x", *arguments, ok=False))

    model = ("--model", "digits_cnn")
    assert "there is no file" in fault(*model, file=tmp_path / "absent.pth")
    torch.save({"model": Hostile(), "weight": torch.ones(1)}, tmp_path / "hostile.pth")
    assert "could run code" in fault(*model, file=tmp_path / "hostile.pth")
    assert not (tmp_path / "ran_code").exists()
    (tmp_path / "text.pth").write_text("no weights")
    assert "damaged" in fault(*model, file=tmp_path / "text.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    assert "damaged" in fault(*model, file=tmp_path / "text.safetensors")
    torch.save({"accuracy": 3}, tmp_path / "empty.pth")
    assert "holds no weights" in fault(*model, file=tmp_path / "empty.pth")
    (renamed,) = saved(tmp_path, states[:1], lambda name: f"module.{name}")
    assert "no name begins with 'net.'" in fault(*model, "--prefix", "net.", file=renamed)
    (other,) = saved(tmp_path, states[:1], lambda name: name.replace("conv", "layer"))
    assert "lacks conv1" in fault(*model, file=other)
    torch.save({**states[0], "linear.bias": torch.full((10,), torch.nan)}, tmp_path / "nan.pth")
    assert "NaN" in fault(*model, file=tmp_path / "nan.pth")
    torch.save({**states[0], "linear.bias": torch.zeros(7)}, tmp_path / "shape.pth")
    assert "linear.bias is (7,), the model wants (10,)" in fault(*model, file=tmp_path / "shape.pth")
    good = tmp_path / "good.pth"
    torch.save(states[0], good)
    assert "--factory package.module:function. --model digits_cnn does fit" in fault(file=good)
    assert "1 member needs as many --weights" in fault(*model, "--weights", "1,2", "--fusion", "sum_logits", file=good)
    assert "--mean takes one number" in fault(*model, "--mean", "1,2", file=good)
    assert "a configured method already" in refused(evaluate(results, [good], "--name", "trs", *model, ok=False))
    assert "unknown model 'digit_cnn'; did you mean digits_cnn" in fault("--model", "digit_cnn", file=good)
    assert not list(results.glob("runs/*"))


@pytest.mark.parametrize(("given", "model", "fitting"), [("A", "resnet8", "resnet8a"), ("B", "resnet8a", "resnet8")])
@pytest.mark.parametrize("order", [[], ["--by-order"]])
def test_weights_of_the_other_shortcut_are_told_which_model_they_are(
    tmp_path: Path, given: str, model: str, fitting: str, order: list[str]
) -> None:
    network = model_plugin("resnet", {"depth": 8, "shortcut": given}).build(shape=(1, 8, 8), classes=10)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    told = refused(
        evaluate(tmp_path / "results", [tmp_path / "a.pth"], "--model", model, "--name", "x", *order, ok=False)
    )
    assert "does not fit the model" in told
    assert f"--model {fitting} does fit" in told
    assert not list((tmp_path / "results").glob("runs/*"))


def test_facts_that_are_none_are_told_in_one_line(trained: tuple[Path, list[State]], tmp_path: Path) -> None:
    _, states = trained
    results, files = tmp_path / "results", saved(tmp_path, states)
    model = ["--model", "digits_cnn", "--name", "theirs", "-q"]
    for option, value, told in (
        ("--url", "javascript:alert(1)", "url: an address such as https://example.org/paper is wanted"),
        ("--code", "https://x.org/\"onclick=", "code: an address such as"),
        ("--venue", "x" * 201, "venue: String should have at most 200 characters"),
        ("--paper-title", "two\nlines", "title: not printable"), ("--author", "\u202eevil", "authors.0: not printable"),
        ("--publication", "dverg", "unknown publication 'dverg'; did you mean dverge or drt?"),
    ):  # fmt: skip
        assert told in refused(evaluate(results, files, *model, option, value, ok=False))
        assert not list(results.glob("runs/*/run.json"))
    evaluate(results, files, *model)
    (path,) = results.glob("runs/*/run.json")
    before = path.read_bytes()
    assert "url: an address" in refused(evaluate(results, files, *model, "--url", "ftp://x.org", ok=False))
    assert path.read_bytes() == before


def test_members_that_are_one_network_are_noted(trained: tuple[Path, list[State]], tmp_path: Path) -> None:
    first, second, _ = saved(tmp_path, trained[1])
    model = ("--model", "digits_cnn")
    twice = " ".join(evaluate(tmp_path / "results", [first, second, first], "--name", "files", *model).err.split())
    assert "members 1 (member0.pth) and 3 (member0.pth) are the same network: was another one meant?" in twice
    state = trained[1][0]
    torch.save([state, {name: tensor.clone() for name, tensor in state.items()}], tmp_path / "list.pth")
    within = " ".join(evaluate(tmp_path / "results", [tmp_path / "list.pth"], "--name", "list", *model).err.split())
    assert "members 1 (list.pth: 0) and 2 (list.pth: 1) are the same network" in within
    assert "same network" not in evaluate(tmp_path / "results", [first, second], "--name", "two", *model).text


@pytest.mark.parametrize("damaged", [False, True])
def test_weights_that_are_not_here_are_asked_for_at_once_by_a_command_that_brings_them(
    trained: tuple[Path, list[State]], tmp_path: Path, damaged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, states = trained
    monkeypatch.chdir(tmp_path)
    own = {f"net.{n.replace('conv', 'layer')}": t for n, t in states[0].items()}
    torch.save({"best": own, "last": own}, "-odd one.pth")
    maps = [part for k in (1, 2, 3) for part in ("--map", f"layer{k}=conv{k}")]
    options = ("--model", "digits_cnn", "--name", "it's", "--prefix", "best.net.", "--mean", "0.3", "--std", "0.7")
    evaluate(tmp_path / "theirs", [tmp_path / "-odd one.pth"], *options, *maps, "--fusion", "mean_logits")
    (run,) = (tmp_path / "theirs/runs").iterdir()
    bench(tmp_path / "theirs", "db", "export", "-o", "x.zip", *([] if damaged else ["--no-weights"]))
    ours = tmp_path / "ours"
    bench(ours, "db", "import", "x.zip")
    if damaged:
        (ours / "runs" / run.name / "members.safetensors").write_bytes(b"nothing")
    before = contents(ours)
    digest = hashlib.sha256(Path("-odd one.pth").read_bytes()).hexdigest()[:12]
    attack = ("--attack", "fgsm", "--eps", "0.1", "--limit", "60")
    for line, attacked in (
        (("run", "-m", "it's", "-d", "digits", *attack), attack),
        (("run", "-m", "it's", "-d", "digits", *attack, "--dry-run"), attack),
        (("db", "verify", run.name), ("--attack", "pgd", "--eps", "0.1", "--limit", "60")),
        (("audit", run.name, "--deep"), ("--attack", "pgd", "--eps", "0.1", "--limit", "60")),
        (("theory", run.name), ("--attack", "pgd", "--eps", "0.1", "--limit", "60")),
    ):
        said = refused(bench(ours, *line, ok=False))
        assert f"brings them (SHA-256 {digest}…)" in said
        (again,) = re.findall("`(bench evaluate .*?)` brings", said)
        assert shlex.join(attacked) in again
    assert contents(ours) == before
    bench(ours, *shlex.split(again)[1:])
    assert [path.name for path in (ours / "runs").iterdir()] == [run.name]
    assert "all 60 images as recorded" in bench(ours, "db", "verify", run.name).out


def odd_files(folder: Path, state: State) -> dict[str, Path]:
    """Files of weights that are no plain arrays of real numbers, by what is said of them."""
    name = "linear.weight"
    itself: dict[str, Any] = {"epoch": 1}
    itself["model"] = itself
    deep: Any = state
    for _ in range(400):
        deep = {"model": deep}
    weight = state[name]
    contents: dict[str, Any] = {
        "holds no weights": itself,
        "lies within 16 containers; save weights alone": deep,
        "a sparse tensor": {**state, name: weight.to_sparse()},
        "a sparse tensor; save": {**state, name: weight.to_sparse_csr()},
        "of torch.float8_e4m3fn; save it in float32": {**state, name: weight.to(torch.float8_e4m3fn)},
        "on the device meta": {**state, name: weight.to("meta")},
        "quantised": {**state, name: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)},
        "a nested tensor": {**state, name: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])},
        "complex": {**state, name: weight.to(torch.complex64)},
        "is of torch.int64, the model wants torch.float32": {**state, name: weight.long()},
        "is of torch.bool": {**state, name: weight.bool()},
        "not finite in torch.float32": {**state, name: weight.double() * 1e300},
        "is (0,), the model wants": {**state, name: torch.ones(0)},
    }
    files = {}
    for place, (words, content) in enumerate(contents.items()):
        files[words] = folder / f"odd{place}.pth"
        torch.save(content, files[words])
    files["is a TorchScript archive"] = folder / "script.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(files["is a TorchScript archive"]))
    header = folder / "header.safetensors"
    header.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    files["is no safetensors file"] = header
    return files


def test_what_is_no_plain_weights_is_told_in_one_line(
    trained: tuple[Path, list[State]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, file in odd_files(tmp_path, trained[1][0]).items():
        done = evaluate(tmp_path / "results", [file], "--name", "x", "--model", "digits_cnn", ok=False)
        assert words in " ".join(refused(done).split()), words
    done = evaluate(tmp_path / "results", [tmp_path], "--name", "x", "--model", "digits_cnn", ok=False)
    assert "is a folder; files to give are in it: " in refused(done)
    assert len(done.text.splitlines()) == 1
    with pytest.raises(BenchError, match="is a folder; files to give are in it: "):
        python.evaluate(tmp_path, dataset="digits", name="x", model="digits_cnn", results=tmp_path / "results")
    (tmp_path / "without").mkdir()
    done = evaluate(tmp_path / "results", [tmp_path / "without"], "--name", "x", "--model", "digits_cnn", ok=False)
    assert "is a folder; give a file (.pth, .pt, .safetensors)" in " ".join(refused(done).split())
    assert not list((tmp_path / "results").glob("runs/*"))
