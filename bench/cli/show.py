"""`bench show`: one run or evaluation on a card."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.failure import show_failure
from bench.cli.options import RunId, allow_factory, machine, reading, where, workplace
from bench.cli.parameters import Once
from bench.cli.say import say_json
from bench.cli.theory import as_record, print_panel
from bench.core.device import pick
from bench.core.errors import BenchError
from bench.core.identity import short
from bench.core.precision import titled
from bench.core.terms import SUITES, UNSHARED
from bench.experiment.folder import RUNS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from bench.jobs.workplace import Workplace
    from bench.report.theory import Panel
    from bench.store.database import Database
    from bench.store.typed_rows import EvaluationRow, Match, RunRow


@click.command("show", cls=Once)
@click.argument("identifier", metavar="ID", type=RunId())
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--export", "target", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.safetensors",
              help="Write the adversarial images of an attack's evaluation.")  # fmt: skip
@machine(only="For --export: ", otherwise="as the evaluation was made, unless given")
@allow_factory
@where
def command(
    identifier: str, as_json: bool, target: Path | None, data: Path, device: str | None, threads: int | None,
    batch: int | None, factories: tuple[str, ...], results: Path, db: str | None,
) -> None:  # fmt: skip
    """Everything about the run or evaluation whose id begins with ID; of one that failed, the failure.

    --export crafts the images of an attack again from the stored weights, checks that every image has the outcome
    that is stored, and writes them as they are: float32 in [0, 1], with the originals (uint8), labels, predictions
    before and after, and what they are as metadata. Exit code 1, and no file, if an outcome differs.

    \b
    Examples:
      bench list runs
      bench show 4f0c1a
      bench show 4f0c1a --json
      bench show 9be1d2 --export images.safetensors
    """
    from bench.report.console import console
    from bench.store import ids, queries

    with reading(db, results) as base:
        found = ids.find(base, identifier, ids.KINDS if target is None else ("evaluation",))
        if target is not None:
            place = workplace(results, data, batch_size=batch, factories=factories)
            _export(base, found.id, place, target, device, threads, as_json)
            return
        if found.kind == "failure":
            (failure,) = (row for row in queries.failures(base, run_ids=found.run_id) if row.job_id == found.id)
            if as_json:
                say_json({"status": "failed", **asdict(failure)})
            else:
                show_failure(failure, console())
            return
        at = workplace(results, data)
        record = _run(base, found.run_id, at) if found.kind == "run" else _evaluation(base, found.id, at)
        panel = _panel(base, found)
        if panel:
            record |= as_record(panel)
    if as_json:
        say_json(record)
    elif found.kind == "run":
        _print_run(record, console(), results)
        print_panel(panel, console())
    else:
        _print_evaluation(record, console())
        print_panel(panel, console())


def _panel(base: Database, found: Match) -> Panel:
    """Diversity and bounds of transfer: of a run, from what is current; of one evaluation."""
    from bench.report import theory
    from bench.store import queries, standing

    run = queries.find_run(base, found.run_id)
    if found.kind == "run":
        measured = standing.read(base, family_ids=run.family_id)
        rows = [row for row in measured.standings.current(measured.rows) if row.run_id == run.run_id]
    else:
        rows = queries.evaluations(base, evaluation_ids=found.id)
    return theory.panel(base, run, rows)


def _export(
    base: Database, evaluation_id: str, place: Workplace, target: Path, device: str | None, threads: int | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Write the images of an evaluation; the line at the end says what they are."""
    from bench.jobs import export_images
    from bench.jobs.display import Display
    from bench.report.console import console

    if target.suffix != export_images.SUFFIX:
        raise BenchError(f"images are written as safetensors only: name the file {target.stem}{export_images.SUFFIX}")
    stored = export_images.find(base, place, evaluation_id)
    out = console(stderr=as_json)
    device = device and pick(device, None)
    with Display(1, out) as display:
        done = export_images.write(stored, place, target, display.of(""), device=device, threads=threads)
    if as_json:
        say_json({**asdict(done), "path": str(done.path)})
        return
    out.print(
        f"{target}: {done.n:,} images, {done.clean:,} right before the attack, {done.broken:,} of these broken by it; "
        "crafted again, all outcomes as stored",
        soft_wrap=True,
    )  # fmt: skip


