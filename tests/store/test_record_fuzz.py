"""Changed records through every way in, then every reading command over what came in: one line each, nobody stuck."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from exchanged import place
from in_process import told as command
from mutated import LOADED, VALUES, Mutant, write
from sqlalchemy import select

import bench
from bench.core import config
from bench.core.errors import BenchError
from bench.exchange import archive
from bench.exchange.importing import import_archive
from bench.exchange.merging import merge_from
from bench.experiment.naming import Configured
from bench.store import ingest, queries, schema
from bench.store.database import Database

PUBLISHED = config.defaults("published")
NAMES = Configured(LOADED)
SEED = 7
AT = ("-d", "digits", "--members", "2", "--limit", "24")
READING: tuple[tuple[str, ...], ...] = (
    ("list", "runs"), ("list", "runs", "--json"), ("status",), ("status", "-m", "ece", *AT), ("audit",),
    ("audit", "--json"), ("table", *AT), ("table", *AT, "--format", "latex", "--details", "--paper"),
    ("table", *AT, "--format", "csv"), ("table", *AT, "--format", "html"), ("table", *AT, "--format", "json"),
    ("compare", "ece", "trs", *AT), ("compare", "ece", "trs", *AT, "--json"), ("heatmap", *AT, "-o", "OUT/matrix.png"),
    ("plot", "curves", *AT, "-o", "OUT/curves.png"), ("plot", "budget", *AT, "-o", "OUT/budget.png"),
    ("plot", "convergence", *AT, "-o", "OUT/convergence.png"), ("plot", "blackbox", *AT, "-o", "OUT/blackbox.png"),
    ("plot", "ablation", "-m", "trs", *AT, "-o", "OUT/ablation.png"), ("db", "gc", "--dry-run"),
    ("report", "-o", "OUT/site"),
)  # fmt: skip


def codes(results: Path) -> dict[tuple[str, ...], int]:
    """Every reading command over a results folder."""
    found = {}
    for arguments in READING:
        words = [word.replace("OUT", str(results / "out")) for word in arguments]
        (results / "out").mkdir(exist_ok=True)
        code, told = command(*words, "--results", results)
        assert "Traceback" not in told, (arguments, told[-2000:])
        found[arguments] = min(code, 0) if arguments[0] == "audit" and code == 1 else code
    frames = bench.load(results / "bench.db")
    for name in ("runs", "evaluations", "matrices", "curves"):
        assert len(getattr(frames, name)) >= 0
    return found


def read_each(results: Path, most: int) -> None:
    """`show` and `audit` on every run and evaluation."""
    with Database(results / "bench.db").open() as db:
        ids = [run.run_id for run in queries.runs(db)]
        ids += [row.evaluation_id for row in queries.evaluations(db)]
    random.Random(SEED).shuffle(ids)
    for identifier in ids[:most]:
        for arguments in (("show", identifier), ("show", identifier, "--json"), ("audit", identifier)):
            code, told = command(*arguments, "--results", results)
            assert code == 0 or (arguments[0] == "audit" and code == 1), (arguments, told[-2000:])
            assert "Traceback" not in told


def one_line(text: str) -> str:
    assert "\n" not in text
    assert text.isprintable(), text
    return text


def import_of(mutant: Mutant, results: Path, scratch: Path) -> str:
    """Take in a mutant's folder as an archive; the refusal, empty when it came in."""
    files = {}
    for path in sorted(mutant.folder.rglob("*.json*")):
        name = f"runs/{mutant.folder.name}/{path.relative_to(mutant.folder).as_posix()}"
        if archive.belongs(name):
            files[name] = path
    archive.write_archive(scratch, files, weights=False)
    try:
        with Database(results / "bench.db") as db:
            db.names = NAMES
            import_archive(scratch, place(results), db)
    except BenchError as error:
        return one_line(str(error))
    return ""


def ids_in(path: Path) -> set[str]:
    """Of every run, evaluation and attempt."""
    with Database(path).open() as db, db.read() as connection:
        columns = (schema.Run.run_id, schema.Evaluation.evaluation_id, schema.Job.attempt_id)
        return {key for column in columns for key in connection.scalars(select(column))}


