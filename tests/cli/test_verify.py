"""`bench db verify`: what is found again is marked, what differs is told, and nothing that is stored changes."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchanged import place, tree
from in_process import QUICK, TINY, command

import bench
from bench.attacks.iterative import PGD
from bench.core import bits
from bench.experiment.folder import RE_MEASURED
from bench.jobs import verify, work
from bench.jobs.locks import Locks

ONE = ("--threads", "1", "-q")
SUITE = ("--suite", "figure2", "--set", "blackbox.members=[2]", "--set", "blackbox.restarts=1",
         "--set", "blackbox.budgets.digits=[0.1]", "--set", "attacks.pgd.steps=4",
         "--set", "attacks.pgd_cw.steps=4")  # fmt: skip
pytestmark = pytest.mark.usefixtures("_one_thread")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain ensemble under the core suite and the black-box one, and the surrogate of that, on 40 digits."""
    folder = tmp_path_factory.mktemp("made") / "results"
    for more in ((), SUITE):
        code, out, err = command("run", "-m", "ece", *QUICK, *ONE, *more, "--results", folder)
        assert code == 0, out + err
    return folder


@pytest.fixture
def theirs(made: Path, tmp_path: Path) -> Path:
    """A copy, whose records a test may change."""
    return Path(shutil.copytree(made, tmp_path / "theirs"))


def run_of(results: Path, *, surrogate: bool = False) -> str:
    (found,) = (
        path.parent.name
        for path in results.glob("runs/*/run.json")
        if (json.loads(path.read_text())["seed"] >= 1_000_000) == surrogate
    )
    return found


def record(results: Path, kind: str, attack: str, budget: float | None = None) -> Path:
    for path in sorted(results.glob("runs/*/evaluations/*.json")):
        found = json.loads(path.read_text())
        if (found["kind"], found["attack"]) == (kind, attack) and budget in (None, found["budget"]):
            return path
    raise AssertionError((kind, attack, budget))


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def flip(count: int, key: str = "robust_bits") -> Callable[[dict[str, Any]], None]:
    """So many images that were broken stand, with counts that fit."""

    def change(found: dict[str, Any]) -> None:
        clean, rows = bits.from_text(found["clean_bits"], found["n"]), bits.from_text(found[key], found["n"])
        rows[np.flatnonzero(clean & ~rows)[:count]] = True
        found |= {key: bits.to_text(rows), "n_robust": int(rows.sum())}

    return change


def elsewhere(found: dict[str, Any]) -> None:
    """Of another machine."""
    found["environment"] = found["environment"] | {"cpu": "Another", "threads": 4096}


def taken_in(theirs: Path, ours: Path, *options: object) -> Path:
    """What an import of all that `theirs` has makes of `ours`."""
    archive = ours.with_suffix(".zip")
    assert command("db", "rebuild", "--results", theirs)[0] == 0
    assert command("db", "export", "-o", archive, "--results", theirs, *options)[0] == 0
    code, _, err = command("db", "import", archive, "--results", ours)
    assert code == 0, err
    return ours


