"""The site in a real browser: sorting, filters, search, hints, keys, copying, narrow, dark, printed, live."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from site_records import Writer, fill, new_database

from bench.core import config
from bench.report.site import build, serve
from bench.store.database import Database

LOADED = config.load(config.defaults("bench.toml"))
EVIL = "<script>document.title='hacked'</script>"
FORMULA = "=1+1"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with ten methods, two of them with names that mean harm, and the site made of it."""
    root = tmp_path_factory.mktemp("site")
    with new_database(root / "bench.db") as db:
        fill(db, methods=("trs", "ece", "adp", "gal", "dverge", "ckae", "adaboost", "cos_only"))
        writer = Writer(db, n=500)
        writer.rows = {}
        writer.known |= {row["attack_key"] for row in _attacks(db)}
        for method, share in ((EVIL, 0.99), (FORMULA, 0.01)):
            run_id = writer.run(method, 0, recipe="quick")
            for budget in (0.1, 0.15):
                writer.complete(run_id, np.arange(500) < 500 * share, budget=budget)
        writer.evaluation(writer.run("cos_l2", 0), np.arange(500) < 250)  # lacks the rest of the protocol
        writer.failure("never-trained", "out of memory", kind="train", method="gal", dataset="digits", seed=7)
        writer.flush()
        build(db, root / "site", loaded=LOADED)
    return root


def _attacks(db: Database) -> list[dict[str, Any]]:
    from sqlalchemy import select

    from bench.store.schema import Attack

    return db.rows(select(Attack.attack_key))


@pytest.fixture
def open_page(watched: Any, results: Path) -> Any:
    """Opens a page of the site, from its files or, with `base`, from a server."""

    def opened(address: str, *, base: str | None = None, **options: Any) -> Any:
        return watched(base or f"file://{results}/site/", address, **options)

    return opened


@pytest.fixture
def board() -> str:
    return "boards/core-digits-v1-0.1-complete.html"


@pytest.fixture
def run(results: Path) -> str:
    """The page of a run that has a matrix and curves."""
    return next(f"runs/{p.name}" for p in sorted((results / "site/runs").iterdir()) if 'class="heat' in p.read_text())


def column(page: Any, index: int) -> list[str]:
    """Texts of a column of the first table, as shown from top to bottom."""
    cells = page.locator("table.data").first.locator(f"tbody tr:not([hidden]) > :nth-child({index})")
    found = cells.evaluate_all("cells => cells.map(cell => cell.innerText)")
    return [" ".join(str(text).split()) for text in found]


def place(page: Any, name: str) -> int:
    """Where a column stands in the first table, from 1."""
    heads = page.locator("table.data").first.locator("thead th")
    return 1 + [" ".join(head.split()) for head in heads.all_text_contents()].index(name)


def numbers(texts: list[str]) -> list[float]:
    return [float(text.split()[0]) for text in texts]


def copied(page: Any, button: str) -> str:
    """What a button puts on the clipboard, pasted into a field."""
    page.get_by_role("button", name=button, exact=True).first.click()
    page.get_by_role("button", name="Copied").wait_for()
    page.evaluate("document.body.append(Object.assign(document.createElement('textarea'), {id: 'paste'}))")
    page.locator("#paste").focus()
    page.keyboard.press("Control+V")
    return str(page.locator("#paste").input_value())


def test_a_click_on_a_heading_sorts(open_page: Any, board: str) -> None:
    page = open_page(board)
    worst = numbers(column(page, place(page, "Worst case")))
    assert worst == sorted(worst, reverse=True)
    assert len(worst) == 11
    heading = page.get_by_role("button", name="FGSM")
    heading.click()
    page.wait_for_timeout(50)
    assert page.locator("th[aria-sort=descending]").inner_text().strip() == "FGSM"
    falling = column(page, place(page, "FGSM"))
    assert falling[-1] == "–"  # what was not measured stands last, whichever way
    assert numbers(falling[:-1]) == sorted(numbers(falling[:-1]), reverse=True)
    heading.click()
    page.wait_for_timeout(50)
    assert numbers(column(page, place(page, "FGSM"))[:-1]) == sorted(numbers(falling[:-1]))


