"""Pictures of one's own as a data set: as `bench prepare NAME --from …` lays them out, and as every command reads them.

`DATA/prepared/NAME` holds `train.npz` and `test.npz` (`images` uint8 [n, C, H, W], `labels` int64 [n]) and a
`dataset.json` (`bench.core.prepared.Description`) with the digests of both. A run names its data set by these digests.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bench.core import prepared
from bench.core.errors import BenchError, cause
from bench.core.files import draft, write_json
from bench.core.lazy import torch
from bench.core.prepared import Description
from bench.data.base import Dataset, ImageSet, MissingDataError
from bench.data.pictures import Pictures

if TYPE_CHECKING:
    from torch import Tensor

DIGITS = 4  # of mean and deviation after the point
LEAST_STD = 0.01  # of images that are nearly of one colour


@dataclass(frozen=True, kw_only=True)
class Prepared(Dataset):
    """Pictures of one's own, laid out by `bench prepare NAME --from FOLDER`."""

    title = "pictures of one's own"

    train: str
    test: str
    classes: int  # type: ignore[misc]
    shape: tuple[int, int, int]  # type: ignore[misc]
    mean: tuple[float, ...]  # type: ignore[misc]
    std: tuple[float, ...]  # type: ignore[misc]
    test_images: int  # type: ignore[misc]

    def __post_init__(self) -> None:
        if len(self.mean) != self.shape[0] or len(self.std) != self.shape[0]:
            raise BenchError(f"mean and std have a number for each of {self.shape[0]} channels")
        if min(self.shape) < 1 or self.classes < 2 or self.test_images < 1 or min(self.std) <= 0:
            raise BenchError("a data set has two classes or more, images, and deviations above 0")

    def load(self, folder: Path, *, train: bool) -> tuple[Tensor, Tensor]:
        """Images uint8 [n, C, H, W] and labels int64 [n], whichever name they have in `folder`.

        Raises:
            MissingDataError: no data set in `folder` has these digests.
            BenchError: a file is damaged.
        """
        part = "train" if train else "test"
        for path in prepared.all_there(folder):
            try:
                found = prepared.read(path)
            except BenchError:
                continue  # told by whoever asks for it by name
            if (found.train, found.test) == (self.train, self.test):
                return _read(path.with_name(f"{part}.npz"), getattr(self, part))
        shape = "×".join(map(str, self.shape))
        raise MissingDataError(
            f"no data set in {folder / prepared.PLUGIN} has these images ({self.classes} classes, {shape}, digests "
            f"{self.train} and {self.test}); `bench prepare NAME --from PICTURES` of the same pictures makes it, or "
            "point --data (or BENCH_DATA) at a folder that has it"
        )

    def prepare(self, folder: Path, progress: Callable[[str], None]) -> list[Path]:
        """Nothing is fetched: the pictures are read, and their digests compared.

        Raises:
            BenchError: they are missing or damaged.
        """
        for train in (True, False):
            self.load(folder, train=train)
        progress("the images are those that were prepared: verified")
        return []


def _read(path: Path, digest: str) -> tuple[Tensor, Tensor]:
    import numpy as np

    again = f"delete the folder {path.parent} and prepare {path.parent.name} again"
    try:
        with np.load(path, allow_pickle=False) as file:
            found = ImageSet(torch.from_numpy(file["images"]), torch.from_numpy(file["labels"]))
    except Exception as error:  # zipfile, zlib and numpy raise what they like at a damaged file
        raise BenchError(f"{path} is missing or damaged ({cause(error)}); {again}") from error
    if found.digest != digest:
        raise BenchError(f"{path} holds other images than were prepared (digest {found.digest}, not {digest}); {again}")
    return found.images, found.labels


@dataclass(frozen=True)
class LaidOut:
    """Pictures for training and test, ready to be laid out as a data set."""

    train: Pictures
    test: Pictures
    held_out: bool
    eps: tuple[float, ...]

    @cached_property
    def description(self) -> Description:
        """What `dataset.json` says of them."""
        pixels = self.train.images.numpy()
        means = [float(pixels[:, channel].mean(dtype="float64")) / 255 for channel in range(pixels.shape[1])]
        deviations = [float(pixels[:, channel].std(dtype="float64")) / 255 for channel in range(pixels.shape[1])]
        return Description(
            format=prepared.FORMAT, classes=self.train.classes, shape=self.train.shape,
            mean=tuple(round(value, DIGITS) for value in means),
            std=tuple(max(round(value, DIGITS), LEAST_STD) for value in deviations),
            train=_set(self.train).digest, test=_set(self.test).digest, train_images=len(self.train.images),
            test_images=len(self.test.images), held_out=self.held_out, eps=self.eps,
        )  # fmt: skip

    def write(self, data: Path, name: str) -> bool:
        """Lay the data set out in the folder `data`: whole, or not at all. False where it was there already.

        The same pictures again may change `eps`.

        Raises:
            BenchError: other pictures have this name, or the folder cannot be written.
        """
        folder = prepared.folder_of(data, name)
        new = self.description
        if (path := folder / prepared.DESCRIPTION).exists():
            there = prepared.read(path)
            if there.settings() != new.settings():
                raise BenchError(
                    f"{name} is there and holds other pictures ({there.train_images:,} + {there.test_images:,}, "
                    f"{len(there.classes)} classes); take another name, or delete the folder {folder} first"
                )
            if there != new:
                write_json(path, new.model_dump(mode="json"))
            return False
        temporary = draft(folder)
        try:
            temporary.mkdir(parents=True)
            _write(temporary / "train.npz", self.train)
            _write(temporary / "test.npz", self.test)
            write_json(temporary / prepared.DESCRIPTION, new.model_dump(mode="json"))
            if folder.exists():  # what is no data set, as nothing describes it
                raise BenchError(f"{folder} is there and is no data set; move it away, or take another name")
            temporary.replace(folder)
        except OSError as error:
            raise BenchError(f"cannot write {folder}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return True


def _set(pictures: Pictures) -> ImageSet:
    return ImageSet(pictures.images, pictures.labels)


def _write(path: Path, pictures: Pictures) -> None:
    import numpy as np

    with path.open("wb") as file:
        np.savez(file, images=pictures.images.numpy(), labels=pictures.labels.numpy())
        file.flush()
        os.fsync(file.fileno())
