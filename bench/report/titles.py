"""Titles of ensembles and of attacks, which follow what a result was made with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench.core import registry, settings
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.precision import USUAL, OfPasses, titled
from bench.experiment.spec import EvaluationSpec, RunSpec, of_attack
from bench.store.typed_rows import EvaluationRow

LONGEST = 40  # letters of a value
# What records and options call it, and what people are told; docs/glossary.md explains both.
PLAIN = {
    "first_success": "first success",
    "last": "last step",
    "rel_step": "relative step",
    "stale": "of an older version",
    "outside": "trained elsewhere",
    "correct_all": "images that every member gets right",
    "correct_both": "images that source and target get right",
    "all": "all images",
    "definition6": "misclassified by source and target",
    "definition6_conditional": "misclassified by source and target",
    "same_class": "misclassified as the source's class",
}


def plain(word: str) -> str:
    """A word of records and options as people read it: `first success`; others as they are."""
    return PLAIN.get(word, word)


GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "eps": "ε", "epsilon": "ε", "eta": "η", "lambda": "λ",
    "mu": "μ", "rho": "ρ", "sigma": "σ", "tau": "τ",
}  # fmt: skip
WORDS = {"ce": "cross-entropy", "cka": "CKA", "kl": "KL", "lr": "learning rate"}


def symbol(name: str) -> str:
    """A setting or a term of a loss as a paper writes it: `λa` of `lambda_a`, `α`, `batch size`, `cross-entropy`."""
    told = ""
    for part in name.split("_"):
        glued = told[-1:] in GREEK.values() and len(part) <= 2
        told += ("" if glued or not told else " ") + (GREEK.get(part) or WORDS.get(part) or part)
    return told


def budget_text(name: str | None, budget: float | None) -> str:
    """`ε = 0.1`, `c = 1`; nothing without a budget."""
    return "" if name is None or budget is None else f"{'ε' if name == 'eps' else name} = {budget_number(budget)}"


def budget_number(budget: float) -> str:
    """`0.1`; a whole number of 1/255 as such, `8/255`."""
    levels = budget * 255
    whole = abs(levels - round(levels)) < 1e-6 and round(levels) > 0 and len(f"{budget:g}") > 4
    return f"{round(levels)}/255" if whole else f"{budget:g}"


def ensemble_title(loaded: Loaded, method: str, precision: OfPasses | None) -> str:
    """What heads the column of an ensemble: its method, and the precision that it was trained in: `TRS, tf32`.

    Args:
        precision: None where nobody knows; of float32, which is usual, nothing is said.
    """
    return titled(loaded.title_of(method), precision or USUAL)


@dataclass(frozen=True)
class Titles:
    """Titles of bench.toml, without what `--set` changes: that is named behind a title, as any other difference is."""

    loaded: Loaded

    def attack(self, name: str, plugin: str | None = None, made: Mapping[str, Any] | None = None) -> str:
        """The title of an attack configured as `name`, for a result made with `plugin` and the settings `made`.

        `{steps}` in a title stands for that setting. What else is not as the file configures it is appended: `PGD
        (1000), restarts 10`. The precision has words of its own (`bench.core.precision.titled`). A name that the file
        does not have stands for itself; with another plug-in than the file's, the title says so.

        Args:
            plugin, made: of the stored or planned evaluation; those of the file unless given.
        """
        spec = self.loaded.written.attacks.get(name)
        if spec is None:
            return name
        plugin = plugin or spec.plugin
        if plugin != spec.plugin:
            return f"{name} (of {plugin})"
        here = self._configured.get(name, {})
        shown = here if made is None else {**dict.fromkeys(here.keys() & {"targets"}), **self._complete(plugin, made)}
        title, told = spec.title or name, set()
        for field in re.findall(r"\{(\w+)\}", title):
            if field in shown:
                title = title.replace(f"{{{field}}}", setting_text(shown[field]))
                told.add(field)
        if here:
            told |= {"precision"} - here.keys()
            differing = [field for field, value in shown.items() if value != here.get(field)]
            title += "".join(
                f", {symbol(field)} {setting_text(shown[field])}" for field in differing if field not in told
            )
        return title

    def of(self, made: EvaluationSpec | EvaluationRow) -> str:
        """The title of the attack of a planned or stored evaluation; of others' images what they are called."""
        if made.kind == "judged":
            return f"images {made.attack}"
        if made.kind == "certify":
            return f"certified ℓ2 (σ = {setting_text(made.settings.get('sigma'))})"
        targets = {} if made.targets is None else {"targets": made.targets}
        title = self.attack(made.attack, made.plugin, {**of_attack(made.kind, made.settings), **targets})
        return title + self._fewer(made, made.dataset if isinstance(made, EvaluationRow) else made.run.dataset)

    def sources(self, made: EvaluationSpec | EvaluationRow) -> str:
        """` from TRS × 3`: what the images of a black box were made on, where it is not as the file configures it.

        A stored evaluation has the ids of its surrogates alone, by which those that were trained elsewhere are known.
        """
        here = self.loaded.written.blackbox
        if made.kind != "blackbox" or here is None:
            return ""
        if isinstance(made, EvaluationSpec):  # its surrogates are of one method
            method = next((run.method for run in made.surrogates), here.method)
            sizes = tuple(run.members for run in made.surrogates) or here.members
            return "" if (method, sizes) == (here.method, here.members) else f" from {self.source(method, sizes)}"
        known = (self._elsewhere.get(run_id) for run_id in made.settings.get("surrogates", ()))
        names = dict.fromkeys(filter(None, known))
        return f" from {', '.join(names)}" if names else ""

    def source(self, method: str, sizes: Iterable[int]) -> str:
        """`ECE × 3, 5, 8`: ensembles that images are made on; the name alone of one that was trained elsewhere."""
        if any(name == method for name, _ in self.loaded.outside):
            return method
        return f"{self.loaded.title_of(method)} × {', '.join(map(str, sizes))}"

    @cached_property
    def _elsewhere(self) -> dict[str, str]:
        """Names of the ensembles that were trained elsewhere, by run."""
        specs = (spec for seeds in self.loaded.outside.values() for spec in seeds.values())
        return {run.run_id: run.method for run in map(RunSpec.model_validate, specs)}

    def _fewer(self, made: EvaluationSpec | EvaluationRow, dataset: str) -> str:
        """` (3 target classes)` where the data set has too few classes for all that the attack leads to elsewhere."""
        try:
            plugin = registry.load("attacks", made.plugin)
            known = self.loaded.dataset(dataset).classes
        except (BenchError, KeyError):
            return ""
        most = made.settings.get("target_classes", getattr(plugin, "target_classes", 0))
        return f" ({known - 1} target classes)" if isinstance(most, int) and known <= most else ""

    @cached_property
    def _configured(self) -> dict[str, dict[str, Any]]:
        """The settings of each attack of the file, as records have them; without those whose plug-in is not sound."""
        found = {}
        for name, spec in self.loaded.written.attacks.items():
            try:
                built = settings.build(registry.load("attacks", spec.plugin), spec.settings, f"attacks.{name}")
            except BenchError:
                continue
            found[name] = {**settings.complete(built), **({} if spec.targets is None else {"targets": spec.targets})}
        return found

    def _complete(self, plugin: str, made: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return settings.completed(registry.load("attacks", plugin), made)
        except BenchError:
            return dict(made)


def setting_text(value: Any) -> str:
    """`5`, `0.25`, `none`: a setting in a title."""
    text = f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
