"""A failed job on a card, and the command that tries it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from bench.core.errors import BenchError
from bench.core.identity import short
from bench.core.terms import BudgetName

if TYPE_CHECKING:
    from rich.console import Console

    from bench.store.typed_rows import FailureRow


def failed_training(row: FailureRow) -> bool:
    """Whether there is no run because of this failure."""
    return row.kind == "train" and not row.done


def retry(row: FailureRow) -> str:
    """The command that tries a failed job again, or what stands for it where the record does not say enough."""
    from bench.core import config
    from bench.experiment import command

    told = row.describe
    # The images of surrogates are made for their victims, of which nothing is told here.
    unknown = any(told.get(name) is None for name in ("method", "dataset", "seed", "recipe", "model"))
    if unknown or row.kind in ("craft", "blackbox"):
        return "the same `bench run`"
    asked: dict[str, Any] = {name: told[name] for name in ("limit", "split") if name in told}
    named = told.get("attack") and told.get("budget") is not None and told.get("budget_name") in get_args(BudgetName)
    if row.kind != "attack" or not named:
        return command.of_run(told, **asked)
    asked |= command.one_attack(told["attack"], told["budget_name"], float(told["budget"]))
    try:
        changes = command.attack_changes(config.load(), told["attack"], told.get("settings") or {})
    except BenchError:  # the card is shown all the same
        changes = []
    return command.of_run(told, changes=changes, precision=told.get("precision"), **asked)


def show_failure(row: FailureRow, out: Console) -> None:
    """Print what failed, how, under which settings, and how to try again."""
    from rich.table import Table
    from rich.text import Text

    told = row.describe
    settings = told.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    lines = {
        "failed": row.label,
        "error": row.error,
        "settings": ", ".join(f"{key} {value}" for key, value in settings.items())
        if isinstance(settings, dict)
        else "",
        "members": f"{told['members']} × {told.get('model')}" if "members" in told else told.get("model"),
        "recipe": f"{told.get('recipe')}{f' with {changes}' if (changes := _listed(told)) else ''}",
        "started": row.started + ("" if row.seconds is None else f", failed after {row.seconds:.1f} s"),
        "again": retry(row),
    }
    grid = Table.grid(padding=(0, 2))
    grid.add_row(Text("id", "dim"), Text(short(row.job_id), "bold"))
    for name, text in lines.items():
        grid.add_row(Text(name, "dim"), str(text or "–"), style="red" if name == "error" else None)
    out.print(grid)
    if row.traceback:
        out.print(row.traceback.rstrip(), style="dim")


def _listed(told: Mapping[str, Any]) -> str:
    return ", ".join(map(str, told.get("recipe_changes") or ()))
