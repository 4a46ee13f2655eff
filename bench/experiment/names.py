"""What people read of a result, against what its id is made of.

Ids are made of contents: plug-ins, settings, training. Names (`trs`, `cifar10`, `published`) are words for these in
somebody's bench.toml, and a record may claim any. So a name is looked up in the configuration that holds here before
it is stored: `Namer` says which names the contents have. What it can not derive stays a claim and is marked as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from bench.experiment.spec import EvaluationSpec, RunSpec

MARK = " (claimed)"


class RunNames(NamedTuple):
    """The names of a run: what tables, pages and selectors know it by."""

    method: str
    dataset: str
    model: str
    recipe: str
    recipe_changes: tuple[str, ...]


class Namer(Protocol):
    """Derives names from contents."""

    def run(self, spec: RunSpec) -> RunNames:
        """The names of a run."""

    def attack(self, spec: EvaluationSpec) -> str:
        """The name of an evaluation's attack."""

    @property
    def aliases(self) -> Mapping[tuple[str, str], str]:
        """(data set, older or other name of a recipe) → the name that it has here."""


class AsRecorded:
    """Names as the records say them: for files that this process has just written from the configuration."""

    aliases: Mapping[tuple[str, str], str] = MappingProxyType({})

    def run(self, spec: RunSpec) -> RunNames:
        """The names that the spec has."""
        return RunNames(spec.method, spec.dataset, spec.model, spec.recipe, spec.recipe_changes)

    def attack(self, spec: EvaluationSpec) -> str:
        """The name that the spec has."""
        return spec.attack


AS_RECORDED = AsRecorded()


def recipe_today(names: Namer | None, dataset: str, recipe: str) -> str:
    """What a recipe that was stored, or is asked for, as `recipe` is called here; a claim stays one."""
    name = unmarked(recipe)
    found = name if names is None else names.aliases.get((dataset, name), name)
    return found if name == recipe else claimed(found)


def told_today(names: Namer | None, told: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run, or what a failure tells of its run, with the names that recipes have here."""
    found = dict(told)
    if isinstance(found.get("dataset"), str) and isinstance(found.get("recipe"), str):
        found["recipe"] = recipe_today(names, found["dataset"], found["recipe"])
    if isinstance(needed := found.get("requires"), dict):
        found["requires"] = {
            role: told_today(names, run) if isinstance(run, dict) else run for role, run in needed.items()
        }
    return found


def claimed(name: str) -> str:
    """`trs (claimed)`: a name that could not be derived; marked once, however often it travels."""
    return f"{unmarked(name)}{MARK}"


def unmarked(name: str) -> str:
    """The name without such marks."""
    while name.endswith(MARK):
        name = name.removesuffix(MARK)
    return name
