"""The one door: every record that enters a database or an archive is checked here, as if it were hostile.

Import, merge, sync, rebuild and the driver all come through it. What can be computed again is: a run id from the run's
configuration, an evaluation id from run and attack, counts from bits; settings are held against the types of their
plug-in where it is installed. Outcomes themselves are believed; measuring again is another job.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from bench.core import registry, settings, strict_json
from bench.core.errors import BenchError
from bench.core.identity import canonical, short
from bench.core.terms import MATRICES, SUITES, Norm
from bench.experiment.fields import Digest, Id, Name, Positive, Share, Small, Strict, Table, clean, fault_of
from bench.experiment.records import (
    CheckpointRecord,
    EpochRecord,
    EvaluationRecord,
    FailureRecord,
    RunRecord,
    parse_record,
)
from bench.experiment.spec import EvaluationSpec, RunSpec, of_attack

RECORD_BYTES = 16 << 20  # of one JSON file: a black-box suite on 50,000 images has under 1 MB

_FREE = ("error", "error_type", "traceback")  # kept as they are given: control characters show as their codes


@dataclass(frozen=True)
class Known:
    """What an evaluation is held against: the spec of its run, and the weights that the run has (None: untold)."""

    spec: RunSpec
    weights_digest: str | None


@dataclass(frozen=True)
class CheckedRun:
    """A run's record and the spec that its id follows from."""

    record: RunRecord
    spec: RunSpec

    @property
    def known(self) -> Known:
        """For its evaluations."""
        return Known(self.spec, self.record.weights_digest)


@dataclass(frozen=True)
class CheckedEvaluation:
    """An evaluation's record and the spec that its id follows from."""

    record: EvaluationRecord
    spec: EvaluationSpec


class _Part(Strict):
    """One attack of a black-box suite."""

    plugin: Name
    settings: Table


class _Images(Strict):
    """The settings of images that somebody else made."""

    images: Digest
    norm: Norm | None


class _Surrogates(Strict):
    """What the settings of a matrix name beside those of its attack."""

    surrogates: Annotated[list[Id], Field(min_length=1, max_length=1_000)]


class _Smoothing(Strict):
    """The settings of a certification."""

    sigma: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    n0: Annotated[int, Field(ge=1, lt=2**31)]
    n: Annotated[int, Field(ge=1, lt=2**31)]
    alpha: Annotated[float, Field(gt=0, lt=1)]


class _Probe(Strict):
    """The settings of a look at gradients."""

    count: Annotated[int, Field(ge=1, lt=2**31)]
    steps: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    points: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    attack: _Part | None = None


class _Attacks(Strict):
    """The attacks that a measurement uses."""

    attacks: Annotated[dict[Name, _Part], Field(min_length=1, max_length=1_000)]


class _Theory(_Attacks):
    """How the terms of the theorems were measured (`bench.evaluation.theory.Search`)."""

    pairs: Small
    searched: Small
    steps: Small
    floor: Share


class _Diversity(Strict):
    """How features were distilled."""

    eps: Positive
    steps: Small


class _Suite(_Attacks):
    """The settings of a black-box suite."""

    restarts: Annotated[int, Field(ge=1, lt=2**31)]
    surrogates: Annotated[list[Id], Field(max_length=10_000)] = []


def read(source: Path | bytes, where: str) -> dict[str, Any]:
    """The JSON object of a record: a file, or bytes out of an archive.

    Raises:
        BenchError: unreadable, too large, or not a JSON object within bounds; `where` stands in the message.
    """
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                source = file.read(RECORD_BYTES + 1)
            if len(source) > RECORD_BYTES:
                raise refused(where, f"no record has over {RECORD_BYTES >> 20} MiB")
        value = strict_json.parse(source)
    except OSError as error:
        raise BenchError(f"cannot read {where}: {error.strerror or error}") from error
    except ValueError as error:
        raise refused(where, str(error)) from error
    if not isinstance(value, dict):
        raise refused(where, "not a JSON object")
    return value


def run_at(path: Path) -> CheckedRun:
    """The run whose record is the file `path`, in the folder of its id.

    Raises:
        BenchError: missing, damaged, or of another run.
    """
    return check_run(read(path, str(path)), str(path), path.parent.name)


def evaluation_at(path: Path, run: Known) -> CheckedEvaluation:
    """The evaluation of `run` whose record is the file `path`, named by its id.

    Raises:
        BenchError: missing, damaged, or of another run or evaluation.
    """
    return check_evaluation(read(path, str(path)), str(path), path.stem, run)


