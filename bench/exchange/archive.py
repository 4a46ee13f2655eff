"""Archives of runs: one zip file with a manifest. Here the container only; its records are judged by the door.

Files lie in it sorted, uncompressed and with a fixed time: the same files give the same bytes on every machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from bench.core import strict_json
from bench.core.errors import BenchError
from bench.core.files import atomic, sha256
from bench.core.release import VERSION
from bench.experiment.fields import Count, Id, Name, Sha256
from bench.experiment.folder import CHECKPOINT
from bench.experiment.records import parse_record
from bench.store.door import RECORD_BYTES

MANIFEST = "manifest.json"
CHUNK = 1 << 20
GIB = 1 << 30
MANIFEST_BYTES = 64 << 20  # some 400,000 files

# What may stand in an archive, letter by letter: nothing else can leave the folder of its run.
_ID = "[0-9a-f]{24}"
_NAME = re.compile(
    rf"runs/(?P<run>{_ID})/(?P<file>run\.json|train\.jsonl|(?:members|checkpoint)\.safetensors|evaluations/{_ID}\.json"
    rf"|failures/[0-9A-Za-z][0-9A-Za-z_-]{{0,63}}\.json|samples/[0-9A-Za-z][0-9A-Za-z_-]{{0,63}}\.safetensors)"
)
_FAULTS = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError,
    ValueError, OverflowError,
)  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold, in bytes: all files together, and one file of weights."""

    total: int = 16 * GIB
    file: int = 4 * GIB


class ArchivedFile(BaseModel):
    """One file of an archive."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    path: str
    size: Count
    sha256: Sha256


class Manifest(BaseModel):
    """`manifest.json`: what an archive holds, and what made it."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    format: Literal[1]
    kind: Literal["bench runs"]
    made_by: Name
    weights: bool
    runs: list[Id]
    unfinished: list[Id] = []
    """Those of the runs that are not done: of each the checkpoint and nothing else."""
    files: list[ArchivedFile]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        begun = set(self.unfinished)
        for entry in self.files:
            found = _NAME.fullmatch(entry.path)
            if found is None or (found["file"] == CHECKPOINT) != (found["run"] in begun):
                raise ValueError(f"{_shown(entry.path)} is not a file of a run")
        if len({entry.path for entry in self.files}) != len(self.files):
            raise ValueError("it names a file twice")
        if self.runs != sorted({split(entry.path)[0] for entry in self.files}):
            raise ValueError("its runs are not those of its files")
        return self


