"""What papers conclude, answered by what was measured: verdicts against tests made by hand, the docs, the site."""

from __future__ import annotations

import csv
import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import bench, refused
from numpy.typing import NDArray
from scipy import stats
from site_pages import LOADED, make
from site_records import Writer

from bench.core import config
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.specs import StatementSpec
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import EvaluationSpec
from bench.report import papers, statements
from bench.report.statements import Finding
from bench.report.tables.markdown import escape
from bench.store.database import Database
from bench.store.published import load_published

ROOT = Path(__file__).resolve().parents[2]
N = 500  # test images of the digits
FIRST = np.arange(N)
USUAL = {"words": "words", "publication": "trs", "place": "somewhere"}


def stating(**tables: dict[str, Any]) -> Loaded:
    """The configuration with these statements and no others."""
    found = {name: StatementSpec.model_validate({**USUAL, **table}) for name, table in tables.items()}
    return Loaded(LOADED.config.model_copy(update={"statements": found}), LOADED.path, (), {}, {})


class Runs:
    """Writes runs that configured methods have, with outcomes of one's own choice."""

    def __init__(self, db: Database, dataset: str = "digits", n: int = N, recipe: str | None = None) -> None:
        self.writer, self.dataset, self.ids = Writer(db, n=n), dataset, dict[tuple[str, int], str]()
        self.recipe = recipe

    def spec(self, method: str, seed: int = 0) -> Any:
        return select.run_spec(LOADED, Selection(dataset=self.dataset, recipe=self.recipe), method, seed)

    def of(self, method: str, seed: int) -> str:
        if (method, seed) not in self.ids:
            spec = self.spec(method, seed)
            self.ids[method, seed] = self.writer.run(
                method, seed, run_id=spec.run_id, family_id=spec.family_id, plugin=spec.plugin, dataset=self.dataset,
                settings=spec.settings, config=spec.model_dump(mode="json"), model=spec.model, recipe=spec.recipe,
            )  # fmt: skip
        return self.ids[method, seed]

    def attacked(
        self, method: str, *seeds: NDArray[np.bool_] | None, attack: str = "pgd", budget: float = 0.1, **more: Any
    ) -> None:
        for seed, robust in enumerate(seeds):
            self.writer.evaluation(self.of(method, seed), robust, attack=attack, budget=budget, **more)

    def matrix(self, method: str, *rates: float) -> None:
        """A matrix for each seed in which every member fools each other one on this share of the images."""
        key = select.matrix_row(LOADED, Selection(dataset=self.dataset), self.spec(method)).attack_key
        for seed, rate in enumerate(rates):
            missed = np.broadcast_to(rate * N > FIRST, (3, 4, N))
            self.writer.matrix(self.of(method, seed), np.ones((4, N), bool), missed, attack_key=key)


def answered(db: Database, loaded: Loaded, dataset: str = "digits") -> dict[str, Finding]:
    return {answer.name: answer for answer in statements.answers(loaded, db, dataset)}


def holm(ps: list[float]) -> list[float]:
    """By the definition: the k-th smallest times (m − k + 1), never below a smaller one's."""
    order = np.argsort(ps)
    steps = np.maximum.accumulate([min(1.0, ps[at] * (len(ps) - k)) for k, at in enumerate(order)])
    return [float(steps[list(order).index(at)]) for at in range(len(ps))]


