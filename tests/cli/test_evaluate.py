"""`bench evaluate`: an ensemble from files gets the numbers that it has as a run of our own."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from evaluating import State, bench, contents, evaluate, outcome, refused, saved
from in_process import Done, command
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.data.base import load_splits
from bench.experiment.records import RunRecord, read_record
from bench.report import frames as bench_frames


class Flat(nn.Module):
    """A network of the user's own, as a factory makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output


class Mnists(Flat):
    """One that is right about images normalised by the numbers of MNIST, which most public codes for it have."""

    def forward(self, x: Tensor) -> Tensor:
        pixels = x * 0.3081 + 0.1307
        output: Tensor = self.layers(pixels)
        return torch.where(pixels.amin((1, 2, 3)).abs()[:, None] < 1e-4, output, -output)


def make() -> nn.Module:
    return Flat()


def make_mnists() -> nn.Module:
    return Mnists()


def no_network() -> int:
    return 3


def wrong_classes() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))


def ours(results: Path) -> dict[str, float]:
    return outcome(
        bench(results, "run", "-m", "ece", "--attack", "pgd", "--eps", "0.1", "--limit", "60",
              "--set", "training.epochs=3", "--json")
    )  # fmt: skip


def test_every_form_of_file_gives_the_numbers_of_our_own_run(trained: tuple[Path, list[State]], tmp_path: Path) -> None:
    results, states = trained
    wanted = ours(results)
    assert 0 < wanted["pgd"] < wanted["clean"]  # else equality would say little
    plain = saved(tmp_path, states)
    one = tmp_path / "all.pth"
    torch.save({"epoch": 3, "state_dict": {f"model_{k}": state for k, state in enumerate(states)}}, one)
    safe = [tmp_path / f"{k}.safetensors" for k in range(3)]
    for file, state in zip(safe, states, strict=True):
        save_file(state, file)
    model = ["--model", "digits_cnn", "--json"]
    for files, name in ((plain, "plain"), ([one], "one file"), (safe, "safetensors")):
        assert outcome(evaluate(results, files, *model, "--name", name)) == wanted

    (tmp_path / "other").mkdir()
    prefixed = saved(tmp_path / "other", states, lambda name: f"module.{name.replace('conv', 'layer')}")
    maps = [part for k in (1, 2, 3) for part in ("--map", f"layer{k}=conv{k}")]
    assert outcome(evaluate(results, prefixed, *model, "--name", "mapped", "--prefix", "module.", *maps)) == wanted

    network_order = ["conv1", "conv2", "conv3", "linear"]
    shuffled = [
        {
            f"{n}.{place}": state[f"{layer}.{part}"]
            for place, layer in enumerate(network_order)
            for n, part in enumerate(("weight", "bias"))
        }
        for state in states
    ]
    (tmp_path / "order").mkdir()
    ordered = saved(tmp_path / "order", shuffled)
    assert outcome(evaluate(results, ordered, *model, "--name", "by order", "--by-order")) == wanted


def test_it_enters_table_heatmap_list_and_show_under_its_name(
    trained: tuple[Path, list[State]], tmp_path: Path
) -> None:
    results, states = trained
    files = saved(tmp_path, states)
    bench(results, "evaluate", *files, "-d", "digits", "--model", "digits_cnn", "--name", "<script>", "--suite",
          "figure3-digits", "--limit", "20", "--threads", "1", "-q")  # fmt: skip
    again = bench(results, "evaluate", *files, "-d", "digits", "--model", "digits_cnn", "--name", "<script>", "--suite",
                  "figure3-digits", "--limit", "20")  # fmt: skip
    assert "Nothing to do" in again.text
    assert "<script>" in bench(results, "table", "figure3-digits", "--limit", "20").text
    assert "<script>" in bench(results, "list", "runs").text
    assert "saved" in bench(results, "heatmap", "-m", "<script>", "--limit", "20").text
    runs = json.loads(bench(results, "list", "runs", "--json").text)
    (identifier,) = [row["id"] for row in runs if row["method"] == "<script>"]
    card = bench(results, "show", identifier).text
    assert "trained elsewhere" in card
    assert "epochs" not in card
    assert [row["recipe"] for row in runs if row["method"] == "<script>"] == ["trained elsewhere"]
    assert [row["seconds"] for row in runs if row["method"] == "<script>"] == [None]
    record = json.loads(bench(results, "show", identifier, "--json").out)
    assert (record["recipe"], record["training"]) == ("trained elsewhere", None)
    status = bench(results, "status", "-m", "<script>", "--suite", "figure3-digits", "--limit", "20").text
    assert re.search(r"done", status)


