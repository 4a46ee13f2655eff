"""`bench.results` and `bench.compare`: what was measured, as frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.api.places import Where, choose, seeds_of
from bench.core import config
from bench.jobs import opening
from bench.report import pairing
from bench.report.frames import load
from bench.report.pairing import Paired

if TYPE_CHECKING:
    import pandas as pd


def results(
    dataset: str | None = None, *, results: Path | str | None = None, db: str | None = None
) -> pd.DataFrame:  # fmt: skip
    """What was measured and holds today: one row a clean pass, attack, matrix or black-box suite on one run.

    `bench.results(dataset="digits").pivot_table("robust_accuracy", ["attack", "budget"], "method")`

    Columns as in `bench.load().evaluations`; accuracies are shares in [0, 1]. Results of older versions, those that a
    flag calls invalid, and the runs that only made images for others (surrogates) are left out.

    Args:
        dataset: one data set; all of them unless given.
        results, db: folder and database; as for the command line (`BENCH_RESULTS`, `BENCH_DB`).

    Raises:
        BenchError: there is no database, or no data set of this name.
    """
    from bench.core.errors import unknown_name
    from bench.core.seeds import SURROGATE_SEEDS

    frame = load(Where.of(results, db=db).address).evaluations
    if dataset is not None:
        known = {*config.load().config.datasets, *frame["dataset"]}
        if dataset not in known:
            raise unknown_name("data set", dataset, known)
        frame = frame[frame["dataset"] == dataset]
    competes = (frame["seed"] < SURROGATE_SEEDS) & (frame["kind"] != "craft")  # images of one from elsewhere
    sound = ~frame["stale"] & ~frame["invalid"] & competes
    return frame[sound.astype(bool)].reset_index(drop=True)


class PairedFrame:
    """Two methods or two runs, image by image; `frame` has a row an attack.

    Attributes:
        paired: everything, as `bench compare` has it.
        a, b: their names.
    """

    def __init__(self, paired: Paired) -> None:
        self.paired = paired
        self.a, self.b = paired.a, paired.b

    @property
    def frame(self) -> pd.DataFrame:
        """A row an attack, as `bench compare --json` has it: accuracies in percent, differences in points."""
        import pandas as pd

        return pd.json_normalize(pairing.as_records(self.paired)["rows"])

    @property
    def summary(self) -> list[str]:
        """What the rows say, in words."""
        return pairing.summary(self.paired)

    def __repr__(self) -> str:
        return "\n".join([f"{self.a} against {self.b}: {self.paired.heading}", *self.summary])

    def _repr_html_(self) -> str:
        import html

        table: str = self.frame.to_html(index=False)
        return html.escape(repr(self)).replace("\n", "<br>") + table


def compare(
    a: str, b: str, *, dataset: str | None = None, suite: str | None = None, recipe: str | None = None,
    limit: int | None = None, attack: str | Iterable[str] = (), eps: float | Iterable[float] = (),
    seed: int | Iterable[int] | None = None, settings: Mapping[str, Any] | None = None,
    results: Path | str | None = None, db: str | None = None,
) -> PairedFrame:  # fmt: skip
    """Which of two methods, or of two runs by their ids, is better, image by image: `bench compare`.

    `bench.compare("trs", "dverge", dataset="cifar10").frame`

    Args:
        a, b: two configured methods, or the beginnings of the ids of two runs.
        dataset, suite, recipe, limit, attack, eps, settings: as for `bench compare`, of methods alone.
        seed: one or several; all that there are unless given.

    Raises:
        BenchError: unknown names, nothing measured, or nothing on the same images.
    """
    where = Where.of(results, db=db)
    seeds = None if seed is None else seeds_of(seed)
    chosen = choose(
        where, (), dataset=dataset, suite=suite, recipe=recipe, limit=limit, attack=attack, eps=eps,
        settings=settings, seeds=seeds,
    )  # fmt: skip
    selectors = (dataset, suite, recipe, limit, attack or None, eps or None, seeds, settings)
    by_id = pairing.by_id(chosen.loaded, (a, b), selectors=any(each is not None for each in selectors))
    with opening.reading(where.db, where.results) as base:
        if by_id:
            return PairedFrame(pairing.of_runs(chosen.loaded, a, b, base))
        selection = replace(chosen.selection, methods=(a, b))
        return PairedFrame(pairing.of_methods(chosen.loaded, selection, base, seeds=chosen.seeds))
