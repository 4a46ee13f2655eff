"""Names follow from contents: whatever a record claims, nothing stands under a name that means something else here."""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from exchanged import place, write_evaluation, write_failure, write_run
from in_process import bench, command

from bench.cli import main
from bench.core import config
from bench.exchange import exporting, importing
from bench.exchange.merging import merge_from
from bench.experiment import select
from bench.experiment.names import Namer
from bench.experiment.naming import Configured
from bench.experiment.select import Selection
from bench.experiment.spec import EvaluationSpec, RunSpec
from bench.report import frames
from bench.store import ingest, queries
from bench.store.database import Database

LOADED = config.load(config.defaults("bench.toml"))
PUBLISHED = config.defaults("published")


@pytest.fixture(scope="module")
def names() -> Namer:
    return Configured(LOADED)


def made(method: str = "ece", dataset: str = "digits", *changes: str, **selected: Any) -> RunSpec:
    loaded = config.load(LOADED.path, changes)
    return select.run_spec(loaded, Selection(dataset=dataset, **selected), method, 0)


def said(run: RunSpec, **changes: Any) -> RunSpec:
    """The spec with other values or names."""
    return RunSpec.model_validate(run.model_dump() | changes)


def test_a_run_under_the_names_of_another_is_stored_under_its_own(tmp_path: Path, names: Namer) -> None:
    run = made()
    lie = said(run, method="trs", dataset="cifar10", model="resnet20")
    assert lie.run_id == run.run_id
    write_run(tmp_path / "lies", lie)
    pgd = select.evaluations(LOADED, Selection(attacks=("pgd",), eps=(0.1,)), run)[-1]
    write_evaluation(
        tmp_path / "lies", EvaluationSpec.model_validate(pgd.model_dump() | {"run": lie, "attack": "mora"})
    )
    exporting.export_runs(place(tmp_path / "lies"), [run.run_id], tmp_path / "lies.zip", weights=True)
    for name in ("imported", "merged", "folder", "rebuilt"):
        (tmp_path / name).mkdir()
    with Database(tmp_path / "imported/bench.db") as db:
        db.names = names
        importing.import_archive(tmp_path / "lies.zip", place(tmp_path / "imported"), db)
    ingest.rebuild(tmp_path / "lies.db", tmp_path / "lies/runs", PUBLISHED)  # by somebody who believes it
    for name, source in (("merged", tmp_path / "lies.db"), ("folder", tmp_path / "lies")):
        with Database(tmp_path / name / "bench.db").open(create=True) as db:
            db.names = names
            told, damaged = merge_from(db, str(source))
            assert (told.runs, told.evaluations, told.left_out, damaged) == (1, 1, (), ())
    ingest.rebuild(tmp_path / "rebuilt/bench.db", tmp_path / "lies/runs", PUBLISHED, names)
    for name in ("imported", "merged", "folder", "rebuilt"):
        with Database(tmp_path / name / "bench.db").open() as db:
            (row,), (attack,) = queries.runs(db), queries.evaluations(db)
            assert (row.method, row.dataset, row.model, row.recipe) == ("ece", "digits", "digits_cnn", "standard")
            assert (attack.attack, attack.dataset, attack.evaluation_id) == ("pgd", "digits", pgd.evaluation_id)
            (stored,) = queries.configs(db, plugin="ece")
            assert (stored["method"], stored["dataset"]) == ("ece", "digits")


def test_every_configured_method_keeps_its_name_on_every_data_set(names: Namer) -> None:
    for recipe, parts in LOADED.config.recipes.items():
        for dataset in parts.keys() & LOADED.config.datasets.keys():  # `default` is any data set
            for method in LOADED.config.methods:
                for members in (3, 5):
                    run = select.run_spec(LOADED, Selection(dataset=dataset, recipe=recipe, members=members), method, 0)
                    assert names.run(run)[:4] == (method, dataset, run.model, recipe)


def test_names_that_are_true_stay(names: Namer) -> None:
    for run in (
        made("trs", "cifar10"), made("dverge"), made("adp", "mnist", recipe="quick"), made(model="timm/resnet18"),
        made("trs", "digits", "methods.trs.lambda_a=77", "training.epochs=3", "data.validation=100"),
        made("dverge", "digits", "recipes.published.digits.epochs=3"), made(members=5),
        made("ece", "cifar10", "models.resnet8.depth=14", model="resnet8"),
    ):  # fmt: skip
        assert names.run(run) == (run.method, run.dataset, run.model, run.recipe, run.recipe_changes)


