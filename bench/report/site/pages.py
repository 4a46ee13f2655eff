"""Templates of the pages, and what else decides their bytes: the code of this package and its version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.core.printable import visible
from bench.core.release import described

STATIC = ("site.css", "site.js", "table.js", "sortable.min.js", "sortable.LICENSE.txt")


def static(name: str) -> bytes:
    """A style sheet or a script."""
    return (files("bench.report.site") / "static" / name).read_bytes()


def source() -> str:
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
    made.globals["version"] = described()
    return made
