"""What people read: titles, numbers, settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench.core.config import Loaded
from bench.core.identity import safe_name
from bench.experiment.spec import OUTSIDE, EvaluationSpec
from bench.report.recipes import recipe_label
from bench.report.titles import Titles, ensemble_title
from bench.store.scores import norm
from bench.store.typed_rows import EvaluationRow, RunRow


@dataclass(frozen=True)
class Names:
    """Titles of bench.toml; a name that is not configured there stands for itself."""

    loaded: Loaded

    @cached_property
    def _titles(self) -> Titles:
        return Titles(self.loaded)

    def method(self, name: str) -> str:
        """The title of a configured method."""
        return self.loaded.title_of(name)

    def run(self, run: RunRow) -> str:
        """The title of a training: of its method, and of another precision than float32."""
        return ensemble_title(self.loaded, run.method, run.precision)

    def page(self, name: str) -> str:
        """Where the page of a method lies."""
        return f"methods/{safe_name(name)}.html"

    def attack(self, row: EvaluationSpec | EvaluationRow) -> str:
        """The title of the attack that a result was made with."""
        return self._titles.of(row)

    def published_attack(self, name: str) -> str:
        """The title of an attack of a published table, as it is configured."""
        return self._titles.attack(name)

    def norm(self, name: str) -> str | None:
        """The norm of a configured attack's ball (`bench.store.scores.norm`); an unknown name is taken as a plug-in."""
        spec = self.loaded.config.attacks.get(name)
        return norm(spec.plugin if spec else name)

    def published(self, name: str) -> str | None:
        """The column of the published tables that a method stands beside; None without one."""
        spec = self.loaded.config.methods.get(name)
        return spec.published_as(name) if spec else None


def percent(value: float | None) -> str:
    """`64.2`; – for nothing."""
    return "–" if value is None else f"{value:.1f}"


def mean_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean, and standard deviation (ddof 1) of two and more. `statistics.stdev` takes 20 times as long."""
    if not values:
        return None, None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def plus_minus(mean: float | None, std: float | None) -> str:
    """`64.2`, over several seeds `64.2 ± 1.3`; – for nothing."""
    return percent(mean) + ("" if std is None else f" ± {std:.1f}")


def exact(value: float | None) -> str:
    """A number for a CSV file; empty for nothing."""
    return "" if value is None else f"{value:.10g}"


def seconds(value: float) -> str:
    """`0.4 s`, `12 s`, `3.5 min`, `2.1 h`."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 100:
        return f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 6000 else f"{value / 3600:.1f} h"


def plain(value: Any) -> str:
    """A setting's value on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return settings_text(value) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    return str(value)


def settings_text(settings: Mapping[str, Any]) -> str:
    """`steps 50, restarts 1`."""
    return ", ".join(f"{name} {plain(value)}" for name, value in sorted(settings.items()))


def recipe_text(run: RunRow) -> str:
    """`published`, `quick with training.epochs=2`, `trained elsewhere`."""
    return recipe_label(run.recipe, run.recipe_changes, plugin=run.plugin)


def differences(runs: Sequence[RunRow]) -> list[str]:
    """For runs that would read alike: what tells each apart, as text; empty for what is equal in all."""
    flat = [_flat(run) for run in runs]
    names = sorted({name for each in flat for name in each})
    differing = [name for name in names if len({str(each.get(name)) for each in flat}) > 1]
    return [", ".join(f"{name} {plain(each[name])}" for name in differing if name in each) for each in flat]


def _flat(run: RunRow) -> dict[str, Any]:
    training = {} if run.plugin == OUTSIDE else {f"training.{name}": value for name, value in run.training.items()}
    model = {f"{run.model}.{name}": value for name, value in run.model_settings.items()}
    return {"name": run.method, **run.settings, **training, **model, "validation images": run.validation}
