"""A failed job on a card, and the command that makes a run again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.experiment.spec import OUTSIDE

if TYPE_CHECKING:
    from rich.console import Console

    from bench.store.typed_rows import FailureRow


def again(run: Mapping[str, Any]) -> str:
    """The command that makes a run again, as far as its own selectors say."""
    parts = [f"bench run --method {shlex.quote(run['method'])} --dataset {run['dataset']} --seeds {run['seed']}"]
    if run["recipe"] == OUTSIDE:
        return parts[0]  # its evaluations; the training is not ours to repeat
    parts.append(f"--recipe {shlex.quote(run['recipe'])} --model {run['model']}")
    if "members" in run:  # failures of old versions do not say
        parts.append(f"--members {run['members']}")
    parts += [f"--set {shlex.quote(change)}" for change in run.get("recipe_changes", ())]
    return " ".join(parts)


def failed_training(row: FailureRow) -> bool:
    """Whether there is no run because of this failure."""
    return row.kind == "train" and not row.done


def retry(row: FailureRow) -> str:
    """The command that tries a failed job again, or what stands for it where the record does not say enough."""
    told = row.describe
    if not {"method", "dataset", "seed", "recipe", "model"} <= told.keys():
        return "the same `bench run`"
    if row.kind == "attack" and told.get("budget_name") and isinstance(told.get("budget"), (int, float)):
        return f"{again(told)} --attack {told['attack']} --{told['budget_name']} {told['budget']:g}"
    return again(told)


def show_failure(row: FailureRow, out: Console) -> None:
    """Print what failed, how, under which settings, and how to try again."""
    from rich.table import Table
    from rich.text import Text

    from bench.core.identity import short

    told = row.describe
    what = "training" if row.kind == "train" else f"{row.kind} {told.get('attack') or ''}".strip()
    if told.get("budget") is not None:
        what += f" {told.get('budget_name') or ''} {told['budget']}".replace("  ", " ")
    settings = told.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    lines = {
        "failed": f"{what} of {told.get('method')} on {told.get('dataset')}, seed {told.get('seed')}",
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
