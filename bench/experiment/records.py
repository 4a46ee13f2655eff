"""The files of a run as validated records: what must be there, of which type, and what must agree with what.

This is the one schema: whatever is read from files of results, archives or other databases is checked against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, Field, RootModel, ValidationError, model_validator

from bench.core import bits
from bench.core.bits import Bools
from bench.core.errors import BenchError
from bench.core.files import read_json, write_json
from bench.core.numbers import ENSEMBLE
from bench.core.precision import Precision
from bench.core.terms import (
    MATRICES,
    MEASURED,
    NOISE,
    UNATTACKED,
    WHOLE,
    BudgetName,
    JobKind,
    Kind,
    NamedBy,
    Normalisation,
    Split,
    Stop,
    Targets,
)
from bench.experiment import measurements
from bench.experiment.fields import (
    LONGEST,
    AttemptId,
    Count,
    Digest,
    Error,
    FileName,
    Id,
    ImageCount,
    Integer,
    Line,
    Link,
    Name,
    Number,
    Open,
    Positive,
    Sha256,
    Share,
    Small,
    Strict,
    Table,
    Text,
    Time,
    Traceback,
    Year,
    bounded,
    fault_of,
)

MEMBERS = 10_000
LINES = 1_000  # of a list of texts


class _Environment(Open):
    """What readers show of an environment; the rest is JSON within bounds."""

    bench: Line | None = None
    python: Line | None = None
    packages: dict[Name, Line | None] = {}
    device: Line | None = None
    cpu: Line | None = None
    cpu_capability: Line | None = None
    cores: Count | None = None
    threads: Count | None = None
    commit: Line | None = None
    dirty: bool | None = None
    deterministic: bool | None = None
    captured: bool | None = None
    """Whether training steps were recorded and replayed, on a GPU."""
    compiled: bool | None = None
    """Whether plain passes of training steps were compiled, where that was asked for."""
    gpus: list[Line] | None = None


class _Described(Open):
    """What a failed attempt was at, for people."""

    method: Name | None = None
    dataset: Name | None = None
    model: Name | None = None
    recipe: Name | None = None
    seed: Integer | None = None
    attack: Name | None = None
    budget: Positive | None = None
    budget_name: Name | None = None
    precision: Name | None = None
    members: Annotated[int, Field(ge=1, lt=MEMBERS)] | None = None
    recipe_changes: Annotated[list[Line], Field(max_length=LINES)] = []
    settings: Table = {}
    limit: ImageCount | None = None
    split: Split = "test"
    targets: Name | None = None


Environment = Annotated[dict[str, Any], AfterValidator(_Environment.check)]
Described = Annotated[dict[str, Any], AfterValidator(_Described.check)]
SpecDict = Annotated[dict[str, Any], AfterValidator(lambda value: bounded(value, depth=40))]
OptimizerKey = Annotated[str, Field(pattern=r"^[0-9]{1,6}\.[a-z_]{1,40}$")]
Target = Annotated[int, Field(ge=ENSEMBLE, lt=MEMBERS)]


class _Record(Strict):
    format: Literal[1]


class Facts(Strict):
    """What was said with the weights of an ensemble trained elsewhere: claims for readers, part of no identity.

    What nobody said is None, or empty.
    """

    title: Annotated[Line, Field(min_length=1, max_length=300)] | None = None
    authors: Annotated[list[Name], Field(max_length=100)] = []
    venue: Name | None = None
    year: Year | None = None
    url: Link | None = None
    """Of the paper."""
    code: Link | None = None
    adversarial: bool | None = None
    """Trained on attacked images."""
    extra_data: bool | None = None
    """Trained on images beside the data set's own."""


class FileGiven(Strict):
    """A file of weights that was given to `bench evaluate`."""

    name: Line
    sha256: Sha256


