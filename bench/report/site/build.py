"""From a database to a folder of pages: only what changed is made again, and equal databases give equal bytes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import bench
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.identity import safe_name
from bench.core.plain import visible
from bench.report.site import board_view, boards, details, flags, ledger, published, run_view, samples
from bench.report.site.again import Commands
from bench.report.site.boards import Board
from bench.report.site.folder import Folder, fingerprint
from bench.report.site.names import Names, exact, percent, recipe_text, seconds
from bench.store import queries
from bench.store.answers import ReferenceRow, RunRow
from bench.store.database import Database
from bench.store.flags import FLAGS
from bench.training.outside import OUTSIDE

TOGETHER = 40  # runs whose details are read at once
STATIC = ("site.css", "site.js", "sortable.min.js", "sortable.LICENSE.txt")

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Built:
    """How many pages a site has, and which of them this build wrote or removed (addresses within the folder)."""

    pages: int
    written: tuple[str, ...]
    removed: tuple[str, ...]


def build(
    db: Database,
    folder: Path,
    *,
    loaded: Loaded,
    results: Path | None = None,
    progress: Progress | None = None,
) -> Built:
    """Write the site of a database to `folder`, or bring the one that is there up to date.

    Args:
        loaded: the configuration: titles of methods and attacks, and what the commands shown are checked against.
        results: the folder of runs, for sample images; None for none.
        progress: called with (pages done, pages in all, what is being done).

    Raises:
        BenchError: `folder` holds other files, or cannot be written.
    """
    ours = Folder(folder)
    try:
        _Site(db, ours, loaded, results, progress or (lambda done, total, label: None)).build()
    except OSError as error:
        raise BenchError(f"cannot write to {folder}: {error.strerror or error}") from error
    return Built(len(ours.pages), tuple(ours.written), tuple(ours.removed))


class _Site:
    def __init__(self, db: Database, folder: Folder, loaded: Loaded, results: Path | None, progress: Progress) -> None:
        self.db, self.folder, self.loaded, self.results, self.progress = db, folder, loaded, results, progress
        progress(0, 0, "reading the database")
        self.ledger = ledger.read(db)
        self.names = Names(loaded, self.ledger.settings)
        self.progress(0, 0, "looking for flags")
        self.flags = flags.raised(db, self.ledger, folder.notes.get("flags"))
        folder.notes = {"flags": self.flags.notes}
        self.ledger = self.ledger.without(self.flags.damaged)
        self.references = queries.references(db)
        self.boards = boards.boards(self.ledger, self.flags.invalid)
        self.common = fingerprint([_source(), bench.__version__, loaded.config.model_dump(mode="json")])
        names = {run.dataset for run in self.ledger.runs.values()}
        self.sizes = {name: ledger.test_images(name, loaded.config.datasets) for name in names}
        self.total = len(self.boards) + len(self.ledger.runs) + len({ref.dataset for ref in self.references}) + 3

    def build(self) -> None:
        try:
            self._assets()
            self._boards()
            self._published()
            self._runs()
            self._overview()
        except BaseException:
            self.folder.keep()
            raise
        self.folder.finish()

    def _page(self, name: str, digest: str, template: str, *, facts: Any = None, **values: Any) -> None:
        text = templates().get_template(template).render(root="../" * name.count("/"), here=name, **values)
        self.folder.write(name, digest, text.encode(), facts)

    def _step(self, label: str) -> None:
        self.progress(len(self.folder.pages) - len(STATIC), self.total, label)

    def _assets(self) -> None:
        for name in STATIC:
            content = (files("bench.report.site") / "static" / name).read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:24]
            if not self.folder.stands(f"assets/{name}", digest):
                self.folder.write(f"assets/{name}", digest, content)

    def _boards(self) -> None:
        by_dataset: dict[str, list[Board]] = defaultdict(list)
        for board in self.boards:
            by_dataset[board.threat.dataset].append(board)
        cache: boards.Cache = {}
        for board in self.boards:
            threat = board.threat
            siblings = [
                {"href": f"{b.threat.slug}.html", "title": b.threat.title, "here": b is board, "n": b.threat.n,
                 "images": board_view.images_text(b.threat.n, b.threat.image_limit, self.sizes[threat.dataset])}
                for b in by_dataset[threat.dataset]
            ]  # fmt: skip
            shown = [seed.run.run_id for family in board.families for seed in family.seeds]
            raised = {run_id: [flag.plain for flag in self.flags.of(run_id)] for run_id in shown}
            references = [ref for ref in self.references if ref.dataset == threat.dataset]
            digest = fingerprint([self.common, list(threat), board.ingredients(), sorted(board.standard), siblings,
                                 raised, [_plain(ref) for ref in references], self.sizes[threat.dataset]])  # fmt: skip
            name = f"boards/{threat.slug}.html"
            if self.folder.stands(name, digest):
                continue
            self._step(f"board {threat.dataset}, {threat.title}")
            view = board_view.board_view(
                board,
                boards.places(self.db, board, cache),
                self.names,
                self.flags,
                references,
                self.sizes[threat.dataset],
            )
            facts = board_view.summary(board, view)
            self._page(name, digest, "board.html", facts=facts, view=view, siblings=siblings)

    def _published(self) -> None:
        by_dataset: dict[str, list[ReferenceRow]] = defaultdict(list)
        for ref in self.references:
            by_dataset[ref.dataset].append(ref)
        self.published = {dataset: f"published/{safe_name(dataset)}.html" for dataset in sorted(by_dataset)}
        for dataset, name in self.published.items():
            digest = fingerprint([self.common, dataset, [_plain(ref) for ref in by_dataset[dataset]]])
            if not self.folder.stands(name, digest):
                tables = published.tables(by_dataset[dataset], self.names)
                self._page(name, digest, "published.html", dataset=dataset, tables=tables)

    def _runs(self) -> None:
        siblings: dict[str, list[RunRow]] = defaultdict(list)
        for run in self.ledger.runs.values():
            siblings[run.family_id].append(run)
        addresses = {board.threat: f"../boards/{board.threat.slug}.html" for board in self.boards}
        on_board: dict[str, list[str]] = defaultdict(list)
        for board in self.boards:
            for family in board.families:
                for seed in family.seeds:
                    on_board[seed.run.run_id].append(board.threat.slug)
        todo: list[tuple[RunRow, str, list[Path]]] = []
        for run in self.ledger.runs.values():
            pictures = samples.files(self.results, run.run_id)
            ingredients = [
                run.attempt_id, run.run_id in self.ledger.stale,
                [[row.attempt_id, row.evaluation_id in self.ledger.stale] for row in self.ledger.of_run[run.run_id]],
                [failure.attempt_id for failure in self.ledger.failures.get(run.run_id, ())],
                [[other.run_id, other.run_id in self.ledger.stale] for other in siblings[run.family_id]],
                [key in self.ledger.runs for _, key in sorted(run.requires.items())],
                [flag.plain for flag in self.flags.of(run.run_id)], on_board[run.run_id], samples.fingerprint(pictures),
                self.sizes[run.dataset], self.ledger.versions,
            ]  # fmt: skip
            digest = fingerprint([self.common, ingredients])
            if not self.folder.stands(f"runs/{run.run_id}.html", digest):
                todo.append((run, digest, pictures))
        about = run_view.Setting(
            loaded=self.loaded, names=self.names, ledger=self.ledger, boards=addresses,
            commands=Commands(self.loaded), flags=self.flags, environments=_Environments(self.db),
            sizes=self.sizes, siblings=siblings,
        )  # fmt: skip
        for start in range(0, len(todo), TOGETHER):
            part = todo[start : start + TOGETHER]
            found = details.read(self.db, [run.run_id for run, _, _ in part])
            for run, digest, pictures in part:
                if run.run_id in found:
                    view = run_view.run_view(run, found[run.run_id], about, pictures)
                    self._page(f"runs/{run.run_id}.html", digest, "run.html", view=view)
                    self._step("runs")

    def _overview(self) -> None:
        runs = [self._run_row(run) for run in self.ledger.runs.values()]
        digest = fingerprint([self.common, runs])
        if not self.folder.stands("runs.html", digest):
            self._page("runs.html", digest, "runs.html", runs=runs)
        rules = list(FLAGS.values())
        digest = fingerprint([self.common, [asdict(rule) for rule in rules]])
        if not self.folder.stands("about.html", digest):
            self._page("about.html", digest, "about.html", matrix=self.loaded.config.matrix, flags=rules)
        failures = [failure for _, rows in sorted(self.ledger.failures.items()) for failure in rows]
        by_dataset: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for board in self.boards:
            by_dataset[board.threat.dataset].append(self.folder.facts(f"boards/{board.threat.slug}.html"))
        counts = {
            "runs": len(self.ledger.runs),
            "evaluations": sum(len(rows) for rows in self.ledger.of_run.values()),
            "failures": len(failures),
            "stale": len(self.ledger.stale & self.ledger.runs.keys()),
            "coarse": sum(row.protocol_id in self.ledger.coarse for row in self.ledger.evaluations),
        }
        digest = fingerprint([self.common, by_dataset, counts, self.published])
        if not self.folder.stands("index.html", digest):
            self._page("index.html", digest, "index.html", datasets=by_dataset, counts=counts, published=self.published)
        self._step("done")

    def _run_row(self, run: RunRow) -> dict[str, Any]:
        rows = self.ledger.of_run[run.run_id]
        clean = max((row for row in rows if row.kind == "clean"), key=lambda row: row.n, default=None)
        value = None if clean is None else 100 * clean.n_clean / clean.n
        return {
            "href": f"runs/{run.run_id}.html", "id": run.run_id[:12], "title": self.names.method(run.method),
            "dataset": run.dataset, "seed": run.seed, "model": run.model, "members": run.members,
            "recipe": recipe_text(run), "clean": percent(value), "value": value, "evaluations": len(rows),
            "started": run.started, "seconds": exact(None if run.plugin == OUTSIDE else run.seconds),
            "time": "–" if run.plugin == OUTSIDE else seconds(run.seconds),
            "stale": run.run_id in self.ledger.stale, "failures": len(self.ledger.failures.get(run.run_id, ())),
            "flags": sorted({flag.name for flag in self.flags.of(run.run_id)}),
        }  # fmt: skip


class _Environments(dict[str, dict[str, Any]]):
    """Environments by id, read when first asked for."""

    def __init__(self, db: Database) -> None:
        super().__init__()
        self._db = db

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = queries.environment(self._db, key)
        return self[key]


def _plain(ref: ReferenceRow) -> list[Any]:
    return [ref.source, ref.method, ref.attack, ref.budget_name, ref.budget, ref.metric, ref.value]


def _source() -> str:
    """Digest of this package: its templates, styles and code decide the pages too."""
    digest = hashlib.sha256()
    for name, content in _contents(Path(str(files("bench.report.site")))):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".html", ".css", ".js"):
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def _shown(value: Any) -> Any:
    """What comes into a page: letters that do not show (marks of direction, say) as their codes."""
    if not isinstance(value, str):
        return value
    text = visible(str(value), keep="\n\t")
    return Markup(text) if isinstance(value, Markup) else text


@cache
def templates() -> Environment:
    """The templates; everything that is put into them is escaped, and shows."""
    made = Environment(
        loader=PackageLoader("bench.report.site"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["version"] = bench.__version__
    return made
