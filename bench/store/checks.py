"""What a row of results must be for its readers: the types of `typed_rows`, within the bounds that records have.

Apart from `typed_rows`, and imported with the first row that is read: pydantic takes a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic import model_validator as validator

from bench.core.precision import Precision
from bench.core.terms import MEASURED, BudgetName, Kind, Targets
from bench.experiment.fields import Count, Id, ImageCount, Name, Number, Positive, Share, Small, fault_of
from bench.experiment.measurements import KINDS
from bench.experiment.records import MEMBERS, Facts
from bench.store import typed_rows


class _Known(BaseModel):
    """Keys of a table that readers compute with; it may hold more."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _KnownTraining(_Known):
    """A recipe's training; one from elsewhere may have other names."""

    epochs: Small | None = None
    lr: Number | None = None
    batch_size: Count | None = None


class _KnownEnvironment(_Known):
    """Software and hardware."""

    packages: dict[str, Any] = {}
    commit: str | None = None


class _KnownMonitored(_Known):
    """A monitor, and what it found."""

    name: Name
    attack: Name
    plugin: Name
    settings: dict[str, Any]
    budget_name: BudgetName
    budget: Positive
    robust_accuracy: Share
    images: ImageCount
    targets: Targets | None = None
    precision: Precision = "float32"


def _trained(value: dict[str, Any]) -> dict[str, Any]:
    if why := _fault(_KnownTraining, value):
        raise ValueError(why)
    return value


_NARROWER: Mapping[type, Mapping[str, Any]] = {
    typed_rows.RunRow: {
        "run_id": Id, "members": Annotated[int, Field(ge=1, le=MEMBERS)], "training_limit": Count | None,
        "training": Annotated[dict[str, Any], AfterValidator(_trained)], "validation": Count,
        "fusion_weights": list[Number] | None, "seconds": Positive, "versions": dict[str, Small], "facts": Facts | None,
    },
    typed_rows.EvaluationRow: {
        "evaluation_id": Id, "run_id": Id, "kind": Kind,
        "budget": Positive | None, "image_limit": Count | None, "n": ImageCount,
        "n_clean": Count, "n_robust": Count | None, "forwards": Count | None, "backwards": Count | None,
        "seconds": Positive,
    },
    typed_rows.CurveRow: {
        "lr": Number | None, "seconds": Positive | None, "loss": Number | None,
        "terms": dict[str, Number | None] | None, "member_accuracy": list[Share | None] | None,
        "ensemble_accuracy": Share | None, "monitored": list[_KnownMonitored] | None,
    },
    typed_rows.MemberRow: {"parameters": Count, "weight": Number | None},
    typed_rows.CellRow: {
        name: Count | None if name == "n_same_class" else Count
        for name in typed_rows.CellRow.__dataclass_fields__
        if name.startswith("n_")
    },
    typed_rows.OtherCellRow: {
        "source": Name, **dict.fromkeys(("n_missed", "n_correct_all", "n_missed_correct_all"), Count),
    },
    typed_rows.FailureRow: {"seconds": Positive | None},
    typed_rows.ReferenceRow: {"budget": Positive | None, "value": Number},
}  # fmt: skip


def _fits(row: Any) -> Any:
    """What columns of an evaluation say of each other."""
    if row.n_robust is None and row.kind in MEASURED:
        raise ValueError(f"n_robust: {row.kind} without outcomes")
    if max(row.n_clean, row.n_robust or 0) > row.n:
        raise ValueError(f"n_clean {row.n_clean} or n_robust {row.n_robust} is above n {row.n}")
    if why := _fault(KINDS[row.kind], row.measurements):
        raise ValueError(f"measurements.{why}")
    return row


@cache
def _model(kind: type) -> type[BaseModel]:
    fields: Any = {name: (type_, ...) for name, type_ in (get_type_hints(kind) | dict(_NARROWER[kind])).items()}
    more: Any = {"fits": validator(mode="after")(_fits)} if kind is typed_rows.EvaluationRow else {}
    return create_model(kind.__name__, __config__=ConfigDict(strict=True), __validators__=more, **fields)


def fault_in(kind: type, row: Mapping[str, Any]) -> str:
    """What keeps a row from being of this class of `typed_rows`; empty where nothing does."""
    return _fault(_model(kind), row)


def environment_fault(record: Any) -> str:
    """What keeps a value from being the record of an environment; empty where nothing does."""
    return _fault(_KnownEnvironment, record)


def _fault(model: type[BaseModel], value: Any) -> str:
    try:
        model.model_validate(value)
    except ValidationError as error:
        return fault_of(error)
    return ""
