"""The files of a run as validated records: what must be there, of which type, and what must agree with what."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.core import bits
from bench.core.errors import BenchError
from bench.core.files import read_json
from bench.store.schema import ENSEMBLE

Bools = NDArray[np.bool_]


def _utc(text: str) -> str:
    """Any ISO-8601 time as UTC to the second: one spelling, so that text order is time order."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a time needs its zone, as in 2026-11-21T10:00:00Z")
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Id = Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]
Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Version = Annotated[int, Field(ge=0, lt=2**31)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Time = Annotated[str, AfterValidator(_utc)]
Object = dict[str, Any]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _Record(_Strict):
    format: Literal[1]


class RunRecord(_Record):
    """`run.json`."""

    run_id: Id
    family_id: Name
    attempt_id: Name
    status: Literal["done"]
    method: Name
    plugin: Name
    origin: Name
    settings: Object
    dataset: Name
    model: Name
    model_settings: Object
    members: Annotated[int, Field(ge=1)]
    recipe: Name
    recipe_changes: list[str]
    training: Object
    validation: Count
    seed: Integer
    fusion: Name
    fusion_weights: list[Number] | None = None
    activation: str | None = None
    method_version: Version
    trainer_version: Version
    source_digest: str
    requires: dict[str, str]
    weights_digest: str | None = None
    parameters: list[Count]
    environment: Object
    started: Time
    finished: Time
    seconds: Number
    config: Object
    notes: list[Any]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.parameters) != self.members:
            raise ValueError(f"parameters of {len(self.parameters)} networks for {self.members} members")
        if self.fusion_weights is not None and len(self.fusion_weights) != self.members:
            raise ValueError(f"{len(self.fusion_weights)} fusion weights for {self.members} members")
        return self


class CleanRowRecord(_Strict):
    """Correct clean images of one target."""

    target: Annotated[int, Field(ge=ENSEMBLE)]
    bits: str


class CellRecord(_Strict):
    """Mistakes of one target on the images crafted on one source."""

    source: Count
    target: Annotated[int, Field(ge=ENSEMBLE)]
    bits: str


class AttemptRecord(_Strict):
    """One black-box attempt."""

    surrogate: Name
    loss: Name
    restart: Count
    bits: str


class EvaluationRecord(_Record):
    """`evaluations/<evaluation_id>.json`."""

    evaluation_id: Id
    attack_key: Name
    run_id: Id
    attempt_id: Name
    kind: Literal["clean", "attack", "transfer", "craft", "blackbox"]
    status: Literal["done"]
    attack: Name
    plugin: Name
    settings: Object
    budget_name: str | None
    budget: Number | None
    stop: str | None
    limit: Count | None
    weights_digest: str | None = None
    """Of the weights it was measured on; None in records from before it was kept."""
    images_digest: Name
    n: Count
    n_clean: Count
    n_robust: Count | None
    clean_bits: str
    robust_bits: str | None
    measurements: Object
    forwards: Count | None
    backwards: Count | None
    seconds: Number
    attack_version: Version
    evaluator_version: Version
    source_digest: str
    environment: Object
    started: Time
    clean_rows: list[CleanRowRecord] = []
    cells: list[CellRecord] = []
    attempts: list[AttemptRecord] = []

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _counted("clean_bits", self.clean_bits, self.n, self.n_clean)
        if (self.robust_bits is None) != (self.n_robust is None):
            raise ValueError("n_robust and robust_bits: one of them is null")
        if self.robust_bits is not None:
            _counted("robust_bits", self.robust_bits, self.n, self.n_robust)
            if (_bits("robust_bits", self.robust_bits, self.n) & ~_bits("clean_bits", self.clean_bits, self.n)).any():
                raise ValueError("robust_bits: an image that is wrong when clean counts as robust")
        if self.kind == "attack" and self.robust_bits is None:
            raise ValueError("an attack without robust_bits")
        if self.kind == "transfer":
            members = len(self.clean_rows) - 1
            targets = [*range(members), ENSEMBLE]
            if members < 1 or sorted(row.target for row in self.clean_rows) != sorted(targets):
                raise ValueError("clean_rows must hold each member from 0 and -1, the ensemble, once")
            pairs = [(cell.source, cell.target) for cell in self.cells]
            if sorted(pairs) != sorted((s, t) for s in range(members) for t in targets):
                raise ValueError(f"cells must hold each of {members} sources with each of {members + 1} targets once")
        if len({row.target for row in self.clean_rows}) != len(self.clean_rows):
            raise ValueError("clean_rows hold a target twice")
        if len({(a.surrogate, a.loss, a.restart) for a in self.attempts}) != len(self.attempts):
            raise ValueError("attempts hold the same surrogate, loss and restart twice")
        for name, rows in (("clean_rows", self.clean_rows), ("cells", self.cells), ("attempts", self.attempts)):
            for row in rows:
                _bits(name, row.bits, self.n)
        return self


class FailureRecord(_Record):
    """`failures/<attempt_id>.json`."""

    attempt_id: Name
    job_id: Name
    kind: Literal["train", "clean", "attack", "transfer", "craft", "blackbox"]
    run_id: str | None
    family_id: str | None
    describe: Object
    error: str
    error_type: str
    traceback: str
    started: Time
    seconds: Number | None
    environment: Object


def _bits(name: str, text: str, n: int) -> Bools:
    try:
        return bits.from_text(text, n)
    except BenchError as error:
        raise ValueError(f"{name}: {error}") from error


def _counted(name: str, text: str, n: int, count: int | None) -> None:
    found = int(_bits(name, text, n).sum())
    if found != count:
        raise ValueError(f"{name} holds {found} images, its count says {count}")


R = TypeVar("R", bound=BaseModel)


def read_record(kind: type[R], path: Path) -> R:
    """The record of class `kind` in the file `path`.

    Raises:
        BenchError: unreadable, not JSON, of another format, or a key missing, wrong, or in contradiction to another.
    """
    return parse_record(kind, read_json(path), path)


def parse_record(kind: type[R], value: Any, where: Path | str) -> R:
    """The record of class `kind` in a JSON value that was read from `where`.

    Raises:
        BenchError: another format, or a key missing, wrong, or in contradiction to another.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        fault = first["msg"].removeprefix("Value error, ")
        raise BenchError(f"{where} is damaged: {key + ': ' if key else ''}{fault}") from error
