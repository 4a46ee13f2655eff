"""Archives of runs: the same bytes for the same files, whole on the other side, and nothing hostile gets in."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exchanged import (
    IMAGES,
    attack,
    bits,
    brought_up,
    fill,
    place,
    spec,
    tree,
    write_evaluation,
    write_failure,
    write_run,
)

from bench.core.errors import BenchError
from bench.core.files import write_json
from bench.exchange import exporting
from bench.exchange.archive import Archive, Limits
from bench.exchange.importing import Imported, import_archive
from bench.experiment.folder import IMPORTED_ATTEMPTS, NOTES, RunFolder
from bench.experiment.records import FoundAgain
from bench.jobs import journal
from bench.jobs.locks import Locks
from bench.store import gc, ingest, provenance, queries
from bench.store.database import Database
from bench.store.schema import Base

RUN = spec().run_id
EVALUATION = attack(spec(), 0.1).evaluation_id
Names = dict[str, bytes]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A results folder with two runs."""
    results = tmp_path / "mine"
    fill(results, spec(seed=0))
    fill(results, spec(seed=1), weights=1)
    return results


@pytest.fixture
def archive(mine: Path, tmp_path: Path) -> Path:
    """An archive of one run."""
    return export(mine, tmp_path / "runs.zip", RUN)


def export(results: Path, target: Path, *run_ids: str, weights: bool = True) -> Path:
    chosen = list(run_ids) or sorted(path.name for path in (results / "runs").iterdir())
    assert exporting.export_runs(place(results), chosen, target, weights=weights).left_out == ()
    return target


def take(archive: Path, results: Path, limits: Limits | None = None) -> Imported:
    with Database(results / "bench.db") as db:
        return import_archive(archive, place(results), db, limits)


def contents(path: Path) -> dict[str, list[Any]]:
    with Database(path).open() as db, brought_up(db).read() as connection:
        return {
            table.name: sorted(map(repr, connection.execute(table.select())))
            for table in Base.metadata.sorted_tables
            if table.name != "reference"
        }


