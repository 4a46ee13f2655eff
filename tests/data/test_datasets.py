"""Data sets on real files, on small files made here, and on damaged ones."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import pickle
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.core.compat import import_torchvision
from bench.core.errors import BenchError
from bench.data import base
from bench.data.base import ImageSet, load_splits
from bench.data.digits import Digits
from bench.data.vision import CIFAR10, MNIST, FashionMNIST

DATA = Path(os.environ.get("BENCH_DATA", "data"))


@pytest.fixture(autouse=True)
def _fresh_cache():
    base._read.cache_clear()
    yield
    base._read.cache_clear()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class TinySource:
    """Addresses, files and checksums of a data set of a few images, as `torchvision.datasets` would know them."""

    def __init__(self, root: Path) -> None:
        self.server, self.data = root / "server", root / "data"
        self.server.mkdir()
        self.random = np.random.default_rng(0)
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(self.server)))
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/"

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
    tiny = TinySource(tmp_path)
    tiny.arrays, resources = {}, []
    for part, count in (("train", 12), ("t10k", 6)):
        images = tiny.random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        tiny.arrays[part] = images, labels
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            path = tiny.server / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(head + array.tobytes()))
            resources.append((path.name, md5(path)))
    source = import_torchvision().datasets.MNIST
    monkeypatch.setattr(source, "mirrors", [f"{tiny.url}gone/", tiny.url])
    monkeypatch.setattr(source, "resources", resources)
    monkeypatch.setattr(MNIST, "counts", {"train": 12, "t10k": 6})
    sums = {}
    for packed in tiny.server.iterdir():
        raw = gzip.decompress(packed.read_bytes())
        sums[packed.name.removesuffix(".gz")] = hashlib.md5(raw).hexdigest()
    monkeypatch.setattr(MNIST, "raw_md5", sums)
    yield tiny
    tiny.stop()


@pytest.fixture
def tiny_cifar(tmp_path, monkeypatch):
    tiny = TinySource(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    tiny.pixels = tiny.random.integers(0, 256, (3, 5, 3072), dtype=np.uint8)
    tiny.labels = tiny.random.integers(0, 10, (3, 5)).tolist()
    for i, name in enumerate(("data_batch_1", "data_batch_2", "test_batch")):
        (folder / name).write_bytes(pickle.dumps({"data": tiny.pixels[i], "labels": tiny.labels[i]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    archive = tiny.server / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    source = import_torchvision().datasets.CIFAR10
    monkeypatch.setattr(source, "url", tiny.url + archive.name)
    monkeypatch.setattr(source, "tgz_md5", md5(archive))
    monkeypatch.setattr(source, "train_list", [[n, md5(folder / n)] for n in ("data_batch_1", "data_batch_2")])
    monkeypatch.setattr(source, "test_list", [["test_batch", md5(folder / "test_batch")]])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": md5(folder / "batches.meta")})
    yield tiny
    tiny.stop()


def prepared(plugin, folder: Path) -> list[str]:
    lines: list[str] = []
    plugin.prepare(folder, lines.append)
    return lines


def test_digits_are_scikit_learns_images_each_in_exactly_one_split():
    from sklearn.datasets import load_digits

    splits = load_splits("digits", folder=Path("/nowhere"))
    assert (len(splits.train), len(splits.test)) == (1297, 500)
    greys = torch.cat([splits.train.images, splits.test.images]).flatten(1).double().mul(16 / 255).round().int()
    labels = torch.cat([splits.train.labels, splits.test.labels])
    ours = [[*row, label] for row, label in zip(greys.tolist(), labels.tolist(), strict=True)]
    bunch = load_digits()
    theirs = [[*row, label] for row, label in zip(bunch.data.astype(int).tolist(), bunch.target.tolist(), strict=True)]
    assert sorted(ours) == sorted(theirs)


def test_validation_comes_from_the_training_set_and_is_fixed():
    whole = load_splits("digits", folder=Path("x"))
    held = load_splits("digits", folder=Path("x"), validation=200)
    assert (len(held.train), len(held.validation), len(held.test)) == (1097, 200, 500)
    assert held.test.digest == whole.test.digest
    assert whole.validation is None

    def counted(*sets: ImageSet) -> torch.Tensor:
        return torch.cat([part.images.flatten(1) for part in sets]).unique(dim=0, return_counts=True)

    for one, other in zip(counted(held.train, held.validation), counted(whole.train), strict=True):
        assert torch.equal(one, other)
    assert held.validation.digest == load_splits("digits", folder=Path("x"), validation=200).validation.digest
    assert whole.train.digest != held.train.digest


def positions(part: ImageSet, whole: ImageSet) -> list[int]:
    where = {bytes(image.numpy().tobytes()): i for i, image in enumerate(whole.images)}
    return [where[image.numpy().tobytes()] for image in part.images]


def test_limits_are_nested_random_and_in_file_order():
    whole = load_splits("digits", folder=Path("x"))
    small, large = (load_splits("digits", folder=Path("x"), training_limit=n, test_limit=n) for n in (100, 200))
    for one, other, all_ in ((small.train, large.train, whole.train), (small.test, large.test, whole.test)):
        few, many = positions(one, all_), positions(other, all_)
        assert (len(few), len(many)) == (100, 200)
        assert set(few) < set(many)
        assert few == sorted(few)
        assert max(few) > 300  # not simply the first ones


def test_a_training_limit_keeps_the_same_images_when_others_are_held_out():
    limited = load_splits("digits", folder=Path("x"), training_limit=300)
    tuning = load_splits("digits", folder=Path("x"), training_limit=300, validation=200)
    assert limited.train.digest == tuning.train.digest
    assert not set(positions(tuning.validation, load_splits("digits", folder=Path("x")).train)) & set(
        positions(tuning.train, load_splits("digits", folder=Path("x")).train)
    )


@pytest.mark.parametrize(
    "limits",
    [{"training_limit": 0}, {"training_limit": 1298}, {"training_limit": 1098, "validation": 200}, {"test_limit": -1},
     {"test_limit": 501}, {"validation": -1}, {"validation": 1297}],
)  # fmt: skip
def test_impossible_limits_are_one_clear_line(limits):
    with pytest.raises(BenchError, match=rf"{next(iter(limits))} must be \d+ to \d+ .*digits") as caught:
        load_splits("digits", folder=Path("x"), **limits)
    assert "\n" not in str(caught.value)


def test_missing_data_says_what_to_type(tmp_path):
    for name in ("mnist", "fashion_mnist", "cifar10", "cifar100"):
        with pytest.raises(BenchError) as caught:
            load_splits(name, folder=tmp_path)
        first, _, rest = str(caught.value).partition(" (")
        assert first == f"{name} is not in {tmp_path}"
        assert ": missing" in rest  # as the data set itself says it
        assert rest.endswith(
            f"); run `bench prepare {name} --data {tmp_path}`, or point --data (or BENCH_DATA) at a folder that has it"
        )


def test_unknown_data_sets_get_the_nearest_name():
    with pytest.raises(BenchError, match="did you mean cifar10"):
        load_splits("cifar1o", folder=Path("x"))


def test_mnist_is_downloaded_from_the_next_mirror_and_read_as_it_was_written(tiny_mnist):
    lines = prepared(MNIST(), tiny_mnist.data)
    assert "verified" in lines[-1]
    splits = load_splits("mnist", folder=tiny_mnist.data)
    for part, images in (("train", splits.train), ("t10k", splits.test)):
        pixels, labels = tiny_mnist.arrays[part]
        assert np.array_equal(images.images[:, 0].numpy(), pixels)
        assert images.labels.tolist() == labels.tolist()


def test_what_is_there_is_not_downloaded_again(tiny_mnist, monkeypatch):
    prepared(MNIST(), tiny_mnist.data)
    monkeypatch.setattr(import_torchvision().datasets.MNIST, "mirrors", [])
    assert prepared(MNIST(), tiny_mnist.data) == [f"MNIST is in {tiny_mnist.data} and verified: nothing to download"]


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: b"\1" + data[1:], lambda data: b""])
def test_a_damaged_mnist_file_is_named_and_mended(tiny_mnist, damage):
    prepared(MNIST(), tiny_mnist.data)
    path = tiny_mnist.data / "MNIST/raw/train-images-idx3-ubyte"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.raises(BenchError, match=r"mnist in .* is damaged \(MNIST/raw/train-images.*run `bench prepare mnist"):
        load_splits("mnist", folder=tiny_mnist.data)
    prepared(MNIST(), tiny_mnist.data)
    assert path.read_bytes() == whole


def test_changed_pixels_are_found_by_the_checksum(tiny_mnist):
    prepared(MNIST(), tiny_mnist.data)
    path = tiny_mnist.data / "MNIST/raw/train-images-idx3-ubyte"
    assert len(load_splits("mnist", folder=tiny_mnist.data).train) == 12
    base._read.cache_clear()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BenchError, match="checksum differs"):
        load_splits("mnist", folder=tiny_mnist.data)


def test_a_download_that_comes_damaged_is_refused_and_leaves_no_wrong_file(tiny_mnist):
    archive = tiny_mnist.server / "train-images-idx3-ubyte.gz"
    archive.write_bytes(archive.read_bytes()[:-20])
    with pytest.raises(BenchError, match=r"train-images-idx3-ubyte.gz came damaged .*same command again, or fetch"):
        prepared(MNIST(), tiny_mnist.data)
    assert not list((tiny_mnist.data / "MNIST/raw").iterdir())


def test_without_a_connection_the_error_says_what_to_do_by_hand(tiny_mnist, monkeypatch):
    away = "http://127.0.0.1:9/"  # the discard port: nobody listens
    monkeypatch.setattr(import_torchvision().datasets.MNIST, "mirrors", [away])
    with pytest.raises(BenchError) as caught:
        prepared(MNIST(), tiny_mnist.data)
    text = str(caught.value)
    assert text.startswith("cannot download train-images-idx3-ubyte.gz (")
    assert f"fetch {away}train-images-idx3-ubyte.gz" in text
    assert f"put it into {tiny_mnist.data / 'MNIST/raw'}" in text
    assert "\n" not in text
    for archive in tiny_mnist.server.iterdir():  # and doing so helps
        (tiny_mnist.data / "MNIST/raw" / archive.name).write_bytes(archive.read_bytes())
    assert "verified" in prepared(MNIST(), tiny_mnist.data)[-1]


def test_cifar_is_unpacked_verified_and_read_as_channels_first(tiny_cifar):
    prepared(CIFAR10(), tiny_cifar.data)
    splits = load_splits("cifar10", folder=tiny_cifar.data)
    assert np.array_equal(splits.train.images.flatten(1).numpy(), tiny_cifar.pixels[:2].reshape(10, 3072))
    assert splits.train.labels.tolist() == tiny_cifar.labels[0] + tiny_cifar.labels[1]
    assert np.array_equal(splits.test.images.flatten(1).numpy(), tiny_cifar.pixels[2])


def test_a_changed_cifar_pickle_is_never_opened(tiny_cifar):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tiny_cifar.data / "sprung",))

    prepared(CIFAR10(), tiny_cifar.data)
    (tiny_cifar.data / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BenchError, match=r"damaged \(cifar-10-batches-py/test_batch: checksum differs"):
        load_splits("cifar10", folder=tiny_cifar.data)
    assert not (tiny_cifar.data / "sprung").exists()


@pytest.mark.parametrize("plugin", [MNIST, FashionMNIST])
def test_every_file_of_the_mnist_family_has_a_checksum_of_its_own(plugin):
    assert sorted(plugin.raw_md5) == sorted(path.name for path in plugin().files(Path()))
    assert len({*MNIST.raw_md5.values(), *FashionMNIST.raw_md5.values()}) == 8


def test_fashion_mnist_of_the_right_size_and_other_pixels_is_not_verified(tmp_path):
    folder = tmp_path / "FashionMNIST/raw"
    folder.mkdir(parents=True)
    for path in FashionMNIST().files(tmp_path):
        shape = (60_000 if path.name.startswith("train") else 10_000, *((28, 28) if "idx3" in path.name else ()))
        path.write_bytes(bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + bytes(math.prod(shape)))
    assert set(FashionMNIST().faults(tmp_path).values()) == {"checksum differs"}
    with pytest.raises(BenchError, match="checksum differs"):
        load_splits("fashion_mnist", folder=tmp_path)


@pytest.mark.parametrize(("change", "fault"), [
    (lambda labels: labels.clamp(max=8), "no training image has label 9"),
    (lambda labels: torch.zeros_like(labels), "no training image has label 1, 2, 3, 4, 5 …"),
    (lambda labels: labels + 1, "labels outside 0 to 9"),
])  # fmt: skip
def test_labels_that_are_not_those_of_a_data_set_are_refused(monkeypatch, tmp_path, change, fault):
    whole = Digits.load
    assert len(base.verify("digits", folder=tmp_path).test) == 500
    base._read.cache_clear()

    def changed(self, folder, *, train):
        images, labels = whole(self, folder, train=train)
        return images, change(labels)

    monkeypatch.setattr(Digits, "load", changed)
    with pytest.raises(BenchError, match=fault):
        base.verify("digits", folder=tmp_path)


def test_a_test_set_that_was_cut_short_or_lacks_a_class_is_refused(monkeypatch, tmp_path):
    whole = Digits.load
    chosen = {"keep": lambda labels: slice(0, 499)}

    def cut(self, folder, *, train):
        images, labels = whole(self, folder, train=train)
        return (images, labels) if train else (images[chosen["keep"](labels)], labels[chosen["keep"](labels)])

    monkeypatch.setattr(Digits, "load", cut)
    with pytest.raises(BenchError, match="499 test images, 500 are promised"):
        base.verify("digits", folder=tmp_path)
    base._read.cache_clear()
    monkeypatch.setattr(Digits, "test_images", None)
    chosen["keep"] = lambda labels: labels != 4
    with pytest.raises(BenchError, match="no test image has label 4; are these"):
        base.verify("digits", folder=tmp_path)


def test_fashion_mnist_lies_in_a_folder_of_its_own(tmp_path):
    assert FashionMNIST().files(tmp_path)[0] == tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte"


def test_digest_depends_on_pixels_labels_and_shape_only():
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.int64).to(torch.uint8).view(2, 3, 4, 4)
    one = ImageSet(images, torch.tensor([1, 2]))
    assert one.digest == ImageSet(images.clone(memory_format=torch.channels_last), torch.tensor([1, 2])).digest
    assert len(one.digest) == 24
    others = [
        ImageSet(images.flip(0), torch.tensor([1, 2])),
        ImageSet(images, torch.tensor([2, 1])),
        ImageSet(images.view(2, 3, 2, 8), torch.tensor([1, 2])),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 4


def test_floats_are_exact_and_take_any_index():
    images = torch.arange(256, dtype=torch.int64).to(torch.uint8).view(4, 1, 8, 8)
    part = ImageSet(images, torch.arange(4))
    expected = (torch.arange(256, dtype=torch.float64) / 255).float().view(4, 1, 8, 8)
    assert torch.equal(part.floats(), expected)
    assert torch.equal(part.floats(slice(1, 3)), expected[1:3])
    assert torch.equal(part.floats(torch.tensor([3, 0])), expected[[3, 0]])
    assert torch.equal(part.take(torch.tensor([3, 0])).floats(), expected[[3, 0]])
    assert part.images.dtype == torch.uint8  # reading changed nothing


def test_wrong_types_are_refused():
    with pytest.raises(BenchError, match="uint8"):
        ImageSet(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(BenchError, match="int64"):
        ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("name", "source", "first"), [("mnist", "MNIST", "MNIST/raw"), ("cifar10", "CIFAR10", "cifar-10-batches-py")]
)
def test_real_images_are_torchvisions(name, source, first):
    if not (DATA / first).is_dir():
        pytest.skip(f"set BENCH_DATA to a folder that has {name}")
    splits = load_splits(name, folder=DATA)
    for train, ours in ((True, splits.train), (False, splits.test)):
        theirs = getattr(import_torchvision().datasets, source)(DATA, train=train)
        for i in (0, 1, len(theirs) // 2, len(theirs) - 1):
            image, label = theirs[i]
            pixels = (
                torch.from_numpy(np.array(image)).view(28, 28, -1)
                if name == "mnist"
                else torch.from_numpy(np.array(image))
            )
            assert torch.equal(ours.images[i].permute(1, 2, 0), pixels)
            assert int(ours.labels[i]) == label
        assert len(ours) == len(theirs)
