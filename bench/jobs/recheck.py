"""Records that somebody else made, checked as if they were hostile: content, ids and weights must fit together.

What can be computed again is: a run id from the run's configuration, an evaluation id from run and attack, counts
from bits, the digest of weights from the weights. Outcomes themselves are believed; measuring again is another job.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.core.errors import BenchError, JobError
from bench.core.identity import canonical, short
from bench.jobs.spec import EvaluationSpec, RunSpec
from bench.store.records import EvaluationRecord, FailureRecord, RunRecord, parse_record

DEPTH = 40  # of lists within lists; a record needs eight
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed: what moves a terminal's cursor
_NAMES = ("method", "plugin", "origin", "dataset", "model", "recipe", "attack")
_DESCRIBED = (
    "method", "plugin", "settings", "dataset", "model", "model_settings", "members", "recipe", "recipe_changes",
    "training", "validation", "seed",
)  # fmt: skip


class _Epoch(BaseModel):
    """One line of `train.jsonl`."""

    model_config = ConfigDict(strict=True, extra="ignore")
    phase: str
    epoch: Annotated[int, Field(ge=0, lt=2**31)]
    lr: float | None = None
    seconds: float | None = None
    loss: float | None = None
    terms: dict[str, float | None] | None = None
    member_accuracy: list[float | None] | None = None
    ensemble_accuracy: float | None = None
    accuracy_on: str | None = None


@dataclass(frozen=True)
class CheckedRun:
    """A run's record and the spec that its id follows from."""

    record: RunRecord
    spec: RunSpec


def check_run(data: bytes, where: str, run_id: str) -> CheckedRun:
    """`run.json` of run `run_id`, whose configuration must hash to that id and say what the record says.

    Raises:
        BenchError: it does not; `where` stands in the message.
    """
    value = _value(data, where)
    record = parse_record(RunRecord, value, where)
    try:
        spec = RunSpec.model_validate(record.config)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(map(str, ("config", *fault["loc"])))
        raise _wrong(where, f"{key}: {fault['msg']}; was it made by another version of bench?") from error
    said, found = (record.run_id, record.family_id), (spec.run_id, spec.family_id)
    if said != found or record.run_id != run_id:
        raise _wrong(where, f"its content is of run {short(spec.run_id)}, it claims to be {short(run_id)}")
    told = value | {"requires": record.requires}
    meant = spec.model_dump(mode="json") | {"requires": {name: run.run_id for name, run in spec.requires.items()}}
    for name in (*_DESCRIBED, "requires"):
        if canonical(told[name]) != canonical(meant[name]):
            raise _wrong(where, f"{name} is not what its config says")
    if (record.method_version, record.trainer_version) != (spec.versions.get("method"), spec.versions.get("trainer")):
        raise _wrong(where, "its versions are not what its config says")
    if spec.weights not in (None, record.weights_digest):
        raise _wrong(where, "weights_digest is not what its config says")
    return CheckedRun(record, spec)


def check_evaluation(data: bytes, where: str, evaluation_id: str, run: CheckedRun) -> EvaluationRecord:
    """An evaluation of `run`, whose id must follow from its content.

    Raises:
        BenchError: it does not, or its outcomes contradict themselves.
    """
    value = _value(data, where)
    record = parse_record(EvaluationRecord, value, where)
    if record.run_id != run.record.run_id:
        raise _wrong(where, f"it is of run {short(record.run_id)}, not of the run whose folder holds it")
    spec = _evaluation_spec(record, value, run, where)
    if (spec.evaluation_id, spec.attack_key) != (record.evaluation_id, record.attack_key):
        raise _wrong(where, f"its content is of evaluation {short(spec.evaluation_id)}")
    if record.evaluation_id != evaluation_id:
        raise _wrong(where, f"it holds evaluation {short(record.evaluation_id)}, by its name another")
    if None not in (record.weights_digest, run.record.weights_digest) and (
        record.weights_digest != run.record.weights_digest
    ):
        raise _wrong(where, "it was measured on other weights than the run has")
    if record.limit is not None and record.n > record.limit:
        raise _wrong(where, f"{record.n} images under a limit of {record.limit}")
    return record


