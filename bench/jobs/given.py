"""What was given to `bench evaluate`: files of weights and what was said of them, and the ensemble that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from bench.core import registry
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.files import sha256
from bench.core.numbers import several
from bench.core.printable import visible
from bench.core.terms import Activation, Normalisation
from bench.data.base import Dataset
from bench.experiment import select
from bench.experiment.records import FileGiven, GivenRecord
from bench.experiment.spec import MEMORY
from bench.models import layouts, memory, outside
from bench.models.build import build_member, model_plugin
from bench.models.ensemble import Ensemble
from bench.models.layouts import Layout, Member, Renaming, Wanted
from bench.models.normalise import Normalise

NAMES = {
    "own": "", "common": "names of the common CIFAR ResNets", "mapped": "names mapped", "order": "in order of the file",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Given:
    """What was said about an outside ensemble; None is for the files, or a default, to say.

    Args:
        files: weights; a file holds one member or several.
        name: what it is called in tables.
        dataset: configured data set.
        model: configured model (or `timm/NAME`), or None with `factory`.
        factory: `package.module:function` that makes one member.
        normalisation: "none", or "dataset" for the data set's. By default the file's own; without one the data set's
            for a configured model, and none for a factory's.
        mean, std: normalisation, one number a channel (or one for all).
        fusion, weights: the rule, and its weights where it has some.
        activation: "leaky_relu" for members whose ReLUs were replaced (GAL).
        renaming: which parts of the files are meant, and how names in them become ours.
        seed: which training of this name it is; None for the next.
        facts: what is said of it for readers, by the names of `Facts`; None takes back what was said before.
    """

    files: tuple[Path, ...]
    name: str
    dataset: str
    model: str | None
    factory: str | None = None
    normalisation: Literal["none", "dataset"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fusion: str | None = None
    weights: tuple[float, ...] | None = None
    activation: str | None = None
    renaming: Renaming = field(default_factory=Renaming)
    seed: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Taken:
    """An ensemble out of files, its members' activation, and how the files were understood."""

    ensemble: Ensemble
    activation: str
    record: GivenRecord | None
    """None of networks that were given as objects."""


def take(given: Given, plugin: str, settings: Mapping[str, Any], loaded: Loaded, dataset: Dataset) -> Taken:
    """The ensemble in the files.

    Args:
        plugin, settings: of the members' model.

    Raises:
        BenchError: a file, a name or a number does not fit.
    """
    if given.normalisation is not None and (given.mean is not None or given.std is not None):
        raise BenchError("--normalisation names one, --mean and --std give the numbers of one: leave one out")
    files = [outside.read(path) for path in given.files]
    activation = given.activation or _told("activation", files, get_args(Activation)) or "relu"

    def member() -> nn.Module:
        return build_member(plugin, settings, dataset=dataset, activation=activation)

    template = member().get_submodule("network").state_dict()
    names = model_plugin(plugin, settings)
    wanted = Wanted(template, names.own_name, names.common_name)
    members: list[nn.Module] = []
    understood: list[Layout] = []
    normalised: list[Normalisation] = []
    for path, contents in zip(given.files, files, strict=True):
        try:
            layout = layouts.recognise(contents, wanted, given.renaming, str(path))
            for part in layout.members:
                network = member()
                source = f"{path}, {part.place.rstrip('.')}" if len(layout.members) > 1 else str(path)
                outside.load(network.get_submodule("network"), part.state, source, part.theirs)
                network.normalise, kind = _normalise(given, part, dataset)
                members.append(network)
                normalised.append(kind)
        except BenchError as error:
            fits = _other_model(given, contents, loaded, dataset) or _other_dataset(given, contents, loaded)
            told = str(error)
            end = "." if fits and not told.endswith("?") else ""
            raise BenchError(f"{told}{end}{fits}") from error
        understood.append(layout)
    fusion, weights = _fusion(given, files, understood, len(members))
    if weights is not None and len(weights) != len(members):
        raise BenchError(
            f"{several(len(members), 'member')} need{'' if members[1:] else 's'} as many --weights, not {len(weights)}"
        )
    ensemble = Ensemble(members, fusion=fusion, weights=weights)
    aside = [place for contents in files for place in contents.aside]
    return Taken(ensemble, activation, _record(given, understood, ensemble, normalised, aside))


