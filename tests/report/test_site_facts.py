"""Facts of methods on the site: of bench.toml, or as said with weights from elsewhere, escaped and told as claims."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from site_pages import CORE, board_rows, written
from site_records import Writer

from bench.report.site.facts import Paper
from bench.store import queries
from bench.store.database import Database

N = 500  # images of core-digits
EVIL = "<script>alert(1)</script>"
FACTS = {
    "title": f"On }} Nets {EVIL}", "authors": ["A. Nother", "B. {Yond"], "venue": "ICLR", "year": 2026,
    "url": "https://example.org/paper", "code": "https://example.org/code", "adversarial": True, "extra_data": True,
}  # fmt: skip


@pytest.fixture
def site(db: Database, tmp_path: Path) -> Path:
    """A configured method, one from elsewhere with facts on its second training, one without, and their pages."""
    writer = Writer(db, n=N)
    writer.complete(writer.run("dverge", 0), np.arange(N) < 400)
    for name, seed, facts in (("mine", 0, None), ("mine", 1, FACTS), ("theirs", 0, None)):
        run_id = writer.run(name, seed, plugin="outside", recipe="outside", facts=facts)
        writer.complete(run_id, np.arange(N) < 300)
    return written(writer, tmp_path / "site")


def test_what_was_said_stands_on_the_page_of_the_method_as_a_claim(site: Path) -> None:
    source = (site / "methods/mine.html").read_text()
    page = html.unescape(source)
    assert EVIL not in source
    for part in (FACTS["title"], "A. Nother, B. {Yond: ", "ICLR 2026.", "as said by whoever brought the weights"):
        assert str(part) in page
    for link in (FACTS["url"], FACTS["code"]):
        assert f'<a href="{link}" rel="noreferrer">' in source
    rows = dict(re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", page))
    assert (rows["trained on attacked images"], rows["trained on extra data"]) == ("yes", "yes")
    plain = html.unescape((site / "methods/theirs.html").read_text())
    assert "not stated" in plain
    assert "as said by whoever" not in plain
    assert "@" not in plain.partition("<h2>Facts</h2>")[2]


def test_the_bibliography_stays_balanced_whatever_was_said(site: Path) -> None:
    page = html.unescape((site / "methods/mine.html").read_text())
    (entry,) = re.findall(r"<pre>(@inproceedings\{mine,.*?)</pre>", page, re.S)
    depth = 0
    for place, letter in enumerate(entry):
        depth += (letter == "{") - (letter == "}")
        assert depth > 0 or place < entry.index("{") or place == len(entry) - 1
    assert depth == 0
    assert "author = {A. Nother and B. \\textbraceleft{}Yond}" in entry
    assert "year = {2026}" in entry
    assert Paper("key", title="50% of_it", year=1999).bibtex == (
        "@misc{key,\n  title = {{50\\% of\\_it}},\n  year = {1999}\n}"
    )


def test_boards_filter_by_facts_and_files_hold_them(site: Path) -> None:
    rows = board_rows(site)
    columns = ("Trained on attacked images", "Extra data", "Paper")
    assert [rows["mine"][name] for name in columns] == ["yes", "yes", "ICLR 2026"]
    assert [rows["theirs"][name] for name in columns] == ["not stated", "not stated", "–"]
    assert [rows["DVERGE"][name] for name in columns] == ["no", "no", "NeurIPS 2020"]
    source = (site / f"boards/{CORE}.html").read_text()
    assert all(re.search(rf"<th[^>]*data-filter[^>]*><button[^>]*>{name}<", source) for name in columns)
    records = {row["method"]: row for row in json.loads((site / f"boards/{CORE}.json").read_text())["rows"]}
    assert (records["mine"]["extra_data"], records["mine"]["paper"]) == ("yes", FACTS["title"])
    assert (records["theirs"]["extra_data"], records["theirs"]["paper"]) == ("not stated", None)


@pytest.mark.parametrize("facts", ['{"year": "x"}', '{"url": "javascript:alert(1)"}', "[1]", '"text"'])
def test_a_row_whose_facts_are_none_is_set_aside(db: Database, facts: str, caplog: pytest.LogCaptureFixture) -> None:
    writer = Writer(db, n=N)
    writer.run("mine", 0, plugin="outside")
    writer.flush()
    assert len(queries.runs(db)) == 1
    with db.write() as connection:
        connection.exec_driver_sql("UPDATE run SET facts = ?", (facts,))
    assert queries.runs(db) == []
    assert "left out: facts" in caplog.text
