"""How an ensemble was trained, in words: by which recipe, or elsewhere, of which nothing more is known."""

from __future__ import annotations

from collections.abc import Iterable

from bench.core.config import Loaded
from bench.experiment import select
from bench.experiment.spec import OUTSIDE
from bench.report.titles import symbol

ELSEWHERE = "trained elsewhere"


def recipe_label(recipe: str, changes: Iterable[str] = (), *, plugin: str | None = None) -> str:
    """`published`, `published with training.epochs=2`; `trained elsewhere` for the plug-in of outside ensembles."""
    told = ", ".join(changes)
    return (ELSEWHERE if plugin == OUTSIDE else recipe) + (f" with {told}" if told else "")


def phrase(label: str) -> str:
    """A label within a sentence: `recipe published`, `trained elsewhere`."""
    return label if label.startswith(ELSEWHERE) else f"recipe {label}"


def on_paper(loaded: Loaded, dataset: str, label: str) -> str:
    """A label for readers who do not know `bench`: `training: quick, epochs = 2`; empty for the usual recipe."""
    recipe, _, changes = label.partition(" with ")
    if recipe == ELSEWHERE:
        return ELSEWHERE
    usual = recipe == select.recipe_name(loaded, None, dataset)
    told = [*([] if usual else [recipe]), *(change_on_paper(change) for change in changes.split(", ") if change)]
    return f"training: {', '.join(told)}" if told else ""


def change_on_paper(change: str) -> str:
    """`λa = 5` of `methods.trs.lambda_a=5`."""
    key, _, value = change.partition("=")
    return f"{symbol(key.strip().rpartition('.')[2])} = {value.strip()}"


def setting_on_paper(loaded: Loaded, dataset: str, members: str, models: Iterable[str], label: str) -> str:
    """`CIFAR-10, 3 × ResNet-20`, and what was otherwise than usual in the training."""
    titles = ", ".join(dict.fromkeys(loaded.title_of_model(model) for model in models))
    told = on_paper(loaded, dataset, label)
    return f"{loaded.title_of_dataset(dataset)}, {members} × {titles}" + (f"; {told}" if told else "")