def take_networks(given: Given, networks: Sequence[nn.Module], dataset: Dataset) -> tuple[Taken, dict[str, str]]:
    """The ensemble of networks that are given as objects, and the settings of the model plug-in `memory` for them.

    Raises:
        BenchError: a network cannot be copied or gives no logits for images of the data set; a rule or weights that
            do not fit.
    """
    held = memory.hold(networks)
    channels = dataset.shape[0]
    members = [build_member(MEMORY, held, dataset=dataset, index=index) for index in range(len(networks))]
    for member in members:
        member.normalise = Normalise([0.0] * channels, [1.0] * channels)
    ensemble = Ensemble(members, fusion=given.fusion or "mean_probability", weights=given.weights)
    return Taken(ensemble, "relu", None), held


def _told(what: str, files: Sequence[outside.WeightsFile], known: Sequence[str]) -> str | None:
    """What bench wrote beside weights of its own; None where it did not, or files differ."""
    told = {contents.told.get(what) for contents in files}
    (value,) = told if len(told) == 1 else (None,)
    return value if value in known else None


def _normalise(given: Given, member: Member, dataset: Dataset) -> tuple[Normalise, Normalisation]:
    """The layer before a member, and where its numbers are from."""
    channels = dataset.shape[0]
    if given.mean is not None or given.std is not None:
        mean, std = _channels("mean", given.mean, 0.0, channels), _channels("std", given.std, 1.0, channels)
        return Normalise(mean, std), "given"
    if given.normalisation is None and member.mean is not None and member.std is not None:
        return Normalise(*_fitting(member.mean, member.std, channels)), "file"
    kind = given.normalisation or ("dataset" if given.factory is None else "none")
    if kind == "dataset":
        return Normalise(dataset.mean, dataset.std), kind
    return Normalise([0.0] * channels, [1.0] * channels), kind


def _channels(name: str, values: Sequence[float] | None, default: float, channels: int) -> list[float]:
    chosen = list(values or [default])
    if len(chosen) not in (1, channels):
        raise BenchError(f"--{name} takes one number or {channels}, one a channel, not {len(chosen)}")
    return chosen * (channels if len(chosen) == 1 else 1)