class GivenRecord(Strict):
    """How the files of an ensemble trained elsewhere were understood: for readers, part of no identity."""

    files: Annotated[list[FileGiven], Field(min_length=1, max_length=MEMBERS)]
    prefix: Annotated[list[Line], Field(max_length=MEMBERS)] = []
    map: Annotated[list[Line], Field(max_length=LINES)] = []
    """As typed: `OLD=NEW`."""
    by_order: bool = False
    names: Annotated[list[NamedBy], Field(min_length=1, max_length=4)]
    """By which names the tensors were found, of all members."""
    members: Annotated[list[Line], Field(max_length=MEMBERS)]
    """Where each lies: its file, and its place in there."""
    normalisation: Annotated[list[Normalisation], Field(min_length=1, max_length=4)]
    mean: Annotated[list[list[Number]], Field(min_length=1, max_length=MEMBERS)]
    """One number a channel, for images in [0, 1]; one row for all members, or one each."""
    std: Annotated[list[list[Number]], Field(min_length=1, max_length=MEMBERS)]
    file_normalises: bool = False
    """Whether a mean and a deviation lie in the files themselves."""
    left_out: Annotated[list[Line], Field(max_length=LINES)] = []
    """Tensors that `--prefix` left out."""
    aside: Annotated[list[Line], Field(max_length=LINES)] = []
    """States of optimisers and random generators."""
    beside: Annotated[list[Line], Field(max_length=LINES)] = []
    """What speaks of a rule of fusion."""


def given_in(record: Mapping[str, Any], path: Path) -> GivenRecord | None:
    """How the files of an ensemble trained elsewhere were understood, as the record of its run says; None without.

    Raises:
        BenchError: the record, which lies at `path`, is damaged.
    """
    given = record.get("given")
    return None if given is None else parse_record(GivenRecord, given, path)


class RunRecord(_Record):
    """`run.json`."""

    run_id: Id
    family_id: Id
    attempt_id: AttemptId
    status: Literal["done"]
    method: Name
    plugin: Name
    origin: Name
    settings: Table
    dataset: Name
    model: Name
    model_settings: Table
    members: Annotated[int, Field(ge=1, le=MEMBERS)]
    recipe: Name
    recipe_changes: Annotated[list[Line], Field(max_length=LINES)]
    training: Table
    validation: Count
    seed: Integer
    fusion: Name
    fusion_weights: list[Number] | None = None
    activation: Name | None = None
    method_version: Small
    trainer_version: Small
    source_digest: Digest
    requires: dict[Name, Id]
    weights_digest: Digest | None = None
    parameters: Annotated[list[Count], Field(max_length=MEMBERS)]
    files: list[FileName] = []
    """That an ensemble trained elsewhere was given in; a file holds one member or several."""
    training_images: Count | None = None
    training_digest: Digest | None = None
    """Of the training images; None of a training elsewhere."""
    environment: Environment
    started: Time
    finished: Time
    seconds: Positive
    config: SpecDict
    """Checked by its own types (`bench.experiment.spec.RunSpec`) where records enter."""
    notes: Annotated[list[Text], Field(max_length=LINES)]
    facts: Facts | None = None
    given: GivenRecord | None = None
    """Of an ensemble trained elsewhere."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.parameters) != self.members:
            raise ValueError(f"parameters of {len(self.parameters)} networks for {self.members} members")
        if self.fusion_weights is not None and len(self.fusion_weights) != self.members:
            raise ValueError(f"{len(self.fusion_weights)} fusion weights for {self.members} members")
        return self


class CleanRowRecord(Strict):
    """Correct clean images of one target."""

    target: Target
    bits: str


class CellRecord(Strict):
    """Mistakes of one target on the images crafted on one source."""

    source: Annotated[int, Field(ge=0, lt=MEMBERS)]
    target: Target
    bits: str
    classes: str | None = None
    """The classes that the target gives the images; None in records from before they were kept."""


class OtherCellRecord(Strict):
    """The same on images of a source that is no member: `ensemble`, `noise`, or the id of another ensemble's run."""

    source: Name
    target: Target
    bits: str
    classes: str


class BlackboxAttack(Strict):
    """One attack of a black-box suite: a surrogate, an attack, one of its starts. (`attempts` in files.)"""

    surrogate: Name
    attack: Annotated[Name, Field(validation_alias=AliasChoices("attack", "loss"))]
    """`loss` in records of format 1."""
    restart: Small
    bits: str


