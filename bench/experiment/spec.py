"""What one run and one evaluation are, completely: the specs that jobs carry and that ids are made of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

from pydantic import Field, ValidationError

from bench.core import versions
from bench.core.identity import content_id
from bench.core.precision import USUAL
from bench.core.specs import Asked, Settings, Spec, Training, added_to, beside
from bench.core.terms import BudgetName, JobKind, Kind, Norm, Split, Stop
from bench.experiment.labels import evaluation_label, job_label, run_label

OUTSIDE = "outside"  # plug-in and recipe of ensembles that were trained elsewhere
FACTORY = "factory"  # model plug-in that calls a function by its name
MEMORY = "memory"  # model plug-in of networks that were given as objects, and are nowhere else

FORMAT: Final = 2  # of an evaluation's record: targets and precision are fields of their own

DESCRIBED = (
    "method", "plugin", "settings", "dataset", "model", "model_settings", "members", "recipe", "recipe_changes",
    "training", "validation", "seed",
)  # fmt: skip
"""What the record of a run says for people, beside the configuration that holds it too."""


CLEAN = "clean"  # what natural accuracy is called where an attack has its name


class MonitorSpec(Asked):
    """An attack under which held-out images are measured while a run trains.

    `name` is its label among the monitors of the run, `attack` its name in `bench.toml`.
    """

    name: str
    attack: str
    plugin: str
    settings: Settings = {}
    budget_name: BudgetName
    budget: float
    every: int = Field(1, ge=1, description="epochs; the last of a phase is always measured")
    version: int = Field(1, description="of the attack")

    @property
    def content(self) -> dict[str, Any]:
        """What it is, without names and version."""
        fields = self.model_dump(mode="json", include={"plugin", "settings", "budget_name", "budget", "every"})
        return {**fields, **self.later()}

    @property
    def text(self) -> str:
        """As a recipe or `--monitor` says it, complete."""
        values = {self.budget_name: self.budget, **self.settings}
        return f"{self.name}={self.attack}:{','.join(f'{name}={value}' for name, value in values.items())}"


class KeepSpec(Spec):
    """That of each phase of a training the epoch is kept that was best on held-out images, the first of equals."""

    monitor: MonitorSpec | None = Field(None, description="by its robust accuracy; None: by clean accuracy")

    @property
    def name(self) -> str:
        """The label of the monitor, or `clean`."""
        return self.monitor.name if self.monitor else CLEAN

    @property
    def content(self) -> Any:
        """What it is, as ids have it."""
        return self.monitor.content if self.monitor else CLEAN


class RunSpec(Spec):
    """One ensemble to train: everything that decides its weights, and the names people know it by.

    To be measured while it trains changes no weights: `monitor` is part of no id. What is kept by it does: `keep` is.
    """

    method: str
    plugin: str
    settings: Settings
    dataset: str
    dataset_plugin: str
    dataset_settings: Settings = {}
    model: str
    model_plugin: str
    model_settings: Settings
    members: int
    recipe: str
    recipe_changes: tuple[str, ...] = ()
    training: Training
    validation: int = 0
    seed: int
    versions: dict[str, int]
    requires: dict[str, RunSpec] = {}
    weights: str | None = Field(None, description="digest of weights trained elsewhere; None where we train them")
    monitor: tuple[MonitorSpec, ...] = beside((), max_length=100)
    keep: KeepSpec | None = beside(None)

    @cached_property
    def family_id(self) -> str:
        """What the seeds of one table cell share: all but the seed, the versions and the names."""
        return content_id(
            {
                "plugin": self.plugin,
                "settings": self.settings,
                "dataset": [self.dataset_plugin, self.dataset_settings],
                "model": [self.model_plugin, self.model_settings],
                "members": self.members,
                "training": self.training.model_dump(),
                "validation": self.validation,
                "requires": {name: run.family_id for name, run in self.requires.items()},
                **({"keep": self.keep.content} if self.keep else {}),
                **self.later(),
            }
        )

    @cached_property
    def run_id(self) -> str:
        """Identity of the trained ensemble."""
        requires = {name: run.run_id for name, run in self.requires.items()}
        identity = {"family": self.family_id, "seed": self.seed, "versions": self.versions, "requires": requires}
        return content_id(identity if self.weights is None else {**identity, "weights": self.weights})

    @property
    def prerequisites(self) -> tuple[RunSpec, ...]:
        """All runs that come first, and what these require before them."""
        chain = (one for run in self.requires.values() for one in (*run.prerequisites, run))
        return tuple({run.run_id: run for run in chain}.values())

    def described(self) -> dict[str, Any]:
        """The names and settings that its record says for people, as JSON."""
        return self.model_dump(mode="json", include=set(DESCRIBED))

    @property
    def label(self) -> str:
        """For people: `trs on digits, seed 0`; `surrogate ece × 5 on digits`."""
        return run_label(self.method, self.dataset, self.seed, self.members)


def of_attack(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an evaluation that are its attack's; those of a matrix may name surrogates beside them."""
    return {name: value for name, value in settings.items() if kind != "transfer" or name != "surrogates"}