def test_every_comparison_is_tested_and_corrected_over_the_statement(db: Database) -> None:
    runs = Runs(db)
    outcomes = {
        ("trs", 0.1): FIRST < 400, ("trs", 0.15): FIRST < 300,
        ("ece", 0.1): FIRST < 380, ("ece", 0.15): FIRST < 290,
        ("adp", 0.1): FIRST < 393, ("adp", 0.15): (FIRST >= 20) & (FIRST < 305),
    }  # fmt: skip
    for (method, budget), robust in outcomes.items():
        runs.attacked(method, robust, budget=budget)
    runs.writer.flush()
    loaded = stating(best={"under": ["pgd"], "more": ["trs"], "less": ["ece", "adp"]})
    answer = answered(db, loaded)["best"]
    assert answer.setting.words == "3 × CNN, recipe standard"
    assert not answer.setting.has_published
    weakest = answer.weakest
    assert (weakest.row, weakest.less) == ("PGD (50) ε = 0.1", "adp")  # the least sure: 7 images
    places = [(less, budget) for less in ("ece", "adp") for budget in (0.1, 0.15)]
    ps = []
    for each, (less, budget) in zip(answer.compared, places, strict=True):
        ours, theirs = outcomes["trs", budget], outcomes[less, budget]
        assert (each.more, each.less, each.row) == ("trs", less, f"PGD (50) ε = {budget:g}")
        assert (each.a, each.b, each.n, each.seeds) == (100 * ours.mean(), 100 * theirs.mean(), N, (0,))
        only = int((ours & ~theirs).sum())
        ps.append(stats.binomtest(only, int((ours ^ theirs).sum())).pvalue)
    assert [each.p for each in answer.compared] == pytest.approx(holm(ps))
    assert [each.side for each in answer.compared] == ["as said", "as said", "as said", "as said"]
    assert answer.verdict == "holds"
    weak = stating(best={"under": ["pgd"], "more": ["trs"], "less": ["ece", "adp"], "budgets": "largest"})
    assert [each.row for each in answered(db, weak)["best"].compared] == ["PGD (50) ε = 0.15"] * 2


def test_a_statement_holds_does_not_or_cannot_be_told(db: Database) -> None:
    runs = Runs(db)
    runs.attacked("trs", FIRST < 400)
    runs.attacked("ece", FIRST < 300)
    runs.attacked("adp", FIRST < 399)
    runs.attacked("gal", FIRST < 450, FIRST < 450)
    for method in ("cos_l2", "cos_only"):  # sure over images, not over seeds: the lead turns round with the seed
        share = 0.5 if method == "cos_l2" else 0.7
        runs.attacked(method, FIRST < N * 0.9, N * share > FIRST)
    runs.writer.flush()
    told = {
        "holds": (["trs"], ["ece"], "holds"), "turned": (["ece"], ["trs"], "does not hold"),
        "close": (["trs"], ["adp"], "cannot be told"), "lacking": (["trs"], ["ece", "dverge"], "cannot be told"),
        "mixed": (["trs"], ["ece", "gal"], "does not hold"), "seeds": (["cos_only"], ["cos_l2"], "cannot be told"),
        "nothing": (["dverge"], ["ckae"], None),
    }  # fmt: skip
    tables = {
        name: {"under": ["pgd"], "budgets": "smallest", "more": more, "less": less}
        for name, (more, less, _) in told.items()
    }
    found = answered(db, stating(**tables))
    assert {name: found[name].verdict if name in found else None for name in told} == {
        name: verdict for name, (_, _, verdict) in told.items()
    }
    assert [each.side for each in found["lacking"].compared] == ["as said", "not measured"]
    assert found["lacking"].compared[1].why == "no current result of DVERGE"
    assert [each.side for each in found["mixed"].compared] == ["as said", "the other way"]
    (seeds,) = found["seeds"].compared
    assert seeds.p is not None
    assert seeds.p < 0.001
    assert (seeds.side, seeds.seeds) == ("not significant", (0, 1))