def _fitting(mean: Sequence[float], std: Sequence[float], channels: int) -> tuple[list[float], list[float]]:
    if not {len(mean), len(std)} <= {1, channels}:
        raise BenchError(
            f"the file's own normalisation has {len(mean)} and {len(std)} numbers for {channels} channels; give --mean "
            "and --std"
        )
    return list(mean) * (channels // len(mean)), list(std) * (channels // len(std))


def _fusion(
    given: Given, files: Sequence[outside.WeightsFile], understood: Sequence[Layout], members: int
) -> tuple[str, tuple[float, ...] | None]:
    """The rule and its weights.

    Raises:
        BenchError: a file speaks of a rule that is no plain mean, and nobody said which.
    """
    stored = _told("fusion", files, [*registry.entries("fusions")])
    fusion = given.fusion or stored
    if fusion is None:
        for path, layout in zip(given.files, understood, strict=True):
            if layout.rule:
                rule = ", ".join(visible(place) for place in layout.rule[:3])
                raise BenchError(
                    f"{path} holds {rule} beside its {members} members: they are fused by more than a plain mean, as "
                    f"it seems. Say how, with --fusion ({', '.join(registry.entries('fusions'))})"
                )
        fusion = "mean_probability"
    takes = registry.load("fusions", fusion).takes_weights != "no"
    own = understood[0].weights if len(understood) == 1 and takes else None
    return fusion, given.weights if given.weights is not None else own


def _record(
    given: Given, understood: Sequence[Layout], ensemble: Ensemble, normalised: Sequence[Normalisation],
    aside: Sequence[str],
) -> GivenRecord:  # fmt: skip
    parts = [part for layout in understood for part in layout.members]
    rows = [
        [module.get_buffer(f"normalise.{name}").flatten() for module in ensemble.members] for name in ("mean", "std")
    ]
    numbers = [[[layouts.float32(float(value)) for value in row] for row in of] for of in rows]
    mean, std = ([of[0]] if all(row == of[0] for row in of) else of for of in numbers)
    places = [
        visible(f"{path.name}: {part.place.rstrip('.')}" if part.place else path.name)[:2000]
        for path, layout in zip(given.files, understood, strict=True)
        for part in layout.members
    ]
    own = any(part.mean is not None for part in parts)
    return GivenRecord(
        files=[FileGiven(name=visible(path.name)[:2000], sha256=sha256(path)) for path in given.files],
        prefix=[visible(prefix)[:2000] for prefix in given.renaming.prefixes],
        map=[visible(f"{old}={new}")[:2000] for old, new in given.renaming.renamed],
        by_order=given.renaming.by_order,
        names=sorted({part.names for part in parts}),
        members=places,
        normalisation=sorted(set(normalised)),
        mean=mean,
        std=std,
        file_normalises=own,
        left_out=[visible(place)[:2000] for layout in understood for place in layout.left_out][:1000],
        aside=[visible(place)[:2000] for place in dict.fromkeys(aside)][:1000],
        beside=[visible(place)[:2000] for layout in understood for place in layout.rule][:1000],
    )


def sentence(given: Given, taken: Taken) -> str:
    """What the files were understood to hold, for people to agree with or not."""
    record, ensemble = taken.record, taken.ensemble
    assert record is not None
    count = len(ensemble.members)
    files = record.files[0].name if len(record.files) == 1 else f"{len(record.files)} files"
    places = [place.partition(": ")[2] for place in record.members]
    where = f" ({places[0]} to {places[-1]})" if len(record.files) == 1 and count > 1 else ""
    if len(record.files) == 1 and count == 1 and places[0]:
        where = f" ({places[0]})"
    leaky = ", with leaky ReLUs" if taken.activation == "leaky_relu" else ""
    parts = [
        f"{count} member{'s' if count > 1 else ''} × {given.model or given.factory}{leaky} out of {files}{where}",
        *filter(None, (NAMES[names] for names in record.names)),
        _normalised(given, record),
    ]
    if count > 1:
        weights = "" if ensemble.weights is None else f", weights {_row(ensemble.weights.tolist())}"
        parts.append(f"fused by {ensemble.rule.told}{weights}")
    if record.aside:
        parts.append(f"passed over: {outside.some(record.aside)}")
    if record.left_out:
        parts.append(f"left out by --prefix: {outside.some(record.left_out)}")
    if record.beside and ensemble.weights is None:
        parts.append(f"not used: {outside.some(record.beside)}")
    return ", ".join(parts)


def _normalised(given: Given, record: GivenRecord) -> str:
    numbers = f"({_row(record.mean[0])}; {_row(record.std[0])})" if len(record.mean) == len(record.std) == 1 else ""
    told = {
        "none": "not normalised" + (" outside of the network" if given.factory else ""),
        "dataset": f"normalised by the data set's mean and std {numbers}",
        "given": f"normalised by the given mean and std {numbers}",
        "file": f"normalised by the file's own mean and std {numbers}",
    }
    text = " or ".join(told[kind].strip() for kind in record.normalisation)
    ignored = record.file_normalises and "file" not in record.normalisation
    return text + (" instead of the file's own, as was said" if ignored else "")


def _row(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:.4g}" for number in numbers)


def _other_model(
    given: Given, contents: outside.WeightsFile, loaded: Loaded, dataset: Dataset, option: str = ""
) -> str:  # fmt: skip
    """What to add to a refusal where the weights fit another configured model, as those of another shortcut do.

    Args:
        option: that it takes beside the model.
    """
    for name in loaded.config.models:
        if name == given.model:
            continue
        if not _fits(given, name, contents, loaded, dataset):
            continue
        told = loaded.config.models[name].description
        instead = "" if given.factory is None else " instead of --factory"
        return f" --model {name}{option}{instead} does fit" + (f" ({told})" if told else "")
    return ""


def _other_dataset(given: Given, contents: outside.WeightsFile, loaded: Loaded) -> str:
    """What to add to a refusal where the weights fit the model on other data sets, as those for 100 classes do."""
    if given.model is None:
        return ""
    fitting = []
    for name in loaded.config.datasets:
        try:
            dataset = loaded.dataset(name)
        except BenchError:  # a plug-in that is not installed, or pictures that are not prepared here
            continue
        if name != given.dataset and _fits(given, given.model, contents, loaded, dataset):
            fitting.append(f"-d {name}")
    return f" They do fit with {' or '.join(fitting)}" if fitting else ""


def _fits(given: Given, model: str, contents: outside.WeightsFile, loaded: Loaded, dataset: Dataset) -> bool:
    """Whether the weights are those of another model, or of the model on another data set."""
    try:
        plugin, model_settings, _ = select.model_spec(loaded, model)
        network = build_member(plugin, model_settings, dataset=dataset).get_submodule("network")
        wanted = Wanted(network.state_dict(), model_plugin(plugin, model_settings).own_name)
        for part in layouts.recognise(contents, wanted, given.renaming, "").members:
            outside.load(network, part.state, "")
    except BenchError:
        return False
    return True


def fitting_models(given: Given, loaded: Loaded, dataset: Dataset) -> str:
    """The configured model that the first file fits, by its names or else by its order, as an advice; else nothing."""
    contents = outside.read(given.files[0])
    advice = _other_model(given, contents, loaded, dataset)
    if advice or given.renaming.renamed or given.renaming.by_order:
        return advice
    ordered = replace(given, renaming=replace(given.renaming, by_order=True))
    return _other_model(ordered, contents, loaded, dataset, " --by-order")
