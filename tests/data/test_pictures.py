"""Pictures of one's own: what is read, what is laid out, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import bench, command, refused
from own_pictures import draw
from PIL import Image

from bench.core import config, places
from bench.core.errors import BenchError
from bench.data import base, pictures
from bench.data.base import load_splits
from bench.data.pictures import Size


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    base._read.cache_clear()


def splits(name: str, data: Path) -> base.Splits:
    """The images of a prepared data set as a run has them."""
    with places.data_in(data):
        return load_splits("prepared", folder=data, dataset=config.load().dataset(name))


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize("colour", [False, True])
def test_pixels_and_labels_are_those_of_the_files(colour: bool, tmp_path: Path) -> None:
    folder, test = draw(tmp_path / "a", 12, size=(6, 8), colour=colour), draw(tmp_path / "b", 4, size=(6, 8), start=9)
    train, tested, held_out = pictures.read(folder, test, None, str)
    assert (train.shape, tested.shape, train.classes) == ((3 if colour else 1, 6, 8),) * 2 + (("left", "right"),)
    assert train.labels.tolist() == [0] * 6 + [1] * 6
    assert not held_out
    pixels = np.asarray(Image.open(folder / "right" / "003.png"))
    assert np.array_equal(train.images[7].numpy(), pixels.transpose(2, 0, 1) if colour else pixels[None])


def test_without_a_test_set_one_in_five_of_each_class_is_held_out_the_same_ones_each_time(tmp_path: Path) -> None:
    folder, lines = draw(tmp_path / "a", 40), []
    for file in list((folder / "left").iterdir())[:10]:
        file.unlink()
    train, test, held_out = pictures.read(folder, None, None, lines.append)
    again = pictures.read(folder, None, None, str)
    assert held_out
    assert (torch.bincount(train.labels).tolist(), torch.bincount(test.labels).tolist()) == ([8, 16], [2, 4])
    assert torch.equal(test.images, again[1].images)
    both = {image.numpy().tobytes() for part in (train, test) for image in part.images}
    assert len(both) == 30  # every picture in one of them
    (line,) = lines
    assert line.startswith("no --test: 6 of 30 pictures are held out as test images, one in 5 of each class")


def test_sizes_are_made_one_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = draw(tmp_path / "a", 8)
    Image.new("L", (30, 20), 200).save(folder / "left" / "big.png")
    with pytest.raises(BenchError, match=r"of different sizes: .*000.png is 8×8, .*big.png 20×30; --size N"):
        pictures.read(folder, None, None, str)
    train, test, _ = pictures.read(folder, None, Size(4, 6), str)
    assert train.shape == test.shape == (1, 4, 6)


def test_one_picture_in_colour_makes_all_of_them_so(tmp_path: Path) -> None:
    folder = draw(tmp_path / "a", 8)
    Image.new("RGBA", (8, 8), (255, 0, 0, 9)).save(folder / "left" / "red.png")
    train, _, _ = pictures.read(folder, draw(tmp_path / "b", 4), None, str)
    assert train.shape == (3, 8, 8)
    assert [255, 0, 0] in train.images[:, :, 0, 0].tolist()


def test_what_is_no_picture_is_left_out_and_told(tmp_path: Path) -> None:
    folder, lines = draw(tmp_path / "a", 10), []
    (folder / "left" / "notes.txt").write_text("mine")
    (folder / ".cache").mkdir()
    pictures.read(folder, None, None, lines.append)
    assert f"{folder}: 1 other files, which are no pictures, are left out" in lines


def spoil_bytes(folder: Path) -> None:
    (folder / "left" / "000.png").write_bytes(b"no picture")


def spoil_end(folder: Path) -> None:
    file = folder / "left" / "000.png"
    file.write_bytes(file.read_bytes()[:60])


def spoil_depth(folder: Path) -> None:
    Image.fromarray(np.zeros((8, 8), "uint16")).save(folder / "left" / "000.png")


def spoil_class(folder: Path) -> None:
    (folder / "middle").mkdir()


def spoil_classes(folder: Path) -> None:
    for file in (folder / "right").iterdir():
        file.unlink()
    (folder / "right").rmdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_bytes, "000.png cannot be read: it is no picture, or damaged"),
        (spoil_end, "000.png cannot be read: "),
        (spoil_depth, "000.png has more than 8 bits a channel"),
        (spoil_class, "middle has no picture (.jpg"),
        (spoil_classes, "has one sub-folder (left); it needs one for each class"),
    ],
)
def test_bad_files_are_one_line_that_names_them(spoil, words: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    spoil(draw(tmp_path / "a", 10))
    assert words in refused("prepare", "mine", "--from", "a")
    assert not (tmp_path / "data").exists()


def test_test_pictures_have_the_classes_and_size_of_those_for_training(tmp_path: Path) -> None:
    draw(tmp_path / "a", 10)
    draw(tmp_path / "wide", 10, size=(8, 10))
    (draw(tmp_path / "b", 4) / "right").rename(tmp_path / "b" / "wrong")
    assert "b has other classes than the training pictures: 'right'" in refused(
        "prepare", "m", "--from", "a", "--test", "b"
    )
    told = refused("prepare", "m", "--from", "a", "--test", "wide")
    assert "training pictures are 1×8×8, test pictures 1×8×10; --size N" in told
    assert "nowhere: there is no such file or folder" in refused("prepare", "m", "--from", "nowhere")


# ---------------------------------------------------------------- arrays


def arrays(path: Path, **given: object) -> Path:
    np.savez(path, **given)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("shape", [(20, 6, 8), (20, 6, 8, 1), (20, 1, 6, 8), (20, 6, 8, 3), (20, 3, 6, 8)])
def test_arrays_may_have_their_channels_anywhere(shape: tuple[int, ...], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    file = arrays(tmp_path / "a.npz", images=images, labels=np.arange(20) % 2)
    train, test, _ = pictures.read(file, file, None, str)
    first = images if images.ndim == 4 else images[:, None]
    wanted = first if first.shape[1] in (1, 3) else first.transpose(0, 3, 1, 2)
    assert np.array_equal(train.images.numpy(), wanted)
    assert train.classes == ("0", "1")
    assert torch.equal(test.labels, torch.arange(20) % 2)


def test_a_file_as_keras_has_it_has_its_own_test_set(tmp_path: Path) -> None:
    parts = {"x_train": np.zeros((6, 4, 4, 3), "uint8"), "y_train": np.array([[0], [1], [2]] * 2)}
    file = arrays(tmp_path / "a.npz", **parts, x_test=np.ones((3, 4, 4, 3)), y_test=np.array([[2], [1], [0]]))
    train, test, held_out = pictures.read(file, None, None, str)
    assert (len(train.images), len(test.images), held_out) == (6, 3, False)
    assert test.images.unique().tolist() == [255]  # numbers in [0, 1]
    assert test.labels.tolist() == [2, 1, 0]


def test_labels_may_be_names_or_any_numbers(tmp_path: Path) -> None:
    images = np.zeros((4, 4, 4), "uint8")
    texts = arrays(tmp_path / "a.npz", images=images, labels=np.array(["cat", "ant", "cat", "ant"]))
    train, _, _ = pictures.read(texts, texts, None, str)
    assert (train.classes, train.labels.tolist()) == (("ant", "cat"), [1, 0, 1, 0])
    named = arrays(tmp_path / "b.npz", images=images, labels=np.array([1, 0, 1, 0]), classes=np.array(["z", "a"]))
    train, _, _ = pictures.read(named, named, None, str)
    assert (train.classes, train.labels.tolist()) == (("z", "a"), [1, 0, 1, 0])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"data": np.zeros(3)}, "needs arrays images and labels, or x_train"),
        (
            {"images": np.full((4, 4, 4), 300), "labels": np.arange(4)},
            "whole numbers from 0 to 255, or numbers in [0, 1]",
        ),
        ({"images": np.zeros((4, 4, 4, 4), "uint8"), "labels": np.arange(4)}, "with 1 or 3 channels, not [4, 4, 4, 4]"),
        ({"images": np.zeros((4, 4, 4), "uint8"), "labels": np.eye(4)}, "is one whole number or text for each of 4"),
        ({"images": np.zeros((4, 4, 4), "uint8"), "labels": np.zeros(4, int)}, "there are two classes or more"),
        ({"images": np.array([None, 1]), "labels": np.arange(2)}, "cannot be read: "),
    ],
)
def test_bad_arrays_are_one_line(given: dict[str, object], words: str, tmp_path: Path) -> None:
    arrays(tmp_path / "a.npz", **given)
    assert words in refused("prepare", "mine", "--from", "a.npz")


@pytest.mark.parametrize(
    ("names", "words"),
    [(["a", ""], "a class is called ''"), (["a", "x" * 300], "have 1 to 200 letters"), (["a", "a"], "are called 'a'")],
)
def test_names_that_no_class_can_have_are_one_line(names: list[str], words: str, tmp_path: Path) -> None:
    images = np.zeros((4, 8, 8), "uint8")
    arrays(tmp_path / "a.npz", images=images, labels=np.arange(4) % 2, classes=np.array(names))
    assert words in refused("prepare", "mine", "--from", "a.npz")


def test_labels_may_be_bytes_that_are_text(tmp_path: Path) -> None:
    images = np.zeros((4, 8, 8), "uint8")
    file = arrays(tmp_path / "a.npz", images=images, labels=np.array([b"cat", b"ant", b"cat", b"ant"]))
    train, _, _ = pictures.read(file, None, None, print)
    assert train.classes == ("ant", "cat")
    arrays(tmp_path / "b.npz", images=images, labels=np.array([b"\xff", b"a", b"\xff", b"a"]))
    assert "bytes that are no text" in refused("prepare", "mine", "--from", "b.npz")


def test_a_file_of_another_kind_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("no")
    assert "a.npz is no .npz" in refused("prepare", "mine", "--from", "a.npz")


# ---------------------------------------------------------------- the data set


def test_a_prepared_set_is_a_data_set_of_every_command(tmp_path: Path) -> None:
    draw(tmp_path / "a", 20)
    out = bench("prepare", "mine", "--from", "a", "--eps", "0.03,8/255")
    assert "mine: 16 training and 4 test images 1×8×8, 2 classes (left, right)" in out
    assert "attacks have ε = 0.03, 0.0313725\n" in out
    (row,) = [row for row in json.loads(bench("list", "datasets", "--json")) if row["name"] == "mine"]
    assert (row["description"], row["shape"]) == ("pictures of one's own: left, right", "1×8×8")
    assert "the images are those that were prepared" in bench("prepare", "mine")
    assert "all is well" in bench("doctor", "--plugin", "mine")
    parts = splits("mine", tmp_path / "data")
    assert parts.train.images.float().div(255).mean().item() == pytest.approx(
        config.load().dataset("mine").mean[0], abs=1e-4
    )
    assert config.load().config.attacks["pgd"].budgets["mine"] == (0.03, 8 / 255)


def test_the_folder_of_the_option_holds_its_data_sets(tmp_path: Path) -> None:
    draw(tmp_path / "a", 10)
    bench("prepare", "mine", "--from", "a", "--data", "elsewhere", "-q")
    assert "mine" in bench("config", "datasets.mine", "--data", "elsewhere")
    assert "unknown key of [datasets] 'mine'" in refused("config", "datasets.mine")


def test_the_same_pictures_under_another_name_are_the_same_data_set(tmp_path: Path) -> None:
    draw(tmp_path / "a", 10)
    bench("prepare", "mine", "--from", "a", "-q")
    bench("prepare", "yours", "--from", "a", "-q", "--eps", "0.5")
    loaded = config.load()
    assert loaded.dataset("mine") == loaded.dataset("yours")


def test_other_pictures_never_take_the_place_of_those_that_are_there(tmp_path: Path) -> None:
    draw(tmp_path / "a", 10)
    draw(tmp_path / "b", 10, start=5)
    bench("prepare", "mine", "--from", "a", "-q")
    assert "were already in" in bench("prepare", "mine", "--from", "a", "--eps", "0.2")
    assert config.load().config.datasets["mine"].eps == (0.2,)
    assert "mine is there and holds other pictures (8 + 2, 2 classes)" in refused("prepare", "mine", "--from", "b")


@pytest.mark.parametrize("name", ["digits", "all", "default", "prepared", "Mine", "../x", ""])
def test_a_name_that_is_taken_or_no_name_is_refused(name: str, tmp_path: Path) -> None:
    draw(tmp_path / "a", 10)
    assert "take another name" in (told := refused("prepare", name, "--from", "a")) or "a name of a data set is" in told


def test_damaged_and_missing_files_are_told(tmp_path: Path) -> None:
    draw(tmp_path / "a", 10)
    bench("prepare", "mine", "--from", "a", "-q")
    folder = tmp_path / "data" / "prepared" / "mine"
    whole = (folder / "test.npz").read_bytes()
    np.savez(folder / "test.npz", images=np.zeros((2, 1, 8, 8), "uint8"), labels=np.arange(2))
    base._read.cache_clear()
    assert "test.npz holds other images than were prepared" in refused("prepare", "mine")
    (folder / "test.npz").write_bytes(whole[:100])
    assert "test.npz is missing or damaged" in refused("prepare", "mine")
    (folder / "dataset.json").write_text("{}")
    assert "dataset.json is damaged" in refused("prepare", "mine")
    assert "mine" not in config.load().config.datasets  # and it hurts no other command


def test_options_of_pictures_want_pictures() -> None:
    assert "--size goes with --from" in refused("prepare", "digits", "--size", "32")
    assert "--from makes one data set, not 2" in refused("prepare", "a", "b", "--from", ".")
    assert command("prepare", "a", "--from", ".", "--size", "0").code == 2
    assert "`bench prepare mine --from FOLDER` makes one" in refused("prepare", "mine")