class EvaluationSpec(Asked):
    """One measurement on one run.

    `craft` makes the images of the black-box suite on a surrogate, `blackbox` judges them on a victim: there
    `surrogates` are the runs whose images are used, and `settings` name them and their attacks. A matrix may have some
    as sources beside the members; then their ids stand among its settings.
    """

    kind: Kind
    run: RunSpec
    attack: str
    plugin: str
    settings: Settings = {}
    budget_name: str | None = None
    budget: float | None = None
    stop: Stop | None = None
    limit: int | None = None
    split: Split = "test"
    surrogates: tuple[RunSpec, ...] = ()
    versions: dict[str, int]

    @cached_property
    def attack_key(self) -> str:
        """What the runs and seeds of one table row share: all but the run and the versions."""
        identity = {
            "kind": self.kind,
            "plugin": self.plugin,
            "settings": self.settings,
            "budget": [self.budget_name, self.budget],
            "stop": self.stop,
            "dataset": [self.run.dataset_plugin, self.run.dataset_settings],
            "limit": self.limit,
            "split": self.split,
        }
        return content_id({**identity, **self.later()})

    @classmethod
    def of_clean(cls, run: RunSpec, *, limit: int | None, split: Split) -> EvaluationSpec:
        """Clean accuracy of a run."""
        newest = {"attack": 1, "evaluator": versions.EVALUATOR}
        return cls(kind="clean", run=run, attack="clean", plugin="clean", limit=limit, split=split, versions=newest)

    @classmethod
    def of_judged(
        cls, run: RunSpec, name: str, digest: str, *, norm: Norm | None, budget_name: str, budget: float,
        limit: int | None,
    ) -> EvaluationSpec:  # fmt: skip
        """Images that somebody else made: what they are is their digest, `name` is what people call them."""
        return cls(
            kind="judged", run=run, attack=name, plugin="judged", settings={"images": digest, "norm": norm},
            budget_name=budget_name, budget=budget, stop="last", limit=limit,
            versions={"attack": 1, "evaluator": versions.EVALUATOR},
        )  # fmt: skip

    @classmethod
    def of_audit(cls, run: RunSpec, probe: str, settings: Settings, *, eps: float, limit: int | None) -> EvaluationSpec:
        """A look at the gradients of a run, one of `bench.core.versions.PROBES`, in the ℓ∞ ball of radius `eps`."""
        return cls(
            kind="audit", run=run, attack=probe, plugin=probe, settings=settings, budget_name="eps", budget=eps,
            stop="last", limit=limit, versions={"attack": versions.PROBES[probe], "evaluator": versions.EVALUATOR},
        )  # fmt: skip

    @classmethod
    def of_record(cls, record: Mapping[str, Any], run: RunSpec) -> EvaluationSpec:
        """What an evaluation's record on `run` is of.

        In records of format 1 what the harness decides beside the attack stood among the settings, where an attack's
        own may have these names: the reading that gives the record's id is meant.

        Raises:
            ValidationError: it is of nothing.
            KeyError, TypeError: it is not a record.
        """
        fields = {name: record[name] for name in cls.model_fields if name in record}
        fields["versions"] = {"attack": record["attack_version"], "evaluator": record["evaluator_version"]}
        fields["run"] = run
        if record["format"] != 1:
            return cls.model_validate(fields)
        tried: list[dict[str, Any]] = [{}]
        for name in added_to(cls):
            for reading in list(tried):
                own = dict(reading.get("settings", record["settings"]))
                if name in own:
                    tried.append({**reading, name: own.pop(name), "settings": own})
        found, fault = [], None
        for reading in tried:
            try:
                found.append(cls.model_validate(fields | reading))
            except ValidationError as error:
                fault = error
        if fault and not found:
            raise fault
        return next((spec for spec in found if spec.evaluation_id == record["evaluation_id"]), found[0])

    @cached_property
    def crafts(self) -> tuple[EvaluationSpec, ...]:
        """What makes the images that a black-box evaluation uses: one piece of work a surrogate."""
        if self.kind != "blackbox":
            return ()
        return tuple(
            self.model_copy(
                update={
                    "kind": "craft",
                    "run": surrogate,
                    "settings": {name: value for name, value in self.settings.items() if name != "surrogates"},
                    "surrogates": (),
                }
            )
            for surrogate in self.surrogates
        )

    @cached_property
    def evaluation_id(self) -> str:
        """Identity of the measurement."""
        return content_id({"run": self.run.run_id, "attack": self.attack_key, "versions": self.versions})

    @property
    def label(self) -> str:
        """For people: `pgd ε=0.1`; another precision than float32 is named."""
        return evaluation_label(
            self.kind, self.attack, budget_name=self.budget_name, budget=self.budget, precision=self.precision,
            targets=self.targets,
        )  # fmt: skip


