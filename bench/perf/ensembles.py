"""The ensemble that `bench perf attacks` attacks: a run that is there, or one trained quickly for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.files import read_json
from bench.core.identity import short
from bench.data.base import ImageSet
from bench.experiment.select import Selection, run_spec
from bench.experiment.spec import Job, RunSpec
from bench.jobs.ensembles import load_ensemble, splits_of
from bench.jobs.work import perform
from bench.jobs.workplace import Workplace
from bench.models.ensemble import Ensemble
from bench.store import ingest
from bench.store.database import Database


@dataclass(frozen=True)
class TrainedEnsemble:
    """A trained ensemble, the run it is of, and test images."""

    run: RunSpec
    ensemble: Ensemble
    images: ImageSet

    @property
    def title(self) -> str:
        """`3 × lenet (ece) on mnist, run 0123456789ab`."""
        run = self.run
        return f"{run.members} × {run.model} ({run.method}) on {run.dataset}, run {short(run.run_id)}"


def recorded(place: Workplace, run_id: str) -> RunSpec:
    """The spec of a finished run.

    Raises:
        BenchError: its folder is not there.
    """
    path = place.run(run_id).record
    if not path.is_file():
        raise BenchError(f"the files of run {short(run_id)} are not in {place.runs}; give its folder with --results")
    return RunSpec.model_validate(read_json(path)["config"])


def quick(loaded: Loaded, *, method: str, dataset: str, model: str | None) -> RunSpec:
    """A method trained by the data set's `quick` recipe, three members, seed 0."""
    return run_spec(loaded, Selection(dataset=dataset, recipe="quick", model=model, members=3), method, 0)


def subject(
    run: RunSpec, place: Workplace, *, images: int | None, database: Callable[[], Database], tell: Callable[[str], None]
) -> TrainedEnsemble:
    """The ensemble of `run`, trained first where that was not done, and the first `images` test images (1,000 or all).

    A training is kept and recorded as `bench run` does it, so that it is done once.

    Raises:
        BenchError: the data are missing, the test set is smaller, or the training failed.
    """
    splits = splits_of(run, place, limit=None)
    images = min(1000, len(splits.test)) if images is None else images
    if images > len(splits.test):
        raise BenchError(f"{run.dataset} has {len(splits.test):,} test images; --images {images} is more")
    for needed in (*run.prerequisites, run):
        if place.run(needed.run_id).weights.is_file():
            continue
        tell(f"training {needed.method} × {needed.members} {needed.model} on {needed.dataset} ({needed.recipe}) first")
        done, path = perform(Job(run=needed), place)
        if not done:
            raise BenchError(f"training {needed.method} failed: {read_json(path)['error']}")
        with database() as base:
            ingest.ingest_run(base, place.run(needed.run_id).path)
    return TrainedEnsemble(run, load_ensemble(run, place), splits.test.take(slice(0, images)))
