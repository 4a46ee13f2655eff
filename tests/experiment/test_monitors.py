"""What a training is watched by: how it is written, and what of it is part of a run's identity."""

from __future__ import annotations

import pytest

from bench.core import config, registry
from bench.core.errors import BenchError
from bench.experiment import monitors, select
from bench.experiment.naming import Configured
from bench.experiment.select import Selection
from bench.experiment.spec import RunSpec

HELD_OUT = "data.validation=50"
PGD = 'training.monitor=["pgd:eps=0.05,steps=3"]'


def run(*changes: str) -> RunSpec:
    return select.run_spec(config.load(config.defaults("bench.toml"), changes), Selection(), "ece", 0)


def test_a_monitor_is_a_configured_attack_with_changes() -> None:
    spec = run(HELD_OUT, 'training.monitor=["pgd:eps=8/255,steps=3", "far=pgd_l2"]', "training.monitor_every=5")
    near, far = spec.monitor
    assert (near.name, near.attack, near.budget, near.settings["steps"], near.every) == ("pgd", "pgd", 8 / 255, 3, 5)
    assert near.settings["rel_step"] == 0.1
    assert (far.name, far.attack, far.budget) == ("far", "pgd_l2", 0.5)  # the first budget of bench.toml
    assert run(HELD_OUT, "training.monitor=pgd:eps=0.1").monitor[0].budget == 0.1


def test_being_watched_is_no_part_of_a_run() -> None:
    plain, watched = run(HELD_OUT), run(HELD_OUT, PGD, "training.monitor_every=2")
    assert watched.monitor
    assert (watched.run_id, watched.family_id) == (plain.run_id, plain.family_id)
    assert watched.recipe_changes == plain.recipe_changes == (HELD_OUT,)
    assert "monitor" not in plain.model_dump(mode="json")
    assert "keep" not in plain.model_dump(mode="json")


def test_the_rule_by_which_an_epoch_is_kept_is() -> None:
    keep = "training.keep=best:pgd"
    plain, kept = run(HELD_OUT, PGD), run(HELD_OUT, PGD, keep)
    assert kept.family_id != plain.family_id
    assert kept.recipe_changes == (HELD_OUT, PGD, keep)
    others = [
        run(HELD_OUT, "training.keep=best:clean"),
        run(HELD_OUT, PGD, keep, "training.monitor_every=2"),
        run(HELD_OUT, PGD.replace("0.05", "0.06"), keep),
        run(HELD_OUT, PGD.replace("steps=3", "steps=4"), keep),
    ]
    assert len({plain.family_id, kept.family_id, *(each.family_id for each in others)}) == 6
    for same in (
        run(HELD_OUT, PGD.replace("pgd", "x=pgd"), "training.keep=best:x"),  # a label is a name
        run(HELD_OUT, PGD.replace("]", ', "fgsm:eps=0.1"]'), keep),  # nor does it matter what else is watched
    ):
        assert (same.run_id, same.family_id) == (kept.run_id, kept.family_id)


def test_the_version_of_the_attack_is_one_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.store.standing import spec_versions

    before = run(HELD_OUT, PGD, "training.keep=best:pgd")
    attack = registry.load("attacks", "pgd")
    monkeypatch.setattr(attack, "version", attack.version + 1)
    after = run(HELD_OUT, PGD, "training.keep=best:pgd")
    assert after.family_id == before.family_id
    assert after.run_id != before.run_id
    assert spec_versions(after)["attacks/pgd"] == spec_versions(before)["attacks/pgd"] + 1


def test_a_recipe_may_say_all_of_it() -> None:
    table = "recipes.standard.digits"
    spec = run(f"{table}.validation=50", f'{table}.monitor=["pgd:eps=0.05,steps=3"]', f"{table}.keep=best:pgd")
    assert spec.validation == 50
    assert spec.family_id == run(HELD_OUT, PGD, "training.keep=best:pgd").family_id
    own = run(HELD_OUT, f"{table}.methods.ece.monitor=pgd:eps=0.05,steps=3", f"{table}.methods.ece.keep=best:pgd")
    assert own.family_id == spec.family_id


def test_the_recipe_of_a_kept_epoch_is_looked_up_by_its_content() -> None:
    names = Configured(config.load(config.defaults("bench.toml")))
    kept = run(HELD_OUT, PGD, "training.keep=best:pgd")
    assert names.run(kept).recipe == "standard"
    told = kept.model_copy(update={"recipe_changes": (HELD_OUT,)})
    assert names.run(told).recipe == "standard (claimed)"
    assert kept.keep is not None
    again = run(HELD_OUT, *monitors.changes(kept.keep))
    assert again.run_id == kept.run_id
    assert run(HELD_OUT, PGD, "training.keep=best:pgd", *monitors.changes(None)).run_id == run(HELD_OUT).run_id


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ((PGD,), "never on test images: hold some out"),
        (("training.keep=best:clean",), "never on test images"),
        ((HELD_OUT, "training.keep=best:pgd"), "unknown monitor 'pgd'"),
        ((HELD_OUT, PGD, "training.keep=best:pgt"), "did you mean pgd"),
        ((HELD_OUT, PGD, "training.keep=first"), "keep: "),
        ((HELD_OUT, "training.monitor=pdg:eps=0.1"), "did you mean pgd"),
        ((HELD_OUT, "training.monitor=pgd:eps=0.1,stepps=3"), "did you mean steps"),
        ((HELD_OUT, "training.monitor=pgd:eps=x"), "write pgd:eps=NUMBER"),
        ((HELD_OUT, "training.monitor=pgd:eps"), "is written"),
        ((HELD_OUT, "training.monitor=pgd:eps=.1,eps=.2"), "each setting once"),
        ((HELD_OUT, "training.monitor=:eps=.1"), "is written"),
        ((HELD_OUT, "training.monitor=clean=pgd:eps=.1"), "choose another label"),
        ((HELD_OUT, 'training.monitor=["pgd:eps=.1", "pgd:eps=.2"]'), "a label of its own"),
        ((HELD_OUT, "training.monitor_every=0"), "monitor_every"),
        ((HELD_OUT, "training.monitr=pgd"), "did you mean monitor"),
    ],
)
def test_what_cannot_be_watched_is_said(changes: tuple[str, ...], told: str) -> None:
    with pytest.raises(BenchError) as error:
        run(*changes)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