class EvaluationRecord(_Record):
    """`evaluations/<evaluation_id>.json`. In format 1 `targets` and `precision` stand among the settings."""

    format: Literal[1, 2]  # type: ignore[assignment]
    evaluation_id: Id
    attack_key: Id
    run_id: Id
    attempt_id: AttemptId
    kind: Kind
    status: Literal["done"]
    attack: Name
    plugin: Name
    settings: Table
    budget_name: BudgetName | None
    budget: Positive | None
    stop: Stop | None
    targets: Targets | None = None
    precision: Precision = "float32"
    limit: ImageCount | None
    split: Split = "test"
    weights_digest: Digest | None = None
    """Of the weights it was measured on; None in records from before it was kept."""
    images_digest: Digest
    n: ImageCount
    n_clean: Count
    n_robust: Count | None
    clean_bits: str
    robust_bits: str | None
    measurements: dict[str, Any]
    forwards: Count
    backwards: Count
    seconds: Positive
    attack_version: Small
    evaluator_version: Small
    source_digest: Digest
    environment: Environment
    started: Time
    clean_rows: list[CleanRowRecord] = []
    cells: list[CellRecord] = []
    other_cells: Annotated[list[OtherCellRecord], Field(max_length=LONGEST)] = []
    """Empty in records from before there were such sources."""
    attempts: list[BlackboxAttack] = []

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _counted("clean_bits", self.clean_bits, self.n, self.n_clean)
        if (self.robust_bits is None) != (self.n_robust is None):
            raise ValueError("n_robust and robust_bits: one of them is null")
        if self.robust_bits is not None:
            _counted("robust_bits", self.robust_bits, self.n, self.n_robust)
            if (_bits("robust_bits", self.robust_bits, self.n) & ~_bits("clean_bits", self.clean_bits, self.n)).any():
                raise ValueError("robust_bits: an image that is wrong when clean counts as robust")
        if self.kind in (*MEASURED, "craft", "certify") and self.robust_bits is None:
            raise ValueError(f"{self.kind} without robust_bits")
        if self.kind in ("craft", "blackbox") and not self.attempts:
            raise ValueError(f"{self.kind} without attempts")
        if self.kind not in UNATTACKED and None in (self.budget_name, self.budget, self.stop):
            raise ValueError("an attack without its budget or stop rule")
        if self.kind in MATRICES:
            members = len(self.clean_rows) - 1
            targets = [*range(members), ENSEMBLE]
            if members < 1 or sorted(row.target for row in self.clean_rows) != sorted(targets):
                raise ValueError("clean_rows must hold each member from 0 and -1, the ensemble, once")
            pairs = [(cell.source, cell.target) for cell in self.cells]
            if sorted(pairs) != sorted((s, t) for s in range(members) for t in targets):
                raise ValueError(f"cells must hold each of {members} sources with each of {members + 1} targets once")
        if self.other_cells:
            self._fits_others()
        if len({row.target for row in self.clean_rows}) != len(self.clean_rows):
            raise ValueError("clean_rows hold a target twice")
        if len({(a.surrogate, a.attack, a.restart) for a in self.attempts}) != len(self.attempts):
            raise ValueError("attempts hold the same surrogate, attack and restart twice")
        cells: list[CellRecord | OtherCellRecord] = [*self.cells, *self.other_cells]
        for name, rows in (("clean_rows", self.clean_rows), ("cells", cells), ("attempts", self.attempts)):
            for row in rows:
                _bits(name, row.bits, self.n)
        for cell in cells:
            _classes(cell.classes, self.n)
        measurements.check(self.kind, self.measurements, self.n, len(self.clean_rows) - 1)
        return self

    def _fits_others(self) -> None:
        named = self.settings.get("surrogates", [])
        sources = dict.fromkeys(cell.source for cell in self.other_cells)
        if self.kind != "transfer" or not sources.keys() <= {WHOLE, NOISE, *map(str, named)}:
            raise ValueError(f"other_cells are of {WHOLE}, {NOISE} and the surrogates of a matrix")
        pairs = [(cell.source, cell.target) for cell in self.other_cells]
        targets = [row.target for row in self.clean_rows]
        if sorted(pairs) != sorted((source, target) for source in sources for target in targets):
            raise ValueError("other_cells must hold each source with each target once")


class FailureRecord(_Record):
    """`failures/<attempt_id>.json`."""

    attempt_id: AttemptId
    job_id: Id
    kind: JobKind
    run_id: Id | None
    family_id: Id | None
    describe: Described
    error: Error
    error_type: Error
    traceback: Traceback
    started: Time
    seconds: Positive | None
    environment: Environment