def test_everything_works_with_keys(open_page: Any, board: str, run: str) -> None:
    page = open_page(board)
    page.keyboard.press("/")
    page.keyboard.type("adaboost")
    assert column(page, 2) == ["AdaBoost"]
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.get_by_role("button", name="Worst case").focus()
    page.keyboard.press("Enter")
    page.wait_for_timeout(50)
    assert numbers(column(page, 3)) == sorted(numbers(column(page, 3)))
    page.keyboard.press("Space")
    page.wait_for_timeout(50)
    assert numbers(column(page, 3)) == sorted(numbers(column(page, 3)), reverse=True)
    summary = page.locator(".columns-menu summary")
    summary.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert not page.locator("th.worst").is_visible()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    page = open_page(run)
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.heat td')"):
            break
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    tip = page.locator("#tip")
    assert "crafted on member 2, evaluated on itself" in tip.inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.locator(".plot").first.focus()
    page.keyboard.press("Home")
    assert page.locator(".readout").first.inner_text().startswith("epoch 1: loss 2, ce 1.5")


def test_search_and_filters_narrow_the_rows(open_page: Any, board: str) -> None:
    page = open_page(board)
    page.get_by_label("Search the table").fill("cos trs")
    assert column(page, 2) == []
    page.get_by_label("Search the table").fill("COS-only")
    assert len(column(page, 2)) == 1
    assert page.get_by_role("status").first.inner_text() == "1 of 11 rows"
    page.get_by_label("Search the table").fill("")
    page.get_by_label("Recipe").first.select_option("quick")
    assert sorted(column(page, 2)) == sorted([EVIL, FORMULA])
    page.get_by_label("Recipe").first.select_option("")
    assert len(column(page, 2)) == 11


def test_names_that_mean_harm_are_text(open_page: Any, board: str, results: Path) -> None:
    page = open_page(board)
    assert EVIL in column(page, 2)
    for link in (EVIL, FORMULA):
        page = open_page(board)
        page.get_by_role("link", name=link, exact=True).click()
        assert link in page.locator("h1").inner_text()
        assert "hacked" not in page.title() or "<script>" in page.title()
    table = copied(open_page(board), "Copy CSV")
    methods = [row["Method"] for row in csv.DictReader(io.StringIO(table))]
    assert f"'{FORMULA}" in methods
    assert EVIL in methods


def test_the_csv_read_again_is_the_table(open_page: Any, board: str) -> None:
    page = open_page(board)
    rows = list(csv.DictReader(io.StringIO(copied(page, "Copy CSV"))))
    shown = column(page, 3)
    assert len(rows) == len(shown) == 11
    for row, text in zip(rows, shown, strict=True):
        mean = float(row["worst_case"])
        assert text == f"{mean:.1f}" + (f" ± {float(row['worst_case_std']):.1f}" if row["worst_case_std"] else "")
        assert float(row["low"]) <= mean <= float(row["high"])
        if row["rank"]:
            assert int(row["rank_low"]) <= int(row["rank"]) <= int(row["rank_high"])
    assert [row["rank"] for row in rows].count("") == 1
    page = open_page(board)
    page.get_by_label("Search the table").fill("quick")
    assert len(copied(page, "Copy CSV").splitlines()) == 3


def test_every_table_gives_csv_and_latex(open_page: Any, board: str, run: str) -> None:
    for address in (board, run, "runs.html"):
        page = open_page(address)
        tables = page.locator("table.data").count()
        assert tables > 0
        assert page.locator("button", has_text="Copy CSV").count() == tables
        assert page.locator("button", has_text="Copy LaTeX").count() == tables


