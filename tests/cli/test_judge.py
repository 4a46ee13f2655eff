"""`bench judge`: images that somebody else made count as what they are, or say in one line why they do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_process import bench, refused
from in_process import told as command
from safetensors.torch import load_file

from bench.core import bits
from bench.core.identity import short

RUN = ("run", "-m", "ece", "--set", "training.epochs=2", "--set", "training.limit=300", "--threads", 1, "-q")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ours`: an ensemble that FGSM was tried on; `theirs`: the same one, and PGD; `pgd.safetensors`: its images."""
    folder = tmp_path_factory.mktemp("judged")
    bench(*RUN, "--attack", "fgsm", "--eps", "0.1", "--results", folder / "ours")
    shutil.copytree(folder / "ours", folder / "theirs")
    bench(*RUN, "--attack", "pgd", "--eps", "0.1", "--set", "attacks.pgd.steps=10", "--results", folder / "theirs")
    stored = record(folder / "theirs", "pgd")["evaluation_id"]
    bench("show", stored, "--export", folder / "pgd.safetensors", "--results", folder / "theirs")
    return folder


@pytest.fixture
def ours(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "ours", tmp_path / "ours"))


def record(results: Path, attack: str) -> dict[str, Any]:
    found = [json.loads(path.read_text()) for path in results.glob("runs/*/evaluations/*.json")]
    (one,) = [each for each in found if each["attack"] == attack]
    return one


def run_of(results: Path) -> str:
    (folder,) = results.glob("runs/*")
    return folder.name


def judge(results: Path, file: Path, *more: object) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(
        bench("judge", file, "--run", run_of(results)[:8], *more, "--results", results, "--threads", 1, "--json")
    )
    return told


def robust(stored: dict[str, Any]) -> np.ndarray[Any, Any]:
    return bits.from_text(stored["robust_bits"], stored["n"])


def test_exported_images_lower_what_is_known_and_no_score(made: Path, ours: Path, tmp_path: Path) -> None:
    fgsm, pgd = record(ours, "fgsm"), record(made / "theirs", "pgd")
    both = 100 * float((robust(fgsm) & robust(pgd)).mean())
    before = 100 * fgsm["n_robust"] / 500
    assert both < before
    told = judge(ours, made / "pgd.safetensors", "--name", "images of A. Author")
    assert (told["n"], told["n_clean"], told["n_robust"]) == (500, pgd["n_clean"], pgd["n_robust"])
    assert (told["norm"], told["budget_name"], told["budget"]) == ("linf", "eps", 0.1)
    assert [each["board"] for each in told["lowest_known"]] == [
        f"{name}-digits v1, ε = {eps}" for name in ("core", "table1") for eps in (0.1, 0.15)
    ]
    for each in told["lowest_known"]:
        assert (each["before"], each["now"], each["score"]) == pytest.approx((before, both, before))
    stored = record(ours, "images of A. Author")
    assert np.array_equal(robust(stored), robust(pgd))
    assert stored["kind"] == "judged"
    assert stored["measurements"]["file"] == "pgd.safetensors"

    site = tmp_path / "site"
    bench("report", "-o", site, "--results", ours)
    board = json.loads(next(site.glob("boards/core-digits-v1-0.1-*.json")).read_text())
    (row,) = board["rows"]
    assert (row["worst_case"], row["lowest_known"]) == pytest.approx((before, both))
    assert "images of A. Author" in row["lowest_found_by"]
    page = next(site.glob("runs/*.html")).read_text()
    assert "images of A. Author" in page
    assert "<td>pgd.safetensors</td>" in page


def test_the_same_images_are_stored_once_whatever_file_they_come_in(made: Path, ours: Path, tmp_path: Path) -> None:
    first = judge(ours, made / "pgd.safetensors")
    assert not first["before"]
    path = ours / "runs" / first["run"] / "evaluations" / f"{first['evaluation']}.json"
    written = path.read_bytes()
    tensors = load_file(made / "pgd.safetensors")
    np.save(tmp_path / "a.npy", tensors["adversarial"].numpy())
    np.save(tmp_path / "b.npy", tensors["adversarial"].numpy().astype(">f8"))
    torch.save(tensors["adversarial"], tmp_path / "c.pt")
    order = torch.randperm(500)
    torch.save({"x_adv": tensors["adversarial"][order], "index": tensors["index"][order]}, tmp_path / "d.pth")
    for file in ("a.npy", "b.npy", "c.pt", "d.pth"):
        again = judge(ours, tmp_path / file, "--eps", "0.1", "--name", "another")
        assert again["before"]
        assert (again["evaluation"], again["name"]) == (first["evaluation"], "pgd.safetensors")
    assert path.read_bytes() == written
    assert "already" in bench("judge", tmp_path / "c.pt", "--run", first["run"], "--eps", ".1", "--results", ours)
    torch.save({"x": tensors["adversarial"], "labels": (tensors["labels"] + 1) % 10}, tmp_path / "e.pt")
    line = refused("judge", tmp_path / "e.pt", "--run", first["run"], "--eps", "0.1", "--results", ours)
    assert "labels 0 is" in line
    wider = judge(ours, tmp_path / "c.pt", "--eps", "0.12")
    assert wider["evaluation"] != first["evaluation"]
    assert [each["board"] for each in wider["lowest_known"]] == [
        "core-digits v1, ε = 0.15",
        "table1-digits v1, ε = 0.15",
    ]