def _run(base: Database, run_id: str, place: Workplace) -> dict[str, Any]:
    from bench.exchange.importing import origin
    from bench.experiment.spec import OUTSIDE
    from bench.report.recipes import ELSEWHERE
    from bench.store import queries, standing

    run = queries.find_run(base, run_id)
    measured = standing.read(base, family_ids=run.family_id)
    rows, raised = measured.rows, measured.standings.raised
    verdict = measured.standings.verdicts.get(run_id)
    # Of a training elsewhere nothing is known: what the record has there only fills its place.
    unknown = {"recipe": ELSEWHERE, "training": None} if run.plugin == OUTSIDE else {}
    return {
        **asdict(run),
        **unknown,
        "again": _again(base, run, rows),
        "imported": origin(place, run_id),
        "given": _given(place.run(run_id).record),
        "found_again": _found_again(place.run(run_id).record, run.provenance),
        "environment": queries.environment(base, run.environment_id),
        "parameters": [member.parameters for member in queries.members(base, run_id)],
        "curve": [asdict(row) for row in queries.curve(base, run_id)],
        "evaluations": [asdict(row) for row in rows if row.run_id == run_id],
        "standing": asdict(measured.standings.of(run_id)),
        "standings": {
            row.evaluation_id: asdict(worth)
            for row in rows
            if row.run_id == run_id and not (worth := measured.standings.of(row.evaluation_id)).is_current
        },
        "flags": {
            row.evaluation_id: [item.flag.id for item in raised.get(row.evaluation_id, ())]
            for row in rows
            if row.run_id == run_id and row.evaluation_id in raised
        },
        "verdict": None if verdict is None else asdict(verdict),
        "failures": [
            {**asdict(row), "label": row.label} for row in queries.failures(base, run_ids=run_id) if not row.done
        ],
    }


def _again(base: Database, run: RunRow, rows: Iterable[EvaluationRow]) -> str:
    """The command that makes the run again; of what was trained elsewhere its evaluations."""
    from bench.core import config
    from bench.experiment.command import of_run
    from bench.experiment.spec import OUTSIDE
    from bench.report.again import Commands
    from bench.store import queries

    if run.plugin != OUTSIDE:
        return of_run(vars(run))
    try:
        loaded = config.load().with_outside(queries.configs(base, plugin=OUTSIDE))
    except BenchError:  # the card is shown all the same
        return of_run(vars(run))
    return Commands(loaded).run(run, {}, [row for row in rows if row.run_id == run.run_id]).text


def _evaluation(base: Database, evaluation_id: str, place: Workplace) -> dict[str, Any]:
    from bench.experiment.measurements import expected_accuracy
    from bench.store import queries

    row = queries.find_evaluation(base, evaluation_id)
    record = {
        **asdict(row),
        "environment": queries.environment(base, row.environment_id),
        "found_again": _found_again(place.run(row.run_id).evaluation(evaluation_id), row.provenance),
    }
    if (expected := expected_accuracy(row.kind, row.measurements, row.n)) is not None:
        record["expected_accuracy"] = expected
    if row.kind == "blackbox":
        import numpy as np

        from bench.store.rates import blackbox_rates

        outcomes = queries.outcomes(base, [evaluation_id]).get(evaluation_id)
        missed = [attack.bits for attack in queries.blackbox(base, evaluation_id)]
        if outcomes is not None and missed:
            record["blackbox"] = blackbox_rates(outcomes.clean, np.stack(missed))._asdict()
    return record


def _given(record: Path) -> dict[str, Any] | None:
    """How the files of an ensemble trained elsewhere were understood; None where that is not known here."""
    from bench.core.files import read_json
    from bench.experiment.records import given_in

    given = given_in(read_json(record), record) if record.is_file() else None
    return None if given is None else given.model_dump(mode="json")


