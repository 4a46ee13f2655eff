"""`bench.evaluate`: networks of one's own, objects or files, through the attacks of a suite and into the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from bench.api.places import Where, choose
from bench.api.runs import Run
from bench.api.work import done
from bench.attacks.direct import check_network
from bench.core import places
from bench.core.device import pick, threads_kept
from bench.core.errors import BenchError
from bench.core.files import no_input
from bench.core.terms import WEIGHTS
from bench.jobs import opening
from bench.jobs.given import Given
from bench.jobs.outside import take_in
from bench.models.ensemble import Ensemble
from bench.report.console import console


def evaluate(
    members: nn.Module | Sequence[nn.Module] | str | Path | Sequence[str | Path], *, dataset: str, name: str,
    suite: str | None = None, attack: str | Iterable[str] = (), eps: float | Iterable[float] = (),
    c: float | Iterable[float] = (), limit: int | None = None, fusion: str | None = None,
    weights: Sequence[float] | None = None, seed: int | None = None, model: str | None = None,
    factory: str | None = None, normalisation: Literal["none", "dataset"] | None = None,
    mean: Sequence[float] | None = None, std: Sequence[float] | None = None, settings: Mapping[str, Any] | None = None,
    batch_size: int | None = None, device: str | None = None, threads: int | None = None,
    results: Path | str | None = None, data: Path | str | None = None, db: str | None = None, quiet: bool = False,
) -> Run:  # fmt: skip
    """Measure an ensemble that was trained elsewhere, and keep the results beside all others.

    `bench.evaluate([net1, net2], dataset="cifar10", suite="autoattack", name="mine", fusion="mean_logits").table()`

    Networks in memory are known by their weights and structure: the same ones again do only what is missing. Their
    weights are stored, their code is not (no pickles), so their run is marked: nobody repeats it without the objects.
    Files are what `bench evaluate` takes, with the same ids.

    Args:
        members: networks in evaluation mode, images [b, C, H, W] in [0, 1] to logits [b, classes], each with its
            normalisation within; one network alone; or files of weights.
        dataset: a configured data set.
        name: what tables call it. Other weights under one name are its next seed.
        suite: a configured suite; the data set's own unless given or attacks are named.
        attack, eps, c, limit, settings: as for `bench run --attack`, `--eps`, `--c`, `--limit`, `--set`.
        fusion, weights: the rule that makes one prediction (`bench list fusions`) and its weights; mean_probability
            unless given.
        seed: which training of this name it is.
        model, factory, normalisation, mean, std: of files alone, as for `bench evaluate`.
        batch_size: images at a time; what memory allows unless given.
        device, threads, results, data, db, quiet: as for `bench.train`.

    Returns:
        The run: `.table()`, `.matrix()`, `.worst_case(eps=…)`, `.heatmap()`.

    Raises:
        BenchError: what was given does not fit.
        JobError: a measurement failed; the others are done.
    """
    files, networks = _parted(members)
    of_files = {"model": model, "factory": factory, "normalisation": normalisation, "mean": mean, "std": std}
    if networks and (said := [key for key, value in of_files.items() if value is not None]):
        raise BenchError(f"{', '.join(said)} are for files of weights: networks in memory have all of that within")
    if isinstance(members, Ensemble):
        if fusion is None and weights is None and members.weights is not None:
            weights = members.weights.tolist()
        fusion = fusion or members.fusion
    where = Where.of(results, data, db)
    asked: dict[str, Any] = {"attack": attack, "eps": eps, "c": c, "limit": limit, "suite": suite, "settings": settings}
    chosen = choose(where, (), dataset=dataset, **asked)
    out = console(stderr=True)
    out.quiet = quiet
    numbers: dict[str, Any] = {key: None if value is None else tuple(map(float, value))
               for key, value in (("mean", mean), ("std", std), ("weights", weights))}  # fmt: skip
    given = Given(
        files=files, name=name, dataset=dataset, model=model, factory=factory, normalisation=normalisation,
        fusion=fusion, seed=seed, **numbers,
    )  # fmt: skip
    with threads_kept(), places.data_in(where.data), opening.at_work(where.db, where.results) as base:
        place = where.workplace(device=pick(device, threads), batch_size=batch_size)
        adopted = take_in(
            base, given, chosen.loaded, place, networks=networks,
            tell=lambda line: out.print(line, soft_wrap=True),
            warn=lambda line: out.print(line, style="yellow", soft_wrap=True),
        )  # fmt: skip
    chosen = choose(where, (name,), dataset=dataset, seeds=(adopted.seed,), **asked)
    allowed = (factory,) if factory else ()
    (run,) = done(
        chosen, where, device=device, threads=threads, quiet=quiet, batch_size=batch_size, factories=allowed
    )  # fmt: skip
    return run


def _parted(members: Any) -> tuple[tuple[Path, ...], list[nn.Module]]:
    """Files and networks, of which one is empty.

    Raises:
        BenchError: neither, or both.
    """
    if isinstance(members, Ensemble):
        members = list(members.members)
    single = isinstance(members, nn.Module | str | Path)
    given = [members] if single else list(members) if isinstance(members, Iterable) else [members]
    if given and all(isinstance(each, str | Path) for each in given):
        files = tuple(Path(each) for each in given)
        for file in files:
            if not file.is_file():
                raise BenchError(no_input(file, WEIGHTS) or f"there is no file {file}")
        return files, []
    if not given:
        raise BenchError("an ensemble needs one network or more")
    for each in given:
        check_network(each)
    return (), given