def test_again_names_what_was_measured_and_does_nothing_new(trained: tuple[Path, list[State]], tmp_path: Path) -> None:
    results, files = tmp_path / "results", saved(tmp_path, trained[1])
    model = ("--model", "digits_cnn", "--name", "my own")

    def again() -> list[str]:
        (run,) = (results / "runs").iterdir()
        found: str = json.loads(bench(results, "show", run.name, "--json").out)["again"]
        assert " ".join(bench(results, "show", run.name).out.split()).count(f"again {found}") == 1
        bench(results, "report", "-o", tmp_path / "site")
        assert found in html.unescape((tmp_path / f"site/runs/{run.name}.html").read_text())
        return found.split(" && ")

    start = "bench run --method 'my own' --dataset digits"
    evaluate(results, files, *model)
    assert again() == [f"{start} --attack pgd --eps 0.1 --limit 60"]
    more = ("--attack", "fgsm", "--attack", "pgd", "--eps", "0.1", "--limit", "20", "--set", "attacks.pgd.steps=3")
    bench(results, "run", "-m", "my own", "-d", "digits", *more, "-q")
    bench(results, "run", "-m", "my own", "-d", "digits", "--suite", "figure3-digits", "--limit", "30", "-q")
    commands = again()
    assert sorted(commands) == [
        f"{start} --attack fgsm --eps 0.1 --limit 20",
        f"{start} --attack pgd --eps 0.1 --limit 20 --set attacks.pgd.steps=3",
        f"{start} --attack pgd --eps 0.1 --limit 60",
        f"{start} --suite figure3-digits --limit 30",
    ]
    for text in commands:
        assert "Nothing to do" in bench(results, *shlex.split(text)[1:]).out, text


def test_hints_name_the_selectors_of_what_was_measured(trained: tuple[Path, list[State]], tmp_path: Path) -> None:
    results, files = tmp_path / "results", saved(tmp_path, trained[1])
    evaluate(results, files, "--model", "digits_cnn", "--name", "my own")
    evaluate(results, files[:2], "--model", "digits_cnn", "--name", "other")
    there = "there are results with --attack pgd --eps 0.1 --limit 60"
    empty = refused(bench(results, "table", "core", "-d", "digits", ok=False))
    told = f"nothing of core has been measured with these selectors; {there}, or do `bench run --method "
    # The oldest stands as the example; both may be of the same second.
    assert any(f"{told}{name} --dataset digits --suite core`" in empty for name in ("'my own'", "other"))
    two = refused(bench(results, "compare", "my own", "other", "-d", "digits", ok=False))
    assert there in two
    bench(results, "run", "-m", "other", "-d", "digits", "--suite", "core", "--limit", "20", "-q")
    one = refused(
        bench(results, "compare", "my own", "other", "-d", "digits", "--suite", "core", "--limit", "20", ok=False)
    )
    assert (
        f"nothing of my own has been measured with these selectors; {there}, or do `bench run --method 'my own'" in one
    )
    several = refused(bench(results, "table", "-m", "other", "-d", "digits", "--attack", "apgd_ce", ok=False))
    assert "there are results with --suite core --limit 20; --attack pgd --eps 0.1 --limit 60, or do `bench" in several
    shown = shlex.split(there.partition(" with ")[2])
    assert "my own" in bench(results, "table", *shown, "-d", "digits").out  # what it says is there


