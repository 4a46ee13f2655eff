"""Somebody's own pictures: a folder with one sub-folder a class, or an `.npz`, read into tensors."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.core.errors import BenchError, cause
from bench.core.lazy import torch
from bench.core.prepared import LONGEST
from bench.core.seeds import generator

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from torch import Tensor

# Those of torchvision's ImageFolder.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
GREY = ("1", "L", "LA")  # Pillow's modes of pictures without colour
HELD_OUT = 5  # one of so many pictures of each class is a test image where no test set is given
TOGETHER = {  # arrays of one file for training and test: ours, and Keras'
    "images": ("images", "labels"),
    "x_train": ("x_train", "y_train"),
}
Tell = Callable[[str], object]


class Size(NamedTuple):
    """Of pictures in pixels."""

    height: int
    width: int


@dataclass(frozen=True)
class Pictures:
    """Pictures with labels: `images` uint8 [n, C, H, W], `labels` int64 [n] into `classes`, their names."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def take(self, indices: Tensor) -> Pictures:
        """The pictures at `indices`, int64 [m]."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])


def read(train: Path, test: Path | None, size: Size | None, tell: Tell) -> tuple[Pictures, Pictures, bool]:
    """Pictures for training and test, and whether the test set was held out of those for training.

    Args:
        train: a folder with a sub-folder a class, or an `.npz` (`images` and `labels`, or Keras' `x_train` …).
        test: the same with pictures of the same classes; None where the `.npz` has them (`x_test`, `y_test`) or some
            are to be held out: a fixed choice of every fifth picture of each class, the same whenever it is made.
        size: what pictures are resized to; None leaves them as they are, and then they must all be of one size.
        tell: takes lines that say what was decided.

    Raises:
        BenchError: files that are missing, unreadable, of different sizes or without classes, each by its name.
    """
    colour = any(_coloured(path) for path in (train, *([test] if test else [])))
    first = _read(train, size, colour, None, tell)
    if test is None and train.is_file() and "x_test" in _names(train):
        return _alike(first, _read(train, size, colour, first.classes, tell, ("x_test", "y_test")), False)
    if test is not None:
        return _alike(first, _read(test, size, colour, first.classes, tell), False)
    chosen = _held_out(first)
    kept = torch.ones(len(first.labels), dtype=torch.bool)
    kept[chosen] = False
    tell(
        f"no --test: {len(chosen):,} of {len(first.labels):,} pictures are held out as test images, one in {HELD_OUT} "
        "of each class, the same ones whenever this is done"
    )
    return first.take(kept.nonzero().flatten()), first.take(chosen), True


def _alike(train: Pictures, test: Pictures, held_out: bool) -> tuple[Pictures, Pictures, bool]:
    if train.shape != test.shape:
        raise BenchError(
            f"training pictures are {_shape(train.shape)}, test pictures {_shape(test.shape)}; --size N makes all N×N"
        )
    return train, test, held_out


def _held_out(pictures: Pictures) -> Tensor:
    """Which pictures become test images, int64, ascending."""
    chosen = []
    for index, name in enumerate(pictures.classes):
        own = (pictures.labels == index).nonzero().flatten()
        if len(own) < 2:
            raise BenchError(f"class {name!r} has one picture; it needs two, one of them for testing (or give --test)")
        order = torch.randperm(len(own), generator=generator("prepare", "held out", index))
        chosen.append(own[order[: max(1, round(len(own) / HELD_OUT))]])
    return torch.cat(chosen).sort().values


def _read(
    path: Path, size: Size | None, colour: bool, classes: Sequence[str] | None, tell: Tell,
    arrays: tuple[str, str] | None = None,
) -> Pictures:  # fmt: skip
    if path.is_dir():
        return _folder(path, size, colour, classes, tell)
    return _arrays(path, size, classes, tell, arrays)


# ---------------------------------------------------------------- folders


def _files(folder: Path) -> dict[str, list[Path]]:
    """Class → its pictures, both in the order of their names.

    Raises:
        BenchError: there are none, or a class has none.
    """
    classes = sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    if len(classes) < 2:
        told = "no sub-folder" if not classes else f"one sub-folder ({classes[0]})"
        raise BenchError(f"{folder} has {told}; it needs one for each class, two or more, with its pictures in it")
    found = {}
    for name in classes:
        inside = sorted(
            path for path in (folder / name).rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()
        )
        if not inside:
            raise BenchError(f"{folder / name} has no picture ({', '.join(ENDINGS)})")
        found[name] = inside
    return found


def _coloured(path: Path) -> bool:
    """Whether some picture of a folder has colours; of arrays their shape says so."""
    if not path.exists():
        raise BenchError(f"{path}: there is no such file or folder")
    return path.is_dir() and any(_mode(file) not in GREY for files in _files(path).values() for file in files)


def _mode(path: Path) -> str:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.mode
    except Exception as error:  # Pillow raises what it likes at a damaged file
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> BenchError:
    from PIL import UnidentifiedImageError

    why = "it is no picture, or damaged" if isinstance(error, UnidentifiedImageError) else cause(error)
    return BenchError(f"{path} cannot be read: {why}; mend it or move it away")


def _folder(folder: Path, size: Size | None, colour: bool, classes: Sequence[str] | None, tell: Tell) -> Pictures:
    files = _files(folder)
    _check_names(folder, [*files])
    if classes is not None and tuple(files) != tuple(classes):
        raise _other_classes(folder, files, classes)
    listed = [(path, label) for label, name in enumerate(files) for path in files[name]]
    others = sum(1 for path in folder.rglob("*") if path.is_file() and path.suffix.lower() not in ENDINGS)
    if others:
        tell(f"{folder}: {others:,} other files, which are no pictures, are left out")
    first = _pixels(listed[0][0], size, colour)
    images = _empty(len(listed), first.shape)
    for index, (path, _) in enumerate(listed):
        pixels = first if index == 0 else _pixels(path, size, colour)
        if pixels.shape != first.shape:
            raise BenchError(
                f"pictures are of different sizes: {listed[0][0]} is {_shape(first.shape[1:])}, {path} "
                f"{_shape(pixels.shape[1:])}; --size N makes all N×N, or --size HEIGHTxWIDTH"
            )
        images[index] = pixels
    if size:
        tell(f"{folder}: {len(listed):,} pictures, resized to {size.height}×{size.width} where they were not")
    return Pictures(images, torch.tensor([label for _, label in listed], dtype=torch.int64), tuple(files))


def _pixels(path: Path, size: Size | None, colour: bool) -> Tensor:
    """A picture as uint8 [C, H, W], upright as its camera says."""
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            deep = opened.mode.startswith(("I", "F"))
            picture: Picture = opened if deep else ImageOps.exif_transpose(opened).convert("RGB" if colour else "L")
            if not deep and size:
                picture = picture.resize((size.width, size.height), Image.Resampling.BILINEAR)
            array = np.asarray(picture)
    except Exception as error:
        raise _unreadable(path, error) from error
    if deep:
        raise BenchError(f"{path} has more than 8 bits a channel; make it one of 8 bits first")
    pixels = torch.from_numpy(array.copy())
    return pixels.permute(2, 0, 1).contiguous() if colour else pixels[None]


def _empty(count: int, shape: Sequence[int]) -> Tensor:
    try:
        return torch.empty((count, *shape), dtype=torch.uint8)
    except RuntimeError as error:  # how torch says that memory is short
        gib = count * torch.Size(shape).numel() / 2**30
        raise BenchError(
            f"{count:,} pictures of {_shape(shape)} take {gib:.1f} GiB, more than is free; --size N"
        ) from error


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Names of classes tell them apart and fit a line."""
    odd = next((name for name in names if not 1 <= len(name) <= LONGEST), None)
    if odd is not None:
        raise BenchError(f"{path}: a class is called {odd[:40]!r}; names of classes have 1 to {LONGEST} letters")
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise BenchError(f"{path}: two classes are called {twice!r}")


def _other_classes(path: Path, found: Sequence[str] | dict[str, Any], classes: Sequence[str]) -> BenchError:
    odd = sorted({*found} ^ {*classes})
    which = f"{odd[0]!r} is a class of one of them only" if odd else "they are in another order"
    return BenchError(f"{path} has other classes than the training pictures: {which}")


# ---------------------------------------------------------------- arrays


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as file:
            return [name.removesuffix(".npy") for name in file.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        told = "a folder of pictures, one sub-folder a class, or a file of numpy's savez"
        raise BenchError(f"{path} is no .npz ({cause(error)}); give {told}") from error


def _arrays(
    path: Path, size: Size | None, classes: Sequence[str] | None, tell: Tell, arrays: tuple[str, str] | None
) -> Pictures:
    import numpy as np

    names = _names(path)
    wanted = arrays or next((both for first, both in TOGETHER.items() if first in names), None)
    if wanted is None or not {*wanted} <= {*names}:
        told = f"it has {', '.join(names[:8]) or 'nothing'}"
        raise BenchError(f"{path} needs arrays images and labels, or x_train, y_train, x_test and y_test; {told}")
    if size:
        raise BenchError(f"{path}: --size is for folders of pictures; resize the arrays before you save them")
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = (file[name] for name in wanted)
            given = [str(name) for name in file["classes"]] if "classes" in names else None
    except Exception as error:
        raise BenchError(f"{path} cannot be read: {cause(error)}") from error
    where = f"{path}: {wanted[0]}"
    pixels = _channels_first(_bytes(images, where, tell), where)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (len(images),) or labels.dtype.kind not in "iuUSb" or not len(labels):
        raise BenchError(
            f"{path}: {wanted[1]} is one whole number or text for each of {len(images):,} images, not "
            f"{labels.dtype} {list(labels.shape)}"
        )
    found = np.unique(labels)
    if given is not None and labels.dtype.kind in "iu" and found.min() >= 0 and found.max() < len(given):
        texts, known = np.array([given[label] for label in labels]), given
    else:
        try:
            texts = labels.astype(str)
        except UnicodeDecodeError as error:
            raise BenchError(f"{path}: {wanted[1]} are bytes that are no text; save them as text or numbers") from error
        known = [str(value) for value in (np.unique(texts) if labels.dtype.kind == "S" else found)]
    _check_names(path, known)
    if classes is None and len(known) < 2:
        raise BenchError(f"{path}: all {wanted[1]} are {known[0]!r}; there are two classes or more")
    if classes is not None and given is None and {*known} - {*classes}:
        raise _other_classes(path, known, classes)
    places = {name: index for index, name in enumerate(classes or known)}
    if missing := next((text for text in texts if text not in places), None):
        raise _other_classes(path, [missing], classes or known)
    return Pictures(pixels, torch.tensor([places[text] for text in texts], dtype=torch.int64), tuple(places))


def _bytes(images: Any, where: str, tell: Tell) -> Any:
    """Images as numpy's uint8."""
    import numpy as np

    kind = images.dtype.kind
    low, high = (images.min(), images.max()) if images.size and kind in "iuf" else (-1, -1)
    if kind in "iu" and low >= 0 and high <= 255:
        return images.astype(np.uint8)
    if kind == "f" and low >= 0 and high <= 1:
        tell(f"{where}: numbers in [0, 1] become whole numbers from 0 to 255, as every data set here has them")
        return np.rint(images * 255).astype(np.uint8)
    told = f"{images.dtype} from {low} to {high}" if images.size and kind in "iuf" else f"{images.dtype} {images.shape}"
    raise BenchError(f"{where} are whole numbers from 0 to 255, or numbers in [0, 1], not {told}")


def _channels_first(images: Any, where: str) -> Tensor:
    """uint8 [n, C, H, W] of [n, H, W], [n, H, W, C] or [n, C, H, W], where C is 1 or 3."""
    pixels = torch.from_numpy(images)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[3] in (1, 3):
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise BenchError(
            f"{where} are [n, H, W], [n, H, W, C] or [n, C, H, W] with 1 or 3 channels, not {list(images.shape)}"
        )
    return pixels.contiguous()


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
