"""The way back: a stored run as a torch module, and its members as files that other people's tools load."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from bench.core.errors import BenchError, JobError
from bench.core.files import atomic, read_json, write_json
from bench.core.identity import ID_LENGTH, safe_name, short
from bench.core.places import results_folder
from bench.experiment.folder import RunFolder
from bench.experiment.records import RunRecord, read_record
from bench.experiment.spec import MEMORY, RunSpec
from bench.jobs import ensembles
from bench.jobs.workplace import Workplace
from bench.models import memory
from bench.models.build import model_plugin
from bench.models.ensemble import Ensemble
from bench.models.layouts import float32

DESCRIPTION = "ensemble.json"


def ensemble(run: str, results: Path | str | None = None, *, factories: tuple[str, ...] = ()) -> Ensemble:
    """The trained ensemble of a stored run: images [b, C, H, W] in [0, 1] to fused outputs [b, classes].

    On the CPU, in evaluation mode. `members` are its networks, each with its normalisation before it and logits behind;
    `fusion` is the rule that makes one output of theirs.

    Args:
        run: the beginning of the run's id, as `bench list runs` shows it.
        results: the folder of results; unless given that of BENCH_RESULTS, else `results`, as for the command line.
        factories: functions (`package.module:function`) that runs of others may call to make their members.

    Raises:
        BenchError: no run or several begin so, or the weights are missing or damaged.
    """
    place = Workplace(results=results_folder(results), data=Path("data"), factories=factories)
    return ensembles.load_ensemble(_spec(_find(run, place), place), place)


def _find(prefix: str, place: Workplace) -> str:
    """The full id of the run whose files lie here and whose id begins with `prefix`."""
    wanted = prefix.strip().lower()
    if not wanted or len(wanted) > ID_LENGTH or set(wanted) - set("0123456789abcdef"):
        raise BenchError(f"{prefix!r} is no id of a run: give its first hexadecimal digits, as `bench list runs` shows")
    there = sorted(path.parent.name for path in place.runs.glob(f"{wanted}*/run.json"))
    if len(there) > 1:
        raise BenchError(f"{prefix!r} is ambiguous, type more of: {', '.join(map(short, there[:5]))}")
    if there:
        return there[0]
    folders = (RunFolder(path.parent) for path in sorted(place.runs.glob("[!.]*/run.json")))
    for folder in folders:
        if any(path.stem.startswith(wanted) for path in folder.evaluations()):
            raise BenchError(f"{prefix} is an evaluation; give the id of its run: {short(folder.run_id)}")
    raise BenchError(f"no run in {place.runs} begins with {prefix!r}")


def _spec(run_id: str, place: Workplace) -> RunSpec:
    record = read_record(RunRecord, place.run(run_id).record)
    run = RunSpec.model_validate(record.config)
    if run.run_id != run_id:
        raise BenchError(f"{place.run(run_id).record} is damaged: its id does not follow from what it says")
    return run


def export(place: Workplace, run_ids: list[str], target: Path) -> list[Path]:
    """Write the members of each run as state dicts of torch, in a folder of its own below `target`.

    `member0.pth` and so on hold names → tensors, the names being those in common use for the model; the normalisation
    and the rule of fusion, which no state dict has, are in `ensemble.json` beside them.

    Returns:
        The folders.

    Raises:
        BenchError: something is there already, a run has no files here, or its weights are missing or damaged.
    """
    folders = []
    for run_id in run_ids:
        if not place.run(run_id).record.is_file():
            raise BenchError(f"run {short(run_id)} has no files in {place.runs}; export it where it was made")
        run = _spec(run_id, place)
        folder = target / f"{safe_name(f'{run.method}-{run.dataset}-seed{run.seed}')}-{short(run_id)}"
        if folder.exists():
            raise BenchError(f"{folder} is there already; remove it, or name another folder")
        if run.model_plugin == MEMORY and not memory.is_held(run.model_settings.get("structure")):
            raise BenchError(
                f"run {short(run_id)} was made of objects in memory ({run.model_settings.get('networks')}), so the "
                "state dicts are written where these objects are: torch.save(network.state_dict(), FILE) of each; "
                f"bench has their tensors alone, in {place.run(run_id).weights}"
            )
        try:
            _write(run, ensembles.load_ensemble(run, place), place, folder)
        except JobError as error:
            raise BenchError(str(error)) from error
        folders.append(folder)
    return folders


def _write(run: RunSpec, trained: Ensemble, place: Workplace, folder: Path) -> None:
    common_name = model_plugin(run.model_plugin, run.model_settings).common_name
    members = []
    for index, member in enumerate(trained.members):
        state = member.get_submodule("network").state_dict()
        named: OrderedDict[str, Tensor] = OrderedDict(
            (common_name(name), t.detach().clone()) for name, t in state.items()
        )
        file = folder / f"member{index}.pth"
        with atomic(file) as temporary, temporary.open("wb") as stream:
            torch.save(named, stream)
        layer = {name: member.get_buffer(f"normalise.{name}").flatten().tolist() for name in ("mean", "std")}
        members.append({"file": file.name, **{name: list(map(float32, row)) for name, row in layer.items()}})
    record = read_json(place.run(run.run_id).record)
    write_json(
        folder / DESCRIPTION,
        {
            "run_id": run.run_id,
            **{name: getattr(run, name) for name in ("method", "dataset", "seed", "model", "model_plugin")},
            "model_settings": run.model_settings,
            "activation": record.get("activation") or "relu",
            "fusion": trained.fusion,
            "fusion_weights": None if trained.weights is None else trained.weights.tolist(),
            "images": "float, channels first, in [0, 1]; a member sees (x - mean) / std",
            "members": members,
        },
    )
