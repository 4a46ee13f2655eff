"""Where a call from Python works, and how the selectors of the command line are said in Python."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core import places
from bench.core.errors import BenchError
from bench.jobs import choosing, opening
from bench.jobs.choosing import Chosen
from bench.jobs.workplace import Workplace


@dataclass(frozen=True)
class Where:
    """Folder of results, folder of data, and the database's address where it is not in the first."""

    results: Path
    data: Path
    db: str | None

    @classmethod
    def of(cls, results: Path | str | None, data: Path | str | None = None, db: str | None = None) -> Where:
        """What was given, else what the environment says, as for the command line."""
        folder = places.results_folder(results)
        address = places.database(db, folder)
        return cls(folder, places.data_folder(data), None if address == folder / "bench.db" else str(address))

    @property
    def address(self) -> str:
        """Of the database."""
        return self.db or str(self.results / "bench.db")

    def workplace(self, **more: Any) -> Workplace:
        """Folders and device for jobs."""
        return Workplace(results=self.results, data=self.data, **more)


def choose(
    where: Where,
    methods: Iterable[str],
    *,
    dataset: str | None,
    settings: Mapping[str, Any] | None = None,
    needs_method: bool = False,
    seeds: tuple[int, ...] | None = None,
    **given: Any,
) -> Chosen:
    """The selectors of the command line, said in Python.

    Args:
        settings: what `--set` changes, such as `{"training.epochs": 2}`.
        given: the others by their names; what is not given is as on the command line.

    Raises:
        BenchError: names that are unknown, or that do not go together.
    """
    from bench.store import queries

    outside: list[dict[str, Any]] = []
    if where.db is not None or (where.results / "bench.db").is_file():
        with opening.open_database(where.db, where.results) as base:
            outside = queries.configs(base, plugin="outside")
    names = ("recipe", "model", "members", "limit", "precision", "suite")
    said = {name: given.pop(name, None) for name in names}
    said |= {"attack": _several(given.pop("attack", ())), "split": given.pop("split", "test")}
    said |= {name: _several(given.pop(name, ())) for name in ("eps", "c")}
    if given:
        raise TypeError(f"unexpected argument {next(iter(given))!r}")
    changes = tuple(f"{key}={_text(value)}" for key, value in (settings or {}).items())
    with places.data_in(where.data):
        return choosing.choose(
            outside=outside,
            warn=_warn,
            needs_method=needs_method,
            methods=tuple(methods),
            dataset=dataset,
            seeds=seeds,
            changes=changes,
            **said,
        )


def seeds_of(seed: int | Iterable[int]) -> tuple[int, ...]:
    """One seed or several, each once.

    Raises:
        BenchError: no whole numbers from 0.
    """
    found = tuple(dict.fromkeys([seed] if isinstance(seed, int) else seed))
    if not found or not all(type(each) is int and each >= 0 for each in found):
        raise BenchError(f"seed is a whole number from 0, or several of them, not {seed!r}")
    return found


def _several(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, str | int | float) else tuple(value or ())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _warn(line: str) -> None:
    import warnings

    warnings.warn(line, stacklevel=4)