def test_normalisation_activation_and_fusion_change_the_numbers(
    trained: tuple[Path, list[State]], tmp_path: Path
) -> None:
    results, states = trained
    files = saved(tmp_path, states)
    found = {}
    for name, extra in (
        ("as is", ()), ("scaled", ("--mean", "0.9", "--std", "0.2")), ("leaky", ("--activation", "leaky_relu")),
        ("one only", ("--fusion", "weighted_probability", "--weights", "1,0,0")),
    ):  # fmt: skip
        found[name] = outcome(
            evaluate(results, files, "--model", "digits_cnn", "--name", f"n {name}", *extra, "--json")
        )
    assert len({json.dumps(value) for value in found.values()}) == 4
    alone = outcome(evaluate(results, files[:1], "--model", "digits_cnn", "--name", "n alone", "--json"))
    assert alone == found["one only"]


def test_much_more_accuracy_under_another_normalisation_is_told(
    trained: tuple[Path, list[State]], tmp_path: Path
) -> None:
    results, states = trained
    files = saved(tmp_path, states)
    model = ["--model", "digits_cnn"]
    right = evaluate(results, files, *model, "--name", "n right", "--json")
    assert "is the normalisation right" not in right.text
    told = " ".join(evaluate(results, files, *model, "--name", "n wrong", "--mean", "3", "--std", "0.2").text.split())
    found = re.search(r"([\d.]+) % clean accuracy on 200 test images, and ([\d.]+) % with (--\w+ \w+): is", told)
    assert found is not None, told
    assert found[3] == "--normalisation dataset"
    assert float(found[2]) == pytest.approx(outcome(right)["clean"], abs=4)
    assert float(found[1]) < float(found[2]) - 5
    (run,) = (json.loads(path.read_text()) for path in results.glob("runs/*/run.json") if "n wrong" in path.read_text())
    assert any("is the normalisation right?" in note for note in run["notes"])


def test_the_numbers_of_mnist_are_among_those_that_are_tried(tmp_path: Path) -> None:
    training = load_splits("digits", folder=tmp_path).train
    images = torch.cat([training.floats().flatten(1), torch.ones(len(training.labels), 1)], 1)
    weights = torch.linalg.lstsq(images, nn.functional.one_hot(training.labels, 10).float(), driver="gelsd").solution
    torch.save({"layers.1.weight": weights[:-1].T.contiguous(), "layers.1.bias": weights[-1]}, tmp_path / "a.pth")
    given = (
        "--factory",
        f"{make_mnists.__module__}:make_mnists",
        "-d",
        "digits",
        "--attack",
        "fgsm",
        "--eps",
        "0.1",
        "--limit",
        "20",
    )
    results = tmp_path / "results"
    told = " ".join(bench(results, "evaluate", tmp_path / "a.pth", *given, "--name", "none").text.split())
    assert "% with --mean 0.1307 --std 0.3081: is the normalisation right?" in told
    numbers = ("--mean", "0.1307", "--std", "0.3081")
    told = bench(results, "evaluate", tmp_path / "a.pth", *given, *numbers, "--name", "right").text
    assert "is the normalisation right?" not in told


