"""From a database to a folder of pages: only what changed is made again, and equal databases give equal bytes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.identity import safe_name
from bench.core.release import described
from bench.report import ledger, statements
from bench.report.again import Commands
from bench.report.boards import Board
from bench.report.site import (
    board_view,
    changes,
    details,
    front,
    method_view,
    pages,
    paper_view,
    published,
    run_view,
    samples,
    tiles,
)
from bench.report.site.board_rows import About
from bench.report.site.folder import Folder, fingerprint
from bench.report.site.names import Names
from bench.report.site.runs import failed_runs, run_row
from bench.store import queries
from bench.store.database import Database
from bench.store.flags import FLAGS
from bench.store.typed_rows import ReferenceRow, RunRow

TOGETHER = 40  # runs whose details are read at once

OnPage = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Built:
    """How many files a site has, and which of them this build wrote or removed (addresses within the folder)."""

    pages: int
    written: tuple[str, ...]
    removed: tuple[str, ...]


def build(
    db: Database,
    folder: Path,
    *,
    loaded: Loaded,
    results: Path | None = None,
    progress: OnPage | None = None,
    adds_up: bool = False,
) -> Built:
    """Write the site of a database to `folder`, or bring the one that is there up to date.

    Args:
        loaded: the configuration: titles of methods and attacks, and what the commands shown are checked against.
        results: the folder of runs, for sample images; None for none.
        progress: called with (pages done, pages in all, what is being done).
        adds_up: "what changed" goes on counting from the report that the last build compared with.

    Raises:
        BenchError: `folder` holds other files, or cannot be written.
    """
    ours = Folder(folder)
    try:
        _Site(db, ours, loaded, results, progress or (lambda done, total, label: None), adds_up).build()
    except OSError as error:
        raise BenchError(f"cannot write to {folder}: {error.strerror or error}") from error
    return Built(len(ours.pages), tuple(ours.written), tuple(ours.removed))


class _Site:
    def __init__(
        self, db: Database, folder: Folder, loaded: Loaded, results: Path | None, progress: OnPage, adds_up: bool
    ) -> None:
        self.db, self.folder, self.loaded, self.results, self.progress = db, folder, loaded, results, progress
        self.adds_up = adds_up
        progress(0, 0, "reading the database")
        self.names = Names(loaded)
        self.ledger = ledger.read(db, loaded)
        self.commands = Commands(loaded)
        self.references = queries.references(db)
        self.common = fingerprint([pages.source(), described(), loaded.config.model_dump(mode="json")])
        self.datasets = {run.dataset for run in self.ledger.runs.values()}
        self.sizes = {name: ledger.test_images(name, loaded) for name in self.datasets}
        self.methods = sorted({run.method for run in self.ledger.runs.values()})
        self.failed = failed_runs(self.ledger)
        parts = (self.ledger.runs, self.ledger.boards * 3, self.methods, self.failed)
        self.total = sum(map(len, parts)) + len({ref.dataset for ref in self.references}) + 6

    def build(self) -> None:
        try:
            self._assets()
            self._boards()
            self._published()
            self._papers()
            self._methods()
            self._runs()
            self._overview()
        except BaseException:
            self.folder.keep()
            raise
        self.folder.finish()

    def _page(self, name: str, ingredients: Any, template: str, **values: Any) -> None:
        """A page, unless it stands there as made from the same ingredients."""
        digest = fingerprint([self.common, ingredients])
        if not self.folder.stands(name, digest):
            self._render(name, digest, template, **values)

    def _render(self, name: str, digest: str, template: str, **values: Any) -> None:
        text = pages.templates().get_template(template).render(root="../" * name.count("/"), here=name, **values)
        self.folder.write(name, digest, text.encode())

    def _file(self, name: str, content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()[:24]
        if not self.folder.stands(name, digest):
            self.folder.write(name, digest, content)

    def _step(self, label: str) -> None:
        self.progress(len(self.folder.pages) - len(pages.STATIC), self.total, label)

    def _assets(self) -> None:
        for name in pages.STATIC:
            self._file(f"assets/{name}", pages.static(name))

    def _boards(self) -> None:
        about = About(self.ledger, self.names, details.parameters(self.db), tuple(self.references))
        by_dataset: dict[str, list[Board]] = defaultdict(list)
        for board in self.ledger.boards:
            by_dataset[board.standard.dataset].append(board)
        self.made: list[tuple[Board, dict[str, Any]]] = []
        for board in self.ledger.boards:
            siblings = [
                {"href": f"../{board_view.address(b)}", "title": b.standard.title, "threat": board_view.threat_title(b),
                 "recipes": b.recipes, "here": b is board}
                for b in by_dataset[board.standard.dataset]
            ]  # fmt: skip
            self._step(f"board {board.standard.label}")
            view = board_view.board_view(board, about)
            self.made.append((board, view))
            self._page(board_view.address(board), [view, siblings], "board.html", view=view, siblings=siblings)
            self._file(board_view.address(board, "json"), board_view.as_json(view))
            self._file(board_view.address(board, "csv"), board_view.as_csv(view))

    def _published(self) -> None:
        by_dataset: dict[str, list[ReferenceRow]] = defaultdict(list)
        for ref in self.references:
            by_dataset[ref.dataset].append(ref)
        self.published = {dataset: f"published/{safe_name(dataset)}.html" for dataset in sorted(by_dataset)}
        for dataset, name in self.published.items():
            tables = published.tables(by_dataset[dataset], self.names)
            self._page(name, [dataset, tables], "published.html", dataset=dataset, tables=tables)

    def _papers(self) -> None:
        self._step("papers")
        answers = {name: statements.answers(self.loaded, self.db, name) for name in sorted(self.datasets)}
        self.papers = paper_view.papers_view(answers, self.names)
        if self.papers["papers"]:
            self._page(paper_view.PAGE, self.papers, "papers.html", view=self.papers)

    def _methods(self) -> None:
        for name in self.methods:
            view = method_view.method_view(
                name, db=self.db, loaded=self.loaded, ledger=self.ledger, made=self.made, references=self.references
            )
            self._page(self.names.page(name), view, "method.html", view=view)
            self._step("methods")

    def _runs(self) -> None:
        siblings: dict[str, list[RunRow]] = defaultdict(list)
        for run in self.ledger.runs.values():
            siblings[run.family_id].append(run)
        places = tiles.places(self.ledger.boards)
        todo: list[tuple[RunRow, str, list[Path]]] = []
        for run in self.ledger.runs.values():
            pictures = samples.files(self.results, run.run_id)
            rows = self.ledger.of_run[run.run_id]
            ingredients = [
                run.attempt_id, run.provenance, self._worth(run.run_id),
                [[row.attempt_id, row.provenance, self._worth(row.evaluation_id)] for row in rows],
                [failure.attempt_id for failure in self.ledger.failures.get(run.run_id, ())],
                [[other.run_id, self._worth(other.run_id)] for other in siblings[run.family_id]],
                [key in self.ledger.runs for _, key in sorted(run.requires.items())],
                [[row.evaluation_id, item.flag.id, item.evidence] for row, item in self.ledger.flags(run.run_id)],
                self._opinion(run.run_id),
                places.get(run.run_id, []), samples.fingerprint(pictures), self.sizes[run.dataset],
            ]  # fmt: skip
            digest = fingerprint([self.common, ingredients])
            if not self.folder.stands(f"runs/{run.run_id}.html", digest):
                todo.append((run, digest, pictures))
        about = run_view.PageContext(
            loaded=self.loaded, names=self.names, ledger=self.ledger, places=places, commands=self.commands,
            environments=_Environments(self.db), sizes=self.sizes, siblings=siblings,
        )  # fmt: skip
        for start in range(0, len(todo), TOGETHER):
            part = todo[start : start + TOGETHER]
            found = details.read(self.db, [run.run_id for run, _, _ in part])
            for run, digest, pictures in part:
                if run.run_id in found:
                    view = run_view.run_view(run, found[run.run_id], about, pictures)
                    self._render(f"runs/{run.run_id}.html", digest, "run.html", view=view)
                    self._step("runs")
        for failed in self.failed:
            self._page(failed["page"], failed, "failed.html", view=failed)

    def _overview(self) -> None:
        runs = [run_row(run, self.ledger, self.names) for run in self.ledger.runs.values()]
        self._page("runs.html", [runs, self.failed], "runs.html", runs=runs, failed=self.failed)
        rules = list(FLAGS.values())
        self._page("about.html", [asdict(rule) for rule in rules], "about.html", matrix=self.loaded.config.matrix,
                   flags=rules)  # fmt: skip
        self._page("add.html", [], "add.html")
        standings = self.ledger.standings
        newest = front.date(self.ledger)
        kept = changes.renewed(self.folder.path, changes.state(self.made, newest), adds_up=self.adds_up)
        self._file(changes.FILE, changes.as_json(kept))
        values = {
            "news": changes.news(kept),
            "datasets": front.datasets(self.made),
            "transfers": front.transfers(self.db, self.ledger.boards, self.ledger, self.loaded),
            "papers": self.papers,
            "published": self.published,
            "date": newest,
            "citation": front.citation(newest),
            "counts": {
                "runs": len(self.ledger.runs),
                "methods": len(self.methods),
                "evaluations": sum(len(rows) for rows in self.ledger.of_run.values()),
                "failures": sum(len(rows) for rows in self.ledger.failures.values()),
                "stale": sum(not standings.of(run_id).is_current for run_id in self.ledger.runs),
                "attacked": sum(row.kind == "attack" for row in self.ledger.evaluations),
            },
        }
        self._page("index.html", values, "index.html", **values)
        self._step("done")

    def _opinion(self, run_id: str) -> list[Any]:
        verdict = self.ledger.standings.verdicts.get(run_id)
        return [] if verdict is None else [verdict.opinion, verdict.why]

    def _worth(self, identifier: str) -> list[Any]:
        worth = self.ledger.standings.of(identifier)
        return [worth.state, worth.why]


class _Environments(dict[str, dict[str, Any]]):
    """Environments by id, read when first asked for."""

    def __init__(self, db: Database) -> None:
        super().__init__()
        self._db = db

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = queries.environment(self._db, key)
        return self[key]