def check_run(value: dict[str, Any], where: str, run_id: str) -> CheckedRun:
    """The run `run_id`, whose configuration must hash to that id and say what the record says.

    Raises:
        BenchError: it does not; `where` stands in the message.
    """
    _clean(value, where)
    record = parse_record(RunRecord, value, where)
    spec = _run_spec(record.config, where, "config")
    said, found = (record.run_id, record.family_id), (spec.run_id, spec.family_id)
    if said != found or record.run_id != run_id:
        raise refused(where, f"its content is of run {short(spec.run_id)}, it claims to be {short(run_id)}")
    told = value | {"requires": record.requires}
    meant = spec.described() | {"requires": {name: run.run_id for name, run in spec.requires.items()}}
    for name, value in meant.items():
        if canonical(told[name]) != canonical(value):
            raise refused(where, f"{name} is not what its config says")
    if (record.method_version, record.trainer_version) != (spec.versions.get("method"), spec.versions.get("trainer")):
        raise refused(where, "its versions are not what its config says")
    if spec.weights not in (None, record.weights_digest):
        raise refused(where, "weights_digest is not what its config says")
    _check_plugins(spec, where)
    return CheckedRun(record, spec)


def check_checkpoint(value: Any, where: str, run_id: str) -> tuple[CheckpointRecord, RunSpec]:
    """What stands beside the tensors of a checkpoint of the run `run_id`, whose configuration must hash to that id.

    Raises:
        BenchError: it does not, or it does not say where training was; `where` stands in the message.
    """
    try:
        strict_json.check(value)
        if len(json.dumps(value)) > RECORD_BYTES:
            raise ValueError(f"over {RECORD_BYTES >> 20} MiB beside its tensors")
    except (ValueError, RecursionError) as error:
        raise refused(where, str(error)) from error
    _clean(value, where)
    if "run" not in value:
        raise refused(where, "it does not say of which training it is, as those of older versions; one more epoch does")
    record = parse_record(CheckpointRecord, value, where)
    spec = _run_spec(record.run, where, "run")
    if spec.run_id != run_id:
        raise refused(where, f"it is of run {short(spec.run_id)}, its folder is that of {short(run_id)}")
    if spec.weights is not None:
        raise refused(where, "it is of an ensemble trained elsewhere, of which there is no training")
    _check_plugins(spec, where)
    return record, spec


def _run_spec(config: dict[str, Any], where: str, field: str) -> RunSpec:
    try:
        return RunSpec.model_validate(config)
    except (ValidationError, RecursionError) as error:
        fault = fault_of(error) if isinstance(error, ValidationError) else "nested too deep"
        raise refused(where, f"{field}.{fault}; was it made by another version of bench?") from error


def known_run(config: Mapping[str, Any], weights_digest: str | None, where: str) -> Known:
    """A run of a database, by the configuration that is stored there.

    Raises:
        BenchError: it is of another version of bench.
    """
    try:
        return Known(_stored_spec(json.dumps(config, sort_keys=True)), weights_digest)
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{where}: its run was stored by another version of bench; `bench db rebuild`") from error


@lru_cache(maxsize=64)
def _stored_spec(config: str) -> RunSpec:
    """The evaluations of a run come one after another."""
    return RunSpec.model_validate_json(config)


def check_evaluation(value: dict[str, Any], where: str, evaluation_id: str, run: Known) -> CheckedEvaluation:
    """An evaluation of `run`, whose id must follow from its content.

    Raises:
        BenchError: it does not, or its outcomes contradict themselves.
    """
    _clean(value, where)
    record = parse_record(EvaluationRecord, value, where)
    if record.run_id != run.spec.run_id:
        raise refused(where, f"it is of run {short(record.run_id)}, not of the run whose folder holds it")
    spec = _evaluation_spec(value, run.spec, where)
    if (spec.evaluation_id, spec.attack_key) != (record.evaluation_id, record.attack_key):
        raise refused(where, f"its content is of evaluation {short(spec.evaluation_id)}")
    if record.evaluation_id != evaluation_id:
        raise refused(where, f"it holds evaluation {short(record.evaluation_id)}, by its name another")
    if None not in (record.weights_digest, run.weights_digest) and record.weights_digest != run.weights_digest:
        raise refused(where, "it was measured on other weights than the run has")
    if record.limit is not None and record.n > record.limit:
        raise refused(where, f"{record.n} images under a limit of {record.limit}")
    members = run.spec.members
    if record.kind in MATRICES and len(record.clean_rows) != members + 1:
        raise refused(where, f"a matrix of {len(record.clean_rows) - 1} networks, the run has {members}")
    if any(row.target >= members for row in record.clean_rows):
        raise refused(where, f"clean_rows of a member that a run of {members} has not")
    _check_attack(spec, where)
    return CheckedEvaluation(record, spec)


def _evaluation_spec(value: dict[str, Any], run: RunSpec, where: str) -> EvaluationSpec:
    """The spec that a record speaks of."""
    try:
        return EvaluationSpec.of_record(value, run)
    except ValidationError as error:
        raise refused(where, f"{fault_of(error)}; was it made by another version of bench?") from error


