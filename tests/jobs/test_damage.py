"""What is measured on is what was written: a file with other values is told, set aside and never used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from in_process import TINY, bench
from in_process import told as command
from safetensors.torch import save_file

from bench.training import checkpoint

SHORT = (*TINY, "--threads", "1")
FGSM = ("--attack", "fgsm", "--eps", "0.1")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is folded."""
    monkeypatch.setenv("COLUMNS", "400")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "results"
    bench("run", "-m", "ece", *SHORT, "--attack", "pgd", "--eps", "0.05", "--results", folder, "-q")
    return folder


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "results"))


def weights_of(results: Path) -> Path:
    (path,) = results.glob("runs/*/members.safetensors")
    return path


def spoil(path: Path) -> bytes:
    """Four bytes of the values changed, as a bad disk would; what the file was before."""
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + bytes(byte ^ 0x55 for byte in whole[-4:]))
    return whole


def unsealed(path: Path) -> None:
    """The file as a version wrote it that kept no digest in it."""
    tensors, metadata = checkpoint.load(path)
    save_file(tensors, path, metadata={"bench": json.dumps(metadata)})


@pytest.mark.parametrize("old", [False, True], ids=["sealed", "without a digest of its own"])
def test_changed_weights_are_told_set_aside_and_trained_again_before_anything_is_measured(
    results: Path, old: bool
) -> None:
    weights = weights_of(results)
    whole = weights.read_bytes()
    if old:
        unsealed(weights)
    spoil(weights)
    bad = weights.read_bytes()
    code, text = command("run", "-m", "ece", *SHORT, *FGSM, "--results", results)
    assert code == 0, text
    told = [line for line in text.splitlines() if "is damaged" in line]
    assert len(told) == 1, text
    assert "moved aside as members.damaged" in told[0]
    assert weights.with_suffix(".damaged").read_bytes() == bad
    assert weights.read_bytes() == whole
    assert "2 of 3 jobs to do" in text


def test_a_forged_header_counts_as_damage(results: Path) -> None:
    weights = weights_of(results)
    whole = weights.read_bytes()
    changed = whole.replace(b"mean_probability", b"mean_logits     ")
    assert changed != whole
    weights.write_bytes(changed)
    code, text = command("run", "-m", "ece", *SHORT, *FGSM, "--results", results)
    assert code == 0, text
    assert weights.read_bytes() == whole


@pytest.mark.parametrize("verb", ["export", "boundary"])
def test_every_command_that_loads_weights_compares_them(results: Path, tmp_path: Path, verb: str) -> None:
    weights = weights_of(results)
    spoil(weights)
    run = weights.parent.name
    if verb == "export":
        (evaluation,) = (
            path.stem
            for path in weights.parent.glob("evaluations/*.json")
            if json.loads(path.read_text())["kind"] == "attack"
        )
        arguments: tuple[object, ...] = ("show", evaluation, "--export", tmp_path / "x.safetensors")
    else:
        arguments = ("plot", "boundary", run, "-o", tmp_path / "x.png")
    code, text = command(*arguments, "--results", results)
    assert code == 1, text
    (line,) = text.strip().splitlines()
    assert "is damaged" in line
    assert "moved aside" in line
    assert "`bench run --method ece --dataset digits --recipe" in line
    assert "trains it again" in line
    assert not list(tmp_path.glob("x.*"))
    assert weights.with_suffix(".damaged").exists()


def test_doctor_and_rebuild_name_damaged_weights_and_touch_nothing(results: Path) -> None:
    bench("db", "rebuild", "--results", results)
    code, text = command("doctor", "--results", results)
    assert code == 0, text
    assert "2 files as written" in text
    weights, (sample,) = weights_of(results), results.glob("runs/*/samples/*.safetensors")
    spoil(weights)
    spoil(sample)
    code, text = command("doctor", "--results", results)
    assert code == 1
    assert f"{weights} is damaged" in text
    assert f"{sample} is damaged" in text
    code, text = command("db", "rebuild", "--results", results)
    assert code == 1
    assert f"{weights} is damaged" in text
    assert "1 run, 2 evaluations" in text
    assert weights.exists()


def test_runs_from_before_digests_were_kept_are_measured_and_doctor_counts_them(results: Path) -> None:
    weights = weights_of(results)
    unsealed(weights)
    record = json.loads((weights.parent / "run.json").read_text())
    del record["weights_digest"]
    (weights.parent / "run.json").write_text(json.dumps(record))
    for path in weights.parent.glob("evaluations/*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"weights_digest": None}))
    bench("db", "rebuild", "--results", results)
    bench("run", "-m", "ece", *SHORT, *FGSM, "--results", results)
    code, text = command("doctor", "--results", results)
    assert code == 0
    assert "1 of them from before digests were kept, which cannot be checked" in text


def test_damaged_weights_from_elsewhere_say_how_to_bring_them_and_are_brought(results: Path, tmp_path: Path) -> None:
    tensors, _ = checkpoint.load(weights_of(results))
    files = []
    for number in range(3):
        mine = {name.removeprefix(f"members.{number}.network."): tensor.contiguous()
                for name, tensor in tensors.items() if name.startswith(f"members.{number}.network.")}  # fmt: skip
        files.append(tmp_path / f"{number}.safetensors")
        save_file(mine, files[-1])
    place = ("--results", tmp_path / "own")
    given = ("evaluate", *files, "--model", "digits_cnn", "-d", "digits", "--name", "the ours", "--limit", "20")
    code, text = command(*given, *FGSM, "--threads", "1", *place)
    assert code == 0, text
    weights = weights_of(tmp_path / "own")
    spoil(weights)
    code, text = command("run", "-m", "the ours", "--limit", "20", "--attack", "pgd", "--eps", ".1", *place)
    assert code == 2, text
    assert "the ours on digits, seed 0 was trained elsewhere and its weights are damaged; `bench evaluate 0." in text
    code, text = command(*given, "--attack", "pgd", "--eps", "0.1", "--threads", "1", *place)
    assert code == 0, text
    spoil(weights)
    code, text = command(*given, "--attack", "bim", "--eps", "0.1", "--threads", "1", *place)
    assert code == 0, text
    assert "written again from the files given" in text