def split(name: str) -> tuple[str, str]:
    """Run id and path within the run's folder, of a name in an archive."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise BenchError(f"{_shown(name)} is not a file of a run")
    return found["run"], found["file"]


def belongs(name: str) -> bool:
    """Whether a file of this name (`runs/ID/…`), of a run that is done, may stand in an archive."""
    found = _NAME.fullmatch(name)
    return found is not None and found["file"] != CHECKPOINT


def write_archive(path: Path, files: dict[str, Path], *, weights: bool) -> Manifest:
    """Write `files` (name in the archive → file on disk) and their manifest to `path`, whole or not at all.

    Raises:
        BenchError: a file cannot be read, or changed meanwhile.
    """
    entries = [
        ArchivedFile(path=name, size=source.stat().st_size, sha256=sha256(source)) for name, source in files.items()
    ]
    entries.sort(key=lambda entry: entry.path)
    manifest = Manifest(
        format=1,
        kind="bench runs",
        made_by=f"bench {VERSION}",
        weights=weights,
        runs=sorted({split(name)[0] for name in files}),
        unfinished=sorted(run for run, file in map(split, files) if file == CHECKPOINT),
        files=entries,
    )
    text = json.dumps(manifest.model_dump(exclude_defaults=True), indent=1, sort_keys=True).encode() + b"\n"
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(_member(MANIFEST, len(text)), "w") as target:
            target.write(text)
        for entry in entries:
            source = files[entry.path]
            with source.open("rb") as file, archive.open(_member(entry.path, entry.size), "w") as target:
                found = _copy(file, target)
            if found != (entry.size, entry.sha256):
                raise BenchError(f"{source} changed while it was read; export again when nothing writes to it")
    return manifest


def _member(name: str, size: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.file_size = size
    return info


class Archive:
    """An archive opened for reading: names, kinds and sizes are checked at once, contents when they are read.

    Raises:
        BenchError: no archive of `bench`, damaged, or over the limits.
    """

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self.path = path
        limits = limits or Limits()
        try:
            size = path.stat().st_size
            if size > limits.total + 2 * MANIFEST_BYTES:  # its directory is read into memory at once
                raise self._over("total", size, limits.total)
            self._zip = zipfile.ZipFile(path)
        except OSError as error:
            raise BenchError(f"cannot read archive {path}: {error.strerror or error}") from error
        except _FAULTS as error:
            raise BenchError(f"{path} is not an archive of `bench db export`, or is damaged ({error})") from error
        try:
            self._members = self._checked(limits)
            self.manifest = self._manifest()
            self._entries = {entry.path: entry for entry in self.manifest.files}
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    @property
    def size(self) -> int:
        """Size of all files together, unpacked."""
        return sum(entry.size for entry in self.manifest.files)

    @property
    def origin(self) -> dict[str, str]:
        """What a run that comes out of it will say of it; read once more as a whole."""
        return {
            "archive": ascii(self.path.name)[1:-1][:200],
            "sha256": sha256(self.path),
            "made_by": self.manifest.made_by,
        }

    def by_run(self) -> dict[str, dict[str, str]]:
        """Run id → path within the run's folder → name in the archive, all in order."""
        found: dict[str, dict[str, str]] = {run_id: {} for run_id in self.manifest.runs}
        for name in sorted(self._entries):
            run_id, file = split(name)
            found[run_id][file] = name
        return found

    def read(self, name: str) -> bytes:
        """The content of a small file, its digest checked.

        Raises:
            BenchError: damaged.
        """
        with self._open(name) as source:
            data = source.read(RECORD_BYTES + 1)
        assert isinstance(data, bytes)
        if (len(data), hashlib.sha256(data).hexdigest()) != (self._entries[name].size, self._entries[name].sha256):
            raise self._wrong(name)
        return data

    def extract(self, name: str, target: Path) -> None:
        """Copy a file to the new path `target`, its digest checked, synced.

        Raises:
            BenchError: damaged.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._open(name) as source, target.open("xb") as file:
            found = _copy(source, file)
            file.flush()
            os.fsync(file.fileno())
        if found != (self._entries[name].size, self._entries[name].sha256):
            raise self._wrong(name)

    def _checked(self, limits: Limits) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        total = 0
        for info in self._zip.infolist():
            name = info.orig_filename
            if name != MANIFEST and _NAME.fullmatch(name) is None:
                raise self._refused(f"{_shown(name)} is not a file of a run")
            if name in members:
                raise self._refused(f"{name} stands in it twice")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG) or info.external_attr & 0x10:
                raise self._refused(f"{name} is not a plain file (a link, folder or device)")
            if info.flag_bits & 1:
                raise self._refused(f"{name} is encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise self._refused(f"{name} is compressed in an unknown way")
            fixed = MANIFEST_BYTES if name == MANIFEST else RECORD_BYTES
            if name.endswith(".safetensors"):
                if info.file_size > limits.file:
                    raise self._over(name, info.file_size, limits.file)
            elif info.file_size > fixed:
                raise self._refused(f"{name} has {_size(info.file_size)}, no record has over {_size(fixed)}")
            total += info.file_size if name != MANIFEST else 0
            members[name] = info
        if total > limits.total:
            raise self._over("total", total, limits.total)
        return members

    def _manifest(self) -> Manifest:
        if MANIFEST not in self._members:
            raise self._refused(f"it has no {MANIFEST}; `bench db export` makes archives")
        with self._open(MANIFEST) as source:
            data = source.read(MANIFEST_BYTES + 1)
        try:
            value = strict_json.parse(data)
        except ValueError as error:
            raise self._refused(f"{MANIFEST} is damaged ({error})") from error
        manifest = parse_record(Manifest, value, f"{MANIFEST} of archive {self.path}")
        named = {entry.path for entry in manifest.files} | {MANIFEST}
        for name in sorted(named.symmetric_difference(self._members)):
            where = "not in the archive" if name in named else f"not in its {MANIFEST}"
            raise self._refused(f"{name} is {where}")
        for entry in manifest.files:
            if entry.size != self._members[entry.path].file_size:
                raise self._wrong(entry.path)
        return manifest

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with self._zip.open(self._members[name]) as source:
                yield source
        except _FAULTS as error:
            raise self._refused(f"{name} is damaged ({error})") from error

    def _wrong(self, name: str) -> BenchError:
        return self._refused(f"{name} is not what its {MANIFEST} says (damaged or changed)")

    def _refused(self, why: str) -> BenchError:
        return BenchError(f"archive {self.path} is refused, nothing was taken in: {why}")

    def _over(self, what: str, size: int, limit: int) -> BenchError:
        which = ("all files together have", "--max-total") if what == "total" else (f"{what} has", "--max-file")
        return self._refused(f"{which[0]} {_size(size)}, over the limit of {_size(limit)}; {which[1]} raises it")


def _copy(source: IO[bytes], target: IO[bytes]) -> tuple[int, str]:
    """Copy all of `source`; returns size and SHA-256."""
    total, digest = 0, hashlib.sha256()
    while part := source.read(CHUNK):
        total += len(part)
        digest.update(part)
        target.write(part)
    return total, digest.hexdigest()


def _size(size: int) -> str:
    for unit, name in ((GIB, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def _shown(name: str) -> str:
    """A name out of an archive, safe to print."""
    return ascii(name if len(name) <= 80 else name[:80] + "…")
