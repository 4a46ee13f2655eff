"""How often attacks wait for the device: once a step to learn what broke, once more where something did."""

from __future__ import annotations

import dataclasses

import pytest

from bench.attacks import judge
from bench.attacks.conditions import Conditions
from bench.core import config, registry, settings

pytestmark = pytest.mark.usefixtures("_one_thread")
SHORT, LONG = 4, 12


def waiting(waits, ensemble, images, attack, budget: float, stop) -> tuple[int, judge.AttackOutcome]:
    outcomes = []
    conditions = Conditions(budget=budget, stop=stop)
    seen = waits(lambda: outcomes.append(judge.attack_images(attack, ensemble, images, conditions)))
    return len(seen), outcomes[0]


def attacks():
    setup = config.load()
    for name in ("bim", "pgd", "mim", "pgd_l2", "apgd_ce", "cw"):
        spec = setup.config.attacks[name]
        yield settings.build(registry.load("attacks", spec.plugin), spec.settings, name)


@pytest.mark.parametrize("attack", list(attacks()), ids=lambda attack: type(attack).__name__)
@pytest.mark.parametrize("fast", [False, True])
def test_waits_of_a_step(waits, digits, digits_ensemble, attack, fast, monkeypatch):
    monkeypatch.setattr(judge, "PIXELS", 0 if fast else 10**9)
    monkeypatch.setattr(judge, "PASSES", 0)
    images = digits.test.take(slice(0, 20))

    def waited(steps: int, budget: float, stop) -> int:
        changed = dataclasses.replace(attack, steps=steps)
        if attack.norm is None:  # its looks at a tenth of the steps are not meant here
            changed = dataclasses.replace(changed, early_stop=False)
        count, outcome = waiting(waits, digits_ensemble, images, changed, budget, stop)
        assert bool(outcome.robust.any())  # an attack that has nothing left ends early
        assert budget > 1e-6 or bool((outcome.clean == outcome.robust).all())
        return count

    tiny, strong = 1e-9, {"linf": 0.1, "l2": 0.7, None: 0.4}[attack.norm]
    more = LONG - SHORT
    assert waited(LONG, tiny, "last") == waited(SHORT, tiny, "last")
    assert waited(LONG, tiny, "first_success") == waited(SHORT, tiny, "first_success") + more
    # In the first steps, where most images break, a second wait; a few more for images that leave or end together.
    assert waited(LONG, strong, "first_success") <= waited(SHORT, tiny, "first_success") + 2 * more + SHORT + 2