def _numbers(rows: list[list[float]]) -> str:
    """Numbers for each channel; of members that differ, one after the other."""
    return " or ".join(dict.fromkeys(" ".join(f"{value:g}" for value in row) for row in rows))


def _files(given: dict[str, Any] | None) -> dict[str, str]:
    """The lines of the files of an ensemble trained elsewhere."""
    if given is None:
        return {}
    changes = {"prefix": given["prefix"], "map": given["map"], "left out": given["left_out"]}
    by = {"own": "bench's", "common": "the common CIFAR ResNets'", "mapped": "mapped", "order": "order of the file"}
    said = [
        f"{name} {', '.join(values[:5])}" + (" …" if len(values) > 5 else "")
        for name, values in changes.items()
        if values
    ]
    mean, std = (_numbers(given[name]) for name in ("mean", "std"))
    return {
        "files": ", ".join(f"{file['name']} (SHA-256 {file['sha256'][:12]}…)" for file in given["files"]),
        "members in": ", ".join(given["members"]),
        "names": "; ".join([", ".join(by[names] for names in given["names"]), *said]),
        "normalisation": f"{' or '.join(given['normalisation'])}: mean {mean}, std {std}",
    }


def _found_again(path: Path, provenance: str) -> dict[str, Any] | None:
    """When, where and how well a result was found again; None for one that was not, or whose files are not here."""
    from bench.store.provenance import found_again

    found = found_again(path) if provenance == "re-measured" else None
    return None if found is None else found.model_dump(exclude={"sha256"})


def _source(record: dict[str, Any]) -> str:
    """Where a result comes from, in words."""
    found = record["found_again"]
    if found is None:
        return str(record["provenance"])
    if found["images"] is None:
        told = "trained again, the same weights"
    else:
        told = f"{found['images'] - found['differing']:,} of {found['images']:,} images as recorded"
        told += ", on weights of a training made anew" if found["weights"] == "other" else ""
    return f"re-measured on {found['when'][:10]}: {told}"


def _results_from(run: dict[str, Any]) -> str:
    """Where the results of a run come from, if some from elsewhere than it."""
    found = Counter(row["provenance"] for row in run["evaluations"])
    others = ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
    return "" if set(found) <= {run["provenance"]} else f"; results: {others}"


def _came(imported: dict[str, Any] | None) -> dict[str, str]:
    """The line of a run that came from outside."""
    if imported is None:
        return {}
    return {"came in": f"{imported['imported']}, out of {imported['archive']} (SHA-256 {imported['sha256'][:12]}…)"}


def _claimed(facts: dict[str, Any]) -> dict[str, str]:
    """The lines of what was said with weights from elsewhere."""
    paper = ", ".join(facts.get("authors") or []), facts.get("title"), facts.get("venue"), facts.get("year")
    trained = {"adversarial": "attacked images", "extra_data": "extra data"}
    lines = {
        "paper (claimed)": ", ".join(str(part) for part in paper if part),
        "found at": ", ".join(facts[name] for name in ("url", "code") if facts.get(name)),
        "trained on": ", ".join(
            f"{'' if facts[name] else 'no '}{what}" for name, what in trained.items() if facts.get(name) is not None
        ),
    }
    return {name: text for name, text in lines.items() if text}