def rewritten(archive: Path, change: Callable[[Names], None], *, manifest: bool = True) -> Path:
    """A copy of an archive with other files; with `manifest` its manifest is made to fit them."""
    with zipfile.ZipFile(archive) as old:
        files = {name: old.read(name) for name in old.namelist()}
    told = json.loads(files.pop("manifest.json"))
    change(files)
    if manifest:
        told["files"] = [
            {"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in sorted(files.items())
        ]
        told["runs"] = sorted({name.split("/")[1] for name in files})
    copy = archive.with_name("hostile.zip")
    with zipfile.ZipFile(copy, "w") as new:
        new.writestr("manifest.json", json.dumps(told))
        for name, data in files.items():
            new.writestr(name, data)
    return copy


def refused(archive: Path, results: Path, words: str, limits: Limits | None = None) -> None:
    """The import says one line with `words`, and the folder is as it was."""
    before = tree(results) if results.exists() else None
    with pytest.raises(BenchError, match=words) as error:
        take(archive, results, limits)
    assert "\n" not in str(error.value)
    assert str(error.value).isprintable()
    assert (tree(results) if results.exists() else None) == before


def test_the_same_files_give_the_same_bytes(mine: Path, tmp_path: Path) -> None:
    first = export(mine, tmp_path / "first.zip")
    copy = tmp_path / "copy"
    for path in sorted(mine.rglob("*"), reverse=True):
        if path.is_file():
            target = copy / path.relative_to(mine)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            os.utime(target, (1, 1))
            target.chmod(0o600)
    assert export(copy, tmp_path / "second.zip").read_bytes() == first.read_bytes()


def test_the_manifest_names_every_file_with_its_digest(mine: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(export(mine, tmp_path / "runs.zip")) as archive:
        told = json.loads(archive.read("manifest.json"))
        names = archive.namelist()
        assert names == ["manifest.json", *sorted(entry["path"] for entry in told["files"])]
        for entry in told["files"]:
            data = archive.read(entry["path"])
            assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"])
            assert data == (mine / entry["path"]).read_bytes()
    assert told["runs"] == sorted(spec(seed=seed).run_id for seed in (0, 1))
    assert (told["format"], told["weights"]) == (1, True)
    assert len(told["files"]) == 2 * (3 + 3 + 1)


def test_without_weights_only_records_travel(mine: Path, tmp_path: Path) -> None:
    path = export(mine, tmp_path / "runs.zip", weights=False)
    with zipfile.ZipFile(path) as archive:
        assert {Path(name).suffix for name in archive.namelist()} == {".json", ".jsonl"}
    told = take(path, tmp_path / "theirs")
    assert (told.runs, told.weights) == (2, 0)
    # Weights that come later are taken in.
    told = take(export(mine, path), tmp_path / "theirs")
    assert (told.runs, told.evaluations, told.weights) == (0, 0, 2)


def test_what_arrives_is_what_was_sent_and_twice_is_once(mine: Path, tmp_path: Path) -> None:
    archive, theirs = export(mine, tmp_path / "runs.zip"), tmp_path / "theirs"
    told = take(archive, theirs)
    assert (told.runs, told.evaluations, told.failures, told.weights, told.kept) == (2, 6, 2, 2, 0)
    assert tree(theirs) == tree(mine)
    ingest.rebuild(tmp_path / "rebuilt.db", theirs / "runs", Path("results/published"))
    assert contents(theirs / "bench.db") == contents(tmp_path / "rebuilt.db")
    times = {path: path.stat().st_mtime_ns for path in theirs.rglob("*.json")}
    told = take(archive, theirs)
    assert (told.runs, told.evaluations, told.failures, told.weights, told.kept) == (0, 0, 0, 0, 14)
    assert times == {path: path.stat().st_mtime_ns for path in theirs.rglob("*.json")}
    assert contents(theirs / "bench.db") == contents(tmp_path / "rebuilt.db")


def test_a_damaged_file_is_left_out_by_name(mine: Path, tmp_path: Path) -> None:
    path = mine / "runs" / RUN / "evaluations" / f"{EVALUATION}.json"
    path.write_text(path.read_text().replace('"n_robust": ', '"n_robust": 1'))
    done = exporting.export_runs(place(mine), [RUN, "0" * 24], tmp_path / "runs.zip", weights=True)
    assert str(path) in done.left_out[0]
    assert "has no files" in done.left_out[1]
    assert take(tmp_path / "runs.zip", tmp_path / "theirs").evaluations == 2


def test_what_a_run_was_trained_with_comes_along(tmp_path: Path) -> None:
    first = spec("ece")
    second = spec("dverge", requires={"ece": first})
    for run in (first, second, spec("trs")):
        fill(tmp_path / "mine", run)
    with Database(tmp_path / "bench.db").open(create=True) as db:
        ingest.sync(db, tmp_path / "mine" / "runs")
        assert exporting.choose(db, (second.run_id[:8],), {}) == sorted([first.run_id, second.run_id])
        assert exporting.choose(db, (), {"methods": ("trs",), "seeds": (0,)}) == [spec("trs").run_id]
        assert len(exporting.choose(db, (), {"methods": (), "seeds": None})) == 3
        with pytest.raises(BenchError, match="not both"):
            exporting.choose(db, (RUN,), {"methods": ("trs",)})
        with pytest.raises(BenchError, match="no run fits"):
            exporting.choose(db, (), {"seeds": (7,)})


def _add(name: str, data: bytes = b"x") -> Callable[[Names], None]:
    return lambda files: files.update({name: data})


def _edit(file: str, **changes: Any) -> Callable[[Names], None]:
    """Change keys of a record in the archive."""

    def change(files: Names) -> None:
        (name,) = [name for name in files if name.endswith(file)]
        files[name] = json.dumps(json.loads(files[name]) | changes).encode()

    return change


def _config(**changes: Any) -> Callable[[Names], None]:
    def change(files: Names) -> None:
        name = f"runs/{RUN}/run.json"
        record = json.loads(files[name])
        record["config"] |= changes
        files[name] = json.dumps(record | {key: value for key, value in changes.items() if key in record}).encode()

    return change


def _replace(file: str, data: bytes) -> Callable[[Names], None]:
    def change(files: Names) -> None:
        (name,) = [name for name in files if name.endswith(file)]
        files[name] = data

    return change


@pytest.mark.parametrize(
    "name",
    [
        "../outside.txt", "/etc/outside", f"runs/{RUN}/../../outside.json", f"runs/{RUN}/evaluations/../run.json",
        f"runs\\{RUN}\\run.json", "C:/outside.json", f"runs/{RUN}/run.json ", f"runs/{RUN.upper()}/run.json",
        f"runs/{RUN}/notes.txt", f"runs/{RUN}/evaluations/x.json", f"runs/{RUN}/failures/.json", f"runs/{RUN}/",
        "bench.db", f"runs/{RUN}/code.py", "\u202eevil", "x" * 10_000,
        *(f"runs/{RUN}/{name}" for name in NOTES),
    ],
)  # fmt: skip
@pytest.mark.parametrize("manifest", [True, False])
def test_names_that_are_no_files_of_a_run_are_refused(archive: Path, tmp_path: Path, name: str, manifest: bool) -> None:
    if manifest:
        hostile = rewritten(archive, _add(name), manifest=False)
    else:
        hostile = archive.with_name("hostile.zip")
        shutil.copyfile(archive, hostile)
        with zipfile.ZipFile(hostile, "a") as file:
            file.writestr(name, b"x")
    refused(hostile, tmp_path / "theirs", "not a file of a run")
    assert not list(tmp_path.rglob("outside*"))


def test_the_manifest_cannot_name_what_the_archive_may_not_hold(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as old:
        told = json.loads(old.read("manifest.json"))
    told["files"].append({"path": "../outside", "size": 1, "sha256": "0" * 64})
    with zipfile.ZipFile(tmp_path / "hostile.zip", "w") as new:
        new.writestr("manifest.json", json.dumps(told))
    refused(tmp_path / "hostile.zip", tmp_path / "theirs", "not a file of a run")


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_folders_and_devices_are_refused(archive: Path, tmp_path: Path, mode: int) -> None:
    hostile = tmp_path / "hostile.zip"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(hostile, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("run.json"):
                info.external_attr = (mode | 0o777) << 16
                data = b"/etc/passwd"
            new.writestr(info, data)
    refused(hostile, tmp_path / "theirs", "not a plain file")


def test_a_bomb_is_refused_by_its_size_before_it_is_unpacked(archive: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.zip"
    shutil.copyfile(archive, hostile)
    with zipfile.ZipFile(hostile, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"runs/{'a' * 24}/run.json", b"0" * (64 << 20))
    assert hostile.stat().st_size < 200_000
    refused(hostile, tmp_path / "theirs", "no record has over")
    refused(archive, tmp_path / "theirs", r"over the limit of 1.0 KiB; --max-total raises it", Limits(total=1024))
    refused(archive, tmp_path / "theirs", r"over the limit of 100 bytes; --max-file raises it", Limits(file=100))


def test_a_bomb_that_lies_about_its_size_unpacks_no_further(archive: Path, tmp_path: Path) -> None:
    name = f"runs/{RUN}/run.json"
    with zipfile.ZipFile(archive) as old:
        size = len(old.read(name))
        files = {info.filename: old.read(info) for info in old.infolist()}
    files[name] = b"0" * (32 << 20)
    hostile = tmp_path / "hostile.zip"
    with zipfile.ZipFile(hostile, "w", zipfile.ZIP_DEFLATED) as new:
        for key, data in files.items():
            new.writestr(key, data)
    raw = hostile.read_bytes()
    assert raw.count((32 << 20).to_bytes(4, "little")) == 2  # in its own header and in the directory
    hostile.write_bytes(raw.replace((32 << 20).to_bytes(4, "little"), size.to_bytes(4, "little")))
    refused(hostile, tmp_path / "theirs", "damaged")


def test_duplicates_encryption_and_strange_compression_are_refused(archive: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.zip"
    shutil.copyfile(archive, hostile)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(hostile, "a") as file:
        file.writestr(f"runs/{RUN}/run.json", b"{}")
    refused(hostile, tmp_path / "theirs", "stands in it twice")
    raw = bytearray(archive.read_bytes())
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1
    hostile.write_bytes(raw)
    refused(hostile, tmp_path / "theirs", "is encrypted")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(hostile, "w", zipfile.ZIP_LZMA) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    refused(hostile, tmp_path / "theirs", "compressed in an unknown way")


def test_a_packed_archive_of_the_same_files_is_taken(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert take(tmp_path / "x.zip", tmp_path / "theirs").runs == 1


def test_a_name_that_is_no_utf8_is_refused(archive: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.zip"
    shutil.copyfile(archive, hostile)
    with zipfile.ZipFile(hostile, "a") as file:
        file.writestr("naïve", b"x")
    hostile.write_bytes(hostile.read_bytes().replace("naïve".encode(), b"na\xff\xfeve"))
    refused(hostile, tmp_path / "theirs", "not an archive|not a file of a run")


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.99])
def test_a_truncated_archive_is_refused(archive: Path, tmp_path: Path, keep: float) -> None:
    raw = archive.read_bytes()
    archive.write_bytes(raw[: int(keep if keep > 1 else keep * len(raw))])
    refused(archive, tmp_path / "theirs", "not an archive of `bench db export`, or is damaged")


def test_what_is_no_archive_of_ours_is_refused(archive: Path, tmp_path: Path) -> None:
    refused(tmp_path / "none.zip", tmp_path / "theirs", "No such file")
    refused(tmp_path, tmp_path / "theirs", "cannot read archive")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr(f"runs/{RUN}/run.json", b"{}")
    refused(tmp_path / "other.zip", tmp_path / "theirs", r"no manifest.json")
    for text in ("", "[", "[" * 100_000, "{}", '{"format": 2}', "1" * 5000):
        with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
            file.writestr("manifest.json", text)
        refused(tmp_path / "other.zip", tmp_path / "theirs", "manifest.json")


def test_files_that_are_missing_extra_or_changed_are_refused(archive: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"

    def drop(files: Names) -> None:
        del files[f"runs/{RUN}/train.jsonl"]

    refused(rewritten(archive, drop, manifest=False), theirs, "not in the archive")
    extra = _add(f"runs/{RUN}/failures/more.json")
    refused(rewritten(archive, extra, manifest=False), theirs, r"not in its manifest.json")
    other = rewritten(archive, _replace("train.jsonl", b"{}"), manifest=False)
    refused(other, theirs, "is not what its manifest.json says")

    def flip(files: Names) -> None:
        name = f"runs/{RUN}/run.json"
        files[name] = files[name].replace(b"10:00:00Z", b"10:00:01Z")

    refused(rewritten(archive, flip, manifest=False), theirs, "is not what its manifest.json says")

    def no_record(files: Names) -> None:
        del files[f"runs/{RUN}/run.json"]

    refused(rewritten(archive, no_record), theirs, r"has no run.json")


FORGED: list[tuple[Callable[[Names], None], str]] = [
    (_config(settings={"strength": 9.0}), "its content is of run"),
    (_config(seed=5), "its content is of run"),
    (_config(anything=1), "another version of bench"),
    (_config(training={"epochs": 10**40}), "63 bits"),
    (_edit("/run.json", method="trs"), "method is not what its config says"),
    (_edit("/run.json", settings={"strength": 1}), "settings is not what its config says"),
    (_edit("/run.json", requires={"ece": "0" * 24}), "requires is not what its config says"),
    (_edit("/run.json", method_version=2), "versions"),
    (_edit("/run.json", family_id="0" * 24), "its content is of run"),
    (_edit("/run.json", notes=["\x1b[2J"]), "control characters"),
    (_edit("/run.json", method="ece\nx"), "not printable"),
    (_edit("/run.json", notes=["\ud800"]), "not Unicode|not JSON"),
    (_edit("/run.json", seconds=float("nan")), "not a number in JSON"),
    (_replace("/run.json", b'{"a": 1e999}'), "damaged|refused"),
    (_replace("/run.json", b"[" * 100_000), "nested more than"),
    (_replace("/run.json", b"[]"), "not a JSON object"),
    (_replace("/run.json", b"\xff\xfe{}"), "not JSON"),
    (_edit(f"{EVALUATION}.json", n_robust=IMAGES), "its count says"),
    (_edit(f"{EVALUATION}.json", budget=0.05), "its content is of evaluation"),
    (_edit(f"{EVALUATION}.json", settings={"steps": 1}), "its content is of evaluation"),
    (_edit(f"{EVALUATION}.json", settings={"steps": 50, "targets": "random"}), "its content is of evaluation"),
    (_edit(f"{EVALUATION}.json", attack_version=2), "its content is of evaluation"),
    (_edit(f"{EVALUATION}.json", run_id="0" * 24), "not of the run whose folder"),
    (_edit(f"{EVALUATION}.json", weights_digest="0" * 24), "on other weights than the run has"),
    (_edit(f"{EVALUATION}.json", robust_bits=bits([True] * IMAGES), n_robust=IMAGES), "wrong when clean"),
    (_edit(f"{EVALUATION}.json", kind="guess"), "kind"),
    (_replace("train.jsonl", b'{"phase": "joint", "epoch": 1e999}\n'), "not finite"),
    (_replace("train.jsonl", b'{"phase": "joint", "epoch": 99999999999999999999}\n'), "63 bits"),
    (_replace("train.jsonl", b'{"phase": "joint", "epoch": 1}\n{"phase": "joint", "epoch": 99999999999}'), "line 2"),
    (_replace("train.jsonl", b"[" * 100_000 + b"\n\n"), "line 1 is not an epoch"),
    (_replace("train.jsonl", b"\xff"), "not text"),
    (_replace("members.safetensors", b""), "no safetensors"),
    (_replace("members.safetensors", b"\xff" * 100), "no safetensors"),
]


@pytest.mark.parametrize(("change", "words"), FORGED)
def test_a_record_whose_content_does_not_fit_is_refused(
    archive: Path, tmp_path: Path, change: Callable[[Names], None], words: str
) -> None:
    refused(rewritten(archive, change), tmp_path / "theirs", words)


def test_of_the_last_epoch_a_line_cut_short_is_no_fault(archive: Path, tmp_path: Path) -> None:
    cut = rewritten(archive, _replace("train.jsonl", b'{"phase": "joint", "epoch": 1, "loss": NaN}\n{"phase": "jo'))
    assert take(cut, tmp_path / "theirs").runs == 1
    with Database(tmp_path / "theirs" / "bench.db").open() as db:
        assert [(row.epoch, row.loss) for row in queries.curve(db, RUN)] == [(1, None)]


class Trap:
    """Unpickled, it leaves a file."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("trap-sprung"),)


def test_nothing_is_ever_unpickled(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    saved = io.BytesIO()
    torch.save({"members.0.layer.weight": Trap()}, saved)
    for data in (saved.getvalue(), pickle.dumps(Trap())):
        refused(rewritten(archive, _replace("members.safetensors", data)), tmp_path / "theirs", "no safetensors")
        sample = f"runs/{RUN}/samples/{EVALUATION}.safetensors"
        refused(rewritten(archive, _add(sample, data)), tmp_path / "theirs", "no safetensors")
    assert not (tmp_path / "trap-sprung").exists()


def test_weights_of_another_run_are_refused(archive: Path, mine: Path, tmp_path: Path) -> None:
    other = (mine / "runs" / spec(seed=1).run_id / "members.safetensors").read_bytes()
    refused(rewritten(archive, _replace("members.safetensors", other)), tmp_path / "theirs", "not that of run.json")
    write_run(tmp_path / "again", spec(), weights=7)
    same = (tmp_path / "again" / "runs" / RUN / "members.safetensors").read_bytes()
    refused(
        rewritten(archive, _replace("members.safetensors", same)), tmp_path / "theirs", "other weights than run.json"
    )


def test_random_damage_is_always_one_line_and_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    raw, draw, theirs = archive.read_bytes(), random.Random(0), tmp_path / "theirs"
    taken = 0
    for _ in range(150):
        damaged = bytearray(raw)
        for _ in range(draw.randint(1, 4)):
            start = draw.choice([draw.randrange(len(raw)), len(raw) - 1 - draw.randrange(2000)])
            damaged[start] = draw.randrange(256)
        archive.write_bytes(damaged)
        told = ""
        try:
            take(archive, theirs)
        except BenchError as error:
            told = str(error)
        assert "\n" not in told
        assert theirs.exists() == (not told)
        if not told:  # in a time stamp, say, which nobody reads
            taken += 1
            assert tree(theirs / "runs" / RUN) == tree(tmp_path / "mine" / "runs" / RUN)
            shutil.rmtree(theirs)
    assert taken < 75


def test_the_same_run_trained_elsewhere_with_equal_weights_stays_ours(mine: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    write_run(theirs, spec(), started="2026-11-22T10:00:00Z")
    write_evaluation(theirs, attack(spec(), 0.1), draw=1, seconds=99.0)
    before = tree(theirs)
    told = take(export(mine, tmp_path / "runs.zip", RUN), theirs)
    assert (told.runs, told.evaluations, told.failures, told.kept) == (0, 2, 1, 4)
    after = tree(theirs)
    assert {name: after[name] for name in before} == before
    with Database(theirs / "bench.db").open() as db:
        assert queries.find_run(db, RUN).started == "2026-11-22T10:00:00Z"
        assert queries.failures(db) == []  # ours was done after theirs failed


def test_other_weights_and_other_outcomes_are_refused(mine: Path, archive: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    write_run(theirs, spec(), weights=3)
    refused(archive, theirs, r"is here with other weights.*bench db delete")
    shutil.rmtree(theirs)
    write_run(theirs, spec())
    write_evaluation(theirs, attack(spec(), 0.1), draw=5)
    refused(archive, theirs, r"is here with other outcomes; `bench db delete")
    with Database(tmp_path / "theirs" / "bench.db").open(create=True) as db:
        ingest.sync(db, theirs / "runs")
    shutil.rmtree(theirs / "runs")
    write_run(tmp_path / "third", spec(), weights=4)
    refused(export(tmp_path / "third", tmp_path / "third.zip"), theirs, "is here with other weights")


def test_a_result_replaces_a_failure(mine: Path, archive: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    write_failure(theirs, spec(), EVALUATION, started="2026-11-21T08:00:00Z")
    with Database(theirs / "bench.db").open(create=True) as db:
        ingest.sync(db, theirs / "runs")
        assert [row.job_id for row in queries.failures(db)] == [EVALUATION]
    take(archive, theirs)
    with Database(theirs / "bench.db").open() as db:
        assert queries.failures(db) == []
        assert len(queries.evaluations(db)) == 3


def test_a_run_that_is_being_made_here_is_left_alone(archive: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    with Locks(place(theirs).locks) as locks:
        locks.acquire(RUN)
        refused(archive, theirs, "is being made here by process")


def test_a_full_disk_is_told_before_anything_is_unpacked(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1000, 1000, 0))
    refused(archive, tmp_path / "theirs", "MiB left")


def test_an_import_that_is_cut_short_leaves_nothing_or_whole_runs(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, theirs = export(mine, tmp_path / "runs.zip"), tmp_path / "theirs"

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(journal, "note", cut)
    with pytest.raises(KeyboardInterrupt):
        take(archive, theirs)
    assert [path.name for path in theirs.iterdir() if not path.name.startswith("bench.db")] == []
    monkeypatch.undo()
    monkeypatch.setattr(journal, "_rows", cut)
    with pytest.raises(KeyboardInterrupt):
        take(archive, theirs)
    (intent,) = theirs.glob("journal/*.json")  # the next run, or the same import, takes the files into the database
    assert tree(theirs).items() - {str(intent.relative_to(theirs)): ""}.items() >= tree(mine).items()
    monkeypatch.undo()
    told = take(archive, theirs)
    assert (told.runs, told.kept) == (0, 14)
    with Database(theirs / "bench.db").open() as db:
        assert queries.totals(db).evaluations == 6


def test_a_file_that_changes_while_it_is_read_is_told(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.exchange import archive

    monkeypatch.setattr(archive, "sha256", lambda path: "0" * 64)
    with pytest.raises(BenchError, match="changed while it was read"):
        export(mine, tmp_path / "runs.zip")
    assert not (tmp_path / "runs.zip").exists()


def test_an_archive_knows_its_size_before_it_is_unpacked(archive: Path, mine: Path) -> None:
    with Archive(archive) as opened:
        assert opened.size == sum(path.stat().st_size for path in (mine / "runs" / RUN).rglob("*") if path.is_file())


def origins(results: Path) -> dict[str, str]:
    """Where every run and evaluation comes from, by id; a rebuild says the same."""
    found = []
    ingest.rebuild(results.parent / "again.db", results / "runs", Path("results/published"))
    for path in (results / "bench.db", results.parent / "again.db"):
        with Database(path).open() as db:
            runs = {run.run_id: run.provenance for run in queries.runs(db)}
            found.append(runs | {row.evaluation_id: row.provenance for row in queries.evaluations(db)})
    assert found[0] == found[1]
    return dict(found[0])


def test_what_came_in_is_told_from_what_is_measured_here(mine: Path, tmp_path: Path) -> None:
    archive, theirs = export(mine, tmp_path / "runs.zip"), tmp_path / "theirs"
    take(archive, theirs)
    assert set(origins(theirs).values()) == {"imported"}
    more = attack(spec(), 0.3)
    write_evaluation(theirs, more, started="2025-01-01T00:00:00Z")  # by a clock that is wrong: it does not matter
    again = attack(spec(), 0.1)
    path = write_evaluation(theirs, again, draw=1, attempt_id="measured-again")
    with Database(theirs / "bench.db").open() as db:
        ingest.sync(db, theirs / "runs")
        ingest.ingest_evaluation(db, path)
    found = origins(theirs)
    assert {key for key, value in found.items() if value == "measured"} == {more.evaluation_id, again.evaluation_id}


def test_results_that_come_in_on_a_run_of_ours_leave_it_ours(mine: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    run = spec()
    write_run(ours, run)
    own = attack(run, 0.3)
    write_evaluation(ours, own)
    with Database(tmp_path / "ours" / "bench.db").open(create=True) as db:
        ingest.sync(db, ours / "runs")
    take(export(mine, tmp_path / "runs.zip"), ours)
    found = origins(ours)
    assert (found[run.run_id], found[own.evaluation_id]) == ("measured", "measured")
    assert found[attack(run, 0.1).evaluation_id] == "imported"
    assert not place(ours).imported_file(run.run_id).exists()


def test_a_run_imported_before_results_were_named_is_told_by_its_times(mine: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    take(export(mine, tmp_path / "runs.zip"), theirs)
    for path in theirs.glob(f"runs/*/{IMPORTED_ATTEMPTS}"):
        path.unlink()
    more = attack(spec(), 0.3)
    write_evaluation(theirs, more, started="2098-01-01T00:00:00Z")
    with Database(theirs / "bench.db").open() as db:
        ingest.sync(db, theirs / "runs")
    found = origins(theirs)
    assert {key for key, value in found.items() if value == "measured"} == {more.evaluation_id}
    # What comes in later is noted beside what was known.
    write_evaluation(mine, attack(spec(), 0.4))
    take(export(mine, tmp_path / "runs.zip"), theirs)
    found = origins(theirs)
    assert {key for key, value in found.items() if value == "measured"} == {more.evaluation_id}
    # Of a note that is damaged nobody knows the time, only that the run came from somewhere.
    (theirs / "runs" / RUN / IMPORTED_ATTEMPTS).unlink()
    place(theirs).imported_file(RUN).write_text("{}")
    ingest.rebuild(theirs / "bench.db", theirs / "runs", Path("results/published"))
    assert origins(theirs)[RUN] == "imported"


def test_what_was_found_again_here_is_known_by_its_content(mine: Path, tmp_path: Path) -> None:
    archive, theirs = export(mine, tmp_path / "runs.zip"), tmp_path / "theirs"
    take(archive, theirs)
    run, path = place(theirs).run(RUN).record, place(theirs).run(RUN).evaluation(EVALUATION)
    for record in (run, path):
        found = FoundAgain(
            sha256=provenance.digest(record), when="2026-11-22T10:00:00Z", weights="recorded", images=IMAGES,
            environment={},
        )  # fmt: skip
        write_json(RunFolder.of(record).re_measured, provenance.marked(record, found))
        with Database(theirs / "bench.db").open() as db:
            ingest.ingest_file(db, record)
    found_again = {key for key, value in origins(theirs).items() if value == "re-measured"}
    assert found_again == {RUN, EVALUATION}
    # Of what another archive brings instead nothing is known, though it claims the same attempt.
    text = path.read_text()
    path.write_text(text.replace("11:00:00Z", "11:00:01Z"))
    ingest.rebuild(theirs / "bench.db", theirs / "runs", Path("results/published"))
    assert origins(theirs)[EVALUATION] == "imported"
    path.write_text(text)
    # Measured here it is no longer theirs.
    write_evaluation(theirs, attack(spec(), 0.1), attempt_id="measured-again")
    ingest.rebuild(theirs / "bench.db", theirs / "runs", Path("results/published"))
    assert origins(theirs)[EVALUATION] == "measured"
    # What is taken in anew was not found again, were it the very same.
    path.unlink()
    with Database(theirs / "bench.db").open() as db:
        gc.delete_evaluations(db, [EVALUATION])
    take(archive, theirs)
    found = origins(theirs)
    assert (found[EVALUATION], found[RUN]) == ("imported", "re-measured")


@pytest.mark.parametrize(
    ("run", "evaluations", "whole"),
    [
        ("measured", ["measured", "measured"], "measured"), ("measured", ["measured", "imported"], "imported"),
        ("imported", ["measured", "re-measured"], "re-measured"), ("imported", ["measured"], "re-measured"),
        ("imported", ["re-measured", "imported"], "imported"), ("re-measured", ["imported"], "imported"),
        ("measured", ["re-measured"], "re-measured"), ("re-measured", ["measured"], "re-measured"),
        ("imported", [], "imported"), ("re-measured", [], "re-measured"), ("measured", [], "measured"),
    ],
)  # fmt: skip
def test_a_number_is_as_good_as_the_least_of_what_decides_it(run: Any, evaluations: list[Any], whole: str) -> None:
    assert provenance.together(run, evaluations) == whole
