"""Methods as jobs: what they need first, how many members, and what a stored ensemble brings back."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
import torch
from torch import nn

from bench.core import config, registry, settings
from bench.core.errors import BenchError
from bench.core.tables import PACKAGE
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import Job
from bench.jobs import ensembles, work
from bench.jobs.workplace import Workplace

PAPER = ["adaboost", "gradientboost", "ckae", "adp", "gal", "dverge", "cos_only", "cos_l2", "trs"]
DATASETS = ["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"]
MEMBERS = {"adv_oap": 8, "mrboost": 5, "mrboost_mce": 5, "barre": 5}  # of their authors' codes on CIFAR
TINY = ["training.epochs=1", "training.limit=64"]


def loaded(*changes: str):
    return config.load(PACKAGE.parent / "bench.toml", changes)


def spec(method: str, *changes: str, **selection):
    return select.run_spec(loaded(*changes), Selection(**selection), method, 0)


def test_the_columns_of_the_paper_stand_in_its_order():
    methods = loaded().config.methods
    assert select.method_names(loaded(), ("paper",)) == PAPER
    assert next(iter(methods)) == "ece"
    assert all(method.title for method in methods.values())


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("recipe", ["published", "quick"])
def test_every_method_is_complete_on_every_data_set(dataset, recipe):
    setup = loaded()
    for method in setup.config.methods:
        run = select.run_spec(setup, Selection(dataset=dataset, recipe=recipe), method, 0)
        own = MEMBERS if dataset.startswith("cifar") and recipe == "published" else {}
        assert run.members == (1 if method in ("at_fgsm", "at_pgd_l2", "at_pgd_linf") else own.get(method, 3))


@pytest.mark.parametrize("kind", ["methods", "attacks"])
def test_a_number_below_what_it_can_mean_is_refused_whatever_it_is_of(kind):
    """Radii, steps and weights below 0 would train or attack in silence, the other way or not at all."""
    setup = loaded()
    for name, spec in getattr(setup.config, kind).items():
        plugin = registry.load(kind, spec.plugin)
        for field in fields(plugin):
            if not field.init or "Literal" in str(field.type) or not ("float" in field.type or "int" in field.type):
                continue
            below = -0.5 if "float" in field.type else -1
            with pytest.raises(BenchError, match=field.name):
                settings.build(plugin, {**spec.settings, field.name: below}, f"{kind}.{name}")
            if field.name in ("steps", "attack_steps", "queries", "restarts", "rounds", "draws", "bins"):
                with pytest.raises(BenchError, match=f"{field.name} .* at least 1"):
                    settings.build(plugin, {**spec.settings, field.name: 0}, f"{kind}.{name}")


def test_registered_methods_say_their_settings():
    for name, entry in registry.entries("methods").items():
        if entry.origin == "bench":
            assert "fficial settings" in (entry.load().__doc__ or ""), name


def test_dverge_asks_for_the_plain_ensemble_of_the_same_run():
    selection = Selection(dataset="cifar10", model="resnet8", members=5, seeds=(3,))
    run = select.run_spec(loaded(), selection, "dverge", 3)
    assert run.requires == {"ece": select.run_spec(loaded(), selection, "ece", 3)}
    assert (run.requires["ece"].members, run.requires["ece"].seed) == (5, 3)
    assert run.training.epochs == 200
    assert run.settings["eps"] == 0.05  # of five members; any other number has .07


def test_pretrained_members_are_single_models_whatever_is_selected():
    for members in (None, 3):
        run = spec("trs_report_pretrained", members=members)
        assert {name: needed.members for name, needed in run.requires.items()} == {
            "at_fgsm": 1, "at_pgd_l2": 1, "at_pgd_linf": 1,
        }  # fmt: skip
    assert spec("trs_report").requires == {}
    assert spec("at_pgd_linf", members=2).members == 2


def test_the_number_of_members_is_checked():
    from bench.core.errors import BenchError

    with pytest.raises(BenchError, match="adp needs at least 2 members, at most 1,000, not 1"):
        spec("adp", members=1)


@pytest.mark.parametrize("method", ["adaboost", "gradientboost", "gal"])
def test_a_stored_ensemble_comes_back_with_its_rule_and_activation(method, tmp_path):
    run, place = spec(method, *TINY), Workplace(tmp_path, tmp_path)
    ok, path = work.perform(Job(run=run), place)
    record = json.loads(path.read_text())
    assert ok, record.get("error")
    ensemble = ensembles.load_ensemble(run, place)
    expected = {"adaboost": "weighted_probability", "gradientboost": "sum_logits", "gal": "mean_probability"}[method]
    assert ensemble.fusion == record["fusion"] == expected
    if method == "gal":
        assert record["activation"] == "leaky_relu"
        slopes = [part.negative_slope for part in ensemble.modules() if isinstance(part, nn.LeakyReLU)]
        assert slopes == [0.1] * 9
        assert not any(isinstance(part, nn.ReLU) for part in ensemble.modules())
        return
    assert ensemble.weights.tolist() == record["fusion_weights"]
    x = torch.rand(5, 1, 8, 8)
    logits = ensemble.member_logits(x).double()
    w = ensemble.weights.double()[:, None, None]
    naive = (w * logits).sum(0) if method == "gradientboost" else (w * logits.softmax(2)).sum(0).log()
    assert torch.allclose(ensemble(x).double(), naive, atol=1e-5)


def test_dverge_trains_after_its_prerequisite(tmp_path):
    run, place = spec("dverge", *TINY), Workplace(tmp_path, tmp_path)
    ok, path = work.perform(Job(run=run), place)
    assert not ok
    assert "weights are missing" in json.loads(path.read_text())["error"]
    for job in (Job(run=run.requires["ece"]), Job(run=run)):
        ok, path = work.perform(job, place)
        assert ok, json.loads(path.read_text())
    assert json.loads(path.read_text())["requires"] == {"ece": run.requires["ece"].run_id}