class MonitoredRecord(Strict):
    """Robust accuracy after an epoch on held-out images, under an attack that is said completely."""

    name: Name
    """Its label among the monitors of the run."""
    attack: Name
    plugin: Name
    settings: Table
    budget_name: BudgetName
    budget: Positive
    targets: Targets | None = None
    precision: Precision = "float32"
    robust_accuracy: Share
    images: ImageCount


class EpochRecord(Strict):
    """One line of `train.jsonl`; None stands for what was no number."""

    phase: Name
    epoch: Small
    lr: Number | None = None
    seconds: Positive | None = None
    loss: Number | None = None
    terms: Annotated[dict[Name, Number | None], Field(max_length=LINES)] | None = None
    member_accuracy: Annotated[list[Share | None], Field(max_length=MEMBERS)] | None = None
    ensemble_accuracy: Share | None = None
    accuracy_on: Line | None = None
    monitored: Annotated[list[MonitoredRecord], Field(max_length=LINES)] | None = None
    kept: bool | None = None
    """Whether it is the epoch of its phase whose weights the run has, where that is the best and not the last."""


class CheckpointRecord(_Record):
    """What stands beside the tensors of `checkpoint.safetensors`: the training, and where it was."""

    phase: Small
    epoch: Annotated[int, Field(ge=1, lt=2**31)]
    """The last complete one of this phase."""
    optimizer: Annotated[dict[OptimizerKey, None], Field(max_length=LONGEST)]
    """What its state has beside tensors: what no step has needed yet."""
    curve: Annotated[list[EpochRecord], Field(min_length=1, max_length=LONGEST)]
    run: SpecDict

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.curve[-1].epoch != self.epoch:
            raise ValueError(f"its curve ends with epoch {self.curve[-1].epoch}, it is of epoch {self.epoch}")
        return self


class ImportedRecord(_Record):
    """`imported.json`: that a run came from outside, and out of which archive."""

    archive: Line
    sha256: Sha256
    made_by: Name
    imported: Time


class ImportedAttempts(_Record):
    """`imported-attempts.json`: the attempts whose results came from outside."""

    attempts: Annotated[list[AttemptId], Field(max_length=10_000_000)]


class FoundAgain(Strict):
    """That one result was found again here."""

    sha256: Sha256
    """Of the file that holds its record: of another content nothing is said."""
    when: Time
    weights: Literal["recorded", "other"]
    """Those that the record names, or of a training that was made anew and gave others."""
    images: ImageCount | None = None
    """How many were compared; None for a training, whose weights are the same."""
    differing: Count = 0
    """How many of them have another outcome now."""
    environment: Environment


class ReMeasured(_Record):
    """`re-measured.json`: which results of a run were found again here, by their ids."""

    results: Annotated[dict[Id, FoundAgain], Field(max_length=10_000_000)]


class ForcedPassRecord(RootModel[Annotated[dict[Id, AttemptId], Field(max_length=10_000_000)]]):
    """`again/pass-….json`: the attempts that a pass of `--force` supersedes, by job."""


class LockRecord(Strict):
    """`locks/JOB.lock` and `….heir`: who is at a job."""

    token: AttemptId
    host: Line
    machine: Line
    pid: Small
    started: Line
    task: Line = ""


def _bits(name: str, text: str, n: int) -> Bools:
    try:
        return bits.from_text(text, n)
    except BenchError as error:
        raise ValueError(f"{name}: {error}") from error


def _classes(text: str | None, n: int) -> None:
    try:
        if text is not None:
            bits.classes_from_text(text, n)
    except BenchError as error:
        raise ValueError(f"cells: {error}") from error


def _counted(name: str, text: str, n: int, count: int | None) -> None:
    found = int(_bits(name, text, n).sum())
    if found != count:
        raise ValueError(f"{name} holds {found} images, its count says {count}")


R = TypeVar("R", bound=BaseModel)


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record, whole or not at all: the fields that were given, no defaults.

    Raises:
        OSError: the file cannot be written.
    """
    write_json(path, record.model_dump(mode="json", exclude_unset=True))


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
        raise BenchError(f"{where} is damaged: {fault_of(error)}") from error
