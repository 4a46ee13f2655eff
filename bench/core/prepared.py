"""Data sets that `bench prepare NAME --from …` has laid out: `DATA/prepared/NAME`, described by a `dataset.json`."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError

from bench.core.errors import BenchError, unknown_name
from bench.core.files import read_json
from bench.core.numbers import BATCH
from bench.core.registry import RESERVED
from bench.core.settings import explain
from bench.core.specs import Budgets, Spec

log = logging.getLogger(__name__)

PLUGIN = "prepared"
FORMAT = 1
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
DESCRIPTION = "dataset.json"
LONGEST = 200  # letters of the name of a class

Unit = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[int, Field(ge=1, le=BATCH)]
Digest = Annotated[str, Field(pattern="[0-9a-f]{24}")]


class Description(Spec):
    """What `dataset.json` says. All but the names of the classes, `eps` and how the test set came about decides ids.

    `train` and `test` are digests of images and labels (`ImageSet.digest`), `mean` and `std` those of the training
    images in [0, 1].
    """

    format: int = Field(ge=1, le=FORMAT)
    classes: tuple[Annotated[str, Field(min_length=1, max_length=LONGEST)], ...] = Field(min_length=2)
    shape: tuple[Size, Size, Size]
    mean: tuple[Unit, ...]
    std: tuple[Unit, ...]
    train: Digest
    test: Digest
    train_images: int = Field(ge=1)
    test_images: int = Field(ge=1)
    held_out: bool = Field(description="whether the test images were held out of the pictures given for training")
    eps: Budgets = ()

    def settings(self) -> dict[str, Any]:
        """Those of the plug-in `prepared`, as JSON-like values."""
        values = self.model_dump(mode="json", include={"shape", "mean", "std", "train", "test", "test_images"})
        return {**values, "classes": len(self.classes)}

    def table(self) -> dict[str, Any]:
        """The table `[datasets.NAME]` that it stands for."""
        return {"plugin": PLUGIN, **self.settings(), **({"eps": list(self.eps)} if self.eps else {})}


class There(NamedTuple):
    """A prepared data set: the table that it stands for, and the file that says so."""

    table: dict[str, Any]
    path: Path


def folder_of(data: Path, name: str) -> Path:
    """Where a data set of one's own lies in the folder of data sets."""
    return data / PLUGIN / name


def read(path: Path) -> Description:
    """A `dataset.json`.

    Raises:
        BenchError: it is missing or damaged.
    """
    try:
        return Description.model_validate(read_json(path))
    except ValidationError as error:
        told = f"delete the folder and prepare {path.parent.name} again"
        raise BenchError(f"{path} is damaged ({explain(error)}); {told}") from error


def all_there(data: Path) -> list[Path]:
    """The descriptions in a folder of data sets, in the order of their names."""
    found = sorted(data.glob(f"{PLUGIN}/*/{DESCRIPTION}"))
    return [path for path in found if NAME.fullmatch(path.parent.name)]


def tables(data: Path) -> dict[str, There]:
    """The prepared data sets in a folder of data sets; a damaged one is left out, and told in the log."""
    found = {}
    for path in all_there(data):
        try:
            found[path.parent.name] = There(read(path).table(), path)
        except BenchError as error:
            log.warning(str(error))
    return found


def check_name(name: str, taken: dict[str, str]) -> None:
    """Whether a new data set may have this name; `taken` says what other data sets are.

    Raises:
        BenchError: it is no such name, or stands for something else.
    """
    if not NAME.fullmatch(name):
        raise BenchError(f"a name of a data set is small letters, digits, - and _, not {name[:200]!r}")
    if name in (*RESERVED["datasets"], PLUGIN):
        raise BenchError(f"{name!r} means something else on the command line; take another name")
    if name in taken:
        raise BenchError(f"{name} is a data set already, {taken[name]}; take another name")


def missing(name: str, known: list[str]) -> BenchError:
    """No data set of this name is there; how one is made."""
    told, new = unknown_name("data set", name, known), name if NAME.fullmatch(name) else "NAME"
    return BenchError(f"{told}; `bench prepare {new} --from FOLDER` makes one of pictures of your own")