def test_the_latex_is_a_booktabs_table(open_page: Any, board: str) -> None:
    text = copied(open_page(board), "Copy LaTeX")
    lines = text.splitlines()
    columns = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", lines[0])
    assert columns
    body = [line for line in lines if line.endswith(r"\\")]
    assert len(body) == 12
    for line in body:
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns[1]) - 1
    assert r"$\pm$" in text
    assert r"\textbf{" in text
    assert r"\textless{}script\textgreater{}" in text
    assert not re.search(r"(?<!\\)[_#%]", text)


@pytest.mark.slow
def test_the_latex_compiles(open_page: Any, board: str, run: str, tmp_path: Path) -> None:
    engine = shutil.which("tectonic") or shutil.which("pdflatex")
    if engine is None:
        pytest.skip("needs TeX: apt-get install texlive-latex-recommended, or tectonic")
    tables = [copied(open_page(address), "Copy LaTeX") for address in (board, run, "runs.html")]
    source = tmp_path / "tables.tex"
    head = "\\documentclass{article}\\usepackage[utf8]{inputenc}\\usepackage{booktabs}\\begin{document}\n"
    source.write_text(head + "\n\n".join(tables) + "\\end{document}\n")
    done = subprocess.run(
        [engine, *(["-interaction=nonstopmode", "-halt-on-error"] if "pdflatex" in engine else []), source.name],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


def test_hovering_a_matrix_shows_its_values(open_page: Any, run: str) -> None:
    page = open_page(run)
    cell = page.locator(".heat tbody tr").first.locator("td").nth(1)
    cell.hover()
    text = page.locator("#tip").inner_text()
    assert "crafted on member 1, evaluated on member 2" in text
    assert re.search(r"\d+\.\d % of images that every member gets right \(\d+ of \d+\)", text)
    shown = float(re.findall(r"(\d+\.\d) % of images that every", text)[0])
    assert abs(shown - float(cell.inner_text())) <= 0.51
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()


def test_hovering_a_curve_reads_its_values(open_page: Any, run: str) -> None:
    page = open_page(run)
    picture = page.locator("svg.chart").first
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 15, box["y"] + 40)
    assert page.locator(".readout").first.inner_text().startswith("epoch 3: loss 0.6667")


def test_a_link_to_an_evaluation_opens_it(open_page: Any, run: str) -> None:
    page = open_page(run)
    link = page.locator(".attacks tbody a[href^='#e-']").first
    link.click()
    target = page.locator(str(link.get_attribute("href")))
    assert target.evaluate("element => element.open")
    assert "forwards" in target.inner_text()


def addresses(results: Path) -> list[str]:
    """One page of each kind."""
    site = results / "site"
    kinds = [next(iter(sorted((site / kind).glob("*.html")))) for kind in ("boards", "methods", "runs")]
    kinds += (site / "runs").glob("failed-*.html")
    return ["index.html", "runs.html", "about.html", "add.html", *(str(path.relative_to(site)) for path in kinds)]


