"""Tidy pandas frames of a database: one row an observation, shares in [0, 1] beside their counts, seeds as rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core import places
from bench.core.errors import BenchError
from bench.experiment import naming
from bench.experiment.spec import OUTSIDE
from bench.report import theory
from bench.report.recipes import recipe_label
from bench.store import queries, standing
from bench.store.database import Database
from bench.store.typed_rows import CurveRow, ReferenceRow, RunRow

if TYPE_CHECKING:
    import pandas as pd

RUN_NAMES = ("run_id", "family_id", "dataset", "method", "model", "members", "recipe", "seed")
RUN_COLUMNS = tuple(field.name for field in fields(RunRow))
EVALUATION_COLUMNS = (
    "evaluation_id", *RUN_NAMES, "kind", "attack", "plugin", "settings", "steps", "precision", "budget_name", "budget",
    "stop", "targets", "split", "n", "n_clean", "n_robust", "clean_accuracy", "robust_accuracy", "standing", "stale",
    "invalid", "flags", "provenance", "image_limit", "images_digest", "setting_id", "attack_version",
    "evaluator_version", "forwards", "backwards", "seconds", "started",
)  # fmt: skip
MATRIX_COLUMNS = (
    "evaluation_id", *RUN_NAMES, "attack", "settings", "precision", "targets", "budget_name", "budget", "stale",
    "source", "target", "n", "n_missed", "n_correct_all", "n_missed_correct_all", "n_correct_both",
    "n_missed_correct_both", "n_definition6", "n_same_class", "all", "correct_all", "correct_both", "definition6",
    "definition6_conditional", "same_class",
)  # fmt: skip
CURVE_COLUMNS = (*RUN_NAMES, "phase", "epoch", "position", "lr", "seconds", "accuracy_on", "quantity", "part", "value")
BLACKBOX_COLUMNS = (
    "evaluation_id", *RUN_NAMES, "budget_name", "budget", "stale", "surrogate", "attack", "restart", "n", "n_missed",
    "missed",
)  # fmt: skip
DIVERSITY_COLUMNS = (
    "evaluation_id", *RUN_NAMES, "stale", "n", "first", "second", "cosine", "absolute_cosine", "gradient_ratio",
    "loss_variance", "cka", "disagreement", "double_fault", "feature_distillation",
)  # fmt: skip
BOUND_COLUMNS = (
    "evaluation_id", *RUN_NAMES, "stale", "eps", "targets", "n", "source", "target", "n_transferred", "transferability",
    "low", "high", "reading", "alpha", "risk", "loss", "l_min", "smoothness", "gradient", "lower", "upper", "c_f",
    "c_g", "lower_bound", "lower_why", "upper_bound", "upper_why",
)  # fmt: skip
PUBLISHED_COLUMNS = (*(field.name for field in fields(ReferenceRow)), "accuracy")


def load(where: Path | str | None = None) -> Frames:
    """The results in a database file, or behind a `postgresql://` URL, as pandas frames.

    Unless given, that of BENCH_DB, or of the folder BENCH_RESULTS, else of `results`, as for the command line.

    Raises:
        BenchError: there is no such database.
    """
    where = places.database(where)
    with Database(where).open():
        return Frames(where)


class Frames:
    """The frames of one database; each is read when it is first asked for, and kept.

    Identity columns of most frames: run_id, family_id (seeds of one cell share it), dataset, method, model, members,
    recipe, seed. `stale`: a part that decides it has another version today. Numbers are as stored: nothing is
    left out, so filter by `stale` and `invalid` before taking means. Seeds above a million are those of surrogates.
    """

    def __init__(self, where: Path | str) -> None:
        self.where = where

    def __repr__(self) -> str:
        return f"bench.load({str(self.where)!r})"

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a trained ensemble: settings, training, seed, versions, seconds of training, `stale`."""
        with self._open() as db, db.snapshot():
            runs = queries.runs(db)
        worth = standing.judge(runs)
        rows = [
            {**vars(row), **_made(row.recipe, row.plugin), "stale": not worth.of(row.run_id).is_current} for row in runs
        ]
        return _frame(rows, (*RUN_COLUMNS, "stale"))

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """One row a clean pass, attack, matrix or black-box suite on one run.

        `kind`: clean, attack, transfer, certify (smoothing), blackbox, craft (the images of a surrogate), judged (by
        `bench judge`; `attack` is what they are called), audit (what `bench audit --deep` looked at), diversity and
        theory (by `bench theory`; they have frames of their own). `n`, `n_clean`, `n_robust`
        are images; `clean_accuracy` and `robust_accuracy` are shares of all n images (robust: right after the attack;
        missing where nothing is counted). `steps` of an iterative attack. `precision` that the attack asked in: a mean
        is over one. `flags`: ids of `bench audit`, space-separated; `invalid`: one of them says that the number means
        nothing. `provenance`: `measured` here, `imported`, or `re-measured` (imported, and found again here by
        `bench db verify`).
        """
        with self._open() as db, db.snapshot():
            measured = standing.read(db)
        rows = []
        for row in measured.rows:
            worth = measured.standings.of(row.evaluation_id)
            told = measured.standings.raised.get(row.evaluation_id, ())
            rows.append(
                {
                    **vars(row),
                    "recipe": recipe_label(row.recipe, plugin=row.method_plugin),
                    "steps": row.steps,
                    "clean_accuracy": row.n_clean / row.n if row.n else None,
                    "robust_accuracy": row.n_robust / row.n if row.n and row.n_robust is not None else None,
                    "standing": worth.state,
                    "stale": worth.state in ("stale", "superseded"),
                    "invalid": worth.state == "invalid",
                    "flags": " ".join(dict.fromkeys(item.flag.id for item in told)),
                }
            )
        return _frame(rows, EVALUATION_COLUMNS, n_robust="Int64", steps="Int64", image_limit="Int64")

    @cached_property
    def matrices(self) -> pd.DataFrame:
        """One row a cell of a transferability matrix: images crafted on `source`, evaluated on `target`.

        Members count from 1, the whole ensemble is the target `ensemble`. Shares: misclassified of `all` images, of
        those that all members (`correct_all`) or source and target (`correct_both`) get right when clean;
        `definition6` and `definition6_conditional` as in `bench.store.rates`; `same_class`, of those that all members
        get right, misclassified as the source does. Sources beside the members are `ensemble`, `noise` and run ids of
        other ensembles: of these the first two shares are known.
        """
        import pandas as pd

        from bench.core.numbers import ENSEMBLE
        from bench.core.terms import NOISE, WHOLE

        about = self._about("transfer")
        with self._open() as db, db.snapshot():
            cells = [vars(cell) for cell in queries.cells(db) if cell.evaluation_id in about]
            others = [vars(cell) for cell in queries.other_cells(db) if cell.evaluation_id in about]
        rows = []
        for cell in cells:
            row = {**about[cell["evaluation_id"]], **cell}
            row["source"] = str(cell["source"] + 1)
            row["target"] = "ensemble" if cell["target"] == ENSEMBLE else str(cell["target"] + 1)
            row["all"] = _share(cell["n_missed"], row["n"])
            row["correct_all"] = _share(cell["n_missed_correct_all"], cell["n_correct_all"])
            row["correct_both"] = _share(cell["n_missed_correct_both"], cell["n_correct_both"])
            row["definition6"] = _share(cell["n_definition6"], row["n"])
            row["definition6_conditional"] = _share(cell["n_definition6"], cell["n_correct_both"])
            same = cell["n_same_class"]
            row["same_class"] = None if same is None else _share(same, cell["n_correct_all"])
            rows.append(row)
        for cell in others:
            row = {**about[cell["evaluation_id"]], **cell}
            row["target"] = "ensemble" if cell["target"] == ENSEMBLE else str(cell["target"] + 1)
            row["all"] = _share(cell["n_missed"], row["n"])
            row["correct_all"] = _share(cell["n_missed_correct_all"], cell["n_correct_all"])
            rows.append(row)
        surrogates = sorted({cell["source"] for cell in others} - {WHOLE, NOISE})
        members = [str(number) for number in sorted({cell["source"] + 1 for cell in cells})]
        counts = ("n_correct_both", "n_missed_correct_both", "n_definition6", "n_same_class")
        frame = _frame(rows, MATRIX_COLUMNS, **dict.fromkeys(counts, "Int64"))
        for name, levels in (("source", [*members, WHOLE, NOISE, *surrogates]), ("target", [*members, "ensemble"])):
            frame[name] = pd.Categorical(frame[name], categories=levels, ordered=True)
        return frame.sort_values(["evaluation_id", "source", "target"], ignore_index=True)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row an epoch and quantity of a training, in order of `position`.

        `quantity`: `loss`; `term` (one of the loss, `part` is its name); `ensemble_accuracy`; `member_accuracy`
        (`part` is the member, from 1); `robust_accuracy` (of the ensemble; `part` is the monitor's label). Accuracies
        are shares, on the images that `accuracy_on` names.
        """
        with self._open() as db, db.snapshot():
            epochs = queries.curves(db)
        about = self.runs[list(RUN_NAMES)].to_dict("records")
        runs = {row["run_id"]: {str(name): value for name, value in row.items()} for row in about}
        rows = [
            {**runs[run_id], **vars(epoch), "quantity": quantity, "part": part, "value": value}
            for run_id, rows_of in epochs.items()
            if run_id in runs
            for epoch in rows_of
            for quantity, part, value in _quantities(epoch)
        ]
        return _frame(rows, CURVE_COLUMNS)

    @cached_property
    def blackbox(self) -> pd.DataFrame:
        """One row an attack of the black-box suite: surrogate (a run id) × attack × restart.

        `missed`: share of the n images that the victim misclassifies after this attack alone. What is robust against
        all attacks stands in `evaluations` with kind `blackbox`.
        """
        from sqlalchemy import select

        from bench.store.schema import Blackbox, Evaluation

        columns = [getattr(Blackbox, name) for name in ("evaluation_id", "surrogate", "attack", "restart", "n_set")]
        query = (
            select(*columns)
            .join(Evaluation, Evaluation.evaluation_id == Blackbox.evaluation_id)
            .where(Evaluation.kind == "blackbox")  # a surrogate's own images have such rows too
            .order_by(Blackbox.evaluation_id, Blackbox.surrogate, Blackbox.attack, Blackbox.restart)
        )
        with self._open() as db, db.snapshot():
            attacks = db.rows(query)
        about = self._about("blackbox")
        rows = []
        for attack in (each for each in attacks if each["evaluation_id"] in about):
            row = {**about[attack["evaluation_id"]], **attack, "n_missed": attack["n_set"]}
            rows.append(row | {"missed": _share(attack["n_set"], row["n"])})
        return _frame(rows, BLACKBOX_COLUMNS)

    @cached_property
    def diversity(self) -> pd.DataFrame:
        """One row a pair of members, from 1, of each evaluation of diversity (docs/theory.md says what each number is).

        `disagreement` and `double_fault` are shares of the n images.
        """
        rows = []
        for about in self._about("diversity").values():
            for pair in about["measurements"]["pairs"]:
                shares = {name: _share(pair[name], about["n"]) for name in ("disagreement", "double_fault")}
                rows.append({**about, **pair, **shares, "first": pair["first"] + 1, "second": pair["second"] + 1})
        return _frame(rows, DIVERSITY_COLUMNS)

    @cached_property
    def bounds(self) -> pd.DataFrame:
        """One row an ordered pair of members, from 1, a radius, an attack and a `reading` of the terms.

        `transferability` is measured (Definition 6; targeted where `targets` says how classes are chosen) with its 95 %
        interval `low` to `high`; `lower_bound` and `upper_bound` are as the theorems have them (missing where a
        condition fails), `…_why` the term that makes one say nothing. `reading` and the other terms: docs/theory.md.
        """
        about = self._about("theory")
        with self._open() as db, db.snapshot():
            found = theory.bounds(db, queries.evaluations(db, evaluation_ids=list(about))) if about else []
        rows = [
            {
                **about[pair.row.evaluation_id], "source": pair.source + 1, "target": pair.target + 1,
                "n_transferred": pair.transferred, "transferability": pair.share, "low": pair.interval.low,
                "high": pair.interval.high, "reading": reading, **vars(pair.terms[reading]),
                "lower_bound": pair.lower[reading].value, "lower_why": pair.lower[reading].why,
                "upper_bound": pair.upper[reading].value, "upper_why": pair.upper[reading].why,
            }
            for pair in found
            for reading in theory.READINGS
        ]  # fmt: skip
        return _frame(rows, BOUND_COLUMNS)

    @cached_property
    def published(self) -> pd.DataFrame:
        """One row a published value: source, dataset, method, attack, budget, metric; `accuracy` is a share.

        `value` is as printed, in percent.
        """
        with self._open() as db, db.snapshot():
            rows = [{**vars(row), "accuracy": row.value / 100} for row in queries.references(db)]
        return _frame(rows, PUBLISHED_COLUMNS)

    def _open(self) -> Database:
        db = Database(self.where)
        with contextlib.suppress(BenchError):  # without a sound bench.toml recipes have the names that are stored
            db.names = naming.configured()
        return db.open()

    def _about(self, kind: str) -> dict[str, dict[str, Any]]:
        """What the evaluations of a kind are, by id; of diversity with what was measured."""
        rows = self.evaluations[self.evaluations["kind"] == kind].to_dict("records")
        about = {row["evaluation_id"]: {str(name): value for name, value in row.items()} for row in rows}
        if kind == "diversity" and about:
            with self._open() as db, db.snapshot():
                for row in queries.evaluations(db, evaluation_ids=list(about)):
                    about[row.evaluation_id]["measurements"] = row.measurements
        return about


def _frame(rows: Iterable[Mapping[str, Any]], columns: Iterable[str], **types: Any) -> pd.DataFrame:
    """A frame with these columns, also where there are no rows."""
    import pandas as pd

    return pd.DataFrame(list(rows), columns=list(columns)).astype(types)


def _made(recipe: str, plugin: str) -> dict[str, Any]:
    """Of a training elsewhere nothing is known; what the record has there only fills its place."""
    unknown = {"training": None, "seconds": None} if plugin == OUTSIDE else {}
    return {"recipe": recipe_label(recipe, plugin=plugin), **unknown}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _quantities(epoch: CurveRow) -> Iterable[tuple[str, str | None, float | None]]:
    if epoch.loss is not None:
        yield "loss", None, epoch.loss
    for name, value in (epoch.terms or {}).items():
        yield "term", name, value
    if epoch.ensemble_accuracy is not None:
        yield "ensemble_accuracy", None, epoch.ensemble_accuracy
    for number, value in enumerate(epoch.member_accuracy or (), start=1):
        yield "member_accuracy", str(number), value
    for each in epoch.monitored or ():
        yield "robust_accuracy", each["name"], each["robust_accuracy"]
