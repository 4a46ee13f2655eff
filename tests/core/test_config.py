"""bench.toml and --set: what holds, what wins, what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.core import config, numbers, tables
from bench.core.errors import BenchError
from bench.core.specs import Training
from bench.experiment import select
from bench.experiment.select import Selection

ROOT = Path(__file__).resolve().parents[2]


def resolved(*changes: str, method: str = "trs", **selection: object):  # type: ignore[no-untyped-def]
    loaded = config.load(ROOT / "bench.toml", changes)
    return select.run_spec(loaded, Selection(**selection), method, 0)  # type: ignore[arg-type]


def test_every_method_resolves_on_every_data_set_under_every_recipe() -> None:
    loaded = config.load(ROOT / "bench.toml")
    for recipe, parts in loaded.config.recipes.items():
        for dataset in parts.keys() - {tables.ANY}:
            for method in loaded.config.methods:
                run = select.run_spec(loaded, Selection(dataset=dataset, recipe=recipe), method, 0)
                assert run.training.epochs >= 1
                rows = select.evaluations(loaded, Selection(dataset=dataset, recipe=recipe), run)
                assert len({row.evaluation_id for row in rows}) == len(rows)


def test_every_suite_resolves_on_its_data_sets() -> None:
    loaded = config.load(ROOT / "bench.toml")
    for name, suite in loaded.config.suites.items():
        for dataset in suite.datasets or loaded.config.datasets:
            selection = Selection(dataset=dataset, suite=name)
            run = select.run_spec(loaded, selection, "ece", 0)
            assert len(select.evaluations(loaded, selection, run)) > 1


def test_a_data_sets_value_wins_over_the_general_one_and_the_command_line_over_both() -> None:
    assert resolved(dataset="cifar10").settings["delta_end"] == 0.03
    assert resolved(dataset="mnist").settings["delta_end"] == 0.2
    assert resolved("methods.trs.delta_end=0.5", dataset="cifar10").settings["delta_end"] == 0.5
    assert resolved("methods.trs.datasets.cifar10.delta_end=0.5", dataset="cifar10").settings["delta_end"] == 0.5


def eps_of(*changes: str, dataset: str = "cifar10", members: int | None = None) -> float:
    loaded = config.load(ROOT / "bench.toml", changes)
    selection = Selection(dataset=dataset, recipe="quick", members=members)
    found = select.run_spec(loaded, selection, "dverge", 0).settings["eps"]
    assert isinstance(found, float)
    return found


def test_a_number_of_members_has_settings_of_its_own_which_the_record_tells() -> None:
    assert [eps_of(members=members) for members in (None, 3, 5, 8)] == [0.07, 0.07, 0.05, 0.07]
    assert eps_of(dataset="mnist", members=5) == 0.35
    own = "methods.dverge.datasets.cifar10"
    for change in ("methods.dverge.eps=0.1", f"{own}.eps=0.1", f"{own}.by_members.5.eps=0.1"):
        assert eps_of(change, members=5) == 0.1
    assert eps_of(f"{own}.by_members.8.eps=0.02", members=8) == 0.02
    assert "by_members" not in resolved(method="dverge", dataset="cifar10").settings


@pytest.mark.parametrize("value", ["5", "[1]", "{five={eps=0.1}}", "{5=0.1}"])
def test_settings_of_a_number_of_members_are_tables_by_number(value: str) -> None:
    with pytest.raises(BenchError, match="a table for each number of members") as told:
        config.load(ROOT / "bench.toml", [f"methods.dverge.datasets.cifar10.by_members={value}"])
    assert "\n" not in str(told.value)


def test_training_given_on_the_command_line_wins_over_recipe_and_method() -> None:
    assert resolved(method="ece", dataset="cifar10").training.optimizer == "sgd"
    run = resolved("training.optimizer=adam", "training.lr=5e-4", method="ece", dataset="cifar10")
    assert (run.training.optimizer, run.training.lr) == ("adam", 5e-4)
    assert run.recipe_changes == ("training.optimizer=adam", "training.lr=5e-4")


def test_a_precision_that_is_given_holds_for_every_attack_and_none_leaves_what_is_configured() -> None:
    loaded = config.load(ROOT / "bench.toml", ["attacks.pgd.precision=bfloat16"])

    def precisions(of: config.Loaded) -> set[tuple[bool, str]]:
        return {(name == "pgd", attack.precision) for name, attack in of.config.attacks.items()}

    assert precisions(loaded.with_precision(None)) == {(True, "bfloat16"), (False, "float32")}
    assert precisions(loaded.with_precision("float32")) == {(True, "float32"), (False, "float32")}
    assert precisions(loaded.with_precision("bfloat16")) == {(True, "bfloat16"), (False, "bfloat16")}


def test_extends_takes_what_is_not_said() -> None:
    assert resolved(dataset="cifar100").training == resolved(dataset="cifar10").training
    assert resolved(dataset="fashion_mnist", method="ece").training == resolved(dataset="mnist", method="ece").training


def test_each_data_set_has_its_own_default_recipe() -> None:
    datasets = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")
    assert [resolved(dataset=dataset).recipe for dataset in datasets] == [
        "standard", "published", "standard", "published", "standard",
    ]  # fmt: skip
    quick = resolved(dataset="mnist", recipe="quick")
    assert resolved("datasets.mnist.recipe=quick", dataset="mnist").run_id == quick.run_id


@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist", "cifar100"])
def test_an_alias_means_its_recipe_wherever_a_recipe_is_named(dataset: str) -> None:
    assert resolved(dataset=dataset, recipe="published") == resolved(dataset=dataset)
    assert resolved(f"datasets.{dataset}.recipe=published", dataset=dataset).recipe == "standard"
    changed = resolved(f"recipes.published.{dataset}.epochs=3", dataset=dataset)
    assert (changed.training.epochs, changed.recipe) == (3, "standard")
    assert changed.recipe_changes == (f"recipes.standard.{dataset}.epochs=3",)


def test_a_data_set_that_names_no_recipe_has_that_of_older_files_or_the_only_one(tmp_path: Path) -> None:
    def recipe(*parts: str) -> str:
        """The default of the digits without these parts of the file."""
        text = (ROOT / "bench.toml").read_text()
        for part in parts:
            text, count = re.subn(part, "", text)
            assert count
        (tmp_path / "bench.toml").write_text(text)
        return select.run_spec(config.load(tmp_path / "bench.toml"), Selection(), "ece", 0).recipe

    unsaid, alias = ', recipe = "standard"', r'aliases = \["published"\]\n'
    quick, standard = (rf"\[recipes\.{name}\.digits(\.methods)?\]\n([^\[\n].*\n)+" for name in ("quick", "standard"))
    assert recipe(unsaid) == recipe(unsaid, alias, quick) == "standard"
    assert recipe(unsaid, alias, standard) == "quick"
    with pytest.raises(BenchError, match="no recipe of digits is its default: there are standard, quick; give --rec"):
        recipe(unsaid, alias)
    with pytest.raises(BenchError, match=r"no recipe says anything about digits; add \[recipes.NAME.digits\]"):
        recipe(unsaid, standard, quick)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("50", 50), ("0.5", 0.5), ("1e-3", 1e-3), ("true", True), ("[0.5, 0.75]", [0.5, 0.75]), ("sgd", "sgd"),
        ('"a b"', "a b"), ("8/255", "8/255"), ("none", None),
    ],
)  # fmt: skip
def test_values_of_set_are_typed(text: str, value: object) -> None:
    assert config.parse_value(text) == value


def test_fractions_are_budgets() -> None:
    loaded = config.load(ROOT / "bench.toml", ["attacks.pgd.budgets.digits=['8/255', 0.1]"])
    assert loaded.config.attacks["pgd"].budgets["digits"] == (8 / 255, 0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["suites.core.matrx=false"], "did you mean matrix"),
        (["recipes.quick.mnist.epoch=3"], "did you mean epochs"),
        (["matrix.population=some"], "correct_all"),
        (["suites.core.attacks=['pdg']"], "did you mean pgd"),
        (["datasets.mnist.suite=none_such"], "unknown suite"),
        (["methods.trs=3"], "methods.trs"),
        (["protocols.core-digits.suite=cor"], "unknown suite 'cor'"),
        (["protocols.core-digits.dataset=digit"], "unknown data set 'digit'"),
        (["protocols.core-digits.eps=[0.1, '1/10']"], "an ε stands there twice"),
        (["protocols.core-digits.succeeded_by=core"], "unknown protocol 'core'"),
        (["datasets.digits.recipe=standrd"], "unknown recipe 'standrd'; did you mean standard"),
        (["recipes.standard.cifar100.extends=published.cifar"], "did you mean .*published.cifar10"),
        (["recipes.standard.digits.aliases=['quick']"], "'quick' already means the recipe 'quick' on digits"),
        (["recipes.standard.digits.aliases=['standard']"], "already means the recipe 'standard' on digits"),
        (["recipes.quick.digits.aliases=['published']"], "alias 'published' already means the recipe 'standard'"),
        (["recipes.published.digits={epochs=1}"], "alias 'published' already means the recipe 'published' on digits"),
    ],
)
def test_a_fault_names_its_place_and_the_nearest_name(changes: list[str], words: str) -> None:
    with pytest.raises(BenchError, match=words):
        resolved(*changes)


def test_a_recipe_that_extends_itself_is_refused() -> None:
    with pytest.raises(BenchError, match="extends itself"):
        resolved("recipes.published.cifar10.extends=cifar100", dataset="cifar10")


def test_the_nearest_file_above_the_working_folder_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "bench.toml").read_text().replace("epochs = 25", "epochs = 7")
    (tmp_path / "bench.toml").write_text(text)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    monkeypatch.delenv("BENCH_CONFIG", raising=False)
    loaded = config.load()
    assert loaded.path == tmp_path / "bench.toml"
    assert loaded.config.recipes["standard"]["digits"].training["epochs"] == 7


def test_training_refuses_nonsense() -> None:
    tables = (
        {"epochs": 0}, {"epochs": 1, "lr": 0}, {"epochs": 1, "decay_at": [2.0]}, {"epochs": 1, "lr": "nan"},
        {"epochs": 1, "schedule": "cosine", "decay_at": [0.5]}, {"epochs": 1, "lr_end": 1e-4},
    )  # fmt: skip
    for table in tables:
        with pytest.raises(ValueError, match="validation error"):
            Training.model_validate(table)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["methods.trs.lambda_a=1 # x"], "nothing after it"),
        (["methods.trs.lambda_a=1\nother=2"], "nothing after it"),
        (["methods.trs.title='a' # x"], "nothing after it"),
        (["methods.trs.title=a\nb"], "line breaks"),
        (["methods.trs.lambda_a=" + "[" * 5000], "nested more than 12 deep"),
        (["methods.trs.lambda_a=" + "[" * 5000 + "]" * 5000], "nested more than 12 deep"),
        (["methods.trs" + ".a" * 5000 + "=1"], "dotted key"),
        (["methods.trs.lambda_a=" + "9" * 5000], "thousands of digits"),
        (["training.epochs=0x" + "f" * 5000], "1000000"),
        (["training.epochs=99999999"], "1000000"),
        (["recipes.published.digits.members=99999999"], "1000"),
        (["attacks.pgd.budgets.digits=[1e7]"], "1000000"),
        (["attacks.pgd.budgets.digits=['1e99999999']"], "attacks.pgd.budgets.digits.0"),
        (["methods.trs.plugin={a=1}"], "methods.trs.plugin: Input should be a valid string"),
        (["methods.trs.datasets=5", "methods.trs.lambda_a=1"], "methods.trs.datasets"),
        (["methods.trs.lambda_a={a=1}"], "methods.trs: lambda_a"),
        (["data.validation=99999999999"], "held out"),
        (["blackbox.restart=1"], "did you mean restarts"),
        (['suites.core.attacks=[{attack="pgd", budgets=[0.1], budgtes=[1]}]'], "did you mean budgets"),
        (["recipes.quick.mnist.lr=[1]"], "recipes.quick.mnist: lr: Input should be a valid number"),
        (["recipes.quick.mnist.methods.trs.epochs=x"], "methods.trs: epochs"),
        (["x" * 9999 + ".y=1"], "9,999 characters"),
    ],
)
def test_hostile_changes_are_one_line(changes: list[str], words: str) -> None:
    with pytest.raises(BenchError) as caught:
        resolved(*changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 5000, "a" + ".a" * 5000 + " = 1", "a = " + "9" * 5000, "#" * (1 << 21)]
)
def test_a_hostile_file_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "bench.toml").write_text(text)
    with pytest.raises(BenchError, match=r"nested|thousands|larger"):
        config.load(tmp_path / "bench.toml")


def test_a_setting_beyond_what_json_holds_is_refused() -> None:
    changed = config.load(ROOT / "bench.toml", [f"attacks.pgd.steps={2**60}"])
    run = select.run_spec(changed, Selection(), "ece", 0)
    with pytest.raises(BenchError, match="beyond"):
        select.evaluations(changed, Selection(attacks=("pgd",)), run)


@pytest.mark.parametrize("text", ["1e99999999", "1e-99999999", "1e400", "nan", "1/" + "9" * 400, "9" * 400, "1e9_9999"])
def test_a_number_is_read_or_refused_at_once(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        numbers.read_number(text)


def test_any_value_is_told_in_a_line() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    for value in (16**6000, [16**6000], {"a": deep}, "x" * 10**6, {str(i): i for i in range(10**4)}):
        assert len(numbers.shown(value)) <= 200