def test_nothing_sticks_out_of_a_narrow_screen(open_page: Any, results: Path, board: str, run: str) -> None:
    for address in [*addresses(results), run]:
        page = open_page(address, viewport={"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, address
    page = open_page(board, viewport={"width": 390, "height": 844})
    box = page.locator("table.board tbody td.worst").first.bounding_box()
    assert box["x"] + box["width"] <= 390  # the headline is seen without scrolling


def test_a_view_is_restored_from_its_address(open_page: Any, board: str) -> None:
    page = open_page(board)
    page.get_by_label("Search the table").fill("a")
    page.get_by_label("Recipe").first.select_option("standard")
    page.get_by_role("button", name="Clean").click()
    page.wait_for_timeout(50)
    page.locator(".columns-menu summary").click()
    page.locator(".columns-menu label", has_text="Seeds").locator("input").uncheck()
    page.locator(".columns-menu label", has_text="Parameters").locator("input").check()
    sent, shown = page.url, [column(page, 2), column(page, place(page, "Clean"))]
    assert "#?" in sent
    other = open_page(board + sent.partition(".html")[2])
    other.wait_for_timeout(50)
    assert [column(other, 2), column(other, place(other, "Clean"))] == shown
    assert other.get_by_label("Search the table").input_value() == "a"
    assert other.locator("th", has_text="Parameters").is_visible()
    assert not other.locator("th", has_text="Seeds").is_visible()
    assert "training_seconds" not in copied(other, "Copy CSV")  # hidden columns are not copied
    other.get_by_label("Search the table").fill("")
    other.get_by_label("Recipe").first.select_option("")
    assert "q=" not in other.url
    plain = open_page(board)
    plain.get_by_label("Search the table").fill("x")
    plain.get_by_label("Search the table").fill("")
    assert plain.url.endswith(".html")


def test_an_address_that_means_harm_does_none(open_page: Any, board: str) -> None:
    page = open_page(board + "#?q=%3Cimg%20src=x%20onerror=alert(1)%3E&sort=-nothing&columns=%22%5D%7B&recipe=none")
    assert column(page, 2) == []
    assert page.get_by_label("Recipe").first.input_value() == ""


def test_of_thousands_of_rows_the_first_are_shown_and_all_are_searched_and_copied(
    open_page: Any, tmp_path: Path
) -> None:
    with new_database(tmp_path / "bench.db") as db:
        writer = Writer(db)
        for seed in range(320):
            writer.run("trs", seed, epochs=1, family_id=f"{seed:024}")
        writer.flush()
        build(db, tmp_path / "site", loaded=LOADED)
    with serve.Server(tmp_path / "site") as server:
        page = open_page("runs.html", base=server.address)
        seeds = place(page, "Seed")
        assert len(column(page, seeds)) == 300
        page.get_by_role("button", name="Seed", exact=True).click()
        page.wait_for_timeout(100)
        assert numbers(column(page, seeds))[0] == 319
        assert len(column(page, seeds)) == 300
        assert len(copied(page, "Copy CSV").splitlines()) == 321
        page.get_by_role("button", name="show all").click()
        assert len(column(page, seeds)) == 320
        page.close()  # it asks the server for news every two seconds


def test_files_download(open_page: Any, results: Path, board: str) -> None:
    with serve.Server(results / "site") as server:
        page = open_page(board, base=server.address)
        for name, start in (("JSON", "{"), ("CSV", "rank,")):
            with page.expect_download(timeout=5000) as waiting:
                page.locator(".files").get_by_role("link", name=name).click()
            assert Path(waiting.value.path()).read_text().startswith(start)
            assert waiting.value.suggested_filename == f"core-digits-v1-0.1-complete.{name.lower()}"
        page.close()  # it asks the server for news every two seconds


def test_a_board_fits_or_says_that_it_scrolls(open_page: Any, board: str) -> None:
    for width in (390, 1000, 1440, 1920):
        page = open_page(board, viewport={"width": width, "height": 900})
        wider = page.locator(".scroll").first.evaluate("box => box.scrollWidth > box.clientWidth + 1")
        assert page.get_by_text("scrolls sideways").is_visible() == wider
        assert width < 1440 or not wider
    page.locator(".scroll").first.evaluate("box => { box.style.maxHeight = '12rem'; box.scrollTop = 150; }")
    heads, box = page.locator("thead th").first.bounding_box(), page.locator(".scroll").first.bounding_box()
    assert abs(heads["y"] - box["y"]) < 3  # the heading stays
    rows = page.locator("tbody tr").evaluate_all("rows => rows.map(row => row.getBoundingClientRect().height)")
    assert max(rows) < 60


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_bars_and_borders_have_contrast_and_targets_are_large(open_page: Any, results: Path, scheme: str) -> None:
    for address in addresses(results):
        page = open_page(address, color_scheme=scheme)
        paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        for colour, what in page.evaluate(_EDGES):
            light, dark = sorted((luminance(colour), paper), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3, (address, what, colour)
        assert page.evaluate(_SMALL) == [], address


_EDGES = """() => [
  ...[...document.querySelectorAll('.card, .scroll, .tools > input, .tools select, .tools button, .badge, .meter')]
    .filter(each => each.getClientRects().length)
    .filter(each => parseFloat(getComputedStyle(each).borderTopWidth) > 0)
    .map(each => [getComputedStyle(each).borderTopColor, each.className || each.tagName]),
  ...[...document.querySelectorAll('li:not(.hollow) .meter .fill, .meter .span, tr:not(.hollow) .interval rect')]
    .map(each => [getComputedStyle(each)[each.closest('svg') ? 'fill' : 'backgroundColor'], 'bar'])]"""

# Controls smaller than 24 by 24; links within text are excepted (WCAG 2.5.8).
_SMALL = """() => [...document.querySelectorAll('button, summary, select, [type=search], nav a, td a, tbody th a')]
  .filter(each => each.getClientRects().length && !each.closest('p'))
  .map(each => [each.textContent.trim().slice(0, 30), each.getBoundingClientRect()])
  .filter(([, box]) => box.height < 23.9 || box.width < 23.9).map(([text, box]) => [text, box.width, box.height])"""


def luminance(rgb: str) -> float:
    channels = [float(value) / 255 for value in re.findall(r"[\d.]+", rgb)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_schemes(open_page: Any, results: Path, run: str, scheme: str) -> None:
    for address in [*addresses(results), run]:
        page = open_page(address, color_scheme=scheme)
        paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert (paper < 0.05) == (scheme == "dark")
        pairs = page.evaluate(_COLOURS)
        assert pairs
        for ink, behind, what in pairs:
            light, dark = sorted((luminance(ink), luminance(behind)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (address, what, ink, behind)


# Every element with text of its own: its colour, and the first background that is not transparent behind it.
_COLOURS = """() => [...document.querySelectorAll('body *')].filter(element =>
  element.getClientRects().length && element.closest('svg') === null
  && [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())).map(element => {
    let behind = element;
    while (behind && getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
    return [getComputedStyle(element).color, getComputedStyle(behind ?? document.body).backgroundColor,
            element.tagName + ' ' + element.className + ' ' + element.textContent.slice(0, 30)];
  })"""


def test_printed_pages_leave_the_controls_out(open_page: Any, board: str, run: str) -> None:
    for address in (board, run):
        page = open_page(address, color_scheme="dark", viewport={"width": 1000, "height": 700})
        page.emulate_media(media="print")
        assert page.locator(".tools:visible, .copy:visible, .top nav:visible").count() == 0
        assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) == pytest.approx(1)
        assert page.pdf(format="A4", landscape=True)[:5] == b"%PDF-"


def test_without_scripts_the_pages_still_read(open_page: Any, board: str) -> None:
    page = open_page(board, java_script_enabled=False)
    assert page.get_by_text("Copy CSV").count() == 0
    assert page.locator("table.board tbody tr").count() == 11


def test_a_served_page_follows_the_database(open_page: Any, results: Path, tmp_path: Path) -> None:
    shutil.copy(results / "bench.db", tmp_path / "bench.db")
    with Database(tmp_path / "bench.db").open() as db:
        build(db, tmp_path / "site", loaded=LOADED)
        with serve.Server(tmp_path / "site") as server:
            page = open_page("index.html", base=server.address)
            assert page.get_by_text("27 trained ensembles").count() == 1
            writer = Writer(db, n=500, started="2026-11-22T10:00:00Z")
            writer.rows = {}
            writer.run("trs", 77)
            writer.flush()
            page.wait_for_timeout(500)
            build(db, tmp_path / "site", loaded=LOADED)
            page.get_by_text("28 trained ensembles").wait_for(timeout=10_000)
            page.close()  # it asks the server for news every two seconds
