"""A bench.toml of one's own over the built-in one, and what data sets have that no file says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.core import config, prepared, registry, tables
from bench.core.errors import BenchError
from bench.core.toml_text import leaves, written
from bench.data.base import Dataset
from bench.experiment import protocols, select
from bench.experiment.select import Selection

BUILT_IN = config.defaults("bench.toml")


@dataclass(frozen=True)
class Grey(Dataset):
    """A stranger's data set that says no more than it must."""

    title, classes, shape, mean, std = "grey", 2, (1, 8, 8), (0.5,), (0.25,)


@dataclass(frozen=True)
class Colour(Dataset):
    """One in colour, with radii of its own."""

    title, classes, shape, mean, std = "colour", 2, (3, 8, 8), (0.5,) * 3, (0.25,) * 3
    eps = (0.03, 0.05)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both installed."""
    from importlib.metadata import EntryPoint

    found = dict(registry.entries("datasets"))
    for cls in (Grey, Colour):
        name = cls.__name__.lower()
        point = EntryPoint(name, f"{cls.__module__}:{cls.__name__}", "bench.datasets")
        found[name] = registry.Registered("datasets", name, "a-package", point, "1.0")
        monkeypatch.setattr(registry.Registered, "load", _loaded({"grey": Grey, "colour": Colour}))
    whole = registry.entries
    monkeypatch.setattr(registry, "entries", lambda kind: found if kind == "datasets" else whole(kind))


def _loaded(own: dict[str, type[Dataset]]):  # type: ignore[no-untyped-def]
    usual = registry.Registered.load

    def load(entry: registry.Registered) -> type[object]:
        return own[entry.name] if entry.kind == "datasets" and entry.name in own else usual(entry)

    return load


def write(folder: Path, text: str) -> Path:
    path = folder / "bench.toml"
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------- a file of one's own


def test_a_file_of_ones_own_adds_to_the_built_in_one(tmp_path: Path) -> None:
    own = write(
        tmp_path, "[methods.trs]\nlambda_a = 5\n[matrix]\npopulation = 'all'\n[suites.core]\nattacks = ['pgd']\n"
    )
    before, now = config.load(BUILT_IN).config, config.load(own).config
    assert now.methods["trs"].settings == {**before.methods["trs"].settings, "lambda_a": 5}
    assert (now.matrix.population, now.matrix.budgets) == ("all", before.matrix.budgets)
    assert now.suites["core"].attacks == ("pgd",)  # a list replaces
    assert now.suites["core"].description == before.suites["core"].description
    rest = {name: method for name, method in now.methods.items() if name != "trs"}
    assert rest == {name: method for name, method in before.methods.items() if name != "trs"}


def test_an_empty_file_is_the_built_in_one_with_the_same_ids(tmp_path: Path) -> None:
    loaded, own = config.load(BUILT_IN), config.load(write(tmp_path, ""))
    assert own.config == loaded.config
    for method in ("ece", "dverge", "igat_adp"):
        ids = [select.run_spec(each, Selection(dataset="cifar10"), method, 0).run_id for each in (loaded, own)]
        assert ids[0] == ids[1]
    assert [each.standard_id for each in protocols.standards(own)] == [
        each.standard_id for each in protocols.standards(loaded)
    ]


def test_a_whole_file_from_before_stands_alone_unless_it_says_otherwise(tmp_path: Path) -> None:
    whole = BUILT_IN.read_text(encoding="utf-8")
    start, end = whole.index("[suites.budget]"), whole.index("[suites.core]")
    cut = whole[:start] + whole[end:]
    assert "budget" not in config.load(write(tmp_path, cut)).config.suites
    assert "budget" in config.load(write(tmp_path, f'include = "default"\n{cut}')).config.suites


def test_a_data_set_of_a_file_that_stands_alone_keeps_its_ids(tmp_path: Path) -> None:
    """Nothing is taken over from another data set where the file itself says how it is trained."""
    own = '[datasets.halves]\nplugin = "mnist"\nsuite = "core"\nrecipe = "own"\n'
    own += '[recipes.own.halves]\nmodel = "lenet"\nepochs = 3\n[datasets.others]\nplugin = "mnist"\nsuite = "core"\n'
    loaded = config.load(write(tmp_path, BUILT_IN.read_text(encoding="utf-8") + own))
    dverge = loaded.config.methods["dverge"]
    assert "halves" not in dverge.datasets
    assert select.run_spec(loaded, Selection(dataset="halves"), "dverge", 0).settings["eps"] == dverge.settings.get(
        "eps", registry.load("methods", "dverge").eps
    )
    assert dverge.datasets["others"] == dverge.datasets["mnist"]
    assert loaded.config.attacks["pgd"].budgets["halves"] == loaded.config.attacks["pgd"].budgets["mnist"]


def test_a_file_that_includes_nothing_must_be_whole(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"bench.toml: recipes: Field required \(and 2 more\)"):
        config.load(write(tmp_path, 'include = "nothing"\n[methods.ece]\nplugin = "ece"\n'))
    whole = 'include = "nothing"\n' + BUILT_IN.read_text(encoding="utf-8")
    assert config.load(write(tmp_path, whole)).config == config.load(BUILT_IN).config


@pytest.mark.parametrize("said", ['"defualt"', "3", "['default']"])
def test_an_unknown_include_is_one_line(said: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match='include = "default" adds to the built-in file, "nothing" does not'):
        config.load(write(tmp_path, f"include = {said}\n"))


def test_an_unknown_key_is_told_with_file_and_key(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"unknown key of bench.toml \[suites.core\] 'atacks'; did you mean attacks"):
        config.load(write(tmp_path, "[suites.core]\natacks = ['pgd']\n"))


def test_another_plugin_under_a_built_in_name_takes_no_settings_of_it(tmp_path: Path) -> None:
    own = config.load(write(tmp_path, '[methods.trs_printed]\nplugin = "ece"\ntitle = "mine"\n'))
    assert own.config.methods["trs_printed"].settings == {}


# ---------------------------------------------------------------- data sets that no file says anything of


@pytest.mark.parametrize(("name", "like"), [("grey", "mnist"), ("colour", "cifar10")])
def test_a_strangers_data_set_runs_in_every_suite_for_any_data_set(name: str, like: str, plugins: None) -> None:
    loaded = config.load(BUILT_IN)
    for suite, spec in loaded.config.suites.items():
        if not spec.datasets:
            selection = Selection(dataset=name, suite=suite)
            run = select.run_spec(loaded, selection, "ece", 0)
            assert len(select.evaluations(loaded, selection, run)) > 1, suite
    pgd = loaded.config.attacks["pgd_l2"]
    assert pgd.budgets[name] == pgd.budgets[like]
    assert loaded.config.methods["dverge"].datasets[name] == loaded.config.methods["dverge"].datasets[like]


def test_a_data_set_says_its_own_radii_in_the_ball_they_are_of(plugins: None) -> None:
    config_ = config.load(BUILT_IN).config
    assert config_.attacks["pgd"].budgets["colour"] == (0.03, 0.05)
    assert config_.attacks["pgd_l2"].budgets["colour"] == config_.attacks["pgd_l2"].budgets["cifar10"]
    assert config_.attacks["cw"].budgets["colour"] == config_.attacks["cw"].budgets["cifar10"]
    assert config_.matrix.budgets["colour"] == 0.05
    assert config.load(BUILT_IN).blackbox.budgets["colour"] == (0.03, 0.05)


def test_bench_toml_has_the_last_word_on_a_strangers_data_set(plugins: None, tmp_path: Path) -> None:
    text = (
        '[datasets.grey]\nlike = "digits"\n[datasets.colour]\neps = [0.1]\n[attacks.pgd.budgets]\ncolour = ["1/255"]\n'
    )
    config_ = config.load(write(tmp_path, text)).config
    assert config_.theory.budgets["grey"] == config_.theory.budgets["digits"]
    assert (config_.attacks["bim"].budgets["colour"], config_.attacks["pgd"].budgets["colour"]) == ((0.1,), (1 / 255,))


def test_radii_are_compared_as_numbers(plugins: None, tmp_path: Path) -> None:
    config_ = config.load(write(tmp_path, '[datasets.colour]\neps = ["8/255", "16/255"]\n')).config
    assert config_.matrix.budgets["colour"] == 16 / 255


@pytest.mark.parametrize("said", ["0.1", "['a', 1]", "[[0.1]]", "'8/255'"])
def test_radii_of_a_wrong_type_are_one_line(said: str, plugins: None, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"bench.toml: datasets.colour.eps"):
        config.load(write(tmp_path, f"[datasets.colour]\neps = {said}\n"))


def test_pictures_under_the_name_of_a_built_in_data_set_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = prepared.There({"plugin": "prepared"}, tmp_path / "dataset.json")
    monkeypatch.setattr(prepared, "tables", lambda data: {"digits": there})
    assert config.load(write(tmp_path, "")).config.datasets["digits"].plugin == "digits"


def test_a_recipe_for_any_data_set_is_used_where_it_has_none(plugins: None, tmp_path: Path) -> None:
    text = "[recipes.quick.colour]\nextends = 'default'\nepochs = 2\n"
    text += "[recipes.mine.default]\nepochs = 3\nmodel = 'resnet8'\n"
    loaded = config.load(write(tmp_path, text))

    def epochs(dataset: str, recipe: str | None) -> int:
        return select.run_spec(loaded, Selection(dataset=dataset, recipe=recipe), "ece", 0).training.epochs

    assert (epochs("colour", "quick"), epochs("grey", "quick"), epochs("grey", "mine")) == (2, 10, 3)
    assert select.recipe_name(loaded, None, "grey") == "standard"  # the first for any data set
    assert select.recipe_name(loaded, None, "colour") == "quick"  # the only one that names it
    changed = config.load(BUILT_IN, ["recipes.quick.default.epochs=4"])
    assert select.run_spec(changed, Selection(dataset="grey", recipe="quick"), "ece", 0).training.epochs == 4


def test_the_built_in_data_sets_have_the_recipes_that_name_them_alone() -> None:
    assert config.load(BUILT_IN).config.recipes_of("mnist") == ["published", "quick", "cpu"]


# ---------------------------------------------------------------- where each value is from


def test_each_value_has_its_origin(plugins: None, tmp_path: Path) -> None:
    own = write(tmp_path, "[methods.trs]\nlambda_a = 5\npaper = true\n")
    found = config.explained(own, ["methods.trs.lambda_b=7"])
    origins = {".".join(place): origin for place, origin in found.origins.items()}
    assert origins["methods.trs.plugin"] == "built-in"
    assert origins["methods.trs.lambda_a"] == origins["methods.trs.paper"] == str(own)  # said there too
    assert origins["methods.trs.lambda_b"] == "--set"
    assert origins["datasets.grey.plugin"] == "plug-in of a-package 1.0"
    assert origins["attacks.pgd.budgets.grey"] == "as on mnist"
    assert origins["attacks.pgd.budgets.colour"] == "eps of colour"
    assert {place for place, _ in leaves(found.table)} <= found.origins.keys()


def test_what_is_printed_is_a_bench_toml_that_gives_the_same(plugins: None, tmp_path: Path) -> None:
    own = write(tmp_path, "[methods.'a b']\nplugin = 'ece'\ntitle = \"\\u202e\\\"x\\\" \\\\ é\"\n")
    before, found = config.load(own).config, config.explained(own)
    text = "\n".join(written(found.table, lambda place: found.origins[place]))
    assert "\u202e" not in text
    assert json.dumps(tables.read_toml(text, "printed"), sort_keys=True) == json.dumps(found.table, sort_keys=True)
    assert config.load(write(tmp_path, text)).config == before
