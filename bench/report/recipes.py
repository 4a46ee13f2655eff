"""How an ensemble was trained, in words: by which recipe, or elsewhere, of which nothing more is known."""

from __future__ import annotations

from collections.abc import Iterable

from bench.experiment.spec import OUTSIDE

ELSEWHERE = "trained elsewhere"


def recipe_label(recipe: str, changes: Iterable[str] = (), *, plugin: str | None = None) -> str:
    """`published`, `published with training.epochs=2`; `trained elsewhere` for the plug-in of outside ensembles."""
    told = ", ".join(changes)
    return (ELSEWHERE if plugin == OUTSIDE else recipe) + (f" with {told}" if told else "")


def phrase(label: str) -> str:
    """A label within a sentence: `recipe published`, `trained elsewhere`."""
    return label if label.startswith(ELSEWHERE) else f"recipe {label}"