def test_other_threats_than_a_boards_lower_nothing_on_it(made: Path, ours: Path, tmp_path: Path) -> None:
    tensors = load_file(made / "pgd.safetensors")
    torch.save(tensors["adversarial"], tmp_path / "x.pt")
    by_norm = judge(ours, tmp_path / "x.pt", "--eps", "0.8", "--norm", "l2")
    without = judge(ours, tmp_path / "x.pt", "--c", "1")
    assert by_norm["lowest_known"] == without["lowest_known"] == []
    assert by_norm["n_robust"] == without["n_robust"]
    shown = bench("show", without["evaluation"], "--results", ours)
    assert "norm none" in shown
    assert "None" not in shown + bench("show", run_of(ours), "--results", ours)
    change = (tensors["adversarial"] - tensors["original"] / 255).flatten(1)
    broken = (tensors["clean_prediction"] == tensors["labels"]) & ~tensors["robust"]
    (path,) = ours.glob(f"runs/*/evaluations/{without['evaluation']}.json")
    distances = json.loads(path.read_text())["measurements"]["distances"]
    assert distances["broken"] == int(broken.sum())
    assert distances["l2"]["max"] == pytest.approx(float(change[broken].norm(dim=1).max()))


def test_bytes_are_divided_by_255(made: Path, ours: Path, tmp_path: Path) -> None:
    original = load_file(made / "pgd.safetensors")["original"]
    moved = torch.where(original < 128, original + 25, original - 25)  # 25 / 255 < .1
    torch.save(moved, tmp_path / "bytes.pt")
    torch.save(moved.float() / 255, tmp_path / "floats.pt")
    first = judge(ours, tmp_path / "bytes.pt", "--eps", "0.1")
    assert first["n_robust"] < first["n_clean"]
    assert judge(ours, tmp_path / "floats.pt", "--eps", "0.1")["evaluation"] == first["evaluation"]


def changed(name: str, images: torch.Tensor) -> Any:
    """What a file holds that is refused, and what the line says."""
    one = images.clone()
    if name == "far":
        one[17, 0, 3, 3] = images[17, 0, 3, 3] - 0.25 if images[17, 0, 3, 3] > 0.5 else images[17, 0, 3, 3] + 0.25
        return one, ["1 of 500", "image 17, by 0."]
    if name == "range":
        one[3, 0, 0, 0] = 1.5
        return one, ["outside of [0, 1]", "image 3, by 0.5"]
    if name == "nan":
        one[9, 0, 0, 0] = torch.nan
        return one, ["NaN", "image 9"]
    return {
        "shape": (images[:, :, :7], ["[500, 1, 7, 8]", "[n, 1, 8, 8] with n = 500"]),
        "few": (images[:40], ["[40, 1, 8, 8]", "n = 500"]),
        "order": (images.flip(0), ["in the order of `bench show EVALUATION --export`?"]),
        "levels": (images * 255, ["divide by 255"]),
        "normalised": ((images - 0.1307) / 0.3081, ["outside of [0, 1]", "are they normalised?"]),
        "centred": (images * 2 - 1, ["outside of [0, 1]", "are they normalised?"]),
        "unclipped": (images + 0.05, ["outside of [0, 1]", "clip them"]),
        "half": (images.half(), ["ε = 0.1 ", "rounding to float16", "as float32"]),
        "bytes": ((images * 255).round().byte(), ["ε = 0.1 ", "rounding to uint8", "as float32"]),
        "far bytes": ((images * 255).round().byte().flip(0), ["in the order of `bench show EVALUATION --export`?"]),
        "numpy": (images.numpy(), ["arrays of NumPy", "torch.from_numpy"]),
        "whole": ((images * 255).long(), ["torch.int64", "uint8"]),
        "labels": ({"x": images, "labels": torch.zeros(500)}, ["labels", "whole number"]),
        "others": ({"x": images, "labels": torch.zeros(500, dtype=torch.int64)}, ["the test image's", "order"]),
        "index": ({"x": images, "index": torch.arange(500) + 1}, ["index"]),
        "two": ({"a": images, "b": images}, ["'adversarial'"]),
        "list": ([images], ["holds a list"]),
        "objects": (torch.nn.Linear(2, 2), ["could run code"]),
    }[name]


