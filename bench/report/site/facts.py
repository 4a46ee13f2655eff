"""Facts of a method for readers: its paper, what it was trained on. Configured, or said with weights from elsewhere.

What was said is a claim of whoever brought the weights; it is shown as one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.core.config import Loaded
from bench.core.identity import safe_name
from bench.core.printable import visible
from bench.experiment.spec import OUTSIDE
from bench.store.typed_rows import RunRow

UNSAID = "not stated"
_BIBTEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\textbraceleft{}", "}": r"\textbraceright{}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", **{letter: f"\\{letter}" for letter in "&%$#_"},
})  # fmt: skip
"""An unpaired brace would end the entry, whatever stands before it."""


@dataclass(frozen=True)
class Paper:
    """A publication; what is not known is empty."""

    key: str
    title: str = ""
    authors: tuple[str, ...] = ()
    venue: str = ""
    year: int | None = None
    url: str = ""
    code: str = ""
    licence: str = ""

    @property
    def where(self) -> str:
        """`NeurIPS 2021`."""
        return " ".join(str(part) for part in (self.venue, self.year) if part)

    @property
    def links(self) -> dict[str, str]:
        """Text → address."""
        return {text: link for text, link in (("paper", self.url), ("authors' code", self.code)) if _is_link(link)}

    @property
    def bibtex(self) -> str:
        """An entry of a bibliography; empty without a title."""
        fields = {
            "title": f"{{{_bibtex(self.title)}}}",
            "author": " and ".join(map(_bibtex, self.authors)),
            "booktitle": _bibtex(self.venue),
            "year": str(self.year or ""),
            "url": self.url if _is_link(self.url) else "",
        }
        lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
        kind = "inproceedings" if self.venue else "misc"
        return f"@{kind}{{{self.key},\n" + ",\n".join(lines) + "\n}" if self.title else ""


@dataclass(frozen=True)
class FactSheet:
    """What readers want to know; `yes`, `no` or `not stated`. `claimed`: somebody said so who brought weights."""

    paper: Paper | None
    adversarial: str
    extra_data: str
    claimed: bool = False


def facts_of(name: str, runs: Iterable[RunRow], loaded: Loaded) -> FactSheet:
    """The facts of a method; `runs`: its runs. Of what was said with weights the latest that was taken in counts."""
    spec = loaded.config.methods.get(name)
    outside = [run for run in runs if run.plugin == OUTSIDE]
    if outside:
        last = max(outside, key=lambda run: (bool(run.facts), run.started, run.run_id))
        return _said(name, last.facts or {})
    if spec is None:
        return FactSheet(None, UNSAID, UNSAID)
    known = loaded.config.publications.get(spec.publication or "")
    paper = None if known is None else Paper(spec.publication or "", **known.model_dump())
    return FactSheet(paper, _yes(spec.adversarial), "no")


def _said(name: str, told: dict[str, Any]) -> FactSheet:
    known = {field: told[field] for field in ("title", "venue", "year", "url", "code") if told.get(field)}
    authors = tuple(told.get("authors") or ())
    paper = Paper(safe_name(name), authors=authors, **known) if known or authors else None
    return FactSheet(paper, _yes(told.get("adversarial")), _yes(told.get("extra_data")), claimed=bool(told))


def _yes(value: bool | None) -> str:
    return UNSAID if value is None else "yes" if value else "no"


def _is_link(text: str) -> bool:
    return text.startswith("https://")


def _bibtex(text: str) -> str:
    return visible(text).translate(_BIBTEX)