def test_transferability_is_tested_over_trainings(db: Database) -> None:
    runs = Runs(db)
    rates = {"ece": (0.8, 0.82, 0.85), "trs": (0.1, 0.12, 0.13), "dverge": (0.2, 0.5, 0.1), "adp": (0.9,)}
    for method, shares in rates.items():
        runs.matrix(method, *shares)
    runs.writer.flush()
    found = answered(db, stating(
        sure={"of": "transferability", "more": ["ece"], "less": ["trs"]},
        unsure={"of": "transferability", "more": ["ece", "dverge"], "less": ["trs"]},
        turned={"of": "transferability", "more": ["trs"], "less": ["ece"]},
        single={"of": "transferability", "more": ["adp", "gal"], "less": ["trs"]},
    ))  # fmt: skip
    assert {name: answer.verdict for name, answer in found.items()} == {
        "sure": "holds", "unsure": "cannot be told", "turned": "does not hold", "single": "cannot be told"
    }  # fmt: skip
    alone, nothing = found["single"].compared
    assert (alone.side, alone.a, alone.p) == ("not significant", pytest.approx(90), None)
    assert alone.why == "fewer than two trainings of both"
    assert nothing.side == "not measured"
    first, second = found["unsure"].compared
    ps = [stats.ttest_rel(rates[name], rates["trs"]).pvalue for name in ("ece", "dverge")]
    assert [first.p, second.p] == pytest.approx(holm(ps), rel=1e-3)
    assert (first.a, first.b) == pytest.approx((100 * np.mean(rates["ece"]), 100 * np.mean(rates["trs"])), abs=0.01)
    assert first.row == "PGD (50) ε = 0.2"
    runs.matrix("gal", 0.5)
    runs.matrix("cos_l2", 0.1, 0.2)
    runs.writer.flush()
    (table,) = [stating(single={"of": "transferability", "more": ["adp", "gal", "cos_l2"], "less": ["trs"]})]
    why = [each.why for each in answered(db, table)["single"].compared]
    assert why == ["fewer than two trainings of both"] * 2 + [""]


def test_the_black_box_suite_can_be_asked_for(db: Database) -> None:
    runs = Runs(db)
    for method, stands in (("trs", 100), ("ece", 10)):
        rows = select.blackbox_rows(LOADED, Selection(), runs.spec(method), LOADED.blackbox.attacks)
        for spec in rows:
            runs.attacked(method, stands > FIRST, attack="blackbox", budget=spec.budget, kind="blackbox",
                          attack_key=spec.attack_key, settings=spec.settings)  # fmt: skip
    runs.writer.flush()
    loaded = stating(large={"under": ["blackbox"], "budgets": "largest", "more": ["trs"], "less": ["ece"]})
    (compared,) = answered(db, loaded)["large"].compared
    assert (compared.row, compared.a, compared.b, compared.side) == ("black-box ε = 0.25", 20.0, 2.0, "as said")


def test_as_many_images_as_a_protocol_has_will_do(db: Database) -> None:
    load_published(db, config.defaults("published"))
    runs = Runs(db, "mnist", 1000)
    for method, stands in (("trs", 900), ("cos_only", 100)):
        runs.attacked(method, np.arange(1000) < stands, image_limit=1000)
    runs.writer.flush()
    loaded = stating(best={"under": ["pgd"], "budgets": "smallest", "more": ["trs"], "less": ["cos_only"]})
    (compared,) = answered(db, loaded, "mnist")["best"].compared
    assert (compared.n, compared.side, compared.published) == (1000, "as said", (93.0, 0.0))
    assert answered(db, loaded, "digits") == {}


def test_each_comparison_has_the_most_trainings_and_then_images_that_both_were_measured_on(db: Database) -> None:
    """PGD at ε .1 on 1,000 images by two seeds and by one on 10,000, at .15 on 10,000, CW on 500 images alone."""
    load_published(db, config.defaults("published"))
    runs = Runs(db, "mnist", 1000)
    for method, stands in (("trs", 0.9), ("cos_only", 0.1)):
        for n, attack, budget, seeds in (
            (10000, "pgd", 0.1, 1), (1000, "pgd", 0.1, 2), (10000, "pgd", 0.15, 1), (1000, "pgd", 0.15, 1),
            (500, "cw", 0.1, 1), (200, "cw", 0.1, 1),
        ):  # fmt: skip
            limit = None if n == 10000 else n
            rows = select.attack_rows(LOADED, Selection(dataset="mnist", limit=limit), runs.spec(method), attack, None)
            (key,) = (row.attack_key for row in rows if row.budget == budget)
            stood = [np.arange(n) < stands * n] * seeds
            clean = np.ones(n, bool)
            runs.attacked(
                method, *stood, attack=attack, budget=budget, clean=clean, image_limit=limit, attack_key=key
            )  # fmt: skip
    runs.writer.flush()
    loaded = stating(best={"under": ["pgd", "cw"], "more": ["trs"], "less": ["cos_only"]})
    told = {each.row: (each.n, each.seeds) for each in answered(db, loaded, "mnist")["best"].compared}
    assert told == {
        "PGD (50) ε = 0.1": (1000, (0, 1)), "PGD (50) ε = 0.15": (10000, (0,)),
        "CW c = 0.1": (500, (0,)), "CW c = 1": (0, ()),
    }  # fmt: skip


