"""What decision boundaries are measured on: trained ensembles and the test images that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError
from sqlalchemy import select

from bench.core.errors import BenchError
from bench.core.identity import short
from bench.evaluation.boundary import Subject
from bench.experiment.spec import RunSpec
from bench.jobs import ensembles
from bench.jobs.workplace import Workplace
from bench.store import queries
from bench.store.database import Database
from bench.store.schema import Run

if TYPE_CHECKING:
    from torch import Tensor


def subjects_of(
    identifiers: tuple[str, ...], db: Database, place: Workplace
) -> tuple[list[Subject], Tensor, Tensor, str]:
    """The ensembles of runs, the test images [n, C, H, W] in [0, 1] that they share, the labels [n], the data set.

    Raises:
        BenchError: an unknown run, runs of different data sets, missing weights or data.
    """
    runs = [queries.find_run(db, identifier) for identifier in dict.fromkeys(identifiers)]
    datasets = list(dict.fromkeys(run.dataset for run in runs))
    if len(datasets) > 1:
        raise BenchError(f"runs on {' and '.join(datasets)} share no images; name runs on one data set")
    specs = []
    for run in runs:
        (row,) = db.rows(select(Run.config).where(Run.run_id == run.run_id))
        try:
            spec = RunSpec.model_validate(row["config"])
        except ValidationError as error:
            raise BenchError(
                f"run {short(run.run_id)} does not say how its ensemble was made: {error.errors()[0]['msg']}"
            ) from error
        if not place.run(run.run_id).weights.exists():
            raise BenchError(f"the weights of {short(run.run_id)} are not in {place.run(run.run_id).path}")
        specs.append(spec)
    splits = ensembles.splits_of(specs[0], place, limit=None)
    subjects = [
        Subject(_title(spec, run.run_id, specs), run.run_id, ensembles.load_ensemble(spec, place))
        for spec, run in zip(specs, runs, strict=True)
    ]
    return subjects, splits.test.floats(), splits.test.labels, datasets[0]


def _title(spec: RunSpec, run_id: str, specs: list[RunSpec]) -> str:
    """The method's title, with seed and id where that does not tell runs apart."""
    from bench.core import config

    title = config.load().title_of(spec.method)
    same = [other for other in specs if other.method == spec.method]
    if len(same) > 1:
        title += f" s{spec.seed}"
    if len([other for other in same if other.seed == spec.seed]) > 1:
        title += f" {short(run_id)[:6]}"
    return title