def check_failure(value: dict[str, Any], where: str, attempt_id: str, run_id: str | None) -> FailureRecord:
    """A failed attempt of `run_id`; None where no folder says of which run it is.

    Raises:
        BenchError: damaged, or of something else.
    """
    _clean({name: item for name, item in value.items() if name not in _FREE}, where)
    record = parse_record(FailureRecord, value, where)
    if record.attempt_id != attempt_id or (run_id is not None and record.run_id not in (None, run_id)):
        raise refused(where, "it is of another attempt or run than its name and folder say")
    return record


def check_curve(data: bytes, where: str) -> None:
    """`train.jsonl`: an epoch a line; only the last may be cut short (its writer was killed).

    Raises:
        BenchError: it is not text, or a line is not an epoch.
    """
    try:
        lines = data.decode("utf-8").split("\n")
    except ValueError as error:
        raise refused(where, f"not text ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = strict_json.parse(line, numbers=False)
        except ValueError as error:
            if number < len(lines):
                raise refused(where, f"line {number} is not an epoch: {error}") from error
            continue
        epoch_of(value, f"{where} line {number}")


def epoch_of(value: Any, where: str) -> EpochRecord:
    """One line of a curve.

    Raises:
        BenchError: it is not an epoch.
    """
    try:
        return EpochRecord.model_validate(value)
    except ValidationError as error:
        raise refused(where, f"not an epoch: {fault_of(error)}") from error


def _check_plugins(spec: RunSpec, where: str) -> None:
    """The settings of a run and of those it was trained with, against the types of their plug-ins."""
    versions = spec.versions
    _check_settings("methods", spec.plugin, versions.get("method"), spec.settings, where)
    _check_settings("models", spec.model_plugin, versions.get("model"), spec.model_settings, where)
    _check_settings("datasets", spec.dataset_plugin, versions.get("dataset"), spec.dataset_settings, where)
    for monitor in (*spec.monitor, *([spec.keep.monitor] if spec.keep and spec.keep.monitor else [])):
        _check_settings("attacks", monitor.plugin, monitor.version, monitor.settings, where)
    for needed in spec.requires.values():
        _check_plugins(needed, where)


def _check_attack(spec: EvaluationSpec, where: str) -> None:
    if spec.kind in SUITES:
        told = _Theory if spec.kind == "theory" else _Suite
        suite: _Attacks = parse_record(told, spec.settings, f"{where}: settings")
        for part in suite.attacks.values():
            _check_settings("attacks", part.plugin, None, part.settings, where)
    elif spec.kind == "judged":
        parse_record(_Images, spec.settings, f"{where}: settings")
    elif spec.kind == "certify":
        parse_record(_Smoothing, spec.settings, f"{where}: settings")
    elif spec.kind == "audit":
        parse_record(_Probe, spec.settings, f"{where}: settings")
    elif spec.kind == "diversity":
        parse_record(_Diversity, spec.settings, f"{where}: settings")
    elif spec.kind == "clean":
        if spec.settings:
            raise refused(where, "a clean pass has no settings")
    else:
        own = of_attack(spec.kind, spec.settings)
        if own != spec.settings:
            parse_record(_Surrogates, spec.settings, f"{where}: settings")
        _check_settings("attacks", spec.plugin, spec.versions.get("attack"), own, where)


def _check_settings(kind: str, plugin: str, version: int | None, given: dict[str, Any], where: str) -> None:
    fault = _settings_fault(kind, plugin, version, canonical(given))
    if fault:
        raise refused(where, fault)


@lru_cache(maxsize=4096)
def _settings_fault(kind: str, plugin: str, version: int | None, given: str) -> str:
    """Why a plug-in that is installed cannot have these settings; empty if it can, or is not here.

    What another version of the plug-in takes is not known here.
    """
    if plugin not in registry.entries(kind):
        return ""
    try:
        cls = registry.load(kind, plugin)
    except BenchError:  # a broken plug-in is reported where it is used
        return ""
    recorded = json.loads(given)
    if version not in (None, cls.version):
        return ""
    if version is None:
        recorded = {name: value for name, value in recorded.items() if name in getattr(cls, "__dataclass_fields__", {})}
    try:
        made = settings.build(cls, recorded, f"{kind}.{plugin}")
    except BenchError as error:
        return clean_line(str(error))
    for name, value in recorded.items():
        if canonical(getattr(made, name)) != canonical(value):  # text for a number, say
            return f"{kind}.{plugin}: {name} is of another type"
    return ""


def clean_line(text: str) -> str:
    """A message that quotes a record, on one line of letters that show."""
    return " ".join(text.split()) if text.isprintable() else ascii(text)[1:-1]


def _clean(value: Any, where: str) -> None:
    """No text in a record, known to the schema or not, moves a cursor."""
    try:
        strict_json.visit(value, lambda part: clean(part) if isinstance(part, str) else None)
    except ValueError as error:
        raise refused(where, str(error)) from error


def refused(where: str, why: str) -> BenchError:
    """The error of a record that does not come in."""
    return BenchError(f"{where} is refused: {why}")