def test_what_is_configured_here_under_no_name_is_a_claim(names: Namer) -> None:
    trs = made("trs")
    other = {**trs.settings, "lambda_a": 77.0}
    assert names.run(said(trs, settings=other)).method == "trs (claimed)"
    assert names.run(said(trs, settings=other, method="trs (claimed)")).method == "trs (claimed)"
    assert names.run(said(trs, settings=other, method="a stranger's")).method == "a stranger's (claimed)"
    told = said(trs, settings=other, recipe_changes=("methods.trs.lambda_a=77",))
    assert names.run(told) == (*names.run(trs)[:4], ("methods.trs.lambda_a=77",))
    assert names.run(said(trs, plugin="unheard of")).method == "trs (claimed)"
    assert names.run(said(trs, dataset="cifar10", dataset_plugin="pictures")).dataset == "cifar10 (claimed)"
    assert names.run(said(trs, model_settings={"dropout": 0.4})).model == "digits_cnn (claimed)"
    slower = trs.training.model_copy(update={"epochs": 99})
    assert names.run(said(trs, training=slower)).recipe == "standard (claimed)"
    assert names.run(said(trs, validation=3)).recipe == "standard (claimed)"


def test_a_change_gives_a_name_no_other_plug_in(names: Namer) -> None:
    ece = made("ece")
    for change in ('methods.trs.plugin="ece"', 'datasets.cifar10.plugin="digits"', "methods.trs." + "[" * 900, "x"):
        lie = said(ece, method="trs", dataset="cifar10", recipe_changes=(change,))
        assert names.run(lie)[:3] == ("ece", "digits", "digits_cnn")


def test_a_content_has_the_name_that_it_has_here(names: Namer) -> None:
    quick = made("trs", recipe="quick")
    assert names.run(said(quick, recipe="published")) == names.run(quick)
    models = {**LOADED.config.models, "resnet20a": LOADED.config.models["resnet20"]}
    del models["resnet20"]
    renamed = Configured(replace(LOADED, config=LOADED.config.model_copy(update={"models": models})))
    assert renamed.run(made("ece", "mnist")).model == "resnet20a"


def test_what_a_method_needs_is_part_of_its_recipe(names: Namer) -> None:
    run = made("dverge")
    short = run.requires["ece"].training.model_copy(update={"epochs": 1})
    lie = said(run, requires={"ece": said(run.requires["ece"], training=short).model_dump()})
    assert names.run(lie).recipe == "standard (claimed)"


def test_an_alias_of_a_recipe_is_told_as_the_recipe(names: Namer) -> None:
    run = made("dverge")
    needed = said(run.requires["ece"], recipe="published").model_dump()
    older = said(run, recipe="published", requires={"ece": needed})
    assert older.run_id == run.run_id
    assert names.run(older) == names.run(run) == ("dverge", "digits", "digits_cnn", "standard", ())
    changed = said(made("ece", "digits", "recipes.standard.digits.epochs=3"), recipe="published")
    told = said(changed, recipe_changes=("recipes.published.digits.epochs=3",))
    assert names.run(told)[3:] == ("standard", ("recipes.standard.digits.epochs=3",))
    assert names.run(said(made("ece", "mnist"), recipe="standard")).recipe == "published"  # there it is no alias


def recipes_in(db: Path) -> set[str]:
    """Every word that SQL finds for a recipe: in the column and in configurations, down to what was required."""
    with sqlite3.connect(db) as connection:
        rows = connection.execute("SELECT recipe, config FROM run").fetchall()
    return {recipe for recipe, _ in rows} | set(re.findall(r'"recipe": "(.*?)"', " ".join(text for _, text in rows)))


