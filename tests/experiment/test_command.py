"""The command that repeats a result: read again as it is printed, it is the same selection."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any, get_args

import pytest
from exchanged import spec
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bench.cli.options import Chosen, choose
from bench.cli.run import command as run
from bench.core import config
from bench.core.precision import Precision
from bench.core.seeds import parse_seeds, seeds_text
from bench.experiment.command import changed, of_run, of_selection, of_weights, words
from bench.experiment.select import Selection
from bench.experiment.spec import OUTSIDE

LOADED = config.load()
ATTACKS = {"eps": ("fgsm", "pgd", "pgd_l2"), "c": ("cw", "ead")}
CHANGES = (
    "training.decay_at=[0.5, 0.75]",
    "methods.trs.datasets.digits={ lambda_a = 3 }",
    'models.lenet.description=it\'s "so", $HOME `ls` \\ 5 % & more',
    "attacks.pgd.targets=none",
    "recipes.quick.digits.lr = 1e-05",
)
seeds = st.lists(st.integers(0, 2**31 - 1) | st.integers(0, 9), min_size=1, max_size=9, unique=True).map(tuple)


def typed(text: str) -> Chosen:
    """What the program makes of a command that a person pastes into a shell."""
    program, verb, *arguments = shlex.split(text)
    assert (program, verb) == ("bench", "run")
    return choose(needs_method=True, **run.make_context(verb, arguments).params)


@st.composite
def selections(draw: st.DrawFn) -> tuple[Selection, tuple[str, ...], str | None]:
    dataset = draw(st.sampled_from(["digits", "mnist", "cifar10"]))
    changes = draw(st.lists(st.sampled_from(CHANGES), unique=True).map(tuple))
    asked: dict[str, Any] = {"suite": draw(st.none() | st.sampled_from(["core", "table1", "figure2"]))}
    if draw(st.booleans()):
        attacks = draw(st.lists(st.sampled_from([*ATTACKS["eps"], *ATTACKS["c"]]), min_size=1, unique=True).map(tuple))
        most = {"eps": 1.0, "c": 1e6}
        asked = {"attacks": attacks}
        for name in (name for name, kinds in ATTACKS.items() if set(kinds) & set(attacks)):
            budgets = st.floats(1e-9, most[name]) | st.just(8 / 255)
            asked[name] = draw(st.lists(budgets, max_size=3, unique=True).map(tuple))
    if draw(st.booleans()):
        asked["split"], changes = "validation", (*changes, "data.validation=200")
    else:
        asked["limit"] = draw(st.none() | st.integers(1, 500))
    selection = Selection(
        methods=tuple(draw(st.lists(st.sampled_from(["trs", "ece", "paper", "all"]), min_size=1, unique=True))),
        dataset=dataset,
        recipe=draw(st.none() | st.sampled_from(["published", "quick"])),
        model=draw(st.none() | st.text(min_size=1)),
        members=draw(st.none() | st.integers(1, 1000)),
        seeds=draw(seeds),
        **asked,
    )
    return selection, changes, draw(st.none() | st.sampled_from(get_args(Precision)))


@given(selections())
@hypothesis_settings(max_examples=60)
def test_a_printed_command_is_read_as_the_selection_that_it_was_made_of(
    drawn: tuple[Selection, tuple[str, ...], Precision | None],
) -> None:
    selection, changes, precision = drawn
    chosen = typed(shlex.join(words(selection, changes, precision)))
    assert chosen.selection == selection
    assert (chosen.loaded.changes, chosen.loaded.precision) == (changes, precision)
    assert chosen.seeds == (None if selection.seeds == (0,) else selection.seeds)
    again = typed(of_selection(chosen.loaded, selection))
    assert (again.selection, again.loaded.changes) == (selection, changes)


@given(seeds)
def test_seeds_are_read_as_they_are_written(some: tuple[int, ...]) -> None:
    assert parse_seeds(seeds_text(some)) == some
    assert seeds_text(range(5)) == "0-4"


def test_a_run_is_repeated_by_the_names_of_its_record() -> None:
    one = spec().model_copy(update={"seed": 3, "recipe_changes": (CHANGES[0],)})
    text = of_run(one.described())
    assert "--set 'training.decay_at=[0.5, 0.75]'" in text
    chosen = typed(text)
    asked = Selection(
        methods=(one.method,), dataset=one.dataset, recipe=one.recipe, model=one.model, members=one.members, seeds=(3,)
    )
    assert (chosen.selection, chosen.loaded.changes) == (asked, one.recipe_changes)
    limited = typed(of_run(one.described(), changes=["attacks.pgd.steps=7"], attacks=("pgd",), eps=(8 / 255,), limit=9))
    assert limited.selection == replace(asked, attacks=("pgd",), eps=(8 / 255,), limit=9)
    assert limited.loaded.changes == (*one.recipe_changes, "attacks.pgd.steps=7")


@pytest.mark.parametrize("recipe", [OUTSIDE, f"{OUTSIDE} (claimed)"])
def test_a_training_elsewhere_is_not_repeated_but_its_evaluations_are(recipe: str) -> None:
    one = spec().model_copy(update={"method": "my defence", "recipe": recipe, "recipe_changes": CHANGES, "seed": 2})
    assert of_run(one.described()) == "bench run --method 'my defence' --dataset digits --seeds 2"
    told = {"fusion_rule": "mean_probability", "member_activation": "relu"}
    one = one.model_copy(update={"settings": told, "model_plugin": "resnet", "model": "resnet20"})
    start = "bench evaluate FILE… --model resnet20 --name 'my defence'"
    assert of_weights(one) == f"{start} --seed 2 --dataset digits"
    asked = Selection(methods=("my defence",), attacks=("pgd",), eps=(0.01,), limit=20, seeds=(0, 2))
    assert of_weights(one, asked=asked).endswith("--seed 2 --dataset digits --attack pgd --eps 0.01 --limit 20")
    other = one.model_copy(update={"settings": {"fusion_rule": "majority_vote", "member_activation": "leaky_relu"}})
    assert f"{start} --fusion majority_vote --activation leaky_relu --seed 2" in of_weights(other)
    other = one.model_copy(update={"model_plugin": "factory", "model": "my.nets:make"})
    assert "--factory my.nets:make" in of_weights(other)


def test_an_empty_table_names_a_suite_or_attacks_and_a_method_as_an_example() -> None:
    assert of_selection(LOADED, Selection(), suite="core") == "bench run --method trs --dataset digits --suite core"
    attacks = Selection(methods=("ece",), attacks=("fgsm", "pgd"), eps=(0.1, 0.2), seeds=(0, 1, 2))
    assert of_selection(LOADED, attacks, suite="core").endswith("--seeds 0-2 --attack fgsm,pgd --eps 0.1,0.2")


@pytest.mark.parametrize(
    "value", [None, True, 3, 0.001, 1e-05, 'say "no"\n', "8/255", [0.5, [1, "x"]], {"a b": [True]}]
)
def test_a_changed_setting_is_read_as_it_was(value: object) -> None:
    (change,) = changed("training", {"x": "another"}, {"x": value})
    assert config.parse_value(change.removeprefix("training.x=")) == value
    assert changed("training", {"x": value}, {"x": value}) == []