class Job(Spec):
    """One piece of work: train `run`, or make `evaluation` on it."""

    run: RunSpec
    evaluation: EvaluationSpec | None = None

    @property
    def job_id(self) -> str:
        """The id of the run or evaluation that the job makes."""
        return self.evaluation.evaluation_id if self.evaluation else self.run.run_id

    @property
    def kind(self) -> JobKind:
        """`train`, or the kind of the evaluation."""
        return self.evaluation.kind if self.evaluation else "train"

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the jobs that come first."""
        if self.evaluation:
            crafts = (craft.evaluation_id for craft in self.evaluation.crafts)
            sources = () if self.evaluation.crafts else (source.run_id for source in self.evaluation.surrogates)
            return (self.run.run_id, *crafts, *sources)
        return tuple(run.run_id for run in self.run.requires.values())

    @property
    def label(self) -> str:
        """For people."""
        return job_label(self.run.label, self.evaluation.label if self.evaluation else None)

    def describe(self) -> dict[str, Any]:
        """The names and numbers that a failure record keeps."""
        run, evaluation = self.run, self.evaluation
        precision = evaluation.precision if evaluation else USUAL
        return {
            "method": run.method,
            "dataset": run.dataset,
            "model": run.model,
            "recipe": run.recipe,
            "seed": run.seed,
            "attack": evaluation.attack if evaluation else None,
            "budget": evaluation.budget if evaluation else None,
            "budget_name": evaluation.budget_name if evaluation else None,
            "members": run.members,
            "recipe_changes": list(run.recipe_changes),
            "settings": evaluation.settings if evaluation else run.settings,
            **({} if precision == USUAL else {"precision": precision}),
            **({"targets": evaluation.targets} if evaluation and evaluation.targets is not None else {}),
            **({"limit": evaluation.limit} if evaluation and evaluation.limit is not None else {}),
            **({"split": evaluation.split} if evaluation and evaluation.split != "test" else {}),
        }