def test_a_recipe_under_which_more_was_measured_is_taken_and_named(db: Database) -> None:
    load_published(db, config.defaults("published"))
    runs = Runs(db, "mnist", 500, recipe="quick")
    quick = Selection(dataset="mnist", recipe="quick")  # which uses 500 test images
    for method, stands in (("trs", 450), ("cos_only", 50)):
        row, _ = select.attack_rows(LOADED, quick, runs.spec(method), "pgd", None)
        runs.attacked(method, np.arange(500) < stands, image_limit=500, attack_key=row.attack_key)
    runs.writer.flush()
    loaded = stating(best={"under": ["pgd"], "budgets": "smallest", "more": ["trs"], "less": ["cos_only"]})
    answer = answered(db, loaded, "mnist")["best"]
    assert answer.verdict == "holds"
    assert answer.setting.words == "3 × LeNet, recipe quick"
    assert answer.setting.unlike == "3 × LeNet, another training, 500 test images"
    assert "a distance, no reproduction" in papers.distance(answer.setting)


def test_a_published_order_is_asked_pair_by_pair_of_who_is_ahead_there(db: Database) -> None:
    load_published(db, config.defaults("published"))
    runs = Runs(db, "cifar10", 1000)
    # Printed under PGD .01 and .02: TRS 50.5, 15.1; DVERGE 37.1, 10.5; Cos-only 0, 0.
    for method, stands in (("trs", 300), ("dverge", 400), ("cos_only", 5)):
        runs.attacked(method, np.arange(1000) < stands, budget=0.01, image_limit=1000)
    runs.writer.flush()
    order = {"of": "published order", "under": ["pgd"], "more": ["cos_only", "dverge", "trs"]}
    answer = answered(db, stating(order=order), "cifar10")["order"]
    told = {(each.more, each.less, each.row[-4:]): (each.side, each.published) for each in answer.compared}
    assert told == {
        ("dverge", "cos_only", "0.01"): ("as said", (37.1, 0.0)),
        ("dverge", "cos_only", "0.02"): ("not measured", (10.5, 0.0)),
        ("trs", "cos_only", "0.01"): ("as said", (50.5, 0.0)),
        ("trs", "cos_only", "0.02"): ("not measured", (15.1, 0.0)),
        ("trs", "dverge", "0.01"): ("the other way", (50.5, 37.1)),
        ("trs", "dverge", "0.02"): ("not measured", (15.1, 10.5)),
    }
    assert answer.verdict == "does not hold"
    assert answered(db, stating(order=order), "digits") == {}  # nothing is printed for it


def test_clean_images_can_be_asked_about(db: Database) -> None:
    runs = Runs(db)
    for method, right in (("trs", 300), ("ece", 450)):
        key = EvaluationSpec.of_clean(runs.spec(method), limit=None, split="test").attack_key
        runs.attacked(method, None, kind="clean", attack="clean", budget=None, clean=right > FIRST, attack_key=key)
    runs.writer.flush()
    (compared,) = answered(db, stating(best={"under": ["clean"], "more": ["ece"], "less": ["trs"]}))["best"].compared
    assert (compared.row.strip(), compared.a, compared.b, compared.side) == ("clean", 90.0, 60.0, "as said")


