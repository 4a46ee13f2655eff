"""`bench db`: look after the database and the files behind it; give runs to others and take theirs in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import (
    Named,
    at_work,
    bring_up,
    existing_or_scratch,
    reading,
    where,
    with_published,
    workplace,
)
from bench.cli.parameters import InputFile, Once, Real, Seeds
from bench.cli.say import say
from bench.cli.verify import command as verify
from bench.core import numbers
from bench.core.errors import BenchError
from bench.core.identity import short
from bench.core.numbers import several
from bench.experiment.folder import RUNS

if TYPE_CHECKING:
    from bench.jobs.workplace import Workplace

yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@click.group("db")
def command() -> None:
    """Look after the database, which is an index over the files of the runs; exchange runs with others.

    \b
    Examples:
      bench db rebuild
      bench db export -o mine.zip --method trs
      bench db import theirs.zip
      bench db verify 4f0c1a
      bench db gc --dry-run
    """


command.add_command(verify)


@command.command("rebuild", cls=Once)
@where
def rebuild(results: Path, db: str | None) -> int:
    """Make the database anew from the files of all runs and the published tables.

    The old database is replaced only when the new one is complete, and not while a run is at work here. Damaged files
    are named and left out; the exit code is then 1. It is 1 too where weights are not those of their record: their
    results stay, they are named.

    \b
    Examples:
      bench db rebuild
      bench db rebuild --results /scratch/results
    """
    from bench.core.config import defaults
    from bench.experiment import naming
    from bench.jobs import damage, journal

    place = workplace(results, Path("data"))
    counts = journal.rebuild(db, place, defaults("published"), naming.configured(), bring_up)
    _faults(counts.damaged)
    say(
        f"{_shown(results, db)}: {several(counts.runs, 'run')}, {several(counts.evaluations, 'evaluation')}, "
        f"{several(counts.failures, 'failure')}, {several(counts.references, 'published value')}"
    )
    faults = [item.fault for item in damage.look(results / RUNS, weights_only=True) if item.fault]
    for fault in faults:
        say(fault, fg="yellow", err=True)
    return 1 if counts.damaged or faults else 0


@command.command("export", cls=Once)
@click.argument("identifiers", nargs=-1, metavar="[RUN]...")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True,
              help="The archive; of --format torch a folder.")  # fmt: skip
@click.option("--format", "style", type=click.Choice(["archive", "torch"]), default="archive", show_default=True,
              help="An archive for `bench db import`, or state dicts of torch for other tools.")  # fmt: skip
@click.option("--weights/--no-weights", default=None,
              help="With the weights and sample images, or the records alone.  [default: weights]")  # fmt: skip
@click.option("--unfinished", is_flag=True, help="Also trainings that are not done, with their last checkpoint.")
@click.option("-m", "--method", "methods", multiple=True, type=Named("methods"), help="Runs of this method.")
@click.option("-d", "--dataset", type=Named("datasets"), help="Runs on this data set.")
@click.option("--recipe", type=Named("recipes"), help="Runs of this recipe.")
@click.option("--model", type=Named("models"), help="Runs of this model.")
@click.option("--seeds", type=Seeds(), help="Runs of these seeds, such as 0-4.")
@where
def export(
    identifiers: tuple[str, ...], output: Path, style: str, weights: bool | None, unfinished: bool, results: Path,
    db: str | None,
    **chosen: Any,
) -> int:  # fmt: skip
    """Write runs with their evaluations into one archive, with a manifest and the digest of every file.

    RUN is the beginning of a run's id; with selectors all runs that fit, with neither all runs. The runs that a chosen
    one was trained with come along. The same files give the same archive, byte by byte. With --unfinished a training
    that was interrupted moves to another machine: after the import the same `bench run` goes on with it there.

    --format torch writes a folder a run, with a state dict a member (member0.pth, …) under the parameter names in
    common use (conv1, bn1, layer1.0.conv1, layer2.0.downsample.0, fc for the CIFAR ResNets), and ensemble.json with
    the normalisation, the rule of fusion and the model.

    \b
    Examples:
      bench db export -o mine.zip
      bench db export -o weights --format torch 4f0c1a
      bench db export -o trs.zip --method trs --dataset cifar10 --seeds 0-2
      bench db export -o one.zip --no-weights 4f0c1a
      bench db export -o begun.zip --unfinished --method trs --dataset cifar10
    """
    from bench.exchange import exporting

    if unfinished and weights is False:
        raise BenchError("a training goes on from its weights: leave one of --unfinished and --no-weights out")
    place = workplace(results, Path("data"))
    if style == "torch" and weights is not None:
        raise BenchError("--format torch writes weights: leave --weights and --no-weights out")
    if style == "torch" and unfinished:
        raise BenchError("--format torch writes trained members: leave --unfinished out")
    if style == "archive" and output.is_dir():
        raise BenchError(f"{output} is a folder; name the file of the archive")
    begun, faults = exporting.unfinished(place) if unfinished else ({}, [])
    _faults(faults)
    with reading(db, results) as base:
        run_ids = exporting.choose(base, identifiers, chosen, begun, whole=style == "archive")
    if style == "torch":
        from bench.exchange import torch_files

        for folder in torch_files.export(place, run_ids, output):
            say(f"{folder}: {several(len(list(folder.glob('*.pth'))), 'member')} and {torch_files.DESCRIPTION}")
        return 0
    done = exporting.export_runs(place, run_ids, output, weights=weights is not False, begun=begun.keys())
    _faults(done.left_out)
    size, told = output.stat().st_size / 2**20, ""
    if unfinished:
        told = f" ({len(done.manifest.unfinished)} of them not done)"
    counts = f"{several(len(done.manifest.runs), 'run')}{told}, {several(len(done.manifest.files), 'file')}"
    say(f"{output}: {counts}, {size:,.1f} MiB")
    return 1 if done.left_out or faults else 0


@command.command("import", cls=Once)
@click.argument("archive", type=InputFile(".zip"))
@click.option("--max-total", type=Real(numbers.BUDGET), default=16, show_default=True,
              metavar="GIB", help="Refuse an archive that unpacks to more.")  # fmt: skip
@click.option("--max-file", type=Real(numbers.BUDGET), default=4, show_default=True,
              metavar="GIB", help="Refuse a file of weights that is larger.")  # fmt: skip
@where
def import_(archive: Path, max_total: float, max_file: float, results: Path, db: str | None) -> None:
    """Take in the runs of an archive that `bench db export` made, here or elsewhere.

    Everything is checked before anything is written: digests, names, sizes, every record, that ids follow from the
    contents and counts from the outcomes, that weights are those of the run. Nothing is ever unpickled. What is here
    already stays; a run with other weights or an evaluation with other outcomes than here is refused.

    \b
    Examples:
      bench db import theirs.zip
      bench db import theirs.zip --results /scratch/results --max-total 100
    """
    from bench.exchange.archive import GIB, Limits
    from bench.exchange.importing import import_archive
    from bench.experiment import naming
    from bench.store.database import Database

    limits = Limits(total=int(max_total * GIB), file=int(max_file * GIB))
    place = workplace(results, Path("data"))
    with Database(db if db is not None else results / "bench.db") as base:
        base.names = naming.configured()
        base.derive = bring_up
        done = import_archive(archive, place, base, limits)
        with_published(base)
    for note in done.notes:
        say(f"Note: {note}", fg="yellow", err=True)
    new = [several(done.runs, "run"), several(done.evaluations, "evaluation"), several(done.failures, "failure")]
    new += [f"{several(done.weights, 'file')} of weights"]
    new += [several(done.unfinished, "unfinished training")] if done.unfinished else []
    kept = f"{several(done.kept, 'file')} {'was' if done.kept == 1 else 'were'} here already"
    say(f"{_shown(results, db)}: {', '.join(new)} new; {kept}")


@command.command("merge", cls=Once)
@click.argument("other", metavar="OTHER")
@where
def merge(other: str, results: Path, db: str | None) -> int:
    """Add the rows of OTHER, a database (file or URL) or a results folder, to this database.

    What is here stays, a result beats a failure. Only rows are added: weights and files stay where they are, and
    `bench db rebuild` would not find them; `bench db export` and `import` bring files too.

    \b
    Examples:
      bench db merge /mnt/other/results/bench.db
      bench db merge results/bench.db --db postgresql://me@server/bench
      bench db merge /scratch/results
    """
    from bench.exchange.merging import merge_from

    with at_work(db, results) as base:
        done, damaged = merge_from(base, other)
    _faults((*damaged, *done.left_out))
    counts = several(done.runs, "run"), several(done.evaluations, "evaluation"), several(done.attempts, "attempt")
    say(f"{_shown(results, db)}: {', '.join(counts)} new")
    return 1 if damaged or done.left_out else 0


@command.command("upgrade", cls=Once)
@yes_option
@where
def upgrade(yes: bool, results: Path, db: str | None) -> None:
    """Bring the database to the schema and SQL views of this bench.

    Before its schema changes a SQLite file is copied, and the copy's name printed; views hold no data.

    \b
    Examples:
      bench db upgrade
      bench db upgrade --db postgresql://me@server/bench --yes
    """
    from bench.experiment import naming
    from bench.store import ingest
    from bench.store.database import Database
    from bench.store.schema import REVISIONS
    from bench.store.sqlite import back_up

    def before(revision: str) -> None:
        if base.path is not None:
            say(f"backup    {back_up(base.path, revision)}")
        else:
            _ask(yes, "bench makes no copy of a PostgreSQL database (pg_dump does); upgrade it?", "changed")

    with Database(db if db is not None else results / "bench.db") as base:
        base.names = naming.configured()
        old = base.upgrade(before)
        ingest.note_provenance(base, workplace(results, Path("data")).runs)
        bring_up(base)
    told = f"now, it was {old.revision}"
    if old.revision == REVISIONS[-1]:
        told = "already, its SQL views made anew" if old.views else "already, nothing to do"
    say(f"{_shown(results, db)}: schema {REVISIONS[-1]} {told}")


@command.command("gc", cls=Once)
@click.option("--stale", is_flag=True, help="Also evaluations that are stale or superseded.")
@click.option("--dry-run", is_flag=True, help="List what would go, and stop.")
@yes_option
@where
def gc(stale: bool, dry_run: bool, yes: bool, results: Path, db: str | None) -> None:
    """Remove what nothing needs: remains of killed work, damaged files moved aside, failures made good later.

    It lists what would go, and asks.

    \b
    Examples:
      bench db gc --dry-run
      bench db gc --stale --yes
    """
    from bench.jobs import removal

    place = workplace(results, Path("data"))
    with existing_or_scratch(db, results) as base:
        _sync(base, place)
        items = removal.garbage(base, place, stale=stale)
        for item in items:
            where_ = item.paths[0].relative_to(results) if item.paths else "database only"
            say(f"{_bytes(item.size):>10}  {item.label}  {where_}")
        total = _bytes(sum(item.size for item in items))
        if not items or dry_run:
            say(f"{several(len(items), 'thing')}, {total}; nothing was removed" if items else "nothing to remove")
            return
        _ask(yes, f"Remove {several(len(items), 'thing')}, {total}?", "removed")
        _faults(removal.remove(base, place, items))
    say(f"removed {several(len(items), 'thing')}, {total}")


@command.command("delete", cls=Once)
@click.argument("identifiers", nargs=-1, required=True, metavar="ID...")
@click.option("--force", is_flag=True, help="Even if other runs were made with it.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and stop.")
@yes_option
@where
def delete(identifiers: tuple[str, ...], force: bool, dry_run: bool, yes: bool, results: Path, db: str | None) -> None:
    """Delete a run with its evaluations and weights, or one evaluation, by the beginning of its id.

    It says what goes, and asks. A run that others were trained with, or attacked with, is kept unless --force.

    \b
    Examples:
      bench db delete 4f0c1a
      bench db delete 4f0c1a 77ab09 --yes
    """
    from bench.jobs import removal
    from bench.jobs.presence import check_idle

    place = workplace(results, Path("data"))
    with existing_or_scratch(db, results) as base:
        _sync(base, place)
        items = list(
            {item.id: item for item in (removal.deletion_of(base, place, name) for name in identifiers)}.values()
        )
        going = {item.id for item in items}
        for item in items:
            needed = [short(run_id) for run_id in item.needed_by if run_id not in going]
            if needed and not force:
                raise BenchError(
                    f"run {short(item.id)} was used to make {', '.join(needed[:5])}{' …' if len(needed) > 5 else ''}; "
                    f"delete those too, or give --force"
                )
            told = f"{item.kind} {short(item.id)} ({item.label})"
            if item.kind == "run":
                told += f": {several(item.evaluations, 'evaluation')}, {several(item.failures, 'failure')}"
            say(f"{told}, {_bytes(item.size)} of files" + (", weights included" if item.weights else ""))
        if dry_run:
            say("nothing was deleted")
            return
        check_idle(place, removal.UNDONE)
        _ask(yes, "Delete for good?", "deleted")
        _faults(removal.delete(base, place, items))
    say(f"deleted {', '.join(short(item.id) for item in items)}")


def _ask(yes: bool, question: str, done: str) -> None:
    """Go on only after a yes.

    Raises:
        BenchError: any other answer, or nobody to ask.
    """
    if yes:
        return
    try:
        agreed = click.confirm(question)
    except click.Abort:
        agreed = False
    if not agreed:
        raise BenchError(f"nothing was {done}; answer y, or give --yes")


def _sync(base: Any, place: Workplace) -> None:
    """What was begun is done, and files that the database does not know yet are known first."""
    from bench.jobs import journal

    _faults(journal.catch_up(base, place))


def _faults(lines: Any) -> None:
    for fault in lines:
        say(f"left out: {fault}", fg="yellow", err=True)


def _shown(results: Path, db: str | None) -> str:
    from bench.store.database import Database

    return str(Database(db)) if db is not None else str(results / "bench.db")


def _bytes(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"
