"""What every plug-in must do, built-in or a stranger's: `bench doctor --plugin NAME` and the conformance tests.

Methods, attacks and models run on the built-in digits with a few images and steps, in a folder that is deleted
afterwards; a data set is read whole.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.attacks.base import Attack
from bench.attacks.judge import attack_images, predictions
from bench.attacks.problem import TOLERANCE, Problem, excess
from bench.core import config, registry, seeds, settings
from bench.core.config import Loaded
from bench.core.errors import BenchError, unknown_name
from bench.core.files import read_json
from bench.core.registry import PluginError
from bench.data.base import Dataset, ImageSet, load_splits
from bench.jobs import select, work
from bench.jobs.health import Check
from bench.jobs.spec import Job, RunSpec
from bench.jobs.workplace import Workplace
from bench.models.base import Model
from bench.models.build import build_member
from bench.models.ensemble import Ensemble
from bench.training import checkpoint
from bench.training.method import Batch, Method

QUICK = ("training.epochs=1", "training.limit=128", "training.batch_size=32")
Checks = Iterator[Check]


def check(name: str, data: Path = Path("data")) -> list[Check]:
    """All checks of the method, attack, data set or model called `name` (a configured name, or that of a plug-in).

    Raises:
        BenchError: nothing is called so.
    """
    loaded = config.load(changes=QUICK)
    found: list[Check] = []
    known: set[str] = set()
    for kind in registry.KINDS:
        tables, entries = getattr(loaded.config, kind), registry.entries(kind)
        known |= {*tables, *entries}
        if name in tables or name in entries:
            found += _guarded(lambda kind=kind: _plugin(kind, name, loaded, data))  # type: ignore[misc]
        refused = [entry.refused for entry in registry.left_out(kind) if entry.name == name]
        if name in entries and (hidden := config.hidden(kind, name, tables)):
            refused.append(f"{entries[name].label} cannot be reached: {hidden}")
        found += [Check("has a name of its own", False, text) for text in refused]
    if not found:
        raise unknown_name("plug-in", name, known)
    return found


def _guarded(checks: Callable[[], Checks]) -> Checks:
    """Checks up to the first exception, which is itself a fault found."""
    try:
        yield from checks()
    except PluginError as error:
        yield Check(error.check, False, str(error))
    except BenchError as error:
        yield Check("runs", False, str(error))
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = str(error).partition("\n")[0] or "(no message)"
        yield Check("runs", False, f"{type(error).__name__}: {text} ({Path(frame.filename).name}:{frame.lineno})")


def _plugin(kind: str, name: str, loaded: Loaded, data: Path) -> Checks:
    """First what a class is, then what it does with its settings."""
    tables = getattr(loaded.config, kind)
    name = name if name in tables else next((key for key, spec in tables.items() if spec.plugin == name), name)
    spec = tables.get(name)
    entry = registry.entry(kind, spec.plugin if spec else name)
    plugin = entry.load()
    yield from _declared(entry, plugin)
    if spec is None:
        yield Check("has settings", True, "each use brings its own; nothing more is checked here")
        return
    try:
        instance = settings.build(plugin, spec.settings, f"{kind}.{name}")
    except BenchError as error:
        yield Check("has settings", False, str(error))
        return
    yield Check("has settings", True, ", ".join(settings.complete(instance)) or "none")
    if isinstance(instance, Method):
        yield from _method(name, instance, loaded)
    elif isinstance(instance, Attack):
        yield from _attack(instance)
    elif isinstance(instance, Dataset):
        yield from _dataset(spec.plugin, instance, data)
    elif isinstance(instance, Model):
        yield from _model(spec.plugin, settings.plain(instance))


def _declared(entry: registry.Entry, plugin: type[Any]) -> Checks:
    """The shape of a plug-in class, beyond what loading it has checked."""
    yield Check("is loaded", True, f"{plugin.__module__}.{plugin.__qualname__} of {entry.package}")
    frozen = plugin.__dataclass_params__.frozen
    told = "" if frozen else "decorate it with @dataclass(frozen=True, kw_only=True)"
    yield Check("is a frozen dataclass", frozen, told)
    # A dataclass without a docstring gets its own signature for one.
    first = (inspect.getdoc(plugin) or "").partition("\n")[0]
    described = bool(first) and plugin.__doc__ is not None and not first.startswith(f"{plugin.__name__}(")
    told = "" if described else "the first line of its docstring is what people see"
    yield Check("has a description", described, told)
    yield Check("has a version", True, repr(plugin.version))


def _method(name: str, method: Method, loaded: Loaded) -> Checks:
    plugin = type(method)
    selection = select.Selection(methods=(name,), dataset="digits", members=max(2, plugin.minimum_members))
    run = select.run_spec(loaded, selection, name, 0)
    if plugin.loss is not Method.loss and plugin.fit is Method.fit:
        yield from _loss(method, run)
    with tempfile.TemporaryDirectory() as folder:
        first, second = (Workplace(results=Path(folder) / part, data=Path(folder)) for part in ("a", "b"))
        for needed in run.requires.values():
            for place in (first, second):
                _done(Job(run=needed), place)
        record = _done(Job(run=run), first)
        yield Check("runs", True, f"{record['seconds']:.1f} s for one epoch of 128 images")
        yield Check("records its loss", True, ", ".join(_terms(first, run)))
        with seeds.isolated(*work.initialisation_axes(run)):
            fresh = work.fresh_ensemble(run, plugin)
        trained, _ = checkpoint.load(first.weights_file(run.run_id))
        before = checkpoint.member_tensors(fresh.members)
        still = [k for k in range(run.members) if not _changed(k, before, trained)]
        told = f"member {still[0] + 1} kept its initial weights" if still else ""
        yield Check("every member learns", not still, told)
        _done(Job(run=run), second)
        again, _ = checkpoint.load(second.weights_file(run.run_id))
        same = trained.keys() == again.keys() and all(torch.equal(trained[key], again[key]) for key in trained)
        told = "" if same else "draw random numbers from batch.generator or torch's global one"
        yield Check("is repeatable", same, told)
        ensemble = work.load_ensemble(run, first)
        images = load_splits("digits", folder=Path(folder), test_limit=20).test
        output = ensemble(images.floats(slice(None)))
        fine = output.shape == (20, 10) and bool(output.isfinite().all())
        yield Check("its ensemble predicts", fine, f"output {tuple(output.shape)}, fusion {ensemble.fusion}")


def _loss(method: Method, run: RunSpec) -> Checks:
    """One call of a joint method's `loss`, each term looked at by itself.

    Raises:
        PluginError: what it returns is nothing that could be minimised.
    """
    images = load_splits("digits", folder=Path(), training_limit=32).train
    with seeds.isolated("conformance"):
        ensemble = work.fresh_ensemble(run, type(method)).train()
        pixels, indices = images.floats(), torch.arange(len(images))
        batch = Batch(images=pixels, labels=images.labels, indices=indices, epoch=0, epochs=1, progress=0.5,
                      generator=torch.Generator().manual_seed(0), others=lambda: pixels.flip(0))  # fmt: skip
        terms: Any = method.loss(list(ensemble.members), batch)
    if not isinstance(terms, dict) or not terms or not all(isinstance(term, str) for term in terms):
        told = f"loss returns a dict from names to terms, such as {{'ce': term}}, not {_seen(terms)}"
        raise PluginError("its loss has named terms", told)
    for term, value in terms.items():
        if not isinstance(value, torch.Tensor) or value.shape != ():
            raise PluginError("its loss is a number", f"term {term!r} is a scalar tensor, not {_seen(value)}")
    if not any(value.requires_grad for value in terms.values()):
        told = f"no gradient leads from {', '.join(terms)} to the members; was it detached or made under no_grad?"
        raise PluginError("its loss can be minimised", told)
    wrong = [f"{term!r} is {value.item():g}" for term, value in terms.items() if not bool(value.isfinite())]
    shown = ", ".join(f"{term} {value.item():.3g}" for term, value in terms.items())
    yield Check("its loss is finite", not wrong, f"term {', '.join(wrong)} on the first batch" if wrong else shown)


def _seen(value: Any) -> str:
    """What was found in place of something else: type, and of a tensor shape and dtype."""
    if isinstance(value, torch.Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _terms(place: Workplace, run: RunSpec) -> list[str]:
    lines = (place.run_folder(run.run_id) / "train.jsonl").read_text().splitlines()
    return [f"{name} {value:.3g}" for name, value in json.loads(lines[-1])["terms"].items()]


def _changed(member: int, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    keys = [key for key in before if key.startswith(f"members.{member}.")]
    return any(not torch.equal(before[key], after[key]) for key in keys)


def _done(job: Job, place: Workplace) -> dict[str, Any]:
    ok, path = work.perform(job, place)
    record: dict[str, Any] = read_json(path)
    if not ok:
        raise BenchError(record["error"])
    return record


def _watched(attack: Attack) -> Attack:
    """The same attack with at most 20 steps; what its `run` returns is looked at before anybody else sees it."""
    plugin = type(attack)

    def run(self: Attack, problem: Problem) -> torch.Tensor:
        result: Any = plugin.run(self, problem)
        if not isinstance(result, torch.Tensor) or result.shape != problem.images.shape:
            wanted = f"images {tuple(problem.images.shape)}, a row for each that the problem still holds"
            raise PluginError("returns an image for each", f"run returns {wanted}, not {_seen(result)}")
        if result.dtype != torch.float32:
            told = f"run returns torch.float32 images in [0, 1], not {result.dtype}"
            raise PluginError("returns float32 images", told)
        return result

    values = {field.name: getattr(attack, field.name) for field in dataclasses.fields(attack) if field.init}
    watched: Attack = type(plugin.__name__, (plugin,), {"run": run})(
        **values | ({"steps": min(values["steps"], 20)} if "steps" in values else {})
    )
    return watched


def _attack(attack: Attack) -> Checks:
    plugin = type(attack)
    attack = _watched(attack)
    with seeds.isolated("conformance"):
        digits = registry.load("datasets", "digits")()
        ensemble = Ensemble([build_member("digits_cnn", {}, dataset=digits) for _ in range(2)])
    images = load_splits("digits", folder=Path(), test_limit=24).test
    ensemble.train()
    budget = 0.1 if plugin.budget_name == "eps" else 1.0
    state = torch.get_rng_state()
    outcomes = [
        attack_images(
            attack,
            ensemble,
            images,
            budget=budget,
            stop="last",
            seed_axes=("conformance",),
            batch_size=size,
            keep_images=True,
        )
        for size in (24, 24, 7)
    ]
    first, again, smaller = (outcome.adversarial for outcome in outcomes)
    assert first is not None
    assert again is not None
    assert smaller is not None
    yield Check(
        "runs", True, f"{outcomes[0].forwards / 24:.0f} forwards, {outcomes[0].backwards / 24:.0f} backwards an image"
    )
    far = float(excess(first, images.floats(slice(None)), budget, plugin.norm).max())
    yield Check("keeps its budget and [0, 1]", far <= TOLERANCE, f"largest excess {max(0.0, far):.1g}")
    yield Check("is repeatable", torch.equal(first, again))
    close = bool((first - smaller).abs().flatten(1).amax(1).lt(1e-3).float().mean() > 0.8)
    told = "" if close else "take random numbers from problem.uniform() or problem.normal()"
    yield Check("does not depend on the batch size", close, told)
    clean = all(module.training for module in ensemble.modules()) and all(
        p.requires_grad for p in ensemble.parameters()
    )
    yield Check("leaves the model as it was", clean and all(p.grad is None for p in ensemble.parameters()))
    yield Check("leaves the global random state alone", torch.equal(state, torch.get_rng_state()))
    # Labels that the model agrees with: every image is attacked, and images leave the batch as they break.
    right = ImageSet(images.images, predictions(ensemble.eval(), images))
    broken = (
        attack_images(attack, ensemble, right, budget=budget, seed_axes=("conformance",)).robust.logical_not().sum()
    )
    yield Check("goes on when images have left", True, f"{int(broken)} of {len(right)} broke")
    if plugin.norm:
        none = attack_images(attack, ensemble, right, budget=0.0, seed_axes=("conformance",))
        yield Check("does nothing without budget", bool(none.robust.all()))


def _dataset(name: str, dataset: Dataset, folder: Path) -> Checks:
    channels = dataset.shape[0]
    fine = len(dataset.mean) == len(dataset.std) == channels and all(value > 0 for value in dataset.std)
    yield Check("has a mean and a std for each channel", fine, f"mean {dataset.mean}, std {dataset.std}")
    splits = load_splits(name, folder=folder, dataset=dataset)
    yield Check("runs", True, f"{len(splits.train):,} + {len(splits.test):,} images {dataset.shape}")
    for part, images in (("training", splits.train), ("test", splits.test)):
        missing = sorted(set(range(dataset.classes)) - set(images.labels.tolist()))
        told = f"no {part} image of class {missing[0]}" if missing else f"{dataset.classes}"
        yield Check(f"has {part} images of every class", not missing, told)
    right = dataset.test_images in (None, len(splits.test))
    yield Check("says how large its test set is", right, f"test_images {dataset.test_images}, read {len(splits.test)}")
    again = ImageSet(*dataset.load(folder, train=False))
    yield Check("is repeatable", again.digest == splits.test.digest)


def _model(name: str, values: dict[str, Any]) -> Checks:
    refused = []
    for dataset in ("digits", "mnist", "cifar10"):
        images = registry.load("datasets", dataset)()
        with seeds.isolated("conformance"):
            try:
                member = build_member(name, values, dataset=images).eval()
            except BenchError as error:
                refused.append(f"{dataset}: {error}")
                continue
            x = torch.rand(4, *images.shape)
        break
    else:
        yield Check("runs", False, f"it can be built for no data set ({'; '.join(refused)})")
        return
    calls: dict[nn.Module, int] = {}
    relus = [module for module in member.modules() if isinstance(module, nn.ReLU)]
    for module in relus:
        module.register_forward_hook(lambda module, *_: calls.update({module: calls.get(module, 0) + 1}))
    output = member(x)
    fine = isinstance(output, torch.Tensor) and output.shape == (4, images.classes) and bool(output.isfinite().all())
    yield Check("runs", fine, f"{_seen(output)} for 4 images of {dataset} with {images.classes} classes")
    if not fine:
        return
    plain = not any(module.inplace for module in relus) and all(count == 1 for count in calls.values())
    told = f"{len(relus)}" if plain else "nn.ReLU(inplace=False), one instance a place: methods exchange them by hooks"
    yield Check("has exchangeable ReLUs", plain, told)
    alone = torch.cat([member(image[None]) for image in x])
    yield Check("judges each image by itself", torch.allclose(alone, output, atol=1e-4))
    gradients = torch.autograd.grad(output.sum(), list(member.parameters()), allow_unused=True)
    unused = [key for (key, _), found in zip(member.named_parameters(), gradients, strict=True) if found is None]
    yield Check("uses all its weights", not unused, ", ".join(unused[:3]))
    with seeds.isolated("conformance"):
        again = build_member(name, values, dataset=images)
    states = zip(member.state_dict().values(), again.state_dict().values(), strict=True)
    same = all(torch.equal(one, other) for one, other in states)
    yield Check("is repeatable", same, "" if same else "draw weights from torch's global generator")
