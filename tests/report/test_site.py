"""The static site: what is ranked and how, escaped, the same bytes for the same database, only what changed."""

from __future__ import annotations

import base64
import html
import http.client
import io
import json
import re
import shlex
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from site_pages import CORE, LOADED, Table, board_rows, contents, make, ranked, written
from site_records import Writer, fill, new_database
from sqlalchemy import delete, update

from bench.cli.main import run as bench
from bench.core import config, tensors
from bench.core.errors import BenchError
from bench.experiment import select
from bench.experiment.select import Selection
from bench.report import ledger
from bench.report.again import Commands
from bench.report.ranking import ranks_of
from bench.report.site import Built, build, charts, samples, serve
from bench.store import queries
from bench.store.database import Database
from bench.store.published import is_comparable, load_published
from bench.store.schema import Evaluation, Run

N = 500  # images of core-digits
CORE_ATTACKS = ("fgsm", "bim", "pgd", "mim")
EVIL = '<script>alert("x")</script>'


# ------------------------------------------------------------------------------------------------ worst case and ranks


def test_the_headline_is_the_share_of_images_that_withstand_every_attack(db: Database, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    writer = Writer(db, n=N)
    expected = {}
    for method in ("trs", "ece"):
        worst = []
        for seed in range(3):
            run_id = writer.run(method, seed)
            outcomes = {attack: random.random(N) < 0.8 for attack in ("fgsm", "bim", "pgd", "mim")}
            for attack, robust in outcomes.items():
                writer.evaluation(run_id, robust, attack=attack)
            worst.append(100 * sum(all(bits) for bits in zip(*outcomes.values(), strict=True)) / N)
        expected[method] = worst
    shown = ranked(writer, tmp_path / "site")
    for method, title in (("trs", "TRS"), ("ece", "ECE")):
        values = np.array(expected[method])
        assert shown[title]["Worst case"] == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def test_other_threats_and_other_images_do_not_enter(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    run_id = writer.run("trs", 0)
    right, wrong = np.ones(N, bool), np.zeros(N, bool)
    writer.complete(run_id, right)
    writer.evaluation(run_id, wrong, attack="pgd", budget=0.2)
    writer.evaluation(run_id, wrong, attack="pgd_l2", budget=0.1)
    writer.evaluation(
        run_id, wrong[:5], clean=right[:5], attack="fgsm", budget=0.1, image_limit=5, images_digest="e" * 24
    )
    row = ranked(writer, tmp_path / "site")["TRS"]
    assert (row["Worst case"], row["Lowest known"], row["Rank"]) == ("100.0", "100.0", "1")
    writer.evaluation(run_id, wrong, attack="bim", budget=0.1, kind="blackbox")
    row = ranked(writer, tmp_path / "site")["TRS"]
    assert (row["Worst case"], row["Black box"], row["Rank"]) == ("100.0", "0.0", "1")
    assert row["Lowest known"].startswith("0.0 black-box suite")


def test_attacks_in_a_smaller_ball_count_for_the_larger_one(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    run_id = writer.run("trs", 0)
    writer.complete(run_id, np.arange(N) >= 50)
    writer.complete(run_id, np.arange(N) < 400, budget=0.15)
    writer.evaluation(run_id, np.zeros(N, bool), budget=0.1, attack="pgd_l2")
    written(writer, tmp_path / "site")
    assert board_rows(tmp_path / "site", CORE)["TRS"]["Worst case"] == "90.0"
    assert board_rows(tmp_path / "site", "core-digits-v1-0.15-complete")["TRS"]["Worst case"] == "70.0"


def test_an_invalid_result_enters_nothing_and_a_doubtful_one_is_marked(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    for method, measured in (("trs", {"largest_excess": 0.5}), ("ece", {"zero_gradients": 250, "attacked": 450})):
        run_id = writer.run(method, 0)
        writer.complete(run_id, np.arange(N) < 300, attacks=("fgsm", "bim", "mim"), measurements={})
        writer.evaluation(run_id, np.arange(N) < 250, attack="pgd", measurements=measured)
    rows = ranked(writer, tmp_path / "site")
    assert (rows["TRS"]["Rank"], rows["TRS"]["Lead"], rows["TRS"]["Worst case"]) == (
        "○", "lacks 1 of 4 attacks", "60.0"
    )  # fmt: skip
    assert "Not measured: PGD (50) at ε 0.1" in (tmp_path / f"site/boards/{CORE}.html").read_text()
    assert rows["ECE"]["Rank"] == "1"
    assert rows["ECE"]["PGD (50)"] == "50.0 †"
    assert rows["ECE"]["Flags"] == "zero gradient"
    pages = {run.method: (tmp_path / f"site/runs/{run.run_id}.html").read_text() for run in queries.runs(db)}
    assert "enters no mean" in pages["trs"]
    assert "250 of 450 attacked images" in pages["ece"]


def test_a_flag_that_another_seed_raises_reaches_the_pages_of_its_family(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=100)
    first = writer.run("trs", 0)
    writer.evaluation(first, np.arange(100) < 90, measurements={})
    written(writer, tmp_path / "site")
    assert "spread over seeds" not in (tmp_path / f"site/runs/{first}.html").read_text()
    writer.evaluation(writer.run("trs", 1), np.arange(100) < 20, measurements={})
    written(writer, tmp_path / "site")
    assert "spread over seeds" in (tmp_path / f"site/runs/{first}.html").read_text()
    make(db, tmp_path / "fresh")
    assert contents(tmp_path / "site") == contents(tmp_path / "fresh")


def test_results_on_other_weights_than_the_run_has_do_not_enter(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    run_id = writer.run("trs", 0, weights_digest="a" * 24)
    writer.complete(run_id, np.arange(N) < 450, weights_digest="a" * 24)
    writer.evaluation(run_id, np.zeros(N, bool), attack="apgd_ce", weights_digest="b" * 24)
    row = ranked(writer, tmp_path / "site")["TRS"]
    assert (row["Worst case"], row["Lowest known"]) == ("90.0", "90.0")


def test_ranks_and_intervals_agree_with_a_plain_bootstrap() -> None:
    random = np.random.default_rng(2)
    outcomes = [random.random((3, 150)) < share for share in (0.9, 0.62, 0.6, 0.3)]
    found = ranks_of(outcomes, seed=5, replicates=2000)
    ranks, scores = [], []
    for _ in range(2000):
        images = random.choice(150, 150)
        values = [np.mean([each[random.integers(3)][images].mean() for _ in range(3)]) for each in outcomes]
        scores.append(values)
        ranks.append([1 + sum(other > value for other in values) for value in values])
    low, high = np.quantile(scores, [0.025, 0.975], axis=0)
    best, worst = np.quantile(ranks, [0.025, 0.975], axis=0, method="nearest")
    for index, standing in enumerate(found):
        assert standing.low == pytest.approx(low[index], abs=0.015)
        assert standing.high == pytest.approx(high[index], abs=0.015)
        assert (standing.best, standing.worst) == (best[index], worst[index])
    assert [standing.rank for standing in found] == [1, 2, 3, 4] or outcomes[1].mean() < outcomes[2].mean()


def test_the_comparison_is_paired() -> None:
    """One is right wherever the other is, and on one image in ten more: its rank is sure, though scores overlap."""
    random = np.random.default_rng(3)
    weaker = random.random((1, 300)) < 0.5
    stronger = weaker | (np.arange(300) % 10 == 0)
    better, worse = ranks_of([stronger, weaker], seed=0)
    assert (better.best, better.worst) == (1, 1)
    assert (worse.best, worse.worst) == (2, 2)
    assert worse.high > better.low


def test_equal_competitors_share_a_rank_and_the_seed_decides_the_draws() -> None:
    bits = np.random.default_rng(4).random((2, 50)) < 0.5
    first, second, third = ranks_of([bits, bits[::-1], np.zeros((2, 50), bool)], seed=1)
    assert (first.rank, second.rank, third.rank) == (1, 1, 3)
    assert ranks_of([bits], seed=1) == ranks_of([bits], seed=1)
    many = np.random.default_rng(5).random((4, 3, 400)) < 0.5
    assert ranks_of(list(many), seed=1) != ranks_of(list(many), seed=2)


def test_who_lacks_an_attack_stands_in_its_place_hollow_with_the_command(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    for method, stands in (("trs", 400), ("ece", 300), ("adp", 350)):
        run_id = writer.run(method, 0)
        writer.complete(run_id, np.arange(N) < stands, attacks=("fgsm", "pgd") if method == "adp" else CORE_ATTACKS)
        if method == "trs":  # more than the protocol asks moves nobody
            writer.evaluation(run_id, np.arange(N) < 10, attack="apgd_ce")
    rows = ranked(writer, tmp_path / "site")
    assert [(name, row["Rank"], row["Worst case"]) for name, row in rows.items()] == [
        ("TRS", "1", "80.0"), ("ADP", "○", "70.0"), ("ECE", "2", "60.0")
    ]  # fmt: skip
    assert rows["ADP"]["Lead"] == "lacks 2 of 4 attacks"
    assert rows["TRS"]["Lead"] == "≫ +20.0 p < .001"
    assert rows["TRS"]["Lowest known"].startswith("2.0 APGD-CE")
    page = (tmp_path / f"site/boards/{CORE}.html").read_text()
    assert page.count('<details class="evaluation" id="complete-') == 1
    assert "--suite core" in page.partition('id="complete-')[2]
    front = (tmp_path / "site/index.html").read_text()
    assert "TRS leads the next by 20.0 points (p\u00a0<\u00a0.001)." in html.unescape(front)


def test_results_of_an_older_version_enter_neither_mean_nor_rank(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    today, old = {"methods/trs": 1, "trainer": 1}, {"methods/trs": 0, "trainer": 1}
    for seed, robust in ((0, 450), (1, 400)):
        writer.complete(writer.run("trs", seed, versions=today), np.arange(N) < robust)
    writer.complete(writer.run("trs", 2, versions=old), np.zeros(N, bool))
    writer.complete(writer.run("ece", 0, versions=old), np.ones(N, bool))
    rows = ranked(writer, tmp_path / "site")
    assert rows["TRS"]["Worst case"].startswith("85.0")
    assert (rows["ECE"]["Rank"], rows["ECE"]["Lead"]) == ("○", "outdated 4 of 4 attacks")


def test_published_values_are_shown_and_never_ranked(db: Database, tmp_path: Path) -> None:
    load_published(db, config.defaults("published"))
    mnist = queries.references(db, dataset="mnist")
    ours = [ref for ref in mnist if is_comparable(ref.source)]  # FASTEN's lower values are of another setting
    assert ours != mnist
    printed = {(ref.attack, ref.budget): ref.value for ref in ours if ref.method == "trs"}
    writer = Writer(db, n=1000)
    run_id = writer.run("trs", 0, dataset="mnist")
    for attack in ("fgsm", "bim", "pgd", "mim", "apgd_dlr", "apgd_ce"):
        writer.evaluation(run_id, np.arange(1000) < 900, attack=attack, image_limit=1000)
    written(writer, tmp_path / "site")
    board = "table1-mnist-v1-0.1-complete"
    rows = board_rows(tmp_path / "site", board)
    assert rows.keys() == {"TRS"}
    lowest = min(value for (_, budget), value in printed.items() if budget == 0.1)
    assert rows["TRS"]["Δ published"] == f"{90 - lowest:+.1f} to {lowest:.1f}"
    assert "published, not ranked" in (tmp_path / f"site/boards/{board}.html").read_text()
    page = (tmp_path / "site/published/mnist.html").read_text()
    for ref in mnist:
        assert f">{ref.value:.1f}</td>" in page or f">{ref.value:g}</td>" in page


# ---------------------------------------------------------------------------------------------------- pages and files


def test_text_from_outside_is_shown_as_text(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    run_id = writer.run(EVIL, 0, notes=[f"note {EVIL}"], recipe=EVIL, recipe_changes=[EVIL], model=f"'\"><b>{EVIL}",
                        settings={EVIL: EVIL}, config={"a": EVIL}, dataset=f"../{EVIL}")  # fmt: skip
    writer.evaluation(run_id, np.ones(N, bool), attack=f"pgd{EVIL}", settings={EVIL: 1}, measurements={EVIL: EVIL})
    writer.failure(run_id, EVIL)
    ranked = writer.run(EVIL, 1, recipe=EVIL, model=EVIL)
    writer.complete(ranked, np.ones(N, bool))
    writer.failure(f"../{EVIL}", EVIL, kind=EVIL, method=EVIL, dataset=EVIL)
    written(writer, tmp_path / "site")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert {page.parent.name for page in pages} == {"site", "runs", "methods", "boards"}
    assert len(pages) == 12
    for page in pages:
        text = page.read_text()
        assert "<script>alert" not in text, page
        assert "'\"><b>" not in text
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in (tmp_path / f"site/runs/{run_id}.html").read_text()
    assert {path.parent.parent for path in pages} <= {tmp_path, tmp_path / "site"}


def test_every_link_leads_to_a_file_of_the_site(db: Database, tmp_path: Path) -> None:
    fill(db)
    load_published(db, config.defaults("published"))
    make(db, tmp_path / "site")
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text()
        identifiers = set(re.findall(r'\bid="([^"]+)"', text))
        for link in re.findall(r'(?:href|src)="([^"]+)"', text):
            if link.startswith("data:"):
                continue
            if link.startswith("https://") and page.parent.name == "methods":  # of a paper and of its code
                continue
            address, _, anchor = link.partition("#")
            assert "://" not in address
            assert not address or (page.parent / address).resolve().is_file(), f"{page}: {link}"
            assert address or anchor in identifiers, f"{page}: {link}"


def test_the_same_database_gives_the_same_bytes(db: Database, tmp_path: Path) -> None:
    fill(db)
    make(db, tmp_path / "one")
    make(db, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_only_what_changed_is_made_again_and_the_outcome_is_that_of_a_fresh_build(db: Database, tmp_path: Path) -> None:
    fill(db, methods=("trs", "ece"))
    make(db, tmp_path / "site")
    before = contents(tmp_path / "site")
    assert make(db, tmp_path / "site") == Built(len(before) - 1, (), ())
    writer = Writer(db, n=N, started="2026-11-22T10:00:00Z")
    writer.rows = {}
    runs = queries.runs(db)
    with db.write() as connection:
        connection.execute(update(Run).where(Run.run_id == runs[0].run_id).values(attempt_id="again", notes=["new"]))
        gone = queries.evaluations(db, run_ids=runs[-1].run_id)
        connection.execute(delete(Evaluation).where(Evaluation.run_id == runs[-1].run_id))
        connection.execute(delete(Run).where(Run.run_id == runs[-1].run_id))
    assert gone
    built = make(db, tmp_path / "site")
    first, last = f"runs/{runs[0].run_id}.html", f"runs/{runs[-1].run_id}.html"
    assert built.removed == (last,)
    siblings = {f"runs/{run.run_id}.html" for run in runs if run.family_id == runs[-1].family_id} - {last}
    assert {name for name in built.written if name.startswith("runs/")} == {first} | siblings
    make(db, tmp_path / "fresh")
    assert contents(tmp_path / "site", news=False) == contents(tmp_path / "fresh", news=False)


def test_a_page_that_was_lost_or_cut_is_made_again(db: Database, tmp_path: Path) -> None:
    fill(db, methods=("trs",), budgets=(0.1,))
    make(db, tmp_path / "site")
    before = contents(tmp_path / "site")
    lost, cut = sorted((tmp_path / "site/runs").iterdir())[:2]
    lost.unlink()
    cut.write_text(cut.read_text()[:100])
    assert set(make(db, tmp_path / "site").written) == {f"runs/{lost.name}", f"runs/{cut.name}"}
    assert contents(tmp_path / "site") == before


def test_a_build_that_was_cut_short_is_finished_by_the_next(db: Database, tmp_path: Path) -> None:
    fill(db, methods=("trs",), budgets=(0.1,))

    def stop(done: int, total: int, label: str) -> None:
        if label == "runs":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(db, tmp_path / "site", loaded=LOADED, progress=stop)
    assert not (tmp_path / "site/index.html").exists()
    make(db, tmp_path / "site")
    make(db, tmp_path / "fresh")
    assert contents(tmp_path / "site") == contents(tmp_path / "fresh")


def test_files_of_others_are_left_alone(db: Database, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "index.html").write_text("mine")
    with pytest.raises(BenchError, match="other files"):
        make(db, folder)
    (folder / "manifest.json").write_text('{"name": "an app"}')
    with pytest.raises(BenchError, match="other files"):
        make(db, folder)
    assert (folder / "index.html").read_text() == "mine"
    make(db, tmp_path / "site")
    (tmp_path / "site/notes.txt").write_text("mine")
    manifest = tmp_path / "site/manifest.json"
    pages = json.loads(manifest.read_text())
    pages["pages"]["../mine/index.html"] = {"from": "", "size": 4}
    manifest.write_text(json.dumps(pages))
    make(db, tmp_path / "site")
    assert (tmp_path / "site/notes.txt").read_text() == "mine"
    assert (folder / "index.html").read_text() == "mine"


def test_an_empty_database_says_what_fills_it(db: Database, tmp_path: Path) -> None:
    make(db, tmp_path / "site")
    assert "bench run --method" in (tmp_path / "site/index.html").read_text()


# ------------------------------------------------------------------------------------------------------- a run's page


def test_a_matrix_shows_its_rates_and_counts(db: Database, tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    clean, missed = random.random((4, 60)) < 0.9, random.random((3, 4, 60)) < 0.4
    writer = Writer(db, n=60)
    run_id = writer.run("trs", 0)
    writer.matrix(run_id, clean, missed)
    written(writer, tmp_path / "site")
    rows = Table((tmp_path / f"site/runs/{run_id}.html").read_text()).rows[1:]
    among = clean[:3].all(0)
    for source in range(3):
        for target in range(4):
            text, attributes = rows[source][target + 1]
            rate = 100 * missed[source, target][among].mean()
            assert text == f"{rate:.0f}"
            assert float(attributes["data-csv"]) == pytest.approx(rate)
            assert f"({(missed[source, target] & among).sum()} of {among.sum()})" in attributes["data-tip"]
            assert ("own" in attributes["class"]) == (source == target)


def test_the_command_of_a_run_gives_this_run(db: Database, tmp_path: Path) -> None:
    given = ("methods.trs.lambda_a=3", "training.epochs=4")
    for changes in ((), given):
        changed = config.load(LOADED.path, changes)
        spec = select.run_spec(changed, Selection(dataset="digits", members=4), "trs", 2)
        row = {"run_id": spec.run_id, "family_id": spec.family_id, "members": 4, "settings": spec.settings,
               "training": spec.training.model_dump(mode="json"), "config": spec.model_dump(mode="json")}  # fmt: skip
        with new_database(tmp_path / f"{len(changes)}.db") as other:
            writer = Writer(other, members=4)
            writer.run("trs", 2, **row)  # type: ignore[arg-type]
            writer.flush()
            (run,) = queries.runs(other)
        found = Commands(LOADED).run(run, row["config"])  # type: ignore[arg-type]
        assert found.exact
        words = shlex.split(found.text)
        sets = [words[index + 1] for index, word in enumerate(words) if word == "--set"]
        again = select.run_spec(config.load(LOADED.path, sets), Selection(dataset="digits", members=4), "trs", 2)
        assert again.run_id == spec.run_id
        assert bool(sets) == bool(changes)


def test_the_command_of_an_older_run_takes_back_what_bench_toml_says_since(db: Database) -> None:
    first = config.load(Path(__file__).parents[1] / "releases" / "first.toml")
    spec = select.run_spec(first, Selection(dataset="digits"), "trs_official", 0)
    assert "running_statistics" not in spec.settings
    writer = Writer(db)
    stored = spec.model_dump(mode="json")
    writer.run("trs_official", 0, run_id=spec.run_id, plugin="trs", settings=spec.settings, training=stored["training"])
    writer.flush()
    (run,) = queries.runs(db)
    found = Commands(LOADED).run(run, stored)
    assert found.exact
    assert "--set 'methods.trs_official.running_statistics=\"needed\"'" in found.text


def test_a_run_that_cannot_be_made_again_says_so(db: Database, tmp_path: Path) -> None:
    writer = Writer(db)
    run_id = writer.run("a_method_from_elsewhere", 0)
    written(writer, tmp_path / "site")
    assert "the command gives another run" in (tmp_path / f"site/runs/{run_id}.html").read_text()


def test_the_command_of_an_attack_gives_this_evaluation(db: Database) -> None:
    spec = select.run_spec(LOADED, Selection(dataset="digits"), "ece", 0)
    changed = config.load(LOADED.path, ["attacks.pgd.steps=7"])
    chosen = Selection(methods=("ece",), dataset="digits", attacks=("pgd",), eps=(0.07,), limit=100)
    wanted = select.evaluations(changed, chosen, spec)[-1]
    writer = Writer(db)
    writer.run("ece", 0, run_id=spec.run_id, plugin="ece", settings=spec.settings,
               training=spec.training.model_dump(mode="json"))  # fmt: skip
    key = writer.evaluation(spec.run_id, np.ones(40, bool), attack="pgd", budget=0.07, settings=wanted.settings,
                            image_limit=100, attack_key=wanted.attack_key)  # fmt: skip
    writer.rows[next(table for table in writer.rows if table.__name__ == "Attack")][0]["attack_key"] = wanted.attack_key
    writer.flush()
    (run,), (row,) = queries.runs(db), queries.evaluations(db, evaluation_ids=key)
    commands = Commands(LOADED)
    found = commands.evaluation(run, row, commands.run(run, spec.model_dump(mode="json")))
    assert found.exact
    assert "--attack pgd --eps 0.07 --limit 100 --set attacks.pgd.steps=7" in found.text


def test_sample_images_stand_beside_their_originals(db: Database, tmp_path: Path) -> None:
    from PIL import Image
    from safetensors.numpy import save_file

    random = np.random.default_rng(7)
    clean = random.random((2, 3, 8, 8)).astype(np.float32)
    adversarial = np.clip(clean + 0.1, 0, 1).astype(np.float32)
    writer = Writer(db)
    run_id = writer.run("trs", 0)
    attack = writer.evaluation(run_id, np.ones(40, bool))
    writer.flush()
    folder = tmp_path / "results/runs" / run_id / "samples"
    folder.mkdir(parents=True)
    numbers = {name: np.array(values) for name, values in
               (("labels", [3, 4]), ("clean_prediction", [3, 4]), ("adversarial_prediction", [8, 4]))}  # fmt: skip
    arrays = {"clean": clean, "adversarial": adversarial, **numbers}
    whole = folder / f"{attack}.safetensors"
    save_file(arrays, whole, metadata=tensors.header(tensors.digest(arrays), {}))
    (folder / "changed.safetensors").write_bytes(whole.read_bytes()[:-4] + b"\x55" * 4)
    (folder / "broken.safetensors").write_bytes(b"nothing")
    make(db, tmp_path / "site", tmp_path / "results")
    page = (tmp_path / f"site/runs/{run_id}.html").read_text()
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in
                re.findall(r'src="data:image/png;base64,([^"]+)"', page)]  # fmt: skip
    assert len(pictures) == 6
    np.testing.assert_array_equal(pictures[0], np.rint(clean[0] * 255).astype(np.uint8).transpose(1, 2, 0))
    np.testing.assert_array_equal(pictures[4], np.rint(adversarial[1] * 255).astype(np.uint8).transpose(1, 2, 0))
    assert "original, class 3, predicted 3" in page
    assert "adversarial, predicted 8" in page
    assert "The file of samples cannot be shown" in page
    assert samples.read(folder / "missing.safetensors").fault
    assert "other values than were written" in samples.read(folder / "changed.safetensors").fault


def test_text_on_a_heatmap_can_be_read() -> None:
    def luminance(colour: str) -> float:
        channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    shades = [charts.heat(share) for share in np.linspace(0, 1, 101)]
    lights = [luminance(colour) for colour, _ in shades]
    assert lights == sorted(lights, reverse=True)  # readable in grey
    for (_, white), light in zip(shades, lights, strict=True):
        assert (1.05 / (light + 0.05) if white else (light + 0.05) / 0.05) >= 4.5


# ------------------------------------------------------------------------------------------------------------- commands


def test_bench_report_writes_a_site(db: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(db, methods=("trs",), budgets=(0.1,))
    where = ["--results", str(tmp_path)]
    assert bench(["report", "-o", str(tmp_path / "site"), *where]) == 0
    out, err = capsys.readouterr()
    assert "files written" in out
    assert err == ""  # no bar where there is no terminal, nor a line where it was
    assert bench(["report", "-o", str(tmp_path / "site"), *where]) == 0
    assert "0 of" in capsys.readouterr().out
    (tmp_path / "file").touch()
    assert bench(["report", "-o", str(tmp_path / "file" / "site"), *where]) == 2
    assert capsys.readouterr().err == f"Error: cannot write to {tmp_path / 'file' / 'site'}: Not a directory\n"
    assert bench(["report", "--port", "1", *where]) == 2
    assert "--serve" in capsys.readouterr().err
    assert bench(["report", "--results", str(tmp_path / "nowhere")]) == 2


def ask(server: serve.Server, path: str, host: str | None = None) -> tuple[int, str]:
    address = server.address.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host or address)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, text


def test_the_server_shows_the_site_and_nothing_else(db: Database, tmp_path: Path) -> None:
    fill(db, methods=("trs",), budgets=(0.1,))
    make(db, tmp_path / "site")
    (tmp_path / "secret.html").write_text("secret")
    with serve.Server(tmp_path / "site") as server:
        status, page = ask(server, "/")
        assert (status, page.count("/-/live.js")) == (200, 1)
        assert (
            page.replace('<script defer src="/-/live.js"></script>\n', "") == (tmp_path / "site/index.html").read_text()
        )
        assert "fetch" in ask(server, "/-/live.js")[1]
        before = ask(server, "/-/state?page=/index.html")[1]
        (tmp_path / "site/index.html").write_text("another")
        assert ask(server, "/-/state?page=/index.html")[1] != before
        outside = ("/../secret.html", "/%2e%2e/secret.html", "/-/state?page=/../secret.html")
        for path in (*outside, "/runs/", "/nothing.html"):
            status, text = ask(server, path)
            assert status == 404 or text == "gone", path
            assert "secret" not in text
        assert ask(server, "/", host="evil.example")[0] == 403
        assert server.address.startswith("http://127.0.0.1:")


def test_results_that_come_in_are_noticed(db: Database) -> None:
    stop, seen = threading.Event(), []

    def watch() -> None:
        for _ in serve.changes(lambda: ledger.mark(db), stop, every=0.02):
            seen.append(1)

    thread = threading.Thread(target=watch)
    thread.start()
    time.sleep(0.1)
    assert not seen
    writer = Writer(db)
    writer.run("trs", 0)
    writer.flush()
    deadline = time.monotonic() + 10
    while not seen and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    thread.join()
    assert seen == [1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_evaluations(tmp_path: Path) -> None:
    """First build, nothing new, one run more: the numbers are printed (pytest -s), the pages counted."""
    with new_database(tmp_path / "bench.db") as db:
        count = fill(db, methods=[f"method_{index}" for index in range(25)], settings=31, epochs=40,
                     attacks=("fgsm", "bim", "pgd", "mim"), budgets=(0.05, 0.1, 0.15, 0.2, 0.25),
                     datasets=("digits", "mnist"))  # fmt: skip
        assert count > 100_000
        taken = []
        for step in range(3):
            if step == 2:
                writer = Writer(db, n=N, started="2026-11-22T10:00:00Z")
                writer.rows = {}
                writer.run("method_0", 99)
                writer.flush()
            start = time.monotonic()
            built = make(db, tmp_path / "site")
            taken.append(time.monotonic() - start)
            print(f"{count} evaluations: {len(built.written)} of {built.pages} pages in {taken[-1]:.1f} s")
            assert len(built.written) == (built.pages if step == 0 else 0 if step == 1 else 4)
    assert (tmp_path / "site/index.html").stat().st_size < 100_000
