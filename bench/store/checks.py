"""What a row of results must be, column by column, beyond the type that `answers` gives it.

Apart from `answers` and imported with the first row that is read: pydantic takes a while.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic import model_validator as after

from bench.store import answers

LARGEST = 1e39  # beyond every float32: sums and squares of such numbers stay finite


def _bounded(value: float | None) -> float | None:
    """NaN and infinities may be measured (a flag tells them); other numbers are those of float32."""
    if value is not None and math.isfinite(value) and abs(value) > LARGEST:
        raise ValueError(f"no computation in float32 gives {value:g}")
    return value


Id = Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]
Seconds = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e12)]
Share = Annotated[float, Field(ge=0, le=1)]
Loss = Annotated[float | None, AfterValidator(_bounded)]


class _Known(BaseModel):
    """Keys of an object that others read; it may hold more."""

    model_config = ConfigDict(strict=True, extra="allow")


class Attacked(_Known):
    """What an attack measures."""

    largest_excess: float | None = None
    loss_curve: list[Loss] | None = None
    attacked: Count | None = None
    zero_gradients: Count | None = None
    unmoved: Count | None = None


class Source(Attacked):
    """The same for one source of a matrix."""

    source: Annotated[Count, Field(lt=2**31)]


class Measured(Attacked):
    """What any evaluation measures."""

    random_output: Count | None = None
    member_accuracy: list[Share] | None = None
    sources: list[Source] = []


class Trained(_Known):
    """A recipe's training; one from elsewhere may have other names."""

    epochs: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    lr: Number | None = None
    batch_size: Count | None = None


class Environment(_Known):
    """Software and hardware."""

    packages: dict[str, Any] = {}
    commit: str | None = None


def _as(kind: type[_Known]) -> Any:
    def known(value: dict[str, Any]) -> dict[str, Any]:
        try:
            kind.model_validate(value)
        except ValidationError as error:
            raise ValueError(fault(error)) from error
        return value

    return Annotated[dict[str, Any], AfterValidator(known)]


_RUN = {
    "run_id": Id, "members": Annotated[int, Field(ge=1, le=10_000)], "training": _as(Trained),
    "training_limit": Count | None, "validation": Count, "fusion_weights": list[Number] | None, "seconds": Seconds,
}  # fmt: skip
_EVALUATION = {
    "evaluation_id": Id, "run_id": Id, "kind": Literal["clean", "attack", "transfer", "craft", "blackbox"],
    "budget": Seconds | None, "image_limit": Count | None, "n": Annotated[int, Field(ge=1, lt=2**31)],
    "n_clean": Count, "n_robust": Count | None, "measurements": _as(Measured), "forwards": Count | None,
    "backwards": Count | None, "seconds": Seconds,
}  # fmt: skip
_CURVE = {
    "lr": Number | None, "seconds": Seconds | None, "loss": Number | None, "terms": dict[str, Number | None] | None,
    "member_accuracy": list[Share | None] | None, "ensemble_accuracy": Share | None,
}  # fmt: skip
_COUNTS = {name: Count for name in answers.CellRow.__dataclass_fields__ if name not in ("evaluation_id", "target")}
_NARROWER: Mapping[type, Mapping[str, Any]] = {
    answers.RunRow: _RUN,
    answers.EvaluationRow: _EVALUATION,
    answers.CurveRow: _CURVE,
    answers.MemberRow: {"parameters": Count, "weight": Number | None},
    answers.CellRow: _COUNTS | {"target": Annotated[int, Field(ge=-1)]},
    answers.FailureRow: {"seconds": Seconds | None},
    answers.ReferenceRow: {"budget": Seconds | None, "value": Number},
}


def _counts_fit(row: Any) -> Any:
    if row.n_robust is None and row.kind in ("attack", "blackbox"):
        raise ValueError(f"n_robust: {row.kind} without outcomes")
    if max(row.n_clean, row.n_robust or 0) > row.n:
        raise ValueError(f"n_clean {row.n_clean} or n_robust {row.n_robust} is above n {row.n}")
    return row


@cache
def _model(kind: type) -> type[BaseModel]:
    fields: Any = {name: (type_, ...) for name, type_ in (get_type_hints(kind) | dict(_NARROWER[kind])).items()}
    extra: Any = {"fits": after(mode="after")(_counts_fit)} if kind is answers.EvaluationRow else {}
    return create_model(kind.__name__, __config__=ConfigDict(strict=True), __validators__=extra, **fields)


_ENVIRONMENT: TypeAdapter[Any] = TypeAdapter(_as(Environment))


def fault_of(kind: type, row: Mapping[str, Any]) -> str:
    """What keeps a row from being of this class of `answers`; empty where nothing does."""
    try:
        _model(kind).model_validate(row)
    except ValidationError as error:
        return fault(error)
    return ""


def environment_fault(record: Any) -> str:
    """What keeps a value from being the record of an environment; empty where nothing does."""
    try:
        _ENVIRONMENT.validate_python(record, strict=True)
    except ValidationError as error:
        return fault(error)
    return ""


def fault(error: ValidationError) -> str:
    """The first fault in words."""
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(map(str, first["loc"]))
    return f"{key + ': ' if key else ''}{first['msg'].removeprefix('Value error, ')}"