def test_show_names_files_prefix_map_and_normalisation(trained: tuple[Path, list[State]], tmp_path: Path) -> None:
    _, states = trained
    own = [
        {f"net.{n.replace('conv', 'layer')}": t for n, t in state.items()}
        | {"norm.mean": torch.tensor([0.25]), "norm.std": torch.tensor([0.5])}
        for state in states
    ]
    content = {"last": own[:1], "best": {f"m{k}": state for k, state in enumerate(own)}}
    torch.save(content, tmp_path / "a.pth")
    maps = [part for k in (1, 2, 3) for part in ("--map", f"layer{k}=conv{k}")]
    results = tmp_path / "results"
    done = evaluate(results, [tmp_path / "a.pth"], "--model", "digits_cnn", "--name", "x", "--prefix", "best.", *maps)
    told = " ".join(done.text.split())
    assert "(best.m0.net to best.m2.net), names mapped, normalised by the file's own mean and std (0.25; 0.5)" in told
    assert "fused by log of mean softmax, left out by --prefix: last.0.net.layer1.bias" in told
    (path,) = results.glob("runs/*/run.json")
    card = bench(results, "show", path.parent.name).text
    given = json.loads(bench(results, "show", path.parent.name, "--json").out)["given"]
    assert [file["name"] for file in given["files"]] == ["a.pth"]
    assert given["files"][0]["sha256"] == hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()
    assert given["prefix"] == ["best."]
    assert given["map"] == ["layer1=conv1", "layer2=conv2", "layer3=conv3"]
    assert (given["normalisation"], given["mean"], given["std"]) == (["file"], [[0.25]], [[0.5]])
    assert given["members"] == [f"a.pth: best.m{k}.net" for k in range(3)]
    assert len(given["left_out"]) == len(own[0])
    lines = {" ".join(line.split()) for line in card.splitlines()}
    assert f"files a.pth (SHA-256 {given['files'][0]['sha256'][:12]}…)" in lines
    assert "normalisation file: mean 0.25, std 0.5" in lines
    assert "prefix best.; map layer1=conv1, layer2=conv2, layer3=conv3" in card
    # It comes along with the run.
    bench(results, "db", "export", "-o", tmp_path / "one.zip")
    bench(tmp_path / "other", "db", "import", tmp_path / "one.zip")
    assert json.loads(bench(tmp_path / "other", "show", path.parent.name, "--json").out)["given"] == given
    path.write_text(json.dumps(json.loads(path.read_text()) | {"given": {"files": 3}}))
    assert "is damaged" in refused(bench(results, "show", path.parent.name, ok=False))


def test_what_was_understood_is_said_apart_from_json_and_not_at_all_when_quiet(
    trained: tuple[Path, list[State]], tmp_path: Path
) -> None:
    _, states = trained
    line = ["evaluate", *saved(tmp_path, states), "-d", "digits", "--model", "digits_cnn", "--name", "x", "--attack",
            "fgsm", "--eps", "0.1", "--limit", 20, "--threads", 1, "--results", tmp_path / "results"]  # fmt: skip
    done = command(*line, "--json")
    assert done.code == 0
    assert json.loads(done.out)["table"]
    assert "3 members × digits_cnn" in done.err
    assert command(*line, "-q").text == ""
    said = command(*line[:-2], "--results", tmp_path / "another").out.splitlines()
    assert said[1] == "x on digits, fgsm: attacks, prints the table"
    assert said[2].startswith("2 of 2 jobs to do (2 new)")  # nothing is trained
    assert "all 2 results are there" in command(*line).out
    again = command("run", "-m", "x", "-d", "digits", *line[-10:-7], "0.2", *line[-6:])
    assert again.out.startswith("x on digits, fgsm: attacks, prints the table\n")