@pytest.mark.parametrize(
    "name",
    ["far", "range", "nan", "shape", "few", "order", "levels", "normalised", "centred", "unclipped", "half", "bytes",
     "far bytes", "numpy", "whole", "labels", "others", "index", "two", "list", "objects"],
)  # fmt: skip
def test_what_is_not_of_the_threat_is_refused_in_a_line(made: Path, tmp_path: Path, name: str) -> None:
    content, words = changed(name, load_file(made / "pgd.safetensors")["adversarial"])
    torch.save(content, tmp_path / "x.pt")
    results = made / "ours"
    line = refused("judge", tmp_path / "x.pt", "--run", run_of(results), "--eps", "0.1", "--results", results)
    assert all(word in line for word in words), line
    assert len(list(results.glob("runs/*/evaluations/*.json"))) == 2


def test_wrong_use_is_told_in_a_line(made: Path, ours: Path, tmp_path: Path) -> None:
    images, run = made / "pgd.safetensors", run_of(ours)
    (tmp_path / "x.txt").write_text("")
    for name in ("x.npy", "x.pt", "x.safetensors"):
        (tmp_path / name).write_bytes(b"nothing")
    np.save(tmp_path / "bare.npy", load_file(images)["adversarial"].numpy())
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for file, more, why in (
        (images, ["--run", "ffff"], "no run begins with"),
        (images, ["--run", record(ours, "fgsm")["evaluation_id"]], f"give the id of its run: {short(run)}"),
        (images, ["--run", run, "--eps", "0.05"], "outside of the ball ℓ∞ ε = 0.05"),
        (images, ["--run", run, "--eps", "0.1", "--c", "1"], "leave one out"),
        (images, ["--run", run, "--norm", "l2"], "--norm goes with --eps"),
        (images, ["--run", run, "--name", "two\nlines"], "printable"),
        (tmp_path / "gone.pt", ["--run", run], "no file"),
        (tmp_path / "x.txt", ["--run", run], ".safetensors, .pt or .npy"),
        (tmp_path / "x.npy", ["--run", run], "no .npy file"),
        (tmp_path / "x.pt", ["--run", run], "no file of torch.save"),
        (tmp_path / "x.safetensors", ["--run", run], "no safetensors file"),
        (tmp_path / "objects.npy", ["--run", run], "pickled Python objects are never loaded"),
        (images, ["--run", run, "--eps", "8"], "8/255 is meant, perhaps"),
        (tmp_path / "bare.npy", ["--run", run], "say within which budget"),
    ):
        assert why in refused("judge", file, *more, "--results", ours)
    assert "no database" in refused("judge", images, "--run", run, "--results", tmp_path / "empty")
    assert not (tmp_path / "empty").exists()
    (weights,) = ours.glob("runs/*/members.safetensors")
    weights.unlink()
    code, text = command("judge", images, "--run", run, "--results", ours)
    assert (code, len(text.strip().splitlines())) == (1, 1)
    assert "weights are missing" in text


def test_it_survives_a_rebuild_and_an_archive_and_says_why_it_is_not_measured_again(
    made: Path, ours: Path, tmp_path: Path
) -> None:
    first = judge(ours, made / "pgd.safetensors")
    bench("db", "rebuild", "--results", ours)
    assert judge(ours, made / "pgd.safetensors")["lowest_known"][0]["now"] == first["lowest_known"][0]["now"]
    bench("db", "export", "-o", tmp_path / "mine.zip", "--results", ours)
    bench("db", "import", tmp_path / "mine.zip", "--results", tmp_path / "new")
    shown = json.loads(bench("show", first["evaluation"], "--json", "--results", tmp_path / "new"))
    assert (shown["kind"], shown["n_robust"], shown["provenance"]) == ("judged", first["n_robust"], "imported")
    assert "images pgd.safetensors" in bench("show", first["evaluation"], "--results", ours)
    _, text = command("db", "verify", first["evaluation"], "--results", tmp_path / "new")
    assert "are not kept" in text
    code, text = command("show", first["evaluation"], "--export", tmp_path / "y.safetensors", "--results", ours)
    assert (code, "stay there" in text) == (2, True)


def test_a_record_with_another_norm_is_refused(made: Path, ours: Path) -> None:
    first = judge(ours, made / "pgd.safetensors")
    path = ours / "runs" / first["run"] / "evaluations" / f"{first['evaluation']}.json"
    stored = json.loads(path.read_text())
    for settings in ({"norm": "l7"}, {"images": "not a digest"}):
        path.write_text(json.dumps(stored | {"settings": stored["settings"] | settings}))
        code, text = command("db", "rebuild", "--results", ours)
        assert code != 0 or "refused" in text
        assert first["evaluation"] not in {
            row["evaluation_id"]
            for row in json.loads(bench("show", first["run"], "--json", "--results", ours))["evaluations"]
        }
