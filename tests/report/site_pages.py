"""The site of a database made by hand, and what its pages say."""

from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

from site_records import Writer

from bench.core import config
from bench.report.site import Built, build
from bench.store.database import Database

LOADED = config.load(config.defaults("bench.toml"))


def make(db: Database, folder: Path, results: Path | None = None) -> Built:
    """Its site, made or brought up to date, with the configuration that comes with `bench`."""
    return build(db, folder, loaded=LOADED, results=results)


def written(writer: Writer, folder: Path) -> Path:
    """The folder of the site of a writer's database, with all that was collected."""
    writer.flush()
    make(writer.db, folder)
    return folder


def contents(folder: Path, *, news: bool = True) -> dict[str, str]:
    """Digest of every file by its address; without `news`, what was there before the last build makes no difference."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if not news:
        del found["changes.json"], found["manifest.json"]  # which has the digests of the others
        found["index.html"] = re.sub(rb'(?s)<section class="news">.*?</section>\n', b"", found["index.html"])
    return {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}


class Table(HTMLParser):
    """The cells of the first table of a page: their text and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[tuple[str, dict[str, str]]]] = []
        self._cell: list[str] | None = None
        self._done = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._done:
            return
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._cell = []
            self.rows[-1].append(("", {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None and not self._done:
            self.rows[-1][-1] = (" ".join("".join(self._cell).split()), self.rows[-1][-1][1])
            self._cell = None
        self._done = self._done or tag == "table"

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)


CORE = "core-digits-v1-0.1-complete"


def board_rows(folder: Path, which: str = CORE) -> dict[str, dict[str, str]]:
    """Method → column → text of a board's ranking."""
    (path,) = folder.glob(f"boards/{which}.html")
    head, *rows = Table(path.read_text()).rows
    names = [text for text, _ in head]
    return {row[1][0]: {name: text for name, (text, _) in zip(names, row, strict=True)} for row in rows}


def ranked(writer: Writer, folder: Path, which: str = CORE) -> dict[str, dict[str, str]]:
    """`board_rows` of the site of a writer's database."""
    return board_rows(written(writer, folder), which)
