"""Boards: one answer to "who is best?" wherever it is asked, and nobody moves by what others were measured with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from site_records import Writer, hex_id, new_database
from sqlalchemy import text

from bench.core import config
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.experiment import select
from bench.experiment.protocols import Part, Standard, standard, standards
from bench.experiment.select import Selection
from bench.report import ledger
from bench.report.boards import Board
from bench.report.site.names import Names, recipe_text
from bench.store import derived, flags
from bench.store.database import Database

N = 500


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return config.load(config.defaults("bench.toml"))


class Hand:
    """Writes runs with results under the attacks of a standard, image by image."""

    def __init__(self, db: Database, one: Standard) -> None:
        self.db, self.one = db, one
        self.writer = Writer(db, n=N)
        self.random = np.random.default_rng(7)

    def run(self, method: str, seed: int = 0, **changes: Any) -> str:
        return self.writer.run(method, seed, **{"versions": {"methods/trs": 1, "trainer": 1}, **changes})

    def attack(self, run_id: str, part: Part, robust: Any, *, limit: int | None = None, **changes: Any) -> str:
        spec = part.spec
        return self.writer.evaluation(
            run_id, robust, attack=spec.attack, budget=spec.budget, settings=spec.settings, image_limit=limit,
            attack_key=part.key(limit), **changes,
        )  # fmt: skip

    def complete(self, run_id: str, share: float, **changes: Any) -> np.ndarray[Any, Any]:
        """Every attack of the standard; returns what stands after all."""
        stands = np.ones(N, bool)
        for part in self.one.parts:
            robust = self.random.random(N) < share
            self.attack(run_id, part, robust, **changes)
            stands &= robust
        return stands

    def done(self) -> None:
        self.writer.flush()
        with self.db.write() as connection:
            connection.execute(text("DELETE FROM meta WHERE key = 'derived'"))


@pytest.fixture
def hand(tmp_path: Path, loaded: Loaded) -> Iterator[Hand]:
    with new_database(tmp_path / "bench.db") as db:
        yield Hand(db, standard(loaded, "core-digits", 0.1))


def board_of(db: Database, loaded: Loaded, recipes: str = "complete") -> Board:
    found = ledger.read(db, loaded).boards
    return next(
        board
        for board in found
        if (board.standard.name, board.standard.eps, board.recipes) == ("core-digits", 0.1, recipes)
    )


def places(board: Board) -> list[tuple[int | None, str, float]]:
    return [(e.ranked.rank if e.ranked else None, e.run.method, round(e.value, 6)) for e in board.entries]


def sql(db: Database, recipes: str = "complete") -> list[tuple[int | None, str, float]]:
    query = text(
        "SELECT rank, method, robust_percent FROM leaderboard WHERE protocol = 'core-digits' AND eps = 0.1 "
        "AND recipes = :recipes ORDER BY robust_percent DESC, provisional, method"
    )
    with db.read() as connection:
        return [
            (row.rank, row.method, round(row.robust_percent, 6))
            for row in connection.execute(query, {"recipes": recipes})
        ]


def test_the_score_is_the_worst_case_over_exactly_the_attacks_of_the_protocol(hand: Hand, loaded: Loaded) -> None:
    run_id = hand.run("trs")
    stands = hand.complete(run_id, 0.9)
    stronger = hand.random.random(N) < 0.5
    hand.writer.evaluation(run_id, stronger, attack="apgd_ce", budget=0.1)
    hand.writer.evaluation(run_id, np.zeros(N, bool), attack="cw", budget=1.0, budget_name="c")
    hand.writer.evaluation(run_id, np.zeros(N, bool), attack="pgd", budget=0.2)
    hand.done()
    board = board_of(hand.db, loaded)
    assert places(board) == [(1, "trs", round(100 * float(stands.mean()), 6))]
    (entry,) = board.entries
    assert entry.lowest == pytest.approx(100 * float((stands & stronger).mean()))
    assert [row.attack for row in entry.scores[0].found_by] == ["apgd_ce"]


MIXED = 'protocols.core-digits.precisions=["float32","mixed"]'


def test_mixed_stands_for_float32_where_the_protocol_says_so(hand: Hand, loaded: Loaded, tmp_path: Path) -> None:
    """And only where nothing in float32 is current; a protocol that says nothing of it is the one that it was."""
    changed = config.load(config.defaults("bench.toml"), [MIXED])
    both = standard(changed, "core-digits", 0.1)
    assert both.standard_id != hand.one.standard_id
    assert [part.key(None) for part in both.parts] == [part.key(None) for part in hand.one.parts]
    run_id, stands = hand.run("trs"), hand.random.random(N) < 0.6
    for part in both.parts:
        hand.writer.evaluation(
            run_id, stands, attack=part.spec.attack, budget=part.spec.budget, settings=part.spec.settings,
            image_limit=None, precision="mixed", attack_key=part.other_keys(None)[0],
        )  # fmt: skip
    hand.done()
    assert "core-digits" not in {board.standard.name for board in ledger.read(hand.db, loaded).boards}
    value = round(100 * float(stands.mean()), 6)
    assert places(board_of(hand.db, changed)) == [(1, "trs", value)]
    everything = np.ones(N, bool)
    for part in both.parts:
        hand.attack(run_id, part, everything)
    hand.done()
    (entry,) = board_of(hand.db, changed).entries
    assert (entry.value, round(entry.lowest, 6)) == (100.0, value)
    assert {row.precision for row in entry.scores[0].parts.values()} == {"float32"}


def test_a_protocol_of_mixed_alone_asks_for_it_and_says_so(hand: Hand, loaded: Loaded) -> None:
    changed = config.load(config.defaults("bench.toml"), [MIXED.replace('"float32",', "")])
    one = standard(changed, "core-digits", 0.1)
    assert {part.label.partition(", ")[2] for part in one.parts} == {"mixed"}
    hand.complete(hand.run("trs"), 0.9)
    hand.done()
    assert "core-digits" not in {board.standard.name for board in ledger.read(hand.db, changed).boards}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ('precisions=["bfloat16"]', "float32"),
        ('precisions=["mixed","mixed"]', "twice"),
        ("precisions=[]", "at least 1"),
    ],
)
def test_precisions_that_no_protocol_can_have_are_refused(change: str, why: str) -> None:
    with pytest.raises(BenchError, match=why):
        config.load(config.defaults("bench.toml"), [f"protocols.core-digits.{change}"])


def test_a_protocol_that_stops_at_the_last_step_refuses_mixed() -> None:
    with pytest.raises(BenchError, match='with "last" it is float32'):
        config.load(config.defaults("bench.toml"), [MIXED, "protocols.core-digits.stop=last"])


def test_all_who_are_asked_name_the_same_order_and_numbers(hand: Hand, loaded: Loaded) -> None:
    """Seeds with different attacks, limits, recipes, versions, precisions, outside runs, flagged and invalid rows."""
    for seed in range(3):
        hand.complete(hand.run("trs", seed), 0.95)
    run_id = hand.run("trs", 3)  # a fourth seed that lacks a part: not among the complete ones
    hand.attack(run_id, hand.one.parts[0], np.zeros(N, bool))
    for seed in range(2):
        hand.complete(hand.run("ece", seed, family_id=hex_id("ece")), 0.7)
    half = hand.run("adp", 0, family_id=hex_id("adp"))
    for part in hand.one.parts[:2]:
        hand.attack(half, part, np.ones(N, bool))
    hand.complete(hand.run("gal", 0, family_id=hex_id("gal"), training_limit=100), 0.99)
    hand.complete(hand.run("ckae", 0, family_id=hex_id("ckae"), recipe_changes=["training.epochs=1"]), 0.99)
    hand.complete(hand.run("old", 0, family_id=hex_id("old"), versions={"methods/trs": 1, "trainer": 0}), 0.99)
    mine = hand.run("mine", 0, family_id=hex_id("mine"), plugin="outside", versions={})
    hand.complete(mine, 0.9)
    coarse = hand.run("dverge", 0, family_id=hex_id("dverge"))
    hand.complete(coarse, 0.8)
    hand.writer.evaluation(coarse, np.zeros(N, bool), attack="pgd", budget=0.1, precision="bfloat16")
    broken = hand.run("cos_only", 0, family_id=hex_id("cos_only"))
    for index, part in enumerate(hand.one.parts):
        outside = {"measurements": {"largest_excess": 0.5}} if index == 0 else {}
        hand.attack(broken, part, np.ones(N, bool), **outside)
    surrogate = hand.run("ece", 1_000_003, family_id=hex_id("surrogate"))
    hand.complete(surrogate, 1.0)
    hand.writer.failure(half, "it broke")
    hand.done()
    derived.refresh(hand.db, standards(loaded))

    board = board_of(hand.db, loaded)
    ranked = [method for rank, method, _ in places(board) if rank is not None]
    assert ranked == ["trs", "mine", "dverge", "ece"]
    hollow = {method: entry for entry in board.entries if (method := entry.run.method) not in ranked}
    assert set(hollow) == {
        "adp",
        "old",
        "cos_only",
    }  # the surrogate is no competitor, the reduced ones stand elsewhere
    assert [part.label for part in hollow["adp"].lacking] == [part.label for part in hand.one.parts[2:]]
    assert len(hollow["old"].lacking) == len(hand.one.parts)
    assert [part.label for part in hollow["cos_only"].lacking] == [hand.one.parts[0].label]
    assert [score.run.seed for score in board.entries[[e.run.method for e in board.entries].index("trs")].scores] == [
        0,
        1,
        2,
    ]
    assert places(board) == sql(hand.db)
    reduced = board_of(hand.db, loaded, "reduced")
    assert {method for _, method, _ in places(reduced)} == {"gal", "ckae"}
    assert places(reduced) == sql(hand.db, "reduced")


def test_a_family_whose_seeds_are_fewer_than_demanded_has_no_rank(hand: Hand, loaded: Loaded) -> None:
    demanding = loaded.config.protocols["core-digits"].model_copy(update={"seeds": 2})
    protocols = {**loaded.config.protocols, "core-digits": demanding}
    changed = Loaded(loaded.config.model_copy(update={"protocols": protocols}), loaded.path, (), {}, {})
    for seed in range(2):
        hand.complete(hand.run("ece", seed, family_id=hex_id("ece")), 0.5)
    hand.complete(hand.run("trs", 0), 0.95)
    hand.done()
    derived.refresh(hand.db, standards(changed))
    assert [(rank, method) for rank, method, _ in places(board_of(hand.db, changed))] == [(None, "trs"), (1, "ece")]
    assert [(rank, method) for rank, method, _ in sql(hand.db)] == [(None, "trs"), (1, "ece")]


@settings(max_examples=15)
@given(data=st.data())
def test_what_others_were_measured_with_moves_nobody(data: st.DataObject, tmp_path_factory: Any) -> None:
    loaded = config.load(config.defaults("bench.toml"))
    folder = tmp_path_factory.mktemp("boards")
    with new_database(folder / "bench.db") as db:
        hand = Hand(db, standard(loaded, "core-digits", 0.1))
        for index, method in enumerate(("trs", "ece", "adp")):
            hand.complete(hand.run(method, 0, family_id=hex_id(method)), 0.9 - 0.1 * index)
        hand.done()
        before = places(board_of(db, loaded))
        for index in range(data.draw(st.integers(1, 4))):
            name = f"other{index}"
            plugin = data.draw(st.sampled_from(["trs", "outside"]))
            run_id = hand.run(name, data.draw(st.integers(0, 3)), family_id=hex_id(name), plugin=plugin)
            for part in data.draw(st.lists(st.sampled_from(hand.one.parts), unique=True, max_size=4)):
                hand.attack(run_id, part, hand.random.random(N) < data.draw(st.floats(0, 1)))
            for attack in data.draw(st.lists(st.sampled_from(["apgd_ce", "mora", "pgd_l2"]), unique=True)):
                hand.writer.evaluation(run_id, hand.random.random(N) < 0.5, attack=attack, budget=0.1)
        hand.done()
        board = board_of(db, loaded)
        assert all(entry.lowest <= entry.value for entry in board.entries if entry.scores)
        after = places(board)
        methods = [method for _, method, _ in before]
        assert [(method, value) for _, method, value in after if method in methods] == [
            (method, value) for _, method, value in before
        ]


def test_the_built_in_protocols_are_what_their_versions_say(loaded: Loaded) -> None:
    """Whoever changes what counts under a protocol raises its version, and then the digest here."""
    found = {one.label: one.standard_id for one in standards(loaded)}
    assert found["core-digits v1, ε = 0.1"] == "9d0e32d22a96ab5d7fb5851e"
    assert found["table1-digits v1, ε = 0.15"] == "eaaeadf6f1d47091e48d73f9"
    assert found["table1-mnist v1, ε = 0.1"] == "2a49dccdaa473eb412643d60"
    assert found["table1-cifar10 v1, ε = 0.02"] == "d32a8e90048bf81aa5312dbf"
    assert found["autoattack-mnist v2, ε = 0.3"] == "ba096302c2441fd332cda93f"
    assert found["autoattack-cifar10 v2, ε = 0.02"] == "5bd631cbb921b24176e1bf74"


def test_a_protocol_may_count_attacks_at_its_own_radius_alone(loaded: Loaded) -> None:
    """As AutoAttack is quoted; other boards count what lies within ε too."""
    for eps in (0.1, 0.15, 0.3):
        assert [part.label for part in standard(loaded, "autoattack-mnist", eps).parts] == [f"autoattack ε={eps:g}"]
    assert {part.spec.budget for part in standard(loaded, "core-digits", 0.15).parts} == {0.1, 0.15}
    own = 'protocols.own={version=1, dataset="digits", suite="autoattack", eps=[0.12], images=500, smaller=false}'
    with pytest.raises(BenchError, match=r"no attack of the suite autoattack is at linf 0\.12"):
        standard(config.load(config.defaults("bench.toml"), [own]), "own", 0.12)


def test_budgets_that_a_suite_does_not_give_are_taken_from_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """By a protocol as by a run: a board would ask for what its suite does not measure."""
    given = 'suites.budget.attacks=[{attack="pgd", budgets={mnist=[0.3]}}]'
    changed = config.load(
        config.defaults("bench.toml"),
        [given, 'protocols.own={version=1, dataset="digits", suite="budget", eps=[0.15], images=500}'],
    )
    selection = Selection(methods=("ece",), dataset="digits", suite="budget")
    (run,) = select.runs(changed, selection)
    told = "the suite budget gives no budgets of pgd on digits; it has some for mnist"
    with pytest.raises(BenchError, match=told):
        select.evaluations(changed, selection, run)
    with pytest.raises(BenchError, match=f"protocols.own: {told}: no board of it"):
        standard(changed, "own", 0.15)
    caplog.clear()
    assert "own" not in {each.name for each in standards(changed)}
    assert told in caplog.text


def test_a_training_in_tf32_is_complete_and_one_in_bfloat16_is_not(hand: Hand, loaded: Loaded) -> None:
    for method, precision, more in (
        ("trs", "tf32", []),
        ("ece", "bfloat16", []),
        ("adp", "tf32", ["training.epochs=1"]),
    ):
        changes = [f"training.precision={precision}", *more]
        run = hand.run(method, 0, family_id=hex_id(method), precision=precision, recipe_changes=changes)
        hand.complete(run, 0.9)
    hand.done()
    derived.refresh(hand.db, standards(loaded))
    assert {method for _, method, _ in places(board_of(hand.db, loaded))} == {"trs"}
    assert {method for _, method, _ in places(board_of(hand.db, loaded, "reduced"))} == {"ece", "adp"}
    (entry,) = board_of(hand.db, loaded).entries
    assert "training.precision=tf32" in recipe_text(entry.run)
    assert Names(loaded).run(entry.run) == "TRS, tf32"


def test_a_recipe_that_is_only_claimed_stands_among_the_reduced(hand: Hand, loaded: Loaded) -> None:
    hand.complete(hand.run("trs"), 0.9)
    claimed = hand.complete(hand.run("adp", recipe="standard (claimed)"), 0.95)
    hand.done()
    assert [method for _, method, _ in places(board_of(hand.db, loaded))] == ["trs"]
    assert (1, "adp", round(100 * float(claimed.mean()), 6)) in places(board_of(hand.db, loaded, "reduced"))


def test_of_stale_results_of_one_attack_the_newest_counts(hand: Hand, loaded: Loaded) -> None:
    run_id = hand.run("trs")
    for version, share in ((-2, 0.9), (-1, 0.6)):  # older versions than today's: both stale
        for part in reversed(hand.one.parts):
            hand.attack(run_id, part, np.arange(N) < share * N, attack_version=version)
    hand.done()
    assert places(board_of(hand.db, loaded)) == [(None, "trs", 60.0)]


def test_flags_that_only_cast_doubt_take_no_rank(hand: Hand, loaded: Loaded) -> None:
    run_id = hand.run("trs")
    for part in hand.one.parts:
        hand.attack(run_id, part, np.ones(N, bool), measurements={"zero_gradients": 400, "attacked": N})
    hand.done()
    found = ledger.read(hand.db, loaded)
    assert {item.flag.id for _, item in found.flags(run_id)} == {"zero-gradient"}
    assert flags.FLAGS["zero-gradient"].severity == "suspect"
    assert places(board_of(hand.db, loaded)) == [(1, "trs", 100.0)]