def _print_run(run: dict[str, Any], out: Console, results: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from bench.experiment.spec import OUTSIDE
    from bench.jobs.estimate import spoken
    from bench.report.listing import Head, print_listing
    from bench.report.recipes import ELSEWHERE
    from bench.report.tables import budget_text
    from bench.report.titles import plain

    changes = f" with {', '.join(run['recipe_changes'])}" if run["recipe_changes"] else ""
    grid = Table.grid(padding=(0, 2))
    each = f" ({run['parameters'][0]:,} parameters)" if run["parameters"] else ""
    lines: dict[str, str | Text] = {
        "run": Text.assemble(
            (short(run["run_id"]), "bold"), f"  {run['method']} on {run['dataset']}, seed {run['seed']}"
        ),
        "settings": ", ".join(f"{name} {_value(value)}" for name, value in run["settings"].items()) or "none",
        "members": f"{run['members']} × {run['model']}{each}, fusion {run['fusion']}",
        "recipe": ELSEWHERE if run["plugin"] == OUTSIDE else f"{run['recipe']}{changes}: {_training(run['training'])}",
        "taken in" if run["plugin"] == OUTSIDE else "trained": f"{run['started']}, {run['seconds']:.1f} s",
        "made by": _made_by(run),
        "source": _source(run) + _results_from(run),
        **_came(run["imported"]),
        **_files(run["given"]),
        **_claimed(run["facts"] or {}),
        **_judged(run),
        "folder": str(results / RUNS / run["run_id"]),
        "again": run["again"],
    }
    if run["curve"]:
        last = run["curve"][-1]
        terms = ", ".join(f"{name} {value:.3f}" for name, value in (last["terms"] or {}).items())
        accuracy = "–" if last["ensemble_accuracy"] is None else f"{100 * last['ensemble_accuracy']:.1f} %"
        robust = ", ".join(f"{each['name']} {100 * each['robust_accuracy']:.1f} %" for each in last["monitored"] or ())
        lines["last epoch"] = f"{terms or 'no terms'}; ensemble {accuracy} on {last['accuracy_on']}"
        lines["last epoch"] += f"; robust {robust}" if robust else ""
    for name, text in lines.items():
        grid.add_row(Text(name, "dim"), text)
    out.print(grid)
    for note in run["notes"]:
        out.print(f"Note: {note}", style="yellow")
    if run["evaluations"]:
        heads = [
            Head("evaluation"), Head("budget", whole=True), Head("result", right=True), Head("images", 4, right=True),
            Head("stops at", 3), Head("settings", 5), Head("time", 2, right=True, whole=True), Head("id", 1),
        ]  # fmt: skip
        titles = {"transfer": "transfer {}", "craft": "black-box images", "judged": "images {}", "audit": "audit of {}"}
        rows = [
            [
                titles.get(row["kind"], "{}").format(row["attack"]), budget_text(row["budget_name"], row["budget"]),
                _result(row) + ("†" if _doubted(run["flags"].get(row["evaluation_id"], [])) else ""), str(row["n"]),
                plain(row["stop"] or ""), _settings(row), spoken(row["seconds"]), short(row["evaluation_id"]),
            ]
            for row in run["evaluations"]
        ]  # fmt: skip
        print_listing(heads, rows, out)
    raised = dict.fromkeys(flag for many in run["flags"].values() for flag in _doubted(many))
    if raised:
        out.print(f"† {', '.join(raised)}; `bench audit {short(run['run_id'])}` has the evidence", style="yellow")
    for failure in run["failures"]:
        out.print(f"✗ {failure['label']}: {failure['error']}", style="red")


def _judged(run: dict[str, Any]) -> dict[str, str]:
    """The line of the verdict of the audit, with its evidence; none for a surrogate, which competes nowhere."""
    from bench.core.seeds import SURROGATE_SEEDS

    verdict = run["verdict"]
    if verdict is None or run["seed"] >= SURROGATE_SEEDS:
        return {}
    if verdict["opinion"] == "not checked enough":
        return {"audit": f"not checked enough: `bench audit {short(run['run_id'])} --deep`"}
    more = f" and {len(verdict['why']) - 3} more" if len(verdict["why"]) > 3 else ""
    why = f" ({'; '.join(verdict['why'][:3])}{more})" if verdict["why"] else ""
    return {"audit": f"{verdict['opinion']}{why}"}


def _doubted(names: list[str]) -> list[str]:
    """Those of the flags that cast doubt."""
    from bench.store.flags import FLAGS

    return [name for name in names if FLAGS[name].severity != "note"]


def _print_evaluation(row: dict[str, Any], out: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from bench.report.tables import budget_text
    from bench.report.titles import plain

    grid = Table.grid(padding=(0, 2))
    name = f"images {row['attack']}" if row["kind"] == "judged" else row["attack"]
    title = f"{name} {budget_text(row['budget_name'], row['budget'])}".strip()
    long = (
        "loss_curve", "loss_stages", "sources", "files", "images", "stages", "draws", "radii", "members", "pairs",
    )  # fmt: skip
    stages = row["measurements"].get("stages", ())
    measured = {key: value for key, value in row["measurements"].items() if key not in long}
    lines: dict[str, str | Text] = {
        "evaluation": Text.assemble((short(row["evaluation_id"]), "bold"), f"  {titled(title, row['precision'])}"),
        "of run": f"{short(row['run_id'])}  {row['method']} on {row['dataset']}, seed {row['seed']}",
        "result": f"{_result(row)} of {row['n']} images, clean {100 * row['n_clean'] / row['n']:.1f} %",
        "settings": _settings(row) or "none",
        "stops at": plain(row["stop"] or "–"),
        "passes": f"{_count(row['forwards'])} forwards, {_count(row['backwards'])} backwards (images), "
        f"{row['seconds']:.1f} s",
        **({"broken by": ", ".join(f"{stage['attack']} {stage['broken']}" for stage in stages)} if stages else {}),
        "measured": ", ".join(f"{name} {_value(value)}" for name, value in measured.items()) or "–",
        "made by": _made_by(row),
        "source": _source(row),
    }
    if "expected_accuracy" in row:
        draws = "draws of unequal odds" if row["measurements"].get("odds") else "equally probable draws"
        lines["expected"] = f"{100 * row['expected_accuracy']:.1f} % after the attack, over {row['members']} {draws}"
    if "blackbox" in row:
        of_all, of_correct, unsuccessful = (100 * share for share in row["blackbox"].values())
        lines["black-box"] = (
            f"robust: {of_all:.1f} % of all images, {of_correct:.1f} % of those right when clean; "
            f"{unsuccessful:.1f} % of its attacks unsuccessful"
        )
    for name, text in lines.items():
        grid.add_row(Text(name, "dim"), text)
    out.print(grid)


def _training(given: dict[str, Any]) -> str:
    """What is known of it: another's training may have other names."""
    lr = given.get("lr")
    optimizer = f"{given.get('optimizer', '?')} {f'{lr:g}' if isinstance(lr, int | float) else lr}"
    return f"{given.get('epochs', '?')} epochs, {optimizer}, batch {given.get('batch_size', '?')}"


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _settings(row: dict[str, Any]) -> str:
    from bench.report.titles import plain

    if row["kind"] in SUITES:
        settings = row["settings"]
        attacks, surrogates = settings.get("attacks"), settings.get("surrogates")
        named = ", ".join(attacks) if isinstance(attacks, dict) else str(attacks)
        if row["kind"] == "theory":
            return f"{named}, {row['targets'] or 'untargeted'}"
        text = f"{named}, {settings.get('restarts', '?')} starts each"
        return text + (f", {len(surrogates)} surrogates" if isinstance(surrogates, list | dict) else "")
    return ", ".join(f"{plain(name)} {_value(value)}" for name, value in row["settings"].items())


def _value(value: object) -> str:
    """A setting or a measurement as people read it."""
    return "none" if value is None else str(value)


def _result(row: dict[str, Any]) -> str:
    if row["kind"] in UNSHARED:
        return UNSHARED[row["kind"]]
    right = row["n_clean"] if row["kind"] == "clean" else row["n_robust"]
    return f"{100 * right / row['n']:.1f} %"


def _made_by(record: dict[str, Any]) -> str:
    environment = record["environment"]
    commit = environment.get("commit")
    code = f"bench {environment.get('bench', '?')}"
    if commit:
        code += f" ({commit[:10]}{', changed' if environment.get('dirty') else ''})"
    torch = environment.get("packages", {}).get("torch", "?")
    return f"{code}, torch {torch}, {environment.get('device', '?')}, {environment.get('cpu', '?')}"