def test_a_database_from_before_an_alias_has_one_name_for_a_recipe(tmp_path: Path) -> None:
    run = made("dverge")
    needed = said(run.requires["ece"], recipe="published")
    claim = said(needed, training=needed.training.model_copy(update={"epochs": 2}))
    run = said(run, recipe="published", requires={"ece": needed.model_dump()})
    for each in (run, needed, claim):
        write_run(tmp_path, each)
    failure = write_failure(tmp_path, run, "f" * 24)
    record = json.loads(failure.read_text())
    told = {"method": "trs", "dataset": "digits", "recipe": "published", "seed": 7, "model": "digits_cnn", "members": 3}
    failure.write_text(json.dumps(record | {"kind": "train", "describe": told}))
    older = Configured(config.load(Path(__file__).parents[1] / "releases/first.toml"))
    ingest.rebuild(tmp_path / "bench.db", tmp_path / "runs", PUBLISHED, older)
    assert recipes_in(tmp_path / "bench.db") == {"published", "published (claimed)"}

    at = ("--results", tmp_path)
    listed = json.loads(bench("list", "runs", "--json", *at))  # a command that shows writes nothing
    assert sorted((row["method"], row["recipe"]) for row in listed) == [
        ("dverge", "standard"), ("ece", "standard"), ("ece", "standard (claimed)"), ("trs", "standard"),
    ]  # fmt: skip
    assert "--recipe standard --model" in command("show", "f" * 24, *at)[1]
    found = frames.load(tmp_path / "bench.db")
    assert set(found.runs["recipe"]) == {"standard", "standard (claimed)"}
    bench("report", "-o", tmp_path / "site", *at)
    for page in (tmp_path / "site/runs").glob("*.html"):
        assert "standard" in page.read_text()
        assert "published" not in page.read_text(), page
    for recipe in ("standard", "published"):
        code, out, err = command("db", "export", "--recipe", recipe, "--no-weights", "-o", tmp_path / "x.zip", *at)
        assert (code, "2 runs" in out) == (0, True), err
    assert recipes_in(tmp_path / "bench.db") == {"published", "published (claimed)"}

    assert command("db", "upgrade", *at)[0] == 0  # as every command that writes
    assert recipes_in(tmp_path / "bench.db") == {"standard", "standard (claimed)"}
    with Database(tmp_path / "bench.db").open() as db:
        assert {row.run_id for row in queries.runs(db)} == {run.run_id, needed.run_id, claim.run_id}
        assert merge_from(db, str(tmp_path))[0].runs == 0  # the same runs
    with Database(tmp_path / "other.db").open(create=True) as db:  # the renamed rows pass the door
        assert merge_from(db, str(tmp_path / "bench.db"))[0].runs == 3


def test_attacks_are_named_by_what_they_do(names: Namer) -> None:
    pgd = select.evaluations(LOADED, Selection(attacks=("pgd",), eps=(0.1,)), made())[-1]

    def name(**changes: Any) -> str:
        return names.attack(EvaluationSpec.model_validate(pgd.model_dump() | changes))

    fgsm = select.evaluations(LOADED, Selection(attacks=("fgsm",), eps=(0.1,)), made())[-1]
    assert name() == name(attack="autoattack") == name(precision="bfloat16") == "pgd"
    assert name(settings={**pgd.settings, "steps": 5}) == "pgd"  # its settings are shown beside
    assert name(plugin="fgsm", settings=fgsm.settings) == "fgsm"
    assert name(plugin="fgsm", settings=fgsm.settings, attack="cw") == "fgsm"
    assert name(plugin="strange") == "pgd (claimed)"
    assert name(targets="random") == "pgd_targeted"
    assert name(targets="least_likely") == "pgd (claimed)"
    assert name(kind="transfer", targets="random") == "pgd"
    assert name(kind="clean", attack="pgd", plugin="clean", settings={}) == "clean"


def test_an_ensemble_trained_elsewhere_keeps_its_own_name_but_no_name_that_is_taken(names: Namer) -> None:
    mine = said(
        made(), method="mine", plugin="outside", recipe="outside", weights="0" * 24, model="a.b:make",
        model_plugin="factory", model_settings={"function": "a.b:make"},
        settings={"name": "mine", "fusion_rule": "mean_logits", "member_activation": "relu"},
    )  # fmt: skip
    assert names.run(mine) == ("mine", "digits", "a.b:make", "outside", ())
    assert names.run(said(mine, recipe="published", model="resnet20")).recipe == "outside"
    assert names.run(said(mine, model="resnet20")).model == "a.b:make"
    for taken in ("trs", "all"):
        lie = said(mine, method=taken, settings={**mine.settings, "name": taken})
        assert names.run(lie).method == f"{taken} (claimed)"
    assert names.run(said(mine, method="trs")).method == "trs (claimed)"


@pytest.mark.parametrize("words", [("db", "gc", "--dry-run"), ("run", "-m", "ece", "--dry-run"), ("db", "rebuild")])
def test_every_command_that_takes_files_in_names_them(tmp_path: Path, words: tuple[str, ...]) -> None:
    with Database(tmp_path / "bench.db").open(create=True):
        pass
    write_run(tmp_path, said(made(), method="trs", dataset="cifar10", model="resnet20"))
    assert main.run([*words, "--results", str(tmp_path)]) == 0
    with Database(tmp_path / "bench.db").open() as db:
        assert [(row.method, row.dataset) for row in queries.runs(db)] == [("ece", "digits")]