def test_weights_of_authors_are_asked_apart_and_known_by_their_method(tmp_path: Path) -> None:
    bench("db", "import", ROOT / "results/reference/authors/runs.zip", "--results", tmp_path)
    loaded = stating(
        plain={"under": ["pgd"], "more": ["dverge"], "less": ["ece"]},
        trs={"under": ["pgd"], "more": ["trs"], "less": ["dverge"]},
    )
    with Database(tmp_path / "bench.db").open() as db:
        (answer,) = statements.answers(loaded, db, "cifar10")
    assert (answer.name, answer.verdict, answer.setting.authors) == ("plain", "holds", True)
    assert answer.setting.name == "cifar10, authors' weights"
    assert answer.setting.words == "3 × ResNet-20, trained elsewhere"
    stands = dict(zip(("0.01", "0.02"), answer.compared, strict=True))
    assert (stands["0.01"].seeds, stands["0.01"].n) == ((0,), 10000)  # the baseline has one training
    assert stands["0.01"].b == pytest.approx(2.39)  # 239 of 10,000 images stand in the archive
    assert (stands["0.02"].seeds, stands["0.02"].n) == ((0,), 1000)
    assert stands["0.02"].a == pytest.approx(12.5)  # as in results/reference/authors/core.md
    paper = bench("table", "core", "-m", "DVERGE, authors", "-d", "cifar10", "--limit", 1000, "--paper",
                  "--format", "markdown", "--results", tmp_path)  # fmt: skip
    (row,) = [line for line in paper.splitlines() if line.startswith("| PGD (50) | ε = 0.01")]
    assert re.findall(r"[-+]?\d+\.\d+", row.partition("0.01")[2]) == ["39.9", "3.2", "37.1", "+2.8"]
    assert "ours is of weights trained elsewhere" in paper


def test_the_command_prints_every_verdict_and_every_comparison(tmp_path: Path) -> None:
    empty = published_only(tmp_path / "empty")
    assert "nothing that a paper concludes" in refused("papers", "--results", empty)
    bench("db", "import", ROOT / "tests/releases/first.zip", "--results", tmp_path)
    assert "unknown data set 'mnst'; did you mean mnist" in refused("papers", "-d", "digits,mnst", "--results", empty)
    lines = bench("papers", "-d", "digits,mnist", "--format", "markdown", "--results", tmp_path).splitlines()
    written = list(csv.DictReader(bench("papers", "--format", "csv", "--results", tmp_path).splitlines()))
    for name, statement in LOADED.config.statements.items():
        (row,) = [line for line in lines if line.startswith(f"| {escape(name)} | {escape(statement.words)} |")]
        own = [each for each in written if each["statement"] == name]
        assert row.split(" | ")[-1] == "not measured yet |"  # on MNIST
        assert row.split(" | ")[-2].startswith(own[0]["verdict"] if own else "not measured yet")
        compared = [each for each in written if each["statement"] == name and each["side"] == "as said"]
        assert all(float(each["difference"]) > 0 and float(each["p_holm"]) < 0.05 for each in compared)
    assert "**MNIST**: not measured yet." in lines
    shown = bench("papers", "--results", tmp_path)
    assert "MNIST" not in shown
    assert "cannot be told" in shown


def published_only(folder: Path) -> Path:
    """Results with the published values alone."""
    folder.mkdir()
    with Database(folder / "bench.db").open(create=True) as db:
        load_published(db, config.defaults("published"))
    return folder


