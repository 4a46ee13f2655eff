"""Protocols: what a board ranks by. Declared in `bench.toml`, versioned, never inferred from what happens to be there.

A protocol is a data set, a threat (norm and ε), attacks with their settings, a stop rule, and images; at each of its ε
it makes one `Standard`. The score of a training is the worst case over exactly the attacks of the standard.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench.core import registry, settings
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.identity import content_id
from bench.core.precision import possible
from bench.core.specs import ProtocolSpec, Training
from bench.experiment import select
from bench.experiment.spec import EvaluationSpec, RunSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Part:
    """One attack of a standard at one budget; `spec` is its evaluation on no run in particular.

    `others` are what may stand for it: the same in other precisions.
    """

    spec: EvaluationSpec
    others: tuple[EvaluationSpec, ...] = ()

    @property
    def label(self) -> str:
        """`pgd ε=0.1`."""
        return self.spec.label

    def key(self, limit: int | None) -> str:
        """The `attack_key` of this attack on so many test images."""
        return _with(self.spec, limit=limit).attack_key

    def other_keys(self, limit: int | None) -> list[str]:
        """The same of what may stand for it."""
        return [_with(spec, limit=limit).attack_key for spec in self.others]


@dataclass(frozen=True)
class Standard:
    """A protocol at one ε: what has to be measured, and on which images.

    Attributes:
        name: of the protocol; `version` is its version.
        plugin: of the data set.
        size: of the whole test set, where it is fixed.
        images: how many count, the first in the fixed order.
        seeds: trainings that a rank asks for.
    """

    name: str
    version: int
    title: str
    dataset: str
    plugin: str
    norm: str
    eps: float
    images: int
    size: int | None
    seeds: int
    suite: str
    parts: tuple[Part, ...]
    succeeded_by: str | None = None

    @cached_property
    def standard_id(self) -> str:
        """Content hash of all that counts: another under the same name and version is another standard."""
        others = sorted(key for part in self.parts for key in part.other_keys(None))
        return content_id(
            {
                "norm": self.norm,
                "eps": self.eps,
                "images": self.images,
                "parts": sorted(part.key(None) for part in self.parts),
                **({"others": others} if others else {}),
            }
        )

    @property
    def label(self) -> str:
        """`table1-digits v1, ε = 0.1`."""
        return f"{self.name} v{self.version}, ε = {self.eps:g}"

    def limits(self, measured: Collection[int | None]) -> list[int | None]:
        """Those of the measured numbers of test images (None: all) that hold the images of this standard, best first.

        A smaller number of images is always a part of a larger one.
        """
        exact = None if self.size == self.images else self.images
        fitting = [n for n in measured if n == exact or (n is None and self._has(self.size)) or self._has(n)]
        return sorted(fitting, key=lambda n: (n != exact, n is None, n or 0))

    def _has(self, n: int | None) -> bool:
        return n is not None and n >= self.images

    @property
    def limit(self) -> int | None:
        """As `--limit` takes it: None where all test images count."""
        return None if self.size == self.images else self.images


def standards(loaded: Loaded) -> list[Standard]:
    """Every standard that is configured, in the order of `bench.toml`; superseded ones last.

    Left out is one whose data set or an attack is of a plug-in that is not installed here, and, with a warning in the
    log, one of which bench.toml makes no board.
    """
    found = []
    for name, spec in loaded.config.protocols.items():
        try:
            found += [standard(loaded, name, eps) for eps in spec.eps]
        except BenchError:
            continue
    return sorted(found, key=lambda each: each.succeeded_by is not None)


def standard(loaded: Loaded, name: str, eps: float) -> Standard:
    """A protocol at one ε.

    Raises:
        BenchError: nothing of its suite lies in the ball, the suite gives an attack no budgets on the data set, or a
            plug-in cannot be used.
    """
    spec = loaded.config.protocols[name]
    configured = loaded.config.datasets[spec.dataset]
    dataset = loaded.dataset(spec.dataset)
    run = RunSpec(  # stands for any: the name of an attack does not depend on what is attacked
        method="", plugin="", settings={}, dataset=spec.dataset, dataset_plugin=configured.plugin,
        dataset_settings=settings.plain(dataset), model="", model_plugin="", model_settings={}, members=1, recipe="",
        training=Training(epochs=1), seed=0, versions={},
    )  # fmt: skip
    try:
        attacks = select.suite_attacks(loaded, spec.suite, spec.dataset)
    except BenchError as error:
        raise _no_board(name, error) from error
    parts = tuple(_parts(loaded, spec, attacks, run, eps))
    if not parts:
        where = "lies within" if spec.smaller else "is at"
        raise _no_board(name, f"no attack of the suite {spec.suite} {where} {spec.norm} {eps:g}")
    return Standard(
        name=name, version=spec.version, title=spec.title or name, dataset=spec.dataset,
        plugin=configured.plugin, norm=spec.norm, eps=eps, images=min(spec.images, dataset.test_images or spec.images),
        size=dataset.test_images, seeds=spec.seeds, suite=spec.suite, parts=parts, succeeded_by=spec.succeeded_by,
    )  # fmt: skip


def _no_board(name: str, why: object) -> BenchError:
    """The refusal of a protocol by what bench.toml says; it is logged too, as `standards` leaves the protocol out."""
    told = f"protocols.{name}: {why}: no board of it"
    log.warning(told)
    return BenchError(told)


def _parts(
    loaded: Loaded, protocol: ProtocolSpec, attacks: list[tuple[str, tuple[float, ...] | None]], run: RunSpec,
    eps: float,
) -> list[Part]:  # fmt: skip
    found: list[Part] = []
    for name, own in attacks:
        spec = loaded.config.attacks[name]
        plugin = registry.load("attacks", spec.plugin)
        if plugin.norm != protocol.norm or spec.targets is not None:
            continue
        selection = select.Selection(dataset=protocol.dataset)
        for each in select.attack_rows(loaded, selection, run, name, own):
            if each.budget is not None and (each.budget <= eps if protocol.smaller else each.budget == eps):
                allowed = dict.fromkeys(
                    possible(precision, protocol.stop, asks_members=plugin.asks_members)
                    for precision in protocol.precisions
                )
                specs = [_with(each, limit=None, stop=protocol.stop, precision=precision) for precision in allowed]
                found.append(Part(specs[0], tuple(specs[1:])))
    return found


def _with(spec: EvaluationSpec, **changes: Any) -> EvaluationSpec:
    """The evaluation with these fields; a copy would keep the key that the original has computed."""
    return EvaluationSpec(**{name: getattr(spec, name) for name in EvaluationSpec.model_fields} | changes)
