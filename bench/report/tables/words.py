"""What the numbers of a table mean, in words: budgets, headings, notes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from bench.report.matrices import Matrix
from bench.report.recipes import phrase
from bench.report.results import Results, sizes
from bench.report.titles import budget_text, plain
from bench.store import flags
from bench.store.flags import Opinion


def number(value: float) -> str:
    """One decimal; none for what is not a percentage and large, such as seconds."""
    return f"{value:.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def heading(results: Results) -> str:
    """What the numbers are, in one line."""
    members = f"{sizes(results.members.values())} × {results.model}"
    return " · ".join([results.suite, results.dataset, members, phrase(results.recipe), results.images])


def footnotes(results: Results, *, published: bool, tied: bool) -> list[str]:
    """What a reader must know to read the numbers rightly; foreign words stand only in lines with `✗` and `Note`.

    Args:
        published: whether published values are shown.
        tied: whether cells are underlined.
    """
    values = [cell for cell in results.cells.values() if cell.mean is not None]
    seeds = sorted({seed for cell in values for seed in cell.values})
    lines = _what(results, "Robust accuracy in % of all images")
    if len(seeds) > 1:
        columns = _columns_by_seeds(results)
        each = (of if len(columns) == 1 else f"{of} of {', '.join(titles)}" for of, titles in columns.items())
        lines.append(f"Mean ± standard deviation over seeds {'; '.join(each)} (ddof 1).")
    if tied:
        several = any(len(cell.values) > 1 for cell in values)
        lines.append(
            "Bold: best of the row. Underlined: not significantly worse, by the exact paired test over the same images "
            f"({'the seeds of an image stay together; ' if several else ''}Holm over the row, 5 %)"
            + (" or by the 95 % t interval over seeds." if several else "; one training each.")
        )
    if published:
        lines.append(
            "Published values judge the last iterate, ours the first success on the way: "
            "ours can only be lower by this."
        )
        lines += _unlike(results)
        lines += [f"Other setting: {told}" for told in results.elsewhere]
    elif results.has_published:
        lines.append("Published values stand beside these with `bench table --paper`.")
    kinds = {row.kind for row in results.rows}
    if "worst" in kinds:
        several = len({row.precision for row in results.rows if row.kind == "attack"}) > 1
        which = "of its precision above, and every one on members," if several else "above"
        lines.append(f"Worst case: images that stand against every attack {which} within this ε.")
    if "training" in kinds:
        lines.append("Training: seconds on the machine that trained; what a method needs trained first is not counted.")
    if any(cell.stale for cell in results.cells.values()):
        lines.append("(…) was made by an older version of the method or attack; run the same command to renew it.")
    raised = dict.fromkeys(flag for cell in values for flag in cell.flags)
    lines += [f"† {flag}: {flags.FLAGS[flag].when}; `bench audit` has the evidence." for flag in raised]
    lines += _audited(results)
    failures = {cell.failed for cell in results.cells.values() if cell.mean is None and cell.failed}
    lines += [f"✗ {failure}" for failure in sorted(failures)]
    return lines + [f"Note: {note}" for note in results.notes]


def _columns_by_seeds(results: Results) -> dict[str, list[str]]:
    """Titles of the columns that have the same seeds, by these: `0, 1, 2` → ECE, TRS; `0` → GAL."""
    of_method: dict[str, set[int]] = {}
    for (_, method), cell in results.cells.items():
        if cell.mean is not None:
            of_method.setdefault(method, set()).update(cell.values)
    titles: dict[str, list[str]] = {}
    for method in results.methods:
        if method in of_method:
            titles.setdefault(", ".join(map(str, sorted(of_method[method]))), []).append(results.titles[method])
    return titles


def _what(results: Results, under_attack: str) -> list[str]:
    """What the numbers are: under attack, certified without any, or some of each."""
    kinds = {row.kind for row in results.rows} - {"clean", "training"}
    lines = (
        [f"{under_attack}: still classified correctly after the attack."] if kinds - {"certify"} or not kinds else []
    )
    if "certify" in kinds:
        lines.append(
            "Certified accuracy in % of all images: the ensemble smoothed by noise is right, and proven to stay so "
            "within the radius; clean is without noise."
        )
    return lines


def _unlike(results: Results) -> list[str]:
    """What the differences marked ‡ are of."""
    shown = {method for (key, method) in results.published if results.cells.get((key, method))}
    told: dict[str, list[str]] = {}
    for method, what in results.unlike.items():
        if method in shown:
            told.setdefault(what, []).append(results.titles[method])
    if not told:
        return []
    everywhere = len(told) == 1 and shown <= results.unlike.keys()
    each = [what if everywhere else f"{', '.join(titles)}: {what}" for what, titles in told.items()]
    return [f"‡ Not the setting of the published value; ours is of {'; '.join(each)}."]


def caption(results: Results, *, tied: bool) -> list[str]:
    """Sentences for the caption of a paper: what the numbers are, of what, and what the marks of a cell mean."""
    values = [cell for cell in results.cells.values() if cell.mean is not None]
    seeds = sorted({seed for cell in values for seed in cell.values})
    lines = [
        *_what(results, "Accuracy under attack in % of all test images"),
        f"On {results.setting or results.dataset}; {results.images}.",
    ]
    if len(seeds) > 1:
        which = f"{len(seeds)} seeds" if len(_columns_by_seeds(results)) == 1 else "the n seeds of each"
        lines.append(f"Mean ± standard deviation over {which}.")
    if tied:
        several = any(len(cell.values) > 1 for cell in values)
        lines.append(
            "Bold: best of the row; underlined: not significantly worse (exact paired test over the same images, "
            f"Holm-corrected over the row, 5 %{', or 95 % t interval over seeds' if several else ''})."
        )
    if any(row.kind == "worst" for row in results.rows):
        lines.append("Worst case: images that stand against every attack above within this ε.")
    return lines


def print_notes(results: Results, *, published: bool) -> list[str]:
    """Notes below a table in a paper: the marks † ‡ ✗ and (…), and what published values are; no commands."""
    values = [cell for cell in results.cells.values() if cell.mean is not None]
    lines = []
    if published and values:
        lines.append("Published values judge an attack's last iterate, ours its first success: ours can only be lower.")
        lines += _unlike(results)
    if "training" in {row.kind for row in results.rows}:
        lines.append("Training: seconds; what a method needs trained first is not counted.")
    if any(cell.stale for cell in results.cells.values()):
        lines.append("(…) was made by an older version of the method or attack.")
    raised = dict.fromkeys(flag for cell in values for flag in cell.flags)
    lines += [f"† {'; or '.join(flags.FLAGS[flag].when for flag in raised)}."] if raised else []
    if any(cell.mean is None and cell.failed for cell in results.cells.values()):
        lines.append("✗ could not be measured.")
    return lines


def _audited(results: Results) -> list[str]:
    """What the audit says of the methods, where it said anything of one: `Audit: believed TRS (2 of 3 seeds); …`."""
    opinions: dict[Opinion, list[str]] = {"believed": [], "doubtful": [], "not checked enough": []}
    for method, by_seed in results.verdicts.items():
        for opinion, names in opinions.items():
            count = sum(each == opinion for each in by_seed.values())
            if count:
                part = "" if count == len(by_seed) else f" ({count} of {len(by_seed)} seeds)"
                names.append(results.titles[method] + part)
    if not opinions["believed"] and not opinions["doubtful"]:
        return []
    told = "; ".join(f"{opinion} {', '.join(names)}" for opinion, names in opinions.items() if names)
    return [f"Audit: {told}. `bench audit RUN` says why."]


def is_foreign(line: str) -> bool:
    """Whether a footnote may hold words that are not ours: errors, notes of runs."""
    return line.startswith(("✗", "Note"))


def spans(line: str) -> Iterator[tuple[bool, str]]:
    """A footnote in pieces, each with whether it is code (between backticks); foreign lines are one piece of text."""
    pieces = [line] if is_foreign(line) else re.split(r"`([^`]+)`", line)
    for index, piece in enumerate(pieces):
        if piece:
            yield index % 2 == 1, piece


def matrix_heading(matrix: Matrix) -> str:
    """What the matrix shows, in one line."""
    return (
        f"Transferability of {matrix.title}: {plain(matrix.rate)} in %, {matrix.attack}, "
        f"{budget_text(matrix.budget_name, matrix.budget)}, of {plain(matrix.population)}, "
        f"{phrase(matrix.recipe)}, {matrix.images}, {_seeds(matrix.seeds)}; "
        f"mean off the diagonal {'–' if math.isnan(matrix.transfer) else f'{matrix.transfer:.1f}'}"
    )


def _seeds(seeds: tuple[int, ...]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"
