"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 in torchvision's layout, fetched and checked by torchvision's means."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import socket
import sys
import tarfile
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.compat import import_torchvision
from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.data.base import Dataset

if TYPE_CHECKING:
    from torch import Tensor

SILENCE_S = 60.0  # a server that says nothing for so long counts as unreachable


@dataclass(frozen=True)
class _Torchvision(Dataset):
    """What the four share: `source` is the class of `torchvision.datasets` that knows addresses and checksums."""

    test_images = 10_000

    source: ClassVar[str]

    def _class(self) -> Any:
        import_torchvision()
        import torchvision.datasets

        return getattr(torchvision.datasets, self.source)

    def faults(self, folder: Path) -> dict[Path, str]:
        """What is wrong in `folder`: file → "missing" or how it is damaged. Empty when all is right."""
        raise NotImplementedError

    def files(self, folder: Path) -> list[Path]:
        """The files that the data set consists of."""
        raise NotImplementedError

    def prepare(self, folder: Path, progress: Callable[[str], None]) -> list[Path]:
        """Download what is missing or damaged, verify everything; nothing is downloaded when all is right.

        Raises:
            BenchError: no connection, a download that came damaged, a folder that cannot be written.
        """
        if not self.faults(folder):
            progress(f"{self.title} is in {folder} and verified: nothing to download")
            return self.files(folder)
        self._download(folder, progress)
        left = self.faults(folder)
        if left:
            raise BenchError(f"{self.title} is still wrong after the download: {_listed(left, folder)}")
        progress(f"{self.title} is in {folder} and verified")
        return self.files(folder)

    def _download(self, folder: Path, progress: Callable[[str], None]) -> None:
        raise NotImplementedError

    def _require(self, folder: Path, faults: dict[Path, str]) -> None:
        if not faults:
            return
        if "missing" in faults.values() and not any(path.exists() for path in self.files(folder)):
            raise FileNotFoundError(f"{self.title}: {_listed(faults, folder)}")
        raise ValueError(_listed(faults, folder))

    def _fetch(self, urls: list[str], into: Path, md5: str, progress: Callable[[str], None]) -> None:
        """Download and unpack one archive into the folder `into`, from the first address that has it whole."""
        from torchvision.datasets.utils import download_and_extract_archive

        name = urls[0].rpartition("/")[2]
        by_hand = f"fetch {urls[0]} on a machine that can, put it into {into}, and run the same command again"
        errors: list[Exception] = []
        for url in urls:
            progress(f"{self.title}: {url}")
            try:
                with _bar_on_terminals(), _patience(SILENCE_S):
                    download_and_extract_archive(url, str(into), filename=name, md5=md5)
                return
            except (OSError, http.client.HTTPException, RuntimeError, EOFError, tarfile.TarError) as error:
                errors.append(error)
        last = errors[-1]
        if any(isinstance(error, (RuntimeError, EOFError, tarfile.TarError)) for error in errors):
            (into / name).unlink(missing_ok=True)
            raise BenchError(
                f"{name} came damaged (its checksum differs); run the same command again, or {by_hand}"
            ) from last
        cause = getattr(last, "reason", None) or last
        network = (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException)
        if isinstance(last, network):
            raise BenchError(f"cannot download {name} ({cause}); {by_hand}") from last
        raise BenchError(f"cannot write {name} into {into}: {cause}") from last


class _Idx(_Torchvision):
    """The MNIST family: four idx files, `NAME/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte`."""

    counts: ClassVar[dict[str, int]] = {"train": 60_000, "t10k": 10_000}
    raw_md5: ClassVar[dict[str, str]]  # torchvision has checksums for the packed files only

    def files(self, folder: Path) -> list[Path]:
        raw = folder / self.source / "raw"
        return [raw / f"{part}-{kind}-ubyte" for part in self.counts for kind in ("images-idx3", "labels-idx1")]

    def faults(self, folder: Path) -> dict[Path, str]:
        return {path: fault for path in self.files(folder) if (fault := self._fault(path))}

    def load(self, folder: Path, *, train: bool) -> tuple[Tensor, Tensor]:
        part = "train" if train else "t10k"
        images, labels = (path for path in self.files(folder) if path.name.startswith(part))
        self._require(folder, {path: fault for path in (images, labels) if (fault := self._fault(path))})
        pixels = bytearray(images.read_bytes()[16:])
        return (
            torch.frombuffer(pixels, dtype=torch.uint8).reshape(-1, *self.shape),
            torch.frombuffer(bytearray(labels.read_bytes()[8:]), dtype=torch.uint8).to(torch.int64),
        )

    def _fault(self, path: Path) -> str:
        if not path.is_file():
            return "missing"
        count = self.counts[path.name.partition("-")[0]]
        dimensions = (count, *self.shape[1:]) if "idx3" in path.name else (count,)
        # idx: two zero bytes, type 8 (unsigned byte), the number of dimensions, each in 32 bits, then the bytes.
        head = bytes((0, 0, 8, len(dimensions))) + b"".join(size.to_bytes(4, "big") for size in dimensions)
        size = len(head) + torch.Size(dimensions).numel()
        if path.stat().st_size != size:
            return f"{path.stat().st_size} bytes instead of {size}"
        with path.open("rb") as file:
            if file.read(len(head)) != head:
                return "not the header of such a file"
        return _wrong_md5(path, self.raw_md5[path.name])

    def _download(self, folder: Path, progress: Callable[[str], None]) -> None:
        source = self._class()
        raw = folder / self.source / "raw"
        wrong = {path.name for path in self.faults(folder)}
        for name, md5 in source.resources:
            if name.removesuffix(".gz") in wrong:
                self._fetch([f"{mirror}{name}" for mirror in source.mirrors], raw, md5, progress)


