"""`bench db verify`: stored results measured again."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import NameList, allow_factory, at_work, machine, open_database, where, workplace
from bench.cli.parameters import IMAGES, Budgets, Integer, Once, several
from bench.cli.say import say_json
from bench.core import numbers
from bench.core.device import pick
from bench.core.errors import BenchError
from bench.core.identity import short

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from bench.jobs.verification import Verified
    from bench.jobs.verify import RunToVerify

MARKS = {
    "equal": ("✓", "green"), "close": ("≈", "green"), "known": ("✓", "dim"), "differs": ("✗", "red"),
    "other": ("≠", "yellow"), "missing": ("–", "yellow"), "failed": ("✗", "red"),
}  # fmt: skip


@click.command("verify", cls=Once)
@click.argument("identifiers", nargs=-1, required=True, metavar="RUN...")
@several("--attack", kind=NameList("attacks"), text="Only these: pgd,fgsm, or clean, or blackbox; repeat, or a list.")
@several("--eps", kind=Budgets(), text="Only this radius, such as 0.03, 8/255 or a list.")
@several("--c", kind=Budgets(), text="Only this weight c.")
@click.option("--sample", type=Integer(1, numbers.MOST), metavar="N",
              help="At most N results of each run: the same each time, as whoever made them can know.")  # fmt: skip
@click.option("--retrain", is_flag=True,
              help="Train each run anew from its recorded settings, which takes long: its training is verified, and "
              "where its weights are not here, there is something to measure.")  # fmt: skip
@click.option("--force", is_flag=True, help="Also what was found again before.")
@machine(batch=False, otherwise="as each record says, unless given")
@click.option("--batch", type=IMAGES, help="Images a batch; as each record says, unless given.")
@allow_factory
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON, progress on stderr.")
@where
def command(
    identifiers: tuple[str, ...], attack: tuple[str, ...], eps: tuple[float, ...], c: tuple[float, ...],
    sample: int | None, retrain: bool, force: bool, data: Path, device: str | None, threads: int | None,
    batch: int | None, factories: tuple[str, ...], as_json: bool, results: Path, db: str | None,
) -> int:  # fmt: skip
    """Measure stored results again, compare them image by image, and note which results of others were found again.

    RUN is the beginning of the id of a run, with all its results, or of one evaluation. Measured is on the weights
    that came with the run; without them --retrain trains it anew. On the recorded weights, CPU, threads and torch
    every outcome must be the same. Elsewhere 2 images of each attack, or one in 200, may differ. What is found again
    has the provenance "re-measured" from then on; nothing that is stored is replaced.

    Exit code 1 if a result differs, 2 if one cannot be measured here.

    \b
    Examples:
      bench db verify 4f0c1a
      bench db verify 4f0c1a --attack pgd,blackbox --eps 0.1
      bench db verify 4f0c1a 77ab09 --sample 3
      bench db verify 4f0c1a --retrain
    """
    from bench.jobs.display import Display
    from bench.jobs.verification import Options
    from bench.jobs.verify import Verifier, choose
    from bench.report.console import console

    out = console(stderr=as_json)
    place = workplace(results, data, batch_size=batch, factories=factories)
    options = Options(retrain=retrain, force=force, device=device and pick(device, None), threads=threads)
    open_database(db, results).close()  # before anything is made in a folder that is none of ours
    found: list[tuple[RunToVerify, Verified]] = []
    with at_work(db, results) as base:
        chosen = choose(base, identifiers, attacks=attack, eps=eps, c=c, sample=sample)
        total = sum(len(each.rows) for each in chosen)
        if not total and not retrain:
            raise BenchError("nothing was measured on these runs; --retrain verifies their training")
        with Display(total, out) as display, Verifier(base, place, options, display.of("")) as verifier:
            for each in chosen:
                if len(chosen) == 1:
                    verifier.check(each)
                out.print(_heading(each), soft_wrap=True)
                verdicts: list[Verified] = []
                for verdict in verifier.verify(each):
                    verdicts.append(verdict)
                    display.passed(_line(verdict, each), jobs=int(verdict.id != each.run.run_id))
                _print_elsewhere(verdicts, out)
                found += [(each, verdict) for verdict in verdicts]
    if as_json:
        say_json([_record(each, verdict) for each, verdict in found])
    else:
        out.print(_summary([verdict for _, verdict in found]), soft_wrap=True)
    states = {verdict.state for _, verdict in found}
    return 1 if states & {"differs", "failed"} else 2 if "missing" in states else 0


def _heading(chosen: RunToVerify) -> Text:
    from rich.text import Text

    run = chosen.run
    return Text.assemble(
        (short(run.run_id), "bold"), f"  {run.method} on {run.dataset}, seed {run.seed}", (f"  {run.provenance}", "dim")
    )


def _line(verdict: Verified, chosen: RunToVerify) -> Table:
    """A verdict in three columns, the last of which wraps."""
    from rich.table import Table
    from rich.text import Text

    mark, style = MARKS[verdict.state]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=1)
    grid.add_column(width=max(len(text) for text in (verdict.label, "training", *chosen.labels.values())))
    grid.add_column()
    grid.add_row(Text(mark, style), verdict.label, Text(verdict.told, style if style != "green" else ""))
    return grid


def _print_elsewhere(verdicts: list[Verified], out: Console) -> None:
    """What was otherwise when these results were recorded, each once."""
    for apart in dict.fromkeys(verdict.elsewhere for verdict in verdicts if verdict.elsewhere):
        out.print(f"recorded elsewhere: {', '.join(apart)}", style="dim", soft_wrap=True)


def _summary(verdicts: list[Verified]) -> str:
    found = [verdict for verdict in verdicts if verdict.state in ("equal", "close", "known")]
    states = Counter(verdict.state for verdict in verdicts)
    counts = {
        "re-measured": sum(verdict.re_measured for verdict in found),
        "found again, of your own": sum(not verdict.re_measured for verdict in found),
        "differs" if states["differs"] == 1 else "differ": states["differs"],
        "with other weights": states["other"],
        "not measured": states["missing"],
        "failed": states["failed"],
    }
    return ", ".join(f"{count} {text}" for text, count in counts.items() if count)


def _record(chosen: RunToVerify, verdict: Verified) -> dict[str, Any]:
    return {"run_id": chosen.run.run_id, **asdict(verdict)}