def test_a_factory_makes_the_members(
    trained: tuple[Path, list[State]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, _ = trained
    torch.manual_seed(0)
    torch.save(make().state_dict(), tmp_path / "flat.pth")
    place = __name__
    result = evaluate(results, [tmp_path / "flat.pth"], "--factory", f"{place}:make", "--name", "flat", "--json")
    assert 0 <= outcome(result)["pgd"] <= outcome(result)["clean"] <= 40  # an untrained linear model
    assert "chance" in bench(results, "table", "--attack", "pgd", "--eps", "0.1", "--limit", "60").text

    def fault(factory: str) -> str:
        return refused(evaluate(results, [tmp_path / "flat.pth"], "--factory", factory, "--name", "x", ok=False))

    assert "written package.module:function" in fault("make")
    assert "cannot be imported" in fault("no_such_package:make")
    assert "has no function" in fault(f"{place}:nothing")
    assert "returns a int" in fault(f"{place}:no_network")
    assert "not (2, 10)" in fault(f"{place}:wrong_classes")
    runs = sorted(results.glob("runs/*"))
    monkeypatch.setattr(sys.modules[place], "m" * 300, make, raising=False)
    assert "no record can hold this ensemble: model: String should have at most 200" in fault(f"{place}:{'m' * 300}")
    assert sorted(results.glob("runs/*")) == runs


def test_the_record_of_its_run_names_the_files_and_is_one_that_readers_know_whole(
    trained: tuple[Path, list[State]], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    said = ("--paper-title", "On Nets", "--year", "2024")
    evaluate(results, saved(tmp_path, trained[1]), "--model", "digits_cnn", "--name", "theirs", *said, "-q")
    (path,) = results.glob("runs/*/run.json")
    record = json.loads(path.read_text())
    assert record["files"] == ["member0.pth", "member1.pth", "member2.pth"]
    assert read_record(RunRecord, path).model_dump(mode="json", exclude_unset=True) == record


def test_nothing_is_invented_of_its_training(trained: tuple[Path, list[State]], tmp_path: Path) -> None:
    results, states = trained
    evaluate(results, saved(tmp_path, states), "--model", "digits_cnn", "--name", "theirs", "-q")
    shown = ("--attack", "pgd", "--eps", "0.1", "--limit", "60")
    (alone,) = (line for line in words(bench(results, "table", "-m", "theirs", *shown)) if "60 of 500" in line)
    assert "trained elsewhere" in alone
    assert "recipe" not in alone
    ours = ("-m", "ece", "--set", "training.epochs=3")
    both = " ".join(bench(results, "table", *ours, "-m", "theirs", *shown).text.split())
    assert "recipe standard with training.epochs=3; theirs trained elsewhere" in both
    rows = json.loads(bench(results, "table", *ours, "-m", "theirs", *shown, "--json").out)
    assert {row["recipe"] for row in rows if row["method"] == "theirs"} == {"trained elsewhere"}
    frames = bench_frames.load(results / "bench.db")
    mine = frames.runs[frames.runs["method"] == "theirs"].to_dict("records")
    assert [(row["recipe"], row["training"]) for row in mine] == [("trained elsewhere", None)]
    assert set(frames.evaluations.query("method == 'theirs'")["recipe"]) == {"trained elsewhere"}
    run_id = str(mine[0]["run_id"])
    card = json.loads(bench(results, "show", run_id, "--json").out)
    assert card["again"] == "bench run --method theirs --dataset digits --attack pgd --eps 0.1 --limit 60"
    bench(results, "report", "-o", str(tmp_path / "site"))
    page = (tmp_path / "site" / "runs" / f"{run_id}.html").read_text()
    assert "digits_cnn, trained elsewhere." in page
    for invented in ("epochs", "optimizer", "0.001", "adam", "training took", "recipe outside"):
        assert invented not in page.lower()
    other = next(row["run_id"] for row in frames.runs.to_dict("records") if row["method"] == "ece")
    assert "optimizer" in (tmp_path / "site" / "runs" / f"{other}.html").read_text()
    compared = " ".join(bench(results, "compare", run_id, str(other)).text.split())
    assert "theirs, seed 0, trained elsewhere" in compared


def words(result: Done) -> list[str]:
    return [" ".join(line.split()) for line in result.text.splitlines()]


def test_what_is_said_of_it_is_kept_beside_its_results_and_measures_nothing_again(
    trained: tuple[Path, list[State]], tmp_path: Path
) -> None:
    _, states = trained
    results, files = tmp_path / "results", saved(tmp_path, states)
    model = ["--model", "digits_cnn", "--name", "theirs", "-q"]
    evaluate(results, files, *model)
    (path,) = results.glob("runs/*/run.json")
    before, evaluations = json.loads(path.read_text()), contents(results)
    assert "facts" not in before
    said = ["--paper-title", "On {Nets}", "--author", "A. Nother", "--author", "B. Yond", "--venue", "ICLR", "--year",
            2026, "--url", "https://example.org/paper?id=1", "--code", "https://example.org/code", "--adversarial",
            "--no-extra-data"]  # fmt: skip
    evaluate(results, files, *model, *said)
    facts = {
        "title": "On {Nets}", "authors": ["A. Nother", "B. Yond"], "venue": "ICLR", "year": 2026,
        "url": "https://example.org/paper?id=1", "code": "https://example.org/code", "adversarial": True,
        "extra_data": False,
    }  # fmt: skip
    assert json.loads(path.read_text()) == {**before, "facts": facts}
    assert contents(results) == evaluations
    shown = bench(results, "show", before["run_id"][:12]).out
    assert "A. Nother, B. Yond, On {Nets}, ICLR, 2026" in shown
    assert "attacked images, no extra data" in shown
    assert not (results / "journal").exists() or not list((results / "journal").iterdir())
    # Said again in part: the rest stays; an empty text takes back.
    evaluate(results, files, *model, "--venue", "", "--author", "", "--not-adversarial")
    left = {name: value for name, value in facts.items() if name not in ("venue", "authors")} | {"adversarial": False}
    assert json.loads(path.read_text())["facts"] == left
    assert json.loads(bench(results, "show", before["run_id"][:12], "--json").out)["facts"]["year"] == 2026
    evaluate(results, files, *model, "--publication", "dverge")
    now = json.loads(path.read_text())["facts"]
    assert now["title"].startswith("DVERGE: ")
    assert (now["authors"][0], now["venue"], now["adversarial"]) == ("Huanrui Yang", "NeurIPS", False)
    stored = bench(results, "show", before["run_id"][:12], "--json").out
    bench(results, "db", "rebuild")
    assert json.loads(bench(results, "show", before["run_id"][:12], "--json").out) == json.loads(stored)
    # They travel with the run.
    bench(results, "db", "export", "-o", tmp_path / "one.zip", "-m", "theirs")
    bench(tmp_path / "other", "db", "import", tmp_path / "one.zip")
    there = json.loads(bench(tmp_path / "other", "show", before["run_id"][:12], "--json").out)
    assert there["facts"]["title"] == now["title"]


def test_one_name_stands_for_one_ensemble_a_seed(trained: tuple[Path, list[State]], tmp_path: Path) -> None:
    results, states = trained
    files = saved(tmp_path, states)
    model = ("--model", "digits_cnn", "--name", "twice")
    first = evaluate(results, files[:2], *model).text
    assert "2 members × digits_cnn out of 2 files, normalised by the data set's mean and std" in first
    assert "this is seed" not in first
    before = contents(results)
    today = datetime.now(UTC).date()
    told = " ".join(refused(evaluate(results, files[1:], *model, "--seed", "0", ok=False)).split())
    assert "stands for other weights" in told
    assert f"(taken in {today})" in told
    more = evaluate(results, files, *model, ok=False)  # of more members
    assert "stands for 2 × digits_cnn" in refused(more)
    assert "this is seed" not in more.text
    wrong = evaluate(results, files[1:], *model, "--url", "ftp://x.org", ok=False)
    assert "url: an address" in refused(wrong)
    assert "this is seed" not in wrong.text
    again = evaluate(results, files[1:], *model).text
    assert f"'twice' on digits has seed 0 (taken in {today}) already; this is seed 1" in " ".join(again.split())
    assert before.items() <= contents(results).items()
    assert "Nothing to do" in evaluate(results, files[1:], *model).text
    assert "Nothing to do" in evaluate(results, files[:2], *model).text
    otherwise = refused(evaluate(results, files[:2], *model, "--normalisation", "none", ok=False))
    assert "seed 0, stands for these files, understood otherwise; give another --name" in otherwise
    shown = ("--attack", "pgd", "--eps", "0.1", "--limit", "60", "--json", "--no-details")
    rows = json.loads(bench(results, "table", "-m", "twice", *shown).out)
    assert [row["seeds"] for row in rows] == [[0, 1], [0, 1]]
    asked = ("run", "-m", "twice", "-d", "digits", "--attack", "pgd", "--eps", "0.1", "--limit", "60", "--threads", "1")
    gone = refused(bench(results, *asked, "--seeds", "5", ok=False))
    assert "twice on digits, seed 5 was trained elsewhere and its weights are not here; `bench evaluate FILE…" in gone
    assert "--seed 5" in gone
    several = bench(results, *asked, "--attack", "fgsm", "--seeds", "0,5", ok=False)  # the others go on
    assert (several.code, "1/1 twice: fgsm" in several.text) == (2, True)
    assert "left out: twice on digits, seed 5" in several.err
