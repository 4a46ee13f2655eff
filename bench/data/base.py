"""What a data set is: the plug-in class, images that live on a device, and the fixed splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.core import registry
from bench.core.errors import BenchError, cause
from bench.core.identity import ID_LENGTH
from bench.core.lazy import torch
from bench.core.seeds import generator

if TYPE_CHECKING:
    from torch import Tensor


def unit(pixels: Tensor) -> Tensor:
    """uint8 pixels as new float32 numbers in [0, 1]: k / 255, correctly rounded on every device.

    By a number, a GPU does not divide: it multiplies by the rounded reciprocal, which differs for half of all k.
    """
    return pixels.to(torch.float32).div_(torch.full((), 255.0, device=pixels.device))


class MissingDataError(BenchError):
    """A data set is not in its folder."""


@dataclass(frozen=True)
class Dataset:
    """A data set that can be read from a folder. Subclasses set the class variables and write `load`.

    `mean` and `std` (one number a channel, for images in [0, 1]) belong to the first layer of every member.
    `crop_padding` and `mirror` are the augmentation of the published recipes. `built_in` says that no file is needed,
    `test_images` how large the test set is, where that is fixed.

    `eps` are the radii that attacks in the ℓ∞ ball have on it, and `like` names the data set whose budgets and settings
    of methods it has otherwise, both where bench.toml says nothing of it. Without `like` that is `mnist` for images of
    one channel and `cifar10` for others.
    """

    version: ClassVar[int] = 1
    title: ClassVar[str]
    classes: ClassVar[int]
    shape: ClassVar[tuple[int, int, int]]
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]
    crop_padding: ClassVar[int] = 0
    mirror: ClassVar[bool] = False
    built_in: ClassVar[bool] = False
    test_images: ClassVar[int | None] = None
    eps: ClassVar[tuple[float, ...]] = ()
    like: ClassVar[str] = ""

    def load(self, folder: Path, *, train: bool) -> tuple[Tensor, Tensor]:
        """Images uint8 [n, C, H, W] and labels int64 [n] of the training or the test set, on the CPU.

        Raises:
            FileNotFoundError: the data set is not in `folder` (the message lists what is missing).
            ValueError: a file is damaged (the message says which and how).
        """
        raise NotImplementedError

    def prepare(self, folder: Path, progress: Callable[[str], None]) -> list[Path]:
        """Bring the data set into `folder`, verify it, tell `progress` line by line; return its files.

        Raises:
            BenchError: it could not be fetched, or came damaged.
        """
        if not self.built_in:
            raise BenchError(f"{self.title} cannot be downloaded; put its files into {folder} by hand")
        progress(f"{self.title} is built in: nothing to prepare")
        return []


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images on one device: `images` uint8 [n, C, H, W], `labels` int64 [n]."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise BenchError(f"images must be uint8 [n, C, H, W], not {self.images.dtype} {[*self.images.shape]}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise BenchError(
                f"labels must be int64 [{len(self.images)}], not {self.labels.dtype} {[*self.labels.shape]}"
            )
        if self.images.device != self.labels.device:
            raise BenchError(
                f"images are on {self.images.device}, labels on {self.labels.device}: one device is needed"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """Where images and labels are."""
        return self.images.device

    def floats(self, index: Tensor | slice | None = None) -> Tensor:
        """The images at `index` (all without one) as float32 [b, C, H, W] in [0, 1]: exactly k / 255."""
        images = self.images if index is None else self.images[index]
        return unit(images)

    def to(self, device: torch.device | str) -> ImageSet:
        """The same images on `device`."""
        return ImageSet(self.images.to(device), self.labels.to(device))

    def copy(self) -> ImageSet:
        """The same images, for code of others that may write into them."""
        return ImageSet(self.images.clone(), self.labels.clone())

    def take(self, indices: Tensor | slice) -> ImageSet:
        """The images at `indices` (int64 [m] or a slice), in that order."""
        return ImageSet(self.images[indices], self.labels[indices])

    @cached_property
    def digest(self) -> str:
        """The first 24 hexadecimal digits of a SHA-256 over shape, image bytes and labels, whatever the device."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.cpu().contiguous().numpy().tobytes())
        digest.update(self.labels.cpu().contiguous().numpy().astype("<i8").tobytes())
        return digest.hexdigest()[:ID_LENGTH]


KEPT = 4  # splits that a process keeps on its device: all of one data set, and a second number of test images


class Splits:
    """Training, validation (`None` when none was asked for) and test images of one data set, without overlap.

    Each comes to its device when it is first asked for.
    """

    def __init__(
        self, train: Callable[[], ImageSet], validation: Callable[[], ImageSet] | None, test: Callable[[], ImageSet]
    ) -> None:
        self._train, self._validation, self._test = train, validation, test

    @cached_property
    def train(self) -> ImageSet:
        """Training images."""
        return self._train()

    @cached_property
    def validation(self) -> ImageSet | None:
        """Those held out of the training set."""
        return None if self._validation is None else self._validation()

    @cached_property
    def test(self) -> ImageSet:
        """Test images."""
        return self._test()


