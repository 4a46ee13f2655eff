"""Methods on other methods: how bench.toml names them, what their records and ids hold, when they are stale."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench.baselines.adp import Adp
from bench.baselines.dverge import Dverge
from bench.baselines.igat import Igat
from bench.core import config, registry, settings
from bench.core.errors import BenchError
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import RunSpec
from bench.methods.drt import Drt
from bench.methods.trs import Trs
from bench.methods.trs_at import TrsAt
from bench.store import standing
from bench.training.adversary import pgd
from bench.training.compound import AtJoint

ON_ADP = {"method": "adp", "plugin": "adp", "settings": {"alpha": 1.0}}


def spec(method: str, *changes: str, **selection) -> RunSpec:
    return select.run_spec(config.load(changes=changes), Selection(**selection), method, 0)


def written(tmp_path, text: str) -> config.Loaded:
    path = tmp_path / "bench.toml"
    path.write_text(config.defaults("bench.toml").read_text() + text)
    return config.load(path)


def test_a_record_holds_the_other_method_with_all_of_its_settings():
    run = spec("igat_adp")
    assert run.settings["on"] == {"method": "adp", "plugin": "adp", "settings": {"alpha": 2.0, "beta": 0.5}}
    assert run.requires == {"adp": spec("adp")}
    made = settings.build(registry.load("methods", run.plugin), run.settings, "igat_adp")
    assert made.inner == Adp()
    assert settings.plain(made) == run.settings
    assert RunSpec.model_validate_json(run.model_dump_json()).run_id == run.run_id


def test_what_is_said_of_the_other_method_holds_here_too():
    run, changed = spec("igat_adp"), spec("igat_adp", "methods.adp.alpha=3")
    assert changed.settings["on"]["settings"]["alpha"] == 3.0
    assert changed.family_id != run.family_id
    assert changed.recipe_changes == ("methods.adp.alpha=3",)
    for dataset, members, eps in (("digits", 3, 0.2), ("cifar10", 3, 0.07), ("cifar10", 5, 0.05)):
        on = spec("igat_dverge", dataset=dataset, members=members).settings["on"]
        assert on["settings"] == spec("dverge", dataset=dataset, members=members).settings
        assert on["settings"]["eps"] == eps


def test_another_method_may_be_named_on_the_command_line():
    run = spec("igat_adp", "methods.igat_adp.on=gal")
    assert run.settings["on"]["plugin"] == "gal"
    assert set(run.requires) == {"gal"}


def test_its_ensemble_is_as_that_of_the_other_method():
    method = AtJoint(on={"method": "gal", "plugin": "gal", "settings": {}})
    assert (method.activation, method.minimum_members, AtJoint.activation) == ("leaky_relu", 2, "relu")
    dverge = AtJoint(on={"method": "dverge", "plugin": "dverge", "settings": {}})
    assert dverge.prerequisites() == ("ece",)


def test_a_result_is_stale_once_the_other_method_has_a_newer_version(monkeypatch):
    run = spec("igat_adp")
    assert run.versions["on"] == Adp.version == 1
    found = standing.spec_versions(run)
    assert found["methods/adp"] == found["methods/igat"] == 1
    assert not standing.Installed().older(found)
    monkeypatch.setattr(Adp, "version", 2)
    assert standing.Installed().older(found) == ("method adp is version 1, today 2",)
    newer = spec("igat_adp")
    assert newer.family_id == run.family_id
    assert newer.run_id != run.run_id
    assert "on" not in spec("trs_at").versions


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[methods.x]\nplugin = "at_joint"', 'does not say which; add, say, on = "adp"'),
        ('[methods.x]\nplugin = "at_joint"\non = "adpp"', "unknown method 'adpp'; did you mean adp"),
        ('[methods.x]\nplugin = "at_joint"\non = "igat_adp"', "itself on adp: one is allowed"),
        ('[methods.x]\nplugin = "at_joint"\non = "trs_at"', "trs_at is itself on another method"),
        ('[methods.x]\nplugin = "at_joint"\non = "adaboost"', r"adaboost trains in a way of its own \(`fit`\)"),
        ('[methods.x]\nplugin = "at_joint"\non = "lotos"', r"lotos trains in a way of its own \(`fit`\)"),
        ('[methods.x]\nplugin = "adp"\non = "gal"', "unknown setting of methods.x 'on'"),
    ],
)
def test_what_cannot_be_is_told(tmp_path, text, told):
    with pytest.raises(BenchError, match=told):
        select.run_spec(written(tmp_path, f"\n{text}\n"), Selection(), "x", 0)


def test_trs_at_has_the_ids_that_it_had_before():
    for dataset, run_id in (("digits", "eccc81f454de0b8e4a6490da"), ("cifar10", "a8a2b78885b0ad09028f7446")):
        assert spec("trs_at", dataset=dataset).run_id == run_id


@pytest.mark.parametrize("terms", ["paper", "official"])
def test_trs_at_is_adversarial_training_of_trs_bit_by_bit(small, terms):
    x, y = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    members = [small.network().eval() for _ in range(2)]
    attack = {"attack_eps": 0.05, "attack_step": 0.02, "attack_steps": 3}
    inner = Trs(terms=terms)
    on = {"method": "trs", "plugin": "trs", "settings": settings.plain(inner)}
    first = TrsAt(terms=terms, **attack).loss(members, small.batch(x, y))
    second = AtJoint(on=on, **attack).loss(members, small.batch(x, y))
    batch = small.batch(x, y)  # what trs_at was before, written out
    third = inner.loss(members, batch)
    images = pgd(members, x, y, radius=0.05, step=0.02, steps=3, noise=batch)
    losses = torch.stack([nn.functional.cross_entropy(member(images), y) for member in members])
    third["ce"] = losses.sum() if terms == "official" else losses.mean()
    assert list(first) == list(second) == list(third)
    for name, value in third.items():
        assert torch.equal(first[name], value)
        assert torch.equal(second[name], value)
    assert {field.name for field in fields(TrsAt)} - {field.name for field in fields(Trs)} == {"on", *attack}


def on_clean_images() -> list[str]:
    """The configured methods that adversarial training can be on and that have a cross-entropy at clean images."""
    found = []
    for name, each in config.load().config.methods.items():
        try:
            made = AtJoint(on={"method": name, "plugin": each.plugin, "settings": each.settings}).inner
        except BenchError:  # it trains in a way of its own
            continue
        if not each.adversarial and not isinstance(made, (Dverge, Drt)):  # of other images
            found.append(name)
    return found


@pytest.mark.parametrize("name", on_clean_images())
def test_adversarial_training_counts_members_as_the_other_method_does(small, name):
    x, y = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    members = [small.network().eval() for _ in range(3)]
    each = config.load().config.methods[name]
    given = each.settings | ({"noise": 0.0} if name == "gal" else {})  # the images themselves
    method = AtJoint(on={"method": name, "plugin": each.plugin, "settings": given}, attack_eps=0.0)
    plain = method.inner.loss(members, small.batch(x, y))
    terms = method.loss(members, small.batch(x, y))
    assert list(terms) == list(plain)
    for key, value in plain.items():
        assert terms[key].item() == pytest.approx(value.item(), rel=1e-5)
    losses = [nn.functional.cross_entropy(member(x), y).item() for member in members]
    assert terms["ce"].item() == pytest.approx(sum(losses) / 3, rel=1e-5) or terms["ce"].item() == pytest.approx(
        sum(losses), rel=1e-5
    )


def test_methods_of_every_kind_are_among_those():
    assert {"ece", "adp", "gal", "ckae", "cos_l2", "trs_official", "deg", "parl"} <= set(on_clean_images())


def test_a_method_without_cross_entropy_gets_it(small):
    on = {"method": "dverge", "plugin": "dverge", "settings": {"steps": 1}}
    with_it = AtJoint(on=on, attack_steps=1).loss([small.network() for _ in range(2)], small.batch(
        torch.rand(4, 1, 8, 8), torch.arange(4)))  # fmt: skip
    assert list(with_it) == ["distilled", "ce"]


def test_a_compound_starts_as_the_other_does_or_from_its_ensemble(small):
    starts = []
    trainer = SimpleNamespace(
        prerequisites={name: SimpleNamespace(members=name) for name in ("ece", "adp")}, start_from=starts.append
    )
    AtJoint(on={"method": "dverge", "plugin": "dverge", "settings": {}}).begin(trainer)
    AtJoint(on=ON_ADP).begin(trainer)
    Igat(on=ON_ADP).begin(trainer)
    assert starts == ["ece", "adp"]