@dataclass(frozen=True)
class MNIST(_Idx):
    """Handwritten digits, 60,000 for training and 10,000 for testing, 28×28, grey (LeCun et al. 1998).

    Normalisation .5, .5 as in the public code of TRS; no augmentation: digits are not mirrored.
    """

    title = "MNIST"
    classes = 10
    shape = (1, 28, 28)
    mean = (0.5,)
    std = (0.5,)
    source = "MNIST"
    raw_md5 = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }


@dataclass(frozen=True)
class FashionMNIST(_Idx):
    """Zalando's articles of clothing in MNIST's format (Xiao et al. 2017); settings as for MNIST."""

    title = "Fashion-MNIST"
    classes = 10
    shape = (1, 28, 28)
    mean = (0.5,)
    std = (0.5,)
    source = "FashionMNIST"
    raw_md5 = {  # of the files as unpacked from those whose public sums (8d4fb7e6… for the first) torchvision checks
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }


class _Cifar(_Torchvision):
    """The CIFAR family: Python pickles, which are opened only after their MD5 sums proved right."""

    def files(self, folder: Path) -> list[Path]:
        return list(self._sums(folder))

    def faults(self, folder: Path) -> dict[Path, str]:
        checked = (
            (path, _wrong_md5(path, md5) if path.is_file() else "missing") for path, md5 in self._sums(folder).items()
        )
        return {path: fault for path, fault in checked if fault}

    def load(self, folder: Path, *, train: bool) -> tuple[Tensor, Tensor]:
        source = self._class()
        try:
            data = source(folder, train=train)  # checks every MD5 sum before it opens a pickle
        except RuntimeError as error:
            self._require(folder, self.faults(folder))
            raise ValueError(str(error)) from error
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return images, torch.tensor(data.targets, dtype=torch.int64)

    def _sums(self, folder: Path) -> dict[Path, str]:
        source = self._class()
        base = folder / source.base_folder
        listed = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        return {base / name: md5 for name, md5 in listed}

    def _download(self, folder: Path, progress: Callable[[str], None]) -> None:
        source = self._class()
        self._fetch([source.url], folder, source.tgz_md5, progress)


@dataclass(frozen=True)
class CIFAR10(_Cifar):
    """Colour photographs of 10 classes, 50,000 for training and 10,000 for testing, 32×32 (Krizhevsky 2009).

    Normalisation as in the public code of TRS; augmentation: crop 32 with padding 4, mirror.
    """

    title = "CIFAR-10"
    classes = 10
    shape = (3, 32, 32)
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2023, 0.1994, 0.2010)
    crop_padding = 4
    mirror = True
    source = "CIFAR10"


@dataclass(frozen=True)
class CIFAR100(_Cifar):
    """Colour photographs of 100 classes, 50,000 for training and 10,000 for testing, 32×32 (Krizhevsky 2009).

    Normalisation with CIFAR-100's own usual constants (the mean and deviation of its training pixels), since neither
    paper states any; augmentation as for CIFAR-10.
    """

    title = "CIFAR-100"
    classes = 100
    shape = (3, 32, 32)
    mean = (0.5071, 0.4867, 0.4408)
    std = (0.2675, 0.2565, 0.2761)
    crop_padding = 4
    mirror = True
    source = "CIFAR100"


def _wrong_md5(path: Path, md5: str) -> str:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return "" if found == md5 else "checksum differs"


def _listed(faults: dict[Path, str], folder: Path) -> str:
    shown = [f"{path.relative_to(folder)}: {fault}" for path, fault in list(faults.items())[:2]]
    return ", ".join(shown) + (f", and {len(faults) - 2} more" if len(faults) > 2 else "")


@contextlib.contextmanager
def _bar_on_terminals() -> Iterator[None]:
    """torchvision's progress bar always goes to stderr; in a log file it would be thousands of lines."""
    if sys.stderr.isatty():
        yield
    else:
        with contextlib.redirect_stderr(io.StringIO()):
            yield


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
