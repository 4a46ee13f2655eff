"""What later versions must read: ids follow from the records alone, and stored results stay current."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from exchanged import attack, spec

from bench.core import config, registry
from bench.core import settings as plugin_settings
from bench.core.settings import added
from bench.core.specs import Training
from bench.core.specs import added as added_field
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import EvaluationSpec, RunSpec

TESTS = Path(__file__).parent
CONFIGURATIONS = [config.defaults("bench.toml"), *sorted((TESTS / "releases").glob("*.toml"))]
COLUMNS = ("ece", "adaboost", "gradientboost", "ckae", "adp", "gal", "dverge", "cos_only", "cos_l2", "trs")
RAISED = {  # methods whose version rose since then, and why: their results are stale on purpose
    "dverge": "BatchNorm's running statistics see x_t in each step, as in the public code",
    "gal": "BatchNorm's running statistics see each batch twice, as in the public code",
}
CHOSEN = {  # settings that got another value since then, and what gives the old results their ids
    ("cifar10", "trs"): "methods.trs.lambda_b=0.1",  # the best of five on held-out images is .2
}
ARCHIVES: dict[Path, tuple[tuple[str, ...], dict[str, str]]] = {  # the suites that each holds whole, what rose since
    TESTS / "releases" / "first.zip": (("core", "figure2"), RAISED),
    TESTS.parent / "results" / "reference" / "digits" / "runs.zip": (("full",), {}),
}


@lru_cache
def stored(path: Path) -> tuple[set[str], set[str], set[str]]:
    """Ids of the families, runs and evaluations in an archive."""
    families, runs, evaluations = set(), set(), set()
    with ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("/run.json"):
                record = json.loads(archive.read(name))
                families.add(record["family_id"])
                runs.add(record["run_id"])
            elif "/evaluations/" in name:
                evaluations.add(Path(name).stem)
    return families, runs, evaluations


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.stem)
@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
@pytest.mark.parametrize("method", COLUMNS)
def test_results_of_every_release_are_current(method: str, path: Path, archive: Path) -> None:
    suites, raised = ARCHIVES[archive]
    families, runs, evaluations = stored(archive)
    loaded = config.load(path)
    for suite in suites:
        selection = Selection(methods=(method,), dataset="digits", suite=suite)
        for seed in range(3):
            run = select.run_spec(loaded, selection, method, seed)
            assert run.family_id in families
            assert (run.run_id in runs) == (method not in raised)
            if method not in raised:
                wanted = {each.evaluation_id for each in select.evaluations(loaded, selection, run)}
                assert wanted
                assert wanted <= evaluations


@pytest.mark.parametrize("path", CONFIGURATIONS[1:], ids=lambda path: path.stem)
def test_the_default_recipe_of_every_data_set_gives_the_ids_of_every_release(path: Path) -> None:
    then, today = config.load(path), config.load(CONFIGURATIONS[0])
    assert then.config.datasets.keys() <= today.config.datasets.keys()
    for dataset in then.config.datasets:
        for method in COLUMNS:
            before = select.run_spec(then, Selection(dataset=dataset, model="lenet"), method, 0)
            old = CHOSEN.get((dataset, method))
            now = config.load(CONFIGURATIONS[0], [old]) if old else today
            for recipe in (None, "published"):
                selection = Selection(dataset=dataset, model="lenet", recipe=recipe)
                run = select.run_spec(now, selection, method, 0)
                assert (run == select.run_spec(today, selection, method, 0)) is (old is None)
                assert (run.family_id, run.run_id) == (before.family_id, before.run_id), (dataset, method)


class LaterTraining(Training):
    warmup: int = added_field(0, ge=0)


class LaterRun(RunSpec):
    training: LaterTraining
    curriculum: str | None = added_field(None)


class LaterEvaluation(EvaluationSpec):
    judge: str = added_field("network")


def with_setting(plugin: type[Any]) -> type[Any]:
    """The plug-in as a later version has it: with one more setting, which follows from nothing in old records."""

    @dataclass(frozen=True, kw_only=True)
    class Later(plugin):  # type: ignore[misc]
        later: float = added(1.0)

    return Later


@pytest.mark.parametrize(
    ("kind", "name"), [("methods", "trs"), ("models", "digits_cnn"), ("datasets", "digits"), ("attacks", "pgd")]
)
def test_an_added_setting_is_in_no_id_and_no_record_until_it_is_set(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = Selection(methods=("trs",), dataset="digits", suite="figure2")

    def made(*changes: str) -> EvaluationSpec:
        """A black-box evaluation, which hangs on all four kinds."""
        loaded = config.load(config.defaults("bench.toml"), changes)
        return select.evaluations(loaded, selection, select.run_spec(loaded, selection, "trs", 0))[-1]

    before = made()
    load, later = registry.load, with_setting(registry.load(kind, name))
    monkeypatch.setattr(registry, "load", lambda *of: later if of == (kind, name) else load(*of))
    after, same, other = made(), made(f"{kind}.{name}.later=1"), made(f"{kind}.{name}.later=2")
    assert after.model_dump_json() == before.model_dump_json()
    assert after.evaluation_id == same.evaluation_id == before.evaluation_id != other.evaluation_id
    assert (other.run.run_id == before.run.run_id) == (kind == "attacks")
    assert (other.attack_key == before.attack_key) == (kind == "methods")  # surrogates have the others too
    assert plugin_settings.complete(later())["later"] == 1.0


def test_an_added_field_of_a_spec_is_in_no_id_and_no_record_until_it_is_set() -> None:
    run = spec()
    table = run.model_dump()

    def made(**changes: Any) -> LaterRun:
        return LaterRun.model_validate(table | changes)

    assert made().model_dump_json() == run.model_dump_json()
    assert (made().family_id, made().run_id) == (run.family_id, run.run_id)
    changed = [made(curriculum="easy first"), made(training=table["training"] | {"warmup": 5})]
    assert len({each.family_id for each in (run, *changed)}) == len({each.run_id for each in (run, *changed)}) == 3
    assert [LaterRun.model_validate_json(each.model_dump_json()).family_id for each in changed] == [
        each.family_id for each in changed
    ]

    evaluation = attack(run)
    same = LaterEvaluation.model_validate(evaluation.model_dump())
    other = LaterEvaluation.model_validate(evaluation.model_dump() | {"judge": "vote"})
    assert same.model_dump_json() == evaluation.model_dump_json()
    assert same.later() == evaluation.later()
    assert same.evaluation_id == evaluation.evaluation_id != other.evaluation_id
    assert (other.settings, other.later()) == ({"steps": 50}, {"judge": "vote"})