def verified(results: Path, *arguments: object) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and the verdicts by label."""
    code, out, err = command("db", "verify", *arguments, "--json", "--results", results)
    assert "Traceback" not in err
    return code, {verdict["label"]: verdict for verdict in json.loads(out)} if out else {"": {"told": err}}


def sources(results: Path) -> dict[str, str]:
    """Provenance of every run and evaluation, which a rebuild makes the same."""

    def read() -> dict[str, str]:
        with closing(sqlite3.connect(results / "bench.db")) as connection:
            rows = connection.execute("SELECT run_id, provenance FROM run").fetchall()
            return dict(rows + connection.execute("SELECT evaluation_id, provenance FROM evaluation").fetchall())

    found = read()
    assert command("db", "rebuild", "--results", results)[0] == 0
    assert read() == found
    return found


def test_what_is_found_again_is_marked_and_nothing_else_changes(theirs: Path, tmp_path: Path) -> None:
    ours = taken_in(theirs, tmp_path / "ours")
    run, before = run_of(ours), tree(ours)
    assert set(sources(ours).values()) == {"imported"}
    code, out, err = command("db", "verify", run[:8], "--results", ours)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"{run[:12]}  ece on digits, seed 0  imported")
    assert len(lines) == 13
    assert all(line.startswith("✓") and "all 40 images as recorded" in line for line in lines[1:-1])
    assert {line.split("  ")[1] for line in lines[1:-1]} >= {"clean", "transfer pgd eps 0.2", "blackbox eps 0.1"}
    assert lines[-1] == "11 re-measured"
    assert tree(ours) == before
    assert not list(ours.glob(".verify-*"))
    found = sources(ours)
    own = {path.stem for path in ours.glob(f"runs/{run}/evaluations/*.json")}
    assert {key for key, value in found.items() if value == "re-measured"} == own
    frame = bench.load(ours / "bench.db").evaluations
    assert set(frame[frame.run_id == run].provenance) == {"re-measured"}


def test_what_was_found_again_is_not_measured_twice_unless_forced(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = taken_in(theirs, tmp_path / "ours")
    run, made = run_of(ours), []
    real = verify.make
    monkeypatch.setattr(verify, "make", lambda *given, **named: made.append(given[0]) or real(*given, **named))
    chosen = (run, "--attack", "fgsm", "--eps", "0.1,0.15")
    for options, state, count in (((), "equal", 2), ((), "known", 2), (("--force",), "equal", 4)):
        code, verdicts = verified(ours, *chosen, *options)
        assert (code, len(made)) == (0, count)
        assert {verdict["state"] for verdict in verdicts.values()} == {state}
        assert {verdict["re_measured"] for verdict in verdicts.values()} == {True}


def test_a_changed_outcome_is_told_and_not_marked(theirs: Path, tmp_path: Path) -> None:
    changed(record(theirs, "attack", "pgd", 0.1), flip(1))
    changed(
        record(theirs, "transfer", "pgd"), lambda found: found["cells"][1].update(found["cells"][0] | {"target": 1})
    )
    ours = taken_in(theirs, tmp_path / "ours")
    code, verdicts = verified(ours, run_of(ours), "--attack", "pgd,fgsm", "--eps", "0.1,0.2")
    assert code == 1
    assert {label: verdict["state"] for label, verdict in verdicts.items()} == {
        "fgsm eps 0.1": "equal", "pgd eps 0.1": "differs", "transfer pgd eps 0.2": "differs",
    }  # fmt: skip
    told = verdicts["pgd eps 0.1"]["told"]
    assert told == "differs: 1 of 40 images, on the recorded weights and in the recorded environment"
    found = sources(ours)
    assert {verdicts[label]["id"]: found[verdicts[label]["id"]] for label in verdicts} == {
        verdict["id"]: "re-measured" if label.startswith("fgsm") else "imported" for label, verdict in verdicts.items()
    }
    code, out, _ = command("db", "verify", verdicts["pgd eps 0.1"]["id"][:10], "--results", ours)
    assert (code, out.splitlines()[-1]) == (1, "1 differs")
    assert "✗  pgd eps 0.1  differs: 1 of 40 images" in out


def test_what_a_clean_record_says_is_believed_by_no_attack(theirs: Path, tmp_path: Path) -> None:
    def other(found: dict[str, Any]) -> None:
        clean = bits.from_text(found["clean_bits"], 40)
        clean[:4] = ~clean[:4]
        found |= {"clean_bits": bits.to_text(clean), "n_clean": int(clean.sum())}

    changed(record(theirs, "clean", "clean"), other)
    ours = taken_in(theirs, tmp_path / "ours")
    code, verdicts = verified(ours, run_of(ours), "--attack", "clean,fgsm", "--eps", "0.1")
    assert verdicts["fgsm eps 0.1"]["state"] == "equal"
    code, verdicts = verified(ours, run_of(ours), "--attack", "clean")
    assert (code, verdicts["clean"]["state"]) == (1, "differs")


@pytest.mark.parametrize(("flips", "state"), [(0, "equal"), (2, "close"), (3, "differs")])
def test_elsewhere_two_images_may_differ(theirs: Path, tmp_path: Path, flips: int, state: str) -> None:
    path = record(theirs, "attack", "pgd", 0.15)
    changed(path, elsewhere)
    changed(path, flip(flips))
    ours = taken_in(theirs, tmp_path / "ours")
    code, verdicts = verified(ours, path.stem)
    verdict = verdicts["pgd eps 0.15"]
    assert (code, verdict["state"], verdict["agreement"]["differing"]) == (int(flips > 2), state, flips)
    assert verdict["elsewhere"][0].startswith("CPU Another then, ")
    assert sources(ours)[path.stem] == ("imported" if flips > 2 else "re-measured")
    if flips > 2:
        assert verdict["told"] == "differs: 3 of 40 images, up to 2 may; exact McNemar test: no difference, p = 0.25"
    shown = command("show", path.stem, "--results", ours)[1]
    told = {0: "re-measured on", 2: ": 38 of 40 images as recorded", 3: "source      imported"}[flips]
    assert told in shown


def test_a_mark_goes_where_a_later_look_finds_another_outcome(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = taken_in(theirs, tmp_path / "ours")
    path = record(ours, "attack", "fgsm", 0.1)
    assert verified(ours, path.stem)[0] == 0
    real = verify.make

    def other(*given: Any, **named: Any) -> Any:
        found = real(*given, **named)
        flip(3)(found.result)
        return found

    monkeypatch.setattr(verify, "make", other)
    assert verified(ours, path.stem, "--force")[1]["fgsm eps 0.1"]["state"] == "differs"
    assert sources(ours)[path.stem] == "imported"


def test_an_outcome_whose_doubt_is_hidden_differs(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = verify.make

    def masked(*given: Any, **named: Any) -> Any:
        found = real(*given, **named)
        found.result["measurements"]["zero_gradients"] = 40
        return found

    monkeypatch.setattr(verify, "make", masked)
    ours = taken_in(theirs, tmp_path / "ours")
    code, verdicts = verified(ours, record(ours, "attack", "pgd", 0.1).stem)
    assert code == 1
    told = verdicts["pgd eps 0.1"]["told"]
    assert told == "differs: all 40 images as recorded; flagged zero-gradient, which its record is not"
    assert not verdicts["pgd eps 0.1"]["re_measured"]


def test_results_of_ones_own_are_found_again_and_stay_measured(theirs: Path) -> None:
    code, out, _ = command("db", "verify", run_of(theirs), "--attack", "fgsm", "--results", theirs)
    assert (code, out.splitlines()[-1]) == (0, "2 found again, of your own")
    assert set(sources(theirs).values()) == {"measured"}
    assert not list(theirs.glob(f"runs/*/{RE_MEASURED}"))


def test_no_archive_nor_database_brings_it_along(theirs: Path, tmp_path: Path) -> None:
    ours = taken_in(theirs, tmp_path / "ours")
    path = record(ours, "attack", "fgsm", 0.1)
    assert verified(ours, path.stem)[0] == 0
    third = taken_in(ours, tmp_path / "third")
    assert set(sources(third).values()) == {"imported"}
    assert not list(third.glob(f"runs/*/{RE_MEASURED}"))
    assert command("db", "merge", ours / "bench.db", "--results", tmp_path / "rows")[0] == 0
    with closing(sqlite3.connect(tmp_path / "rows" / "bench.db")) as connection:
        assert connection.execute("SELECT DISTINCT provenance FROM evaluation").fetchall() == [("imported",)]
    # The same archive once more leaves the mark; a result that was deleted and comes in anew has none.
    assert command("db", "import", ours.with_suffix(".zip"), "--results", ours)[0] == 0
    assert sources(ours)[path.stem] == "re-measured"
    assert command("db", "delete", path.stem, "-y", "--results", ours)[0] == 0
    assert command("db", "import", ours.with_suffix(".zip"), "--results", ours)[0] == 0
    assert sources(ours)[path.stem] == "imported"


def test_a_mark_is_of_one_content(theirs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours = taken_in(theirs, tmp_path / "ours")
    path = record(ours, "attack", "fgsm", 0.15)
    assert verified(ours, path.stem)[0] == 0
    changed(path, flip(1))  # the attempt stays the same
    assert command("db", "rebuild", "--results", ours)[0] == 0
    assert sources(ours)[path.stem] == "imported"
    assert verified(ours, path.stem)[1]["fgsm eps 0.15"]["state"] == "differs"
    note = path.parents[1] / RE_MEASURED
    note.write_text("{}")
    assert command("db", "rebuild", "--results", ours)[0] == 0
    assert f"{note} is damaged" in caplog.text
    assert "re-measured" not in sources(ours).values()


def test_without_weights_it_is_trained_anew_where_that_is_allowed(theirs: Path, tmp_path: Path) -> None:
    ours = taken_in(theirs, tmp_path / "ours", "--no-weights")
    run = run_of(ours)
    code, out, err = command("db", "verify", run, "--attack", "fgsm", "--results", ours)
    assert (code, out) == (2, "")
    assert f"the weights of run {run[:12]} (ece on digits, seed 0) are not here" in err
    assert "--retrain trains it anew, which took " in err
    assert len(err.splitlines()) == 1
    code, verdicts = verified(ours, run, "--attack", "fgsm", "--retrain")
    assert (code, {verdict["state"] for verdict in verdicts.values()}) == (0, {"equal"})
    assert verdicts["training"]["told"] == "made anew, it gives the recorded weights"
    assert sources(ours)[run] == "re-measured"
    # The weights are those recorded, so the run has them from now on.
    assert place(ours).run(run).weights.read_bytes() == place(theirs).run(run).weights.read_bytes()
    assert not (ours / "again" / run).exists()
    assert verified(ours, run, "--attack", "pgd", "--eps", "0.1")[0] == 0
    shown = command("show", run, "--results", ours)[1]
    assert "trained again, the same weights; results: 8 imported, 3 re-measured" in shown


def test_a_training_can_be_verified_where_weights_are_here_too(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = taken_in(theirs, tmp_path / "ours")
    run, before = run_of(ours), tree(ours)
    code, verdicts = verified(ours, run, "--sample", "1", "--retrain")
    assert (code, next(iter(verdicts)), len(verdicts)) == (0, "training", 2)
    assert sources(ours)[run] == "re-measured"
    assert {name: value for name, value in tree(ours).items() if name != "again"} == before
    again = (run, "--sample", "1", "--retrain")
    assert [verdict["state"] for verdict in verified(ours, *again)[1].values()] == ["known"]
    # Where it gives other weights now the mark goes; the run's own stay, and are what is measured on.
    monkeypatch.setattr(work, "initialisation_axes", lambda run: ("another",))
    code, verdicts = verified(ours, *again, "--force")
    assert (code, [verdict["state"] for verdict in verdicts.values()]) == (1, ["differs", "equal"])
    assert sources(ours)[run] == "imported"
    assert {name: value for name, value in tree(ours).items() if name != "again"} == before


def test_what_a_run_was_trained_with_is_trained_first(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    assert command("run", "-m", "dverge", "--attack", "fgsm", "--eps", "0.1", *TINY, *ONE, "--results", theirs)[0] == 0
    ours = taken_in(theirs, tmp_path / "ours", "--no-weights")
    (first, second) = sorted(
        (json.loads(path.read_text()) for path in ours.glob("runs/*/run.json")), key=lambda run: len(run["requires"])
    )
    _, verdicts = verified(ours, second["run_id"])
    assert "--retrain trains it anew with 1 that it needs, which took" in verdicts[""]["told"]
    code, verdicts = verified(ours, second["run_id"], "--retrain")
    assert (code, {verdict["state"] for verdict in verdicts.values()}) == (0, {"equal"})
    name = f"training of run {first['run_id'][:12]} (ece on digits, seed 0)"
    assert list(verdicts) == [name, "training", "clean", "fgsm eps 0.1"]
    assert set(sources(ours).values()) == {"re-measured"}


@pytest.mark.parametrize("there", [True, False])
def test_a_training_that_gives_other_weights_is_told(theirs: Path, tmp_path: Path, there: bool) -> None:
    """Where the record names another machine that is usual; where it names this one it is a fault."""
    folder = theirs / "runs" / run_of(theirs)
    for path in (folder / "run.json", *folder.glob("evaluations/*.json")):
        changed(path, lambda found: found.update(weights_digest="0" * 24))
        if there:
            changed(path, elsewhere)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    changed(record(theirs, "attack", "fgsm", 0.15), flip(3))
    ours = taken_in(theirs, tmp_path / "ours", "--no-weights")
    run = folder.name
    code, verdicts = verified(ours, run, "--attack", "fgsm", "--retrain")
    assert code == 1
    assert verdicts["training"]["state"] == ("other" if there else "differs")
    assert verdicts["training"]["told"].startswith("made anew, it gives other weights than recorded")
    assert verdicts["fgsm eps 0.1"]["state"] == "equal"
    assert (
        verdicts["fgsm eps 0.15"]["told"]
        == "differs: 3 of 40 images, up to 2 may; exact McNemar test: no difference, p = 0.25"
    )
    found = sources(ours)
    assert found[run] == "imported"
    assert found[verdicts["fgsm eps 0.1"]["id"]] == "re-measured"
    assert not place(ours).run(run).weights.exists()
    assert "on weights of a training made anew" in command(
        "show", verdicts["fgsm eps 0.1"]["id"], "--results", ours
    )[1]  # fmt: skip
    # They are kept beside the run, so that more can be measured without another training.
    stamp = (ours / "again" / run / "members.safetensors").stat().st_mtime_ns
    assert verified(ours, run, "--attack", "pgd", "--eps", "0.1", "--retrain")[0] == int(not there)
    assert (ours / "again" / run / "members.safetensors").stat().st_mtime_ns == stamp


def test_images_of_surrogates_are_made_again(theirs: Path, tmp_path: Path) -> None:
    ours = taken_in(theirs, tmp_path / "ours")
    surrogate, suite = run_of(ours, surrogate=True), record(ours, "blackbox", "blackbox")
    assert not (ours / "runs" / surrogate / "crafted").exists()  # images do not travel
    code, verdicts = verified(ours, suite.stem)
    assert (code, verdicts["blackbox eps 0.1"]["state"]) == (0, "equal")
    assert not (ours / "runs" / surrogate / "crafted").exists()
    code, verdicts = verified(ours, surrogate)
    assert (code, verdicts["images of blackbox eps 0.1"]["state"]) == (0, "equal")
    # Of an archive without weights both are trained.
    bare = taken_in(theirs, tmp_path / "bare", "--no-weights")
    place(theirs).run(run_of(theirs)).weights.rename(place(bare).run(run_of(bare)).weights)
    code, verdicts = verified(bare, suite.stem)
    assert (code, verdicts["blackbox eps 0.1"]["state"]) == (2, "missing")
    assert f"the weights of run {surrogate[:12]} (surrogate ece × 2 on digits)" in verdicts["blackbox eps 0.1"]["told"]
    code, verdicts = verified(bare, suite.stem, "--retrain")
    assert (code, verdicts["blackbox eps 0.1"]["state"]) == (0, "equal")
    assert sources(bare)[surrogate] == "re-measured"


def test_a_changed_attempt_of_a_black_box_suite_is_found(theirs: Path, tmp_path: Path) -> None:
    path = record(theirs, "blackbox", "blackbox")

    def other(found: dict[str, Any]) -> None:
        attempt = bits.from_text(found["attempts"][0]["bits"], 40)
        attempt[7] = ~attempt[7]
        found["attempts"][0]["bits"] = bits.to_text(attempt)

    changed(path, other)
    ours = taken_in(theirs, tmp_path / "ours")
    code, verdicts = verified(ours, path.stem)
    assert (code, verdicts["blackbox eps 0.1"]["agreement"]["differing"]) == (1, 1)


def one_line(words: str, results: Path, *arguments: object, code: int = 2) -> None:
    """The command ends with one line that holds `words`, and the folder is as it was."""
    before = tree(results)
    got, out, err = command("db", "verify", *arguments, "--results", results)
    assert (got, out) == (code, ""), out + err
    assert words in err
    assert err.startswith("Error: ")
    assert len(err.splitlines()) == 1
    assert tree(results) == before


def test_what_cannot_be_verified_is_one_line(theirs: Path, tmp_path: Path) -> None:
    ours = taken_in(theirs, tmp_path / "ours")
    run, surrogate = run_of(ours), run_of(ours, surrogate=True)
    one_line("no run or evaluation begins with 'abcdef'", ours, "abcdef")
    one_line("unknown attack among these results 'pdg'; did you mean pgd", ours, run, "--attack", "pdg")
    one_line("there are: bim eps 0.1, ", ours, run, "--eps", "0.3")
    one_line("device 'tpu' cannot be used here", ours, run, "--device", "tpu")
    code, _, err = command("db", "verify", run, "--results", tmp_path / "none")
    assert (code, "there is no database" in err) == (2, True)
    assert not (tmp_path / "none").exists()
    with Locks(place(ours).locks) as locks:
        locks.acquire(run)
        one_line("is at work on run", ours, run)
    assert command("db", "delete", surrogate, "--force", "-y", "--results", ours)[0] == 0
    code, verdicts = verified(ours, run, "--attack", "blackbox,fgsm", "--eps", "0.1")
    assert (code, verdicts["fgsm eps 0.1"]["state"]) == (2, "equal")
    assert verdicts["blackbox eps 0.1"]["told"].startswith(f"its surrogate {surrogate[:12]} is not here")
    assert command("db", "merge", theirs, "--results", tmp_path / "rows")[0] == 0
    one_line("only rows (merged from another database?)", tmp_path / "rows", run)


def test_a_failed_run_is_one_line(tmp_path: Path) -> None:
    code, _, _ = command("run", "-m", "ece", *QUICK, *ONE, "--set", "training.lr=1e9", "--results", tmp_path)
    assert code == 1
    (failure,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/failures/*.json"))
    one_line(f"`bench show {failure['run_id'][:8]}` says why", tmp_path, failure["run_id"][:8])


def test_another_version_or_other_images_are_told(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(record(theirs, "attack", "fgsm", 0.1), lambda found: found.update(images_digest="0" * 24))
    ours = taken_in(theirs, tmp_path / "ours")
    monkeypatch.setattr(PGD, "version", PGD.version + 1)
    code, verdicts = verified(ours, run_of(ours), "--attack", "fgsm,pgd", "--eps", "0.1")
    assert code == 2
    assert verdicts["fgsm eps 0.1"]["told"].endswith("are not those that were measured")
    assert verdicts["pgd eps 0.1"]["told"].startswith("it cannot be measured as it was: attack pgd is version 1, today")


def test_an_attack_that_breaks_is_told_and_the_others_go_on(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = taken_in(theirs, tmp_path / "ours")

    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes do not fit\nand more")

    monkeypatch.setattr(PGD, "run", broken)
    code, verdicts = verified(ours, run_of(ours), "--attack", "fgsm,pgd", "--eps", "0.1")
    assert code == 1
    assert verdicts["pgd eps 0.1"]["told"] == "RuntimeError: shapes do not fit"
    assert verdicts["fgsm eps 0.1"]["re_measured"]


def test_results_of_one_attack_and_budget_are_told_apart(tmp_path: Path) -> None:
    results = tmp_path / "results"
    attack = ("--attack", "pgd", "--eps", "0.1", "--results", results, *ONE)
    for steps, limit in ((2, 20), (3, 20), (3, 30)):
        done = command("run", "-m", "ece", *TINY[:-1], limit, "--set", f"attacks.pgd.steps={steps}", *attack)
        assert done.code == 0, done.text
    code, verdicts = verified(results, run_of(results), "--attack", "pgd", "--eps", "0.1")
    assert code == 0
    assert set(verdicts) == {
        "pgd eps 0.1, steps 2, 20 images", "pgd eps 0.1, steps 3, 20 images", "pgd eps 0.1, steps 3, 30 images",
    }  # fmt: skip
    code, verdicts = verified(results, run_of(results), "--attack", "clean")
    assert set(verdicts) == {"clean, 20 images", "clean, 30 images"}
    key = next(verdict["id"] for label, verdict in verdicts.items() if "30" in label)
    assert set(verified(results, key)[1]) == {"clean"}  # alone it needs no more