def spoil(path: Path, draw: random.Random) -> str:
    """Replace one value of a database; SQLite takes any type in any column. Returns which."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        tables = ("run", "member", "curve", "attack", "evaluation", "outcome", "clean_row", "transfer", "blackbox",
                  "environment", "job")  # fmt: skip
        table = draw.choice(tables)
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        column, value = draw.choice(columns), draw.choice(VALUES)
        if isinstance(value, str):
            value = value.encode("utf-8", "replace").decode()
        if not isinstance(value, str) or draw.random() < 0.4:
            value = json.dumps(value).replace('"@HUGE@"', "9" * 5000).replace('"@DEEP@"', "[" * 3000 + "]" * 3000)
        if draw.random() < 0.1:
            value = draw.choice([b"\xff", 1e308, float("inf"), -5])
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        with contextlib.suppress(sqlite3.IntegrityError):
            connection.execute(
                f"UPDATE {table} SET {column} = ? WHERE rowid = (SELECT rowid FROM {table} LIMIT 1 OFFSET ?)",
                (value, draw.randrange(rows)),
            )
    return f"{table}.{column} = {value!r:.60}"


def campaign(tmp_path: Path, number: int, shown: int) -> Counter[str]:
    """`number` mutants through rebuild, import and merge, then the reading commands; counts of what happened."""
    counts: Counter[str] = Counter()
    mutants = [write(tmp_path / "theirs/runs", index, SEED) for index in range(number)]
    first = number + -number % 3  # of the three that a seed has
    sound = [write(tmp_path / "theirs/runs", index, None) for index in range(first, first + 3)]
    (tmp_path / "rebuilt").mkdir()
    told = ingest.rebuild(tmp_path / "rebuilt/bench.db", tmp_path / "theirs/runs", PUBLISHED, NAMES)
    assert all("\n" not in line and line.isprintable() for line in told.damaged)
    rebuilt = ids_in(tmp_path / "rebuilt/bench.db")
    assert not any(import_of(mutant, tmp_path / "imported", tmp_path / "one.zip") for mutant in sound)
    of_name = Counter(mutant.file.stem for mutant in mutants)
    for mutant in mutants:
        fault = import_of(mutant, tmp_path / "imported", tmp_path / "one.zip")
        counts["refused" if fault else "imported"] += 1
        # Of a curve a rebuild leaves out the line; two failures may have been given one id.
        if mutant.kind == "run" or (mutant.kind != "curve" and of_name[mutant.file.stem] == 1):
            came = (mutant.folder.name if mutant.kind == "run" else mutant.file.stem) in rebuilt
            assert came == (not fault), (mutant, fault)
    scratch = tmp_path / "scratch"
    with Database(tmp_path / "empty.db").open(create=True):
        pass
    valid = tmp_path / "valid"
    for mutant in sound:
        shutil.copytree(mutant.folder, valid / "runs" / mutant.folder.name)
    for name in ("valid", "merged"):  # the merged one begins with what is sound
        (tmp_path / name).mkdir(exist_ok=True)
        ingest.rebuild(tmp_path / name / "bench.db", valid / "runs", PUBLISHED, NAMES)
    draw = random.Random(SEED)
    with Database(tmp_path / "merged/bench.db").open(create=True) as db:
        db.names = NAMES
        for index in range(number):
            shutil.rmtree(scratch, ignore_errors=True)
            write(scratch / "runs", index, None)
            shutil.copyfile(tmp_path / "empty.db", scratch / "bench.db")
            with Database(scratch / "bench.db").open() as source:
                source.names = NAMES
                assert ingest.sync(source, scratch / "runs").damaged == ()
            what = spoil(scratch / "bench.db", draw)
            try:
                left = merge_from(db, str(scratch / "bench.db"))[0].left_out
                assert all("\n" not in line and line.isprintable() for line in left), what
                counts["rows left out" if left else "rows merged"] += 1
            except BenchError as error:
                one_line(str(error))
                counts["merge refused"] += 1
    usual = codes(valid)
    without_rows = {words for words, code in usual.items() if code}
    assert {words[:2] for words in without_rows} == {("plot", "convergence")}
    read_each(valid, 3)
    for name in ("rebuilt", "imported", "merged"):
        assert {words for words, code in codes(tmp_path / name).items() if code} <= without_rows, name
        read_each(tmp_path / name, shown)
    return counts


def test_a_few_changed_records_stop_no_reader(tmp_path: Path) -> None:
    counts = campaign(tmp_path, 50, 8)
    assert min(counts["refused"], counts["imported"], counts["rows merged"], counts["rows left out"]) >= 5


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_thousand_changed_records_stop_no_reader(tmp_path: Path) -> None:
    print(dict(campaign(tmp_path, 1000, 6000)))