def load_splits(
    name: str,
    *,
    folder: Path,
    validation: int = 0,
    training_limit: int | None = None,
    test_limit: int | None = None,
    device: torch.device | str = "cpu",
    dataset: Dataset | None = None,
) -> Splits:
    """The splits of the data set called `name`, read from `folder`. All choices are fixed by the name.

    `dataset` is the plug-in of that name with settings of its own; by default one with none.

    `validation` images are held out of the training set, never of the test set. Of what is left, `training_limit` keeps
    a fixed random part, the same one whether or not images are held out (as long as both fit). `test_limit` keeps a
    fixed random part of the test set. A smaller limit keeps a part of what a larger one keeps. Every split is in the
    order of the files. The last few splits of a process stay on their device for whoever asks next (`let_go`), so
    nobody may write into them.

    Raises:
        BenchError: unknown name, missing or damaged files, a limit that is not between 1 and the size of its set.
    """
    folder = Path(folder).expanduser()
    dataset = dataset or registry.load("datasets", name)()
    train, test = _read(name, dataset, folder, True), _read(name, dataset, folder, False)
    if not 0 <= validation < len(train):
        raise BenchError(f"validation must be 0 to {len(train) - 1} images of {name}'s training set, not {validation}")
    kept = _limit("training_limit", training_limit, len(train) - validation, f"{name}'s training set")
    chosen = _limit("test_limit", test_limit, len(test), f"{name}'s test set")
    return Splits(
        partial(_part, train, name, "train", validation, kept, str(device)),
        partial(_part, train, name, "validation", validation, validation, str(device)) if validation else None,
        partial(_part, test, name, "test", 0, chosen, str(device)),
    )


@lru_cache(maxsize=KEPT)
def _part(
    images: ImageSet, name: str, part: Literal["train", "validation", "test"], validation: int, count: int, device: str
) -> ImageSet:
    """`count` images of a split of the training or test set `images`, on a device."""
    if part == "test":
        chosen = test_subset(name, len(images), count)
    else:
        order = torch.randperm(len(images), generator=generator("split", name))
        # Both ends of one permutation: images are held out from its start, a limit counts from its end.
        ends = order[:validation] if part == "validation" else order[validation:].flip(0)
        chosen = ends[:count].sort().values
    return (images if len(chosen) == len(images) else images.take(chosen)).to(device)


def let_go() -> None:
    """Keep no split on a device any longer: memory has run out there."""
    _part.cache_clear()


def verify(name: str, *, folder: Path, dataset: Dataset | None = None) -> Splits:
    """All images of a data set, if they and their labels are what it promises: number, shape, range, every class.

    Raises:
        BenchError: missing or damaged files, or other images or labels than promised.
    """
    splits = load_splits(name, folder=folder, dataset=dataset)
    promised = dataset or registry.load("datasets", name)
    if promised.test_images not in (None, len(splits.test)):
        raise BenchError(f"{name} has {len(splits.test):,} test images, {promised.test_images:,} are promised")
    for part, images in (("training", splits.train), ("test", splits.test)):
        counts = torch.bincount(images.labels, minlength=promised.classes)
        if missing := (counts == 0).nonzero().flatten().tolist():
            told = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
            raise BenchError(
                f"{name} in {folder}: no {part} image has label {told}; are these the labels of its images?"
            )
    return splits


def test_subset(name: str, size: int, limit: int | None) -> Tensor:
    """Which of the `size` test images of the data set `name` a limit keeps, int64 [limit], in order of the files.

    A smaller limit keeps a part of what a larger one keeps; None keeps all.
    """
    return (
        torch.randperm(size, generator=generator("test subset", name))[: size if limit is None else limit].sort().values
    )


def _limit(option: str, limit: int | None, size: int, where: str) -> int:
    if limit is None:
        return size
    if not 1 <= limit <= size:
        raise BenchError(f"{option} must be 1 to {size} (what {where} has to give), not {limit}")
    return limit


def _said(error: FileNotFoundError) -> str:
    """What a data set says of its missing files, in one line: its own words, or the file that it tried to open."""
    return (f"no file {error.filename}" if error.filename else str(error)).partition("\n")[0]


@lru_cache(maxsize=4)
def _read(name: str, dataset: Dataset, folder: Path, train: bool) -> ImageSet:
    fetched = type(dataset).prepare is not Dataset.prepare  # else `bench prepare` has nothing to offer
    again = f"run `bench prepare {name} --data {folder}`" if fetched else "put its files there"
    mended = f"{again} to fetch it again" if fetched else "mend its files"
    try:
        images, labels = dataset.load(folder, train=train)
        found = ImageSet(images, labels)
    except FileNotFoundError as error:
        told = f" ({said})" if (said := _said(error)) else ""
        raise MissingDataError(
            f"{name} is not in {folder}{told}; {again}, or point --data (or BENCH_DATA) at a folder that has it"
        ) from error
    except (OSError, ValueError) as error:
        raise BenchError(f"{name} in {folder} is damaged ({error}); {mended}") from error
    except BenchError:
        raise
    except Exception as error:  # a stranger's data set may raise anything
        raise BenchError(f"{name} in {folder} cannot be read ({cause(error)})") from error
    if found.images.shape[1:] != dataset.shape:
        raise BenchError(f"{name} promises images of {dataset.shape} and has {tuple(found.images.shape[1:])}")
    if len(found) == 0 or not 0 <= int(labels.min()) <= int(labels.max()) < dataset.classes:
        raise BenchError(f"{name} has no images, or labels outside 0 to {dataset.classes - 1}")
    return found
