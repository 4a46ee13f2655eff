"""What changed on the boards since the last report: two states of them, kept in a small file of the site.

The file holds the state that the pages show, and the one before it. Only when an entry came, went or moved does the
state shown become the one before; so a report that finds nothing new gives the same bytes, its list of changes too.
States are dated by their results, not by the clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.core.printable import visible
from bench.report.boards import Board
from bench.report.site.board_view import address
from bench.report.site.names import percent

FILE = "changes.json"
NAMED = 3  # entries that the line of a protocol names; of more it says how many


class _Kept(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class EntryState(_Kept):
    """An entry of a board; `value` in percent, as shown."""

    title: str
    rank: int | None
    value: str
    trainings: int


class BoardState(_Kept):
    """A board: what counts on it, and its entries by family."""

    dataset: str
    title: str
    protocol: str
    version: int
    standard_id: str
    threat: str
    recipes: str
    address: str
    entries: dict[str, EntryState]

    @property
    def leaders(self) -> dict[str, str]:
        """Family → title of those of rank 1."""
        return {family: entry.title for family, entry in self.entries.items() if entry.rank == 1}


class SiteState(_Kept):
    """All boards of a report; `date` is the day of its newest result."""

    date: str
    boards: dict[str, BoardState]


class Kept(_Kept):
    """`changes.json`."""

    format: Literal[1] = 1
    before: SiteState | None
    now: SiteState


def state(made: Iterable[tuple[Board, Mapping[str, Any]]], date: str) -> SiteState:
    """The state of the boards, each with its view."""
    return SiteState(date=date, boards={_place(board): _board(board, view) for board, view in made})


def _place(board: Board) -> str:
    """What is the same board still when its protocol gets another version."""
    return f"{board.standard.name} {board.standard.eps:g} {board.recipes}"


def _board(board: Board, view: Mapping[str, Any]) -> BoardState:
    return BoardState(
        dataset=view["dataset"], title=view["title"], protocol=view["protocol"], version=view["version"],
        standard_id=view["standard_id"], threat=view["threat"], recipes=view["recipes"], address=address(board),
        entries={
            row["family_id"]: EntryState(
                title=visible(" ".join(filter(None, (row["title"], row["mark"])))), rank=row["rank"],
                value=percent(row["worst"]["mean"]), trainings=len(row["seeds"]),
            )
            for row in view["rows"]
        },
    )  # fmt: skip


def renewed(folder: Path, now: SiteState, *, adds_up: bool) -> Kept:
    """What the file is to hold: beside the state of today the one that it is compared with.

    Args:
        folder: of the site, with the file of the last report; none, or a damaged one, is that of a first report.
        adds_up: with the same one as the last report, where that had one: while a site is served, changes add up.
    """
    try:
        last = Kept.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return Kept(before=None, now=now)
    goes_on = (adds_up and last.before is not None) or not any(_differences(last.now, now))
    return Kept(before=last.before if goes_on else last.now, now=now)


def as_json(kept: Kept) -> bytes:
    """The content of the file."""
    return (kept.model_dump_json(indent=1) + "\n").encode()


def news(kept: Kept) -> dict[str, Any] | None:
    """What the front page tells: the date of the state before, and the changes by protocol; None without any."""
    if kept.before is None:
        return None
    by_protocol: dict[tuple[str, str, str], dict[str, Any]] = {}
    for change in _differences(kept.before, kept.now):
        board: BoardState = change["board"]
        told = by_protocol.setdefault(
            (board.dataset, board.protocol, board.recipes),
            {"dataset": board.dataset, "title": board.title, "recipes": board.recipes, "boards": []},
        )
        told["boards"].append({
            "threat": board.threat, "href": None if change["gone"] else board.address, "words": change["words"],
            "entries": change["entries"],
        })  # fmt: skip
    for told in by_protocol.values():
        told["brief"] = _brief(told["boards"])
    return {"since": kept.before.date, "protocols": list(by_protocol.values())} if by_protocol else None


def _differences(before: SiteState, now: SiteState) -> Iterator[dict[str, Any]]:
    """Each board that is not as it was: words on the whole, and its entries that came, went or moved."""
    for place in [*now.boards, *(place for place in before.boards if place not in now.boards)]:
        old, new = before.boards.get(place), now.boards.get(place)
        entries: list[dict[str, str]] = []
        if new is None:
            assert old is not None
            words = "The board is gone."
        elif old is None:
            words = f"A new board{_led(new)}."
        elif old.version != new.version:
            words = f"Version {new.version} after version {old.version}: what counts is another{_led(new)}."
        elif old.standard_id != new.standard_id:
            words = f"What counts has changed within version {new.version}{_led(new)}."
        else:
            entries = list(_entries(old, new))
            led = old.leaders.keys() != new.leaders.keys()
            words = _lead(old, new) if led else ""
            if not entries and not led:
                continue
        yield {"board": new or old, "gone": new is None, "words": words, "entries": entries}


def _entries(old: BoardState, new: BoardState) -> Iterator[dict[str, str]]:
    for family, entry in new.entries.items():
        last = old.entries.get(family)
        if last is None:
            where = "without a rank" if entry.rank is None else f"at rank {entry.rank}"
            yield {"kind": "new", "title": entry.title, "words": f"new, {where}: {entry.value}"}
            continue
        both = None not in (last.rank, entry.rank)
        ranks = (last.rank, entry.rank) if both else (_rank(last), _rank(entry))
        parts = (
            ("rank " if both else "", *ranks),
            ("", last.value, entry.value),
            ("trainings ", last.trainings, entry.trainings),
        )
        moved = [f"{name}{a} → {b}" for name, a, b in parts if a != b]
        if moved:
            yield {"kind": "moved", "title": entry.title, "words": ", ".join(moved)}
    for family, entry in old.entries.items():
        if family not in new.entries:
            yield {"kind": "gone", "title": entry.title, "words": f"gone; before {_rank(entry)}, {entry.value}"}


def _rank(entry: EntryState) -> str:
    return "not ranked" if entry.rank is None else f"rank {entry.rank}"


def _led(board: BoardState) -> str:
    return f", led by {_named(board)}" if board.leaders else ""


def _lead(old: BoardState, new: BoardState) -> str:
    """Who leads now, and who did."""
    told = f"New leader: {_named(new)}" if new.leaders else "Nobody leads any more"
    return f"{told} (before: {_named(old)})." if old.leaders else f"{told}."


def _named(board: BoardState) -> str:
    return " and ".join(board.leaders.values())


def _brief(boards: Iterable[Mapping[str, Any]]) -> str:
    """`New leader: TRS (before: ECE) at ε = 0.1; new: TRS; 7 moved`."""
    words: dict[str, list[str]] = defaultdict(list)
    names: dict[str, dict[str, None]] = {kind: {} for kind in ("new", "moved", "gone")}
    for board in boards:
        if board["words"]:
            words[board["words"].rstrip(".")].append(board["threat"])
        for entry in board["entries"]:
            names[entry["kind"]][entry["title"]] = None
    told = [f"{text} at {' and '.join(threats)}" for text, threats in words.items()]
    for kind, titles in names.items():
        if titles:
            told.append(f"{kind}: {', '.join(titles)}" if len(titles) <= NAMED else f"{len(titles)} {kind}")
    return "; ".join(told)
