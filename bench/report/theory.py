"""Diversity of members, and bounds of their transferability beside what was measured: every reader's way to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Literal, get_args

from bench.core.statistics import Interval, proportion
from bench.core.theorems import Terms, TransferBound, lower_bound, unseen, upper_bound
from bench.store import queries
from bench.store.database import Database
from bench.store.typed_rows import EvaluationRow, RunRow

Reading = Literal["seen", "least"]
"""Of Definitions 4 and 5: the most extreme values seen; or no more than the proofs need on these very images."""
READINGS: tuple[Reading, ...] = get_args(Reading)
MEANS = ("cosine", "absolute_cosine", "cka", "feature_distillation", "loss_variance", "disagreement", "double_fault")
ERRS = (
    "B, β, the upper similarity and c_F are the largest, ℓ_min, the lower similarity and c_G the smallest values seen "
    "(untargeted: c_F the smallest, c_G the largest): the theorems' own are as far out or farther, so their bounds are "
    "as loose or looser."
)
"""On which side the estimates err, for whoever shows bounds."""


@dataclass(frozen=True)
class PairBounds:
    """One ordered pair of one evaluation: F = `source`, attacked, and G = `target`, members counted from 0.

    Attributes:
        transferred: images of Definition 6 (targeted where the evaluation is), out of `row.n`.
        failed: images on which the attack did not succeed on F; `wrong`: that F, and that G, gets wrong when clean.
        terms: what the theorems take, by reading.
    """

    row: EvaluationRow
    source: int
    target: int
    transferred: int
    failed: int
    wrong: tuple[int, int]
    terms: Mapping[Reading, Terms]

    @property
    def share(self) -> float:
        """Measured transferability, in [0, 1]."""
        return self.transferred / self.row.n

    @property
    def interval(self) -> Interval:
        """Of the transferability on other images, 95 %."""
        return proportion(self.transferred, self.row.n)

    @cached_property
    def lower(self) -> dict[Reading, TransferBound]:
        """Theorem 1, or its untargeted form."""
        return {reading: lower_bound(terms) for reading, terms in self.terms.items()}

    @cached_property
    def upper(self) -> dict[Reading, TransferBound]:
        """Theorem 2, or its untargeted form."""
        return {reading: upper_bound(terms) for reading, terms in self.terms.items()}

    @property
    def record(self) -> dict[str, Any]:
        """As JSON: members from 1, intervals of what is a mean, what makes a bound say nothing."""
        n = self.row.n
        return {
            "evaluation": self.row.evaluation_id, "run": self.row.run_id, "eps": self.row.budget,
            "targets": self.row.targets, "source": self.source + 1, "target": self.target + 1, "n": n,
            "transferability": self.share, "transferability_interval": list(self.interval),
            "alpha": self.failed / n, "alpha_interval": list(proportion(self.failed, n)),
            "risk": [count / n for count in self.wrong],
            "risk_interval": [list(proportion(count, n)) for count in self.wrong],
            "similarity": self.row.measurements["pairs"][self._place]["similarity"],
            "beyond_the_extremes_at_most": unseen(n),
            **{
                reading: {
                    **{name: value for name, value in vars(terms).items() if name not in _SHARED},
                    "lower_bound": vars(self.lower[reading]), "upper_bound": vars(self.upper[reading]),
                }
                for reading, terms in self.terms.items()
            },
            "loss": self.terms["seen"].loss, "l_min": self.terms["seen"].l_min,
        }  # fmt: skip

    @property
    def _place(self) -> int:
        told = self.row.measurements["pairs"]
        return next(k for k, pair in enumerate(told) if (pair["source"], pair["target"]) == (self.source, self.target))


_SHARED = ("eps", "alpha", "risk", "loss", "l_min", "targeted")


def bounds(db: Database, rows: Iterable[EvaluationRow]) -> list[PairBounds]:
    """The bounds of all pairs of the `theory` evaluations among `rows`, by run, radius, targets and pair."""
    chosen = [row for row in rows if row.kind == "theory"]
    if not chosen:
        return []
    run_ids = sorted({row.run_id for row in chosen})
    clean = queries.clean_counts(db, run_ids=run_ids)
    cells: dict[str, list[dict[str, Any]]] = {}
    for cell in queries.cells(db, run_ids=run_ids):
        cells.setdefault(cell.evaluation_id, []).append(vars(cell))
    return bounds_of(chosen, clean, cells)


def bounds_of(
    rows: Iterable[EvaluationRow], clean: Mapping[str, Mapping[int, int]],
    cells: Mapping[str, Iterable[Mapping[str, Any]]],
) -> list[PairBounds]:  # fmt: skip
    """The same, from counts of correct clean images and cells (columns of `CellRow`) by evaluation id."""
    chosen = [row for row in rows if row.kind == "theory" and row.evaluation_id in cells and row.evaluation_id in clean]
    chosen.sort(key=lambda row: (row.run_id, row.budget or 0.0, row.targets is None, row.targets or ""))
    return [
        found
        for row in chosen
        for found in _pairs(
            row, clean[row.evaluation_id], {(c["source"], c["target"]): c for c in cells[row.evaluation_id]}
        )
    ]


def _pairs(
    row: EvaluationRow, clean: Mapping[int, int], cells: Mapping[tuple[int, int], Mapping[str, Any]]
) -> Iterable[PairBounds]:
    members, n = row.measurements["members"], row.n
    for pair in row.measurements["pairs"]:
        source, target = pair["source"], pair["target"]
        failed = n - cells[source, source]["n_missed"]
        wrong = n - clean[source], n - clean[target]
        terms = {
            reading: Terms(
                eps=row.budget or 0.0, alpha=failed / n, risk=sum(wrong) / n,
                loss=members[source]["loss"] + members[target]["loss"], l_min=pair["l_min"],
                targeted=row.targets is not None,
                **{name: pair[reading][name] for name in ("smoothness", "gradient", "lower", "upper", "c_f", "c_g")},
            )
            for reading in READINGS
        }  # fmt: skip
        yield PairBounds(row, source, target, cells[source, target]["n_definition6"], failed, wrong, terms)


@dataclass(frozen=True)
class RadiusLine:
    """All pairs of one evaluation, in a line of a table: shares in [0, 1]."""

    eps: float
    attack: str
    transfer: tuple[float, float, float]
    """Mean, least and most over pairs."""
    similarity: tuple[float, float]
    """The lower and the upper one, over all pairs."""
    smoothness: float
    lower: str
    upper: str


def lines(found: Sequence[PairBounds], reading: Reading) -> list[RadiusLine]:
    """One line for each evaluation: the bounds of its pairs that say something, or why none does."""
    told = []
    for _, group in groupby(found, key=lambda pair: pair.row.evaluation_id):
        pairs = list(group)
        shares = [pair.share for pair in pairs]
        first = pairs[0].row
        terms = [pair.terms[reading] for pair in pairs]
        told.append(
            RadiusLine(
                eps=first.budget or 0.0,
                attack=(first.targets or "untargeted").replace("_", " "),
                transfer=(sum(shares) / len(shares), min(shares), max(shares)),
                similarity=(min(each.lower for each in terms), max(each.upper for each in terms)),
                smoothness=max(each.smoothness for each in terms),
                lower=_told([pair.lower[reading] for pair in pairs], "≥"),
                upper=_told([pair.upper[reading] for pair in pairs], "≤"),
            )
        )
    return told


def _told(found: Sequence[TransferBound], sign: str) -> str:
    """`≤ 3.5 to 54.1 % (4 of 6 pairs)`, or `nothing: ℓ_min (4), B (2)`."""
    limiting = [100 * bound.value for bound in found if bound.limits and bound.value is not None]
    if limiting:
        pairs = "" if len(limiting) == len(found) else f" ({len(limiting)} of {len(found)} pairs)"
        low, high = f"{min(limiting):.1f}", f"{max(limiting):.1f}"
        return f"{sign} {low if low == high else f'{low} to {high}'} %{pairs}"
    why = Counter(bound.why for bound in found)
    return "nothing: " + ", ".join(f"{name} ({count})" if len(why) > 1 else name for name, count in why.most_common())


def measured_diversity(rows: Iterable[EvaluationRow]) -> EvaluationRow | None:
    """The newest evaluation of diversity on most images among the rows of one run; None where there is none."""
    return max((row for row in rows if row.kind == "diversity"), key=lambda row: (row.n, row.started), default=None)


def pair_means(row: EvaluationRow) -> dict[str, float]:
    """What an evaluation of diversity found, as means over pairs: `MEANS`; counts of images as shares."""
    told = {}
    for name in MEANS:
        values = [pair[name] for pair in row.measurements["pairs"] if pair[name] is not None]
        if values:
            mean = sum(values) / len(values)
            told[name] = mean / row.n if name in ("disagreement", "double_fault") else mean
    return told


def words(means: Mapping[str, float]) -> str:
    """Means over pairs in a line: `gradient cosine 0.14 (absolute 0.17), CKA 0.62, …`."""
    names = {
        "cosine": "gradient cosine {:.2f}", "absolute_cosine": "absolute {:.2f}", "cka": "CKA {:.2f}",
        "disagreement": "disagreement {:.1%}", "double_fault": "double fault {:.1%}",
        "loss_variance": "loss variance {:.3g}", "feature_distillation": "DVERGE's diversity {:.2f}",
    }  # fmt: skip
    return ", ".join(text.format(means[name]) for name, text in names.items() if name in means)


@dataclass(frozen=True)
class PanelTable:
    """A table for people; the first column is of words."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Panel:
    """What is shown of one run: its diversity, and the bounds beside measured transferability; either may lack."""

    run: RunRow
    unlike: EvaluationRow | None
    found: Sequence[PairBounds]

    def __bool__(self) -> bool:
        return self.unlike is not None or bool(self.found)

    def tables(self, reading: Reading = "seen") -> list[PanelTable]:
        """Those that there is something for."""
        return [*self._diversity(), *self._members(), *self._bounds(reading)]

    def notes(self) -> list[str]:
        """What a reader of the tables must know."""
        told = []
        if self.unlike is not None and self.unlike.measurements["loss_variance"] is not None:
            told.append(f"Variance of the loss over all members: {self.unlike.measurements['loss_variance']:.3g}.")
        if self.found:
            n = self.found[0].row.n
            beyond = f"at most {100 * unseen(n):.1f} % of all images lie beyond an extreme of these (95 %)"
            told += [ERRS, f"Of {n:,} images: {beyond}. The theorems are about balls in ℓ2."]
        return told

    def _diversity(self) -> Iterable[PanelTable]:
        if self.unlike is None:
            return
        n = self.unlike.n
        heads = ("pair", "cosine", "absolute", "size ratio", "loss variance", "CKA", "disagree", "double fault",
                 "DVERGE's")  # fmt: skip
        numbers = ("cosine", "absolute_cosine", "gradient_ratio", "loss_variance", "cka")
        rows = tuple(
            (
                f"{pair['first'] + 1}, {pair['second'] + 1}",
                *(_number(pair[name]) for name in numbers),
                *(f"{100 * pair[name] / n:.1f} %" for name in ("disagreement", "double_fault")),
                _number(pair["feature_distillation"]),
            )
            for pair in self.unlike.measurements["pairs"]
        )
        yield PanelTable(f"diversity of each pair of members, {n:,} images", heads, rows)

    def _members(self) -> Iterable[PanelTable]:
        if not self.found:
            return
        row = self.found[0].row
        wrong = {pair.source: pair.wrong[0] for pair in self.found}
        rows = []
        for number, told in enumerate(row.measurements["members"]):
            low, high = (100 * end for end in proportion(wrong[number], row.n))
            risk = f"{100 * wrong[number] / row.n:.1f} ({low:.1f} to {high:.1f})"
            spread = 1.96 * told["loss_deviation"] / row.n**0.5
            rows.append((str(number + 1), risk, f"{told['loss']:.3g} ± {spread:.2g}", f"{told['gradient']:.3g}"))
        heads = ("member", "risk η, %", "loss ξ", "B ≥")
        yield PanelTable(f"members on {row.n:,} images, with 95 % intervals", heads, tuple(rows))

    def _bounds(self, reading: Reading) -> Iterable[PanelTable]:
        if not self.found:
            return
        rows = []
        for line in lines(self.found, reading):
            mean, least, most = (100 * share for share in line.transfer)
            rows.append(
                (
                    line.attack, f"{line.eps:g}", f"{mean:.1f} ({least:.1f} to {most:.1f})", f"{line.smoothness:.3g}",
                    f"{line.similarity[0]:.2f} to {line.similarity[1]:.2f}", line.lower, line.upper,
                )
            )  # fmt: skip
        heads = ("led to", "ε (ℓ2)", "measured, %", "β ≥", "similarity", "at least", "at most")
        told = "as seen" if reading == "seen" else "the least that the proofs need"
        title = f"transferability between members over all pairs, and its bounds (terms: {told})"
        yield PanelTable(title, heads, tuple(rows))


def panel(db: Database, run: RunRow, rows: Sequence[EvaluationRow]) -> Panel:
    """Of a run, from those of its evaluations that count."""
    return Panel(run, measured_diversity(rows), bounds(db, rows))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
