"""A trained ensemble and what was measured on it, as `bench.train` and `bench.evaluate` give it."""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.api.places import Where
from bench.core import registry
from bench.core.errors import BenchError
from bench.core.identity import short
from bench.experiment.spec import RunSpec
from bench.jobs import opening
from bench.jobs.choosing import Chosen
from bench.models.ensemble import Ensemble
from bench.report import heatmap, matrices
from bench.report.frames import Frames
from bench.store import standing
from bench.store.images import ImageOutcomes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

KINDS = ("clean", "attack", "blackbox", "judged")
COLUMNS = [
    "kind", "attack", "steps", "precision", "budget_name", "budget", "n", "clean_accuracy", "robust_accuracy", "flags",
    "evaluation_id",
]  # fmt: skip


@dataclass(frozen=True, repr=False)
class Run:
    """A stored run; what it shows is read anew from the database each time.

    Attributes:
        spec: everything that it is.
        where: the folders and database that it lies in.
        chosen: the selectors that it was asked for with.
    """

    spec: RunSpec
    where: Where
    chosen: Chosen

    @property
    def run_id(self) -> str:
        """Its id, as `bench list runs` shows the beginning of."""
        return self.spec.run_id

    def ensemble(self) -> Ensemble:
        """The trained ensemble, as `bench.ensemble` gives it: images [b, C, H, W] in [0, 1] to outputs [b, classes]."""
        from bench.exchange.torch_files import ensemble

        return ensemble(self.run_id, self.where.results)

    def table(self) -> pd.DataFrame:
        """What was measured on it, current results alone: a row a clean pass, attack or black-box suite.

        Accuracies are shares in [0, 1] of all `n` images; columns as in `bench.load().evaluations`.
        """
        frame = Frames(self.where.address).evaluations
        mine = frame[(frame["run_id"] == self.run_id) & ~frame["stale"] & frame["kind"].isin(KINDS)]
        return mine[COLUMNS].reset_index(drop=True)

    def matrix(self) -> pd.DataFrame:
        """The transferability matrix: share in [0, 1] of the images crafted on a member (row) that a member or the
        whole ensemble (column) misclassifies, among the images that bench.toml counts.

        Raises:
            BenchError: none was measured.
        """
        import pandas as pd

        (found,) = self._matrices()
        names = [str(number) for number in range(1, len(found.rates) + 1)]
        index = pd.Index(names, name="crafted on")
        columns = pd.Index([*names, "ensemble"], name="evaluated on")
        return pd.DataFrame(found.rates / 100, index=index, columns=columns)

    def heatmap(self) -> Figure:
        """The transferability matrix as a figure of Matplotlib.

        Raises:
            BenchError: none was measured.
        """
        return heatmap.draw(self._matrices())

    def worst_case(self, eps: float, norm: str = "linf") -> float:
        """Share in [0, 1] of the images that stand after every untargeted attack within `eps` in this norm.

        It is over the attacks that were measured on the same images; where there are several sets, on the largest.

        Raises:
            BenchError: no such attack was measured.
        """
        with opening.reading(self.where.db, self.where.results) as base:
            measured = standing.read(base, run_ids=self.run_id)
            counted = [
                row for row in measured.standings.current(measured.rows)
                if row.kind == "attack" and row.targets is None and row.budget_name == "eps" and row.budget is not None
                and row.budget <= eps and registry.load("attacks", row.plugin).norm == norm
            ]  # fmt: skip
            if not counted:
                raise BenchError(f"no attack within eps = {eps:g} in {norm} was measured on {self!r}")
            most = max(counted, key=lambda row: row.n)
            ids = [row.evaluation_id for row in counted if row.images_digest == most.images_digest]
            standing_images = ImageOutcomes(base, ids).robust(ids)
        if standing_images is None:
            raise BenchError(f"the outcomes by image of {self!r} are gone: `bench db rebuild` brings them back")
        return float(standing_images.mean())

    def _matrices(self) -> list[matrices.Matrix]:
        selection = replace(self.chosen.selection, methods=(self.spec.method,), seeds=(self.spec.seed,))
        with opening.reading(self.where.db, self.where.results) as base:
            # On as many images as one was measured on last, whatever the run was asked for with.
            measured = standing.read(base, run_ids=self.run_id)
            known = [row for row in measured.standings.current(measured.rows) if row.kind == "transfer"]
            if known and selection.limit is None:
                selection = replace(selection, limit=max(known, key=lambda row: row.started).image_limit)
            found = matrices.matrices(self.chosen.loaded, selection, base, seeds=selection.seeds)
        if not found:
            raise BenchError(f"no transferability matrix was measured on {self!r}; a suite that has one makes it")
        return found

    def __repr__(self) -> str:
        return f"run {short(self.run_id)} ({self.spec.label})"

    def _repr_html_(self) -> str:
        table: str = self.table().drop(columns="evaluation_id").to_html(index=False)
        return html.escape(repr(self)) + table