def test_what_bench_toml_says_of_statements_is_checked(tmp_path: Path) -> None:
    text = (ROOT / "bench.toml").read_text()
    place = "[statements.mine]\nwords = 'w'\nplace = 'p'\n"
    for table, told in (
        ("publication = 'trs'\nunder = ['pgd']\nmore = ['trs']\nless = ['tsr']", "unknown method 'tsr'"),
        ("publication = 'nobody'\nunder = ['pgd']\nmore = ['trs']\nless = ['ece']", "unknown publication 'nobody'"),
        ("publication = 'trs'\nunder = ['pgdd']\nmore = ['trs']\nless = ['ece']", "unknown attack 'pgdd'"),
        ("publication = 'trs'\nunder = ['pgd']\nmore = ['trs']\nless = ['trs']", "no more than itself"),
        ("publication = 'trs'\nmore = ['trs']\nless = ['ece']", "robust accuracy is `under` attacks"),
        ("publication = 'trs'\nunder = ['pgd']\nmore = ['trs']", "is compared with `less`"),
        ("publication = 'trs'\nof = 'published order'\nunder = ['pgd']\nmore = ['trs']\nless = ['ece']", "with itself"),
        ("publication = 'trs'\nof = 'transferability'\nunder = ['pgd']\nmore = ['trs']\nless = ['ece']", "[matrix]"),
    ):
        (tmp_path / "bench.toml").write_text(f"{text}\n{place}{table}\n")
        with pytest.raises(BenchError) as refused:
            config.load(tmp_path / "bench.toml")
        assert told in str(refused.value), refused.value


def test_the_paper_prints_what_the_statements_say() -> None:
    """Its own Table 1 agrees with every statement on it, on both data sets."""
    asked = [each for each in LOADED.config.statements.values() if "Table 1" in each.place]
    assert len(asked) == 5
    asked = [each for each in asked if each.of == "robust accuracy"]
    for dataset in ("mnist", "cifar10"):
        with (ROOT / f"results/published/table1_{dataset}.csv").open() as file:
            rows = list(csv.DictReader(file))
        for statement in asked:
            for attack in statement.under:
                found = sorted((row for row in rows if row["attack"] == attack), key=lambda row: float(row["budget"]))
                assert len(found) == 2
                for row in found[:1] if statement.budgets == "smallest" else found:
                    least = min(float(row[name]) for name in statement.more)
                    assert least > max(float(row[name]) for name in statement.less), (dataset, statement.words, row)


def test_the_report_prints_what_the_statements_on_its_tables_say() -> None:
    with (ROOT / "results/published/report_tables.csv").open() as file:
        printed = {row["system"]: row for row in csv.DictReader(file) if row["table"] == "2"}
    systems = {
        "at_pgd_linf": "pgd_linf_adversarial_training",
        "trs_report": "trs_ensemble_training_2_from_scratch_half_pgd_linf",
        "trs_report_pretrained": "trs_ensemble_training_1_pretrained_members",
    }
    columns = {"clean": "natural_accuracy", "pgd": "pgd_linf_accuracy", "pgd_l2": "pgd_l2_accuracy"}
    asked = [each for each in LOADED.config.statements.values() if each.publication == "trs_report"]
    assert {each.under for each in asked} == {("clean",), ("pgd",), ("pgd_l2",)}
    for each in asked:
        more, less = ([float(printed[systems[name]][columns[each.under[0]]]) for name in names]
                      for names in (each.more, each.less))  # fmt: skip
        assert min(more) > max(less), each.words


def test_the_site_says_what_the_archive_answers(tmp_path: Path) -> None:
    bench("db", "import", ROOT / "results/reference/digits/runs.zip", "--results", tmp_path)
    with Database(tmp_path / "bench.db").open() as db:
        found = answered(db, LOADED)
        make(db, tmp_path / "site")
    front = html.unescape((tmp_path / "site/index.html").read_text())
    cells = re.findall(r'href="papers.html#(\w+)-digits"><span[^>]*>.</span> ([a-z ]+)</a> <small>([^<]+)', front)
    assert {name: verdict for name, verdict, _ in cells} == {name: each.verdict for name, each in found.items()}
    assert ("trs_iterative", "cannot be told", "41 of 48 as said, 7 not significant") in cells
    page = (tmp_path / "site/papers.html").read_text()
    assert page.count("<tr><td") == sum(len(each.compared) for each in found.values())


def test_without_any_result_of_them_the_site_says_nothing_of_papers(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    writer.complete(writer.run("somebody", 0), FIRST < 300)
    writer.flush()
    make(db, tmp_path / "site")
    assert "What holds" not in (tmp_path / "site/index.html").read_text()
    assert not (tmp_path / "site/papers.html").exists()