def _evaluation_spec(record: EvaluationRecord, value: dict[str, Any], run: CheckedRun, where: str) -> EvaluationSpec:
    """The spec that a record speaks of."""
    try:
        specs = EvaluationSpec.readings(value, run.spec)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        why = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}; was it made by another version of bench?"
        raise _wrong(where, why) from error
    return next((spec for spec in specs if spec.evaluation_id == record.evaluation_id), specs[0])


def check_failure(data: bytes, where: str, attempt_id: str, run_id: str) -> FailureRecord:
    """A failed attempt of `run_id`.

    Raises:
        BenchError: damaged, or of something else.
    """
    record = parse_record(FailureRecord, _value(data, where), where)
    if record.attempt_id != attempt_id or record.run_id not in (None, run_id):
        raise _wrong(where, "it is of another attempt or run than its name and folder say")
    return record


def check_curve(data: bytes, where: str) -> None:
    """`train.jsonl`: an epoch a line; only the last may be cut short (its writer was killed).

    Raises:
        BenchError: it is no text, or a line is no epoch.
    """
    try:
        lines = data.decode("utf-8").split("\n")
    except ValueError as error:
        raise _wrong(where, f"no text ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise _wrong(where, f"line {number} is no epoch") from error
            continue
        _walk(value, where)
        try:
            _Epoch.model_validate(value)
        except ValidationError as error:
            raise _wrong(where, f"line {number} is no epoch") from error


def check_weights(path: Path, where: str, run: CheckedRun) -> None:
    """The weights of `run` in safetensors (nothing is ever unpickled), with the digest that its record names.

    Raises:
        BenchError: another format, damaged, or other weights.
    """
    from bench.training import checkpoint

    try:
        tensors, metadata = checkpoint.load(path)
        digest = checkpoint.digest(tensors)
    except (JobError, TypeError) as error:
        raise _wrong(where, "no safetensors of bench, or damaged") from error
    record, spec = run.record, run.spec
    told = spec.model_dump(mode="json", include={"model", "model_plugin", "model_settings", "dataset", "members"})
    told |= {"run_id": record.run_id, "fusion": record.fusion, "activation": record.activation}
    for name, value in told.items():
        if not isinstance(metadata, dict) or metadata.get(name) != value:
            raise _wrong(where, f"its {name} is not that of run.json")
    if digest != record.weights_digest:
        raise _wrong(where, "these are other weights than run.json says")


def check_tensors(path: Path, where: str) -> None:
    """A file of tensors in safetensors, such as samples.

    Raises:
        BenchError: another format, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except (OSError, SafetensorError) as error:
        raise _wrong(where, "no safetensors, or damaged") from error


def _value(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `data`: of finite numbers and text that can be shown."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _wrong(where, f"no JSON ({error})") from error
    if not isinstance(value, dict):
        raise _wrong(where, "no JSON object")
    for name in _NAMES:
        text = value.get(name)
        if isinstance(text, str) and not text.isprintable():
            raise _wrong(where, f"{name} is not printable")
    # A traceback is kept as it is and shown only as JSON.
    _walk({key: item for key, item in value.items() if key != "traceback"}, where)
    return value


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")


def _walk(value: Any, where: str, depth: int = 0) -> None:
    if depth > DEPTH:
        raise _wrong(where, f"nested more than {DEPTH} deep")
    if isinstance(value, str):
        if _CONTROL.search(value):
            raise _wrong(where, "text with control characters")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _wrong(where, "text that is no Unicode") from error
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise _wrong(where, "a whole number of over 63 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _wrong(where, "a number that is not finite")
    elif isinstance(value, dict):
        for key, item in value.items():
            _walk(key, where, depth + 1)
            _walk(item, where, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _walk(item, where, depth + 1)


def _wrong(where: str, why: str) -> BenchError:
    return BenchError(f"{where} is refused: {why}")
