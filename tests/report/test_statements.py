"""What papers conclude, answered by what was measured: verdicts against tests made by hand, the docs, the site."""

from __future__ import annotations

import csv
import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import bench
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
from bench.report import statements
from bench.report.statements import Finding
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

    def __init__(self, db: Database, dataset: str = "digits", n: int = N) -> None:
        self.writer, self.dataset, self.ids = Writer(db, n=n), dataset, dict[tuple[str, int], str]()

    def spec(self, method: str, seed: int = 0) -> Any:
        return select.run_spec(LOADED, Selection(dataset=self.dataset), method, seed)

    def of(self, method: str, seed: int) -> str:
        if (method, seed) not in self.ids:
            spec = self.spec(method, seed)
            self.ids[method, seed] = self.writer.run(
                method, seed, run_id=spec.run_id, family_id=spec.family_id, plugin=spec.plugin, dataset=self.dataset,
                settings=spec.settings, config=spec.model_dump(mode="json"), model=spec.model,
            )  # fmt: skip
        return self.ids[method, seed]

    def attacked(
        self, method: str, *seeds: NDArray[np.bool_], attack: str = "pgd", budget: float = 0.1, **more: Any
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
        "sure": "holds", "unsure": "cannot be told", "turned": "does not hold"
    }  # fmt: skip
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


def test_what_bench_toml_says_of_statements_is_checked(tmp_path: Path) -> None:
    text = (ROOT / "bench.toml").read_text()
    place = "[statements.mine]\nwords = 'w'\nplace = 'p'\n"
    for table, told in (
        ("publication = 'trs'\nunder = ['pgd']\nmore = ['trs']\nless = ['tsr']", "unknown method 'tsr'"),
        ("publication = 'nobody'\nunder = ['pgd']\nmore = ['trs']\nless = ['ece']", "unknown publication 'nobody'"),
        ("publication = 'trs'\nunder = ['pgdd']\nmore = ['trs']\nless = ['ece']", "unknown attack 'pgdd'"),
        ("publication = 'trs'\nunder = ['pgd']\nmore = ['trs']\nless = ['trs']", "no more than itself"),
        ("publication = 'trs'\nmore = ['trs']\nless = ['ece']", "robust accuracy is `under` attacks"),
        ("publication = 'trs'\nof = 'transferability'\nunder = ['pgd']\nmore = ['trs']\nless = ['ece']", "[matrix]"),
    ):
        (tmp_path / "bench.toml").write_text(f"{text}\n{place}{table}\n")
        with pytest.raises(BenchError) as refused:
            config.load(tmp_path / "bench.toml")
        assert told in str(refused.value), refused.value


def test_the_paper_prints_what_the_statements_say() -> None:
    """Its own Table 1 agrees with every statement on it, on both data sets."""
    asked = [each for each in LOADED.config.statements.values() if "Table 1" in each.place]
    assert len(asked) == 4
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


def test_docs_and_site_say_what_the_archive_answers(tmp_path: Path) -> None:
    archive = ROOT / "results/reference/digits/runs.zip"
    bench("db", "import", archive, "--results", tmp_path)
    with Database(tmp_path / "bench.db").open() as db:
        found = answered(db, LOADED)
        make(db, tmp_path / "site")
    assert found.keys() == LOADED.config.statements.keys()
    text = re.sub(r"<!--.*?-->", "", (ROOT / "docs/reproduction.md").read_text())
    table = text.partition("| the TRS paper says | on digits |\n|---|---|\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()]
    assert len(rows) == len(found)
    for (words, told), answer in zip(rows, found.values(), strict=True):
        assert words.startswith(answer.statement.words)
        assert re.match(r"[a-z ]+?(?=:| with)", told)[0] == answer.verdict, told  # type: ignore[index]
        for count, whole in re.findall(r"(\d+) of (\d+) comparisons", told):
            assert (int(count), int(whole)) == (answer.count("as said"), len(answer.compared))
    front = html.unescape((tmp_path / "site/index.html").read_text())
    cells = re.findall(r'href="papers.html#(\w+)-digits"><span[^>]*>.</span> ([a-z ]+)</a> <small>([^<]+)', front)
    assert [(name, verdict) for name, verdict, _ in cells] == [(name, each.verdict) for name, each in found.items()]
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
