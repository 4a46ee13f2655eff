"""What docs/performance.md says of steps stands in what the commands printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.core import bits

ROOT = Path(__file__).parents[2]
PRINTED = ROOT / "results" / "reference" / "gpu"
PAGE = (ROOT / "docs" / "performance.md").read_text()


def _told(part: str) -> dict[str, tuple[str, str, str]]:
    """method → (milliseconds of ours, the longer bound, ours over it), as printed."""
    found = {}
    for method, ratio, first, second, ours in re.findall(
        r"^  (\w+) +ours / limit ([\d.]+) by .*? in ([\d.]+) ms, .*? in ([\d.]+) ms; ours ([\d.]+) ms",
        (PRINTED / f"{part}.txt").read_text(), re.MULTILINE,
    ):  # fmt: skip
        found[method] = ours, max(first, second, key=float), ratio
    return found


def test_milliseconds_on_a_gpu_are_those_that_were_printed() -> None:
    lines = PAGE.partition("<!-- numbers of results/reference/gpu -->\n")[2].splitlines()[2:6]
    usual, one, tf32 = _told("steps"), _told("streams"), _told("steps-tf32")
    assert (len(usual), len(one), len(tf32)) == (3, 3, 3)
    for line in lines:
        method, *cells = (cell.strip(" `") for cell in line.strip("|").split("|"))
        _, limit, ratio = usual[method] if method in usual else one[method]
        ratio += "" if method in usual else " (one stream)"
        of = [part[method][0] if method in part else "" for part in (usual, one, tf32)]
        assert cells == [*of, limit, ratio]


def test_ratios_to_the_authors_step_are_those_that_were_printed() -> None:
    for part, kind in (("steps", r"theirs / ours ([\d.]+)"), ("steps", r"TF32 convolutions\) ([\d.]+)"),
                       ("steps-tf32", r"TF32 convolutions\) ([\d.]+)")):  # fmt: skip
        (ratio,) = re.findall(kind, (PRINTED / f"{part}.txt").read_text())
        assert f"{ratio} ×" in PAGE
    (milliseconds, *_) = _told("steps")["trs"]
    assert f"{120 * 391 * float(milliseconds) / 3.6e6:.1f} hours" in PAGE.replace("\n", " ")


def test_what_newer_defences_cost_is_what_was_printed() -> None:
    text = (PRINTED.parent / "cpu" / "steps-lenet.txt").read_text()
    printed = re.findall(
        r"^  (\w+) +ours / limit .*?; ours ([\d.]+) (m?s)\n +ours / the same passes, eager ([\d.]+) \(",
        text,
        re.MULTILINE,
    )
    seconds = {name: float(value) * (0.001 if unit == "ms" else 1) for name, value, unit, _ in printed}
    over = {name: ratio for name, *_, ratio in printed}
    assert len(seconds) == 15
    assert max(map(float, over.values())) <= 1.25
    lines = PAGE.partition("<!-- numbers of results/reference/cpu -->\n")[2].partition("\n\n")[0].splitlines()[2:]
    found = [tuple(cell.strip(" `") for cell in line.strip("|").split("|")) for line in lines]
    order = sorted(seconds, key=lambda name: seconds[name])
    assert found == [(name, f"{seconds[name] / seconds['ece']:.1f}", over[name]) for name in order]


STRENGTH = [PRINTED.parent / device / "strength" for device in ("cpu", "gpu")]
NAMES = {"apgd_ce": "APGD-CE", "apgd_t": "APGD-T", "fab_t": "FAB-T", "square": "Square", "autoattack": "AutoAttack"}
IMAGES = 1000
EPS = {"trades": 0.3, "trs": 0.15, "dverge": 0.15, "plain": 0.3}
NETWORKS = {
    "trades": "TRADES, authors", "trs": "TRS, 3 × LeNet", "dverge": "DVERGE, 3 × LeNet", "plain": "plain, 3 × LeNet",
}  # fmt: skip


def _printed(network: str) -> list[Path]:
    return sorted(path for folder in STRENGTH for path in folder.glob(f"{network}-*.json"))


def _compared(network: str) -> list[dict[str, Any]]:
    """What the commands printed of a network's attacks, with everybody's first random numbers, on the most images."""
    parts = [json.loads(path.read_text()) for path in _printed(network)]
    attacks = [attack for part in parts if part["seed"] == 0 for attack in part["attacks"]]
    most = {
        attack["attack"]: attack
        for attack in sorted(attacks, key=lambda attack: attack["images"])
        if attack["budget"] == EPS[network]
    }
    return [most[name] for name in NAMES if name in most]


def _both(network: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The four attacks of AutoAttack on a network: ours, theirs."""
    ours = [attack for attack in _compared(network) if attack["attack"] != "autoattack"]
    return ours, [attack["versus"][0] for attack in ours]


def _bits(of: list[dict[str, Any]], images: int = IMAGES) -> bits.Bools:
    """The images that stand under each."""
    both = bits.from_text(of[0]["outcomes"], images)
    for one in of[1:]:
        both &= bits.from_text(one["outcomes"], images)
    return both


def _standing(of: list[dict[str, Any]], images: int) -> float:
    return 100 * float(_bits(of, images).mean())


def _strength_lines() -> Iterator[str]:
    for network, title in NETWORKS.items():
        attacks = _compared(network)
        for one in attacks:
            (versus,) = one["versus"]
            assert (versus["verdict"] == "FAIL") is (network == "dverge" and one["attack"] in ("apgd_t", "square"))
            ratio = versus["speed_first"]["median"] if versus["speed_first"] else None
            told = "" if ratio is None else f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"
            cells = [NAMES[one["attack"]], f"{one['first']:.1f}", f"{versus['theirs']:.1f}"]
            yield _line(title, one["budget"], one["images"], *cells, versus["difference"], told)
        parts, of_theirs = _both(network)
        (images,) = {one["images"] for one in parts}
        assert [one["attack"] for one in parts] == ["apgd_ce", "apgd_t", "fab_t", "square"]
        ours, theirs = (_standing(each, images) for each in (parts, of_theirs))
        yield _line(title, parts[0]["budget"], images, "all four", f"{ours:.1f}", f"{theirs:.1f}", ours - theirs, "")


def _line(
    title: str, eps: float, images: int, attack: str, ours: str, theirs: str, difference: float, ratio: str
) -> str:  # fmt: skip
    told = "0" if abs(difference) < 0.05 else f"{difference:+.1f}".replace("-", "−")
    return f"| {title}, ε = {eps:g}, {images:,} images | {attack} | {ours} | {theirs} | {told} | {ratio} |"


def test_what_the_authors_autoattack_leaves_is_what_was_printed() -> None:
    lines = (
        PAGE.partition("<!-- numbers of results/reference/cpu/strength, results/reference/gpu/strength -->\n")[2]
        .partition("\n\n")[0]
        .splitlines()
    )
    assert lines[2:] == list(_strength_lines())


def test_the_whole_leaves_what_theirs_leaves_where_gradients_do_not_mislead() -> None:
    (attack,) = json.loads((STRENGTH[0] / "trs-autoattack.json").read_text())["attacks"]
    (theirs,) = attack["versus"]
    assert attack["images"] == IMAGES
    assert abs(attack["first"] - theirs["theirs"]) <= 0.2
    ours, other = (bits.from_text(one["outcomes"], IMAGES) for one in (attack, theirs))
    assert (int((ours & ~other).sum()), int((other & ~ours).sum())) == (1, 0)
    assert "one image of 1,000 stands under ours alone, none under theirs alone" in PAGE.replace("\n", " ")


def test_the_whole_on_a_robust_ensemble_is_no_slower_than_theirs() -> None:
    (attack,) = json.loads((STRENGTH[0] / "dverge-all.json").read_text())["attacks"]
    rounds = attack["versus"][0]["speed_first"]
    assert f"{rounds['low']:.2f} to {rounds['high']:.2f} in its two rounds" in PAGE
    assert rounds["low"] >= 0.95


def test_apgd_goes_the_authors_way_from_the_same_start() -> None:
    """On a CPU the images that stand are the same, each by each; on a GPU sums are rounded in another order."""
    seeds: dict[tuple[str, str], set[int]] = {}
    apart: list[float] = []
    for path in _printed("*"):
        printed = json.loads(path.read_text())
        for attack in printed["attacks"]:
            if attack["attack"] == "apgd_ce":
                (versus,) = attack["versus"]
                seeds.setdefault((path.name.partition("-")[0], printed["device"]), set()).add(printed["seed"])
                if printed["device"] == "cpu":
                    assert attack["outcomes"] == versus["outcomes"], path.name
                else:
                    apart.append(versus["difference"])
                    assert versus["verdict"] == "PASS"
    starts = {
        ("trades", "cpu"): 10,
        ("plain", "cpu"): 10,
        ("dverge", "cuda"): 10,
        ("dverge", "cpu"): 1,
        ("trs", "cpu"): 1,
    }
    assert {name: len(of) for name, of in seeds.items()} == starts
    told = f"at most {max(map(abs, apart)):.1f} points apart, {sum(apart) / len(apart):+.2f} in the mean of ten"
    assert told in PAGE.replace("\n", " ")


def _by_seed() -> Iterator[str]:
    """What attacks that draw random numbers leave with other ones; *AutoAttack* of seed 0 is all four together."""
    for network, title in NETWORKS.items():
        left: dict[str, dict[int, tuple[float, float]]] = {name: {} for name in NAMES if name != "apgd_ce"}
        for path in _printed(network):
            printed = json.loads(path.read_text())
            for one in printed["attacks"]:
                if one["attack"] in left and one["images"] == IMAGES and one["budget"] == EPS[network]:
                    left[one["attack"]][printed["seed"]] = one["first"], one["versus"][0]["theirs"]
        all_of_ours, all_of_theirs = (_standing(each, IMAGES) for each in _both(network))
        left["autoattack"].setdefault(0, (all_of_ours, all_of_theirs))
        for name, found in left.items():
            if len(found) > 1:
                ours, theirs = ([found[seed][side] for seed in sorted(found)] for side in (0, 1))
                apart, span = sum(ours) / len(ours) - sum(theirs) / len(theirs), max(theirs) - min(theirs)
                if (network, name) == ("dverge", "autoattack"):
                    assert apart < -max(0.2, span)
                else:
                    assert abs(apart) <= max(0.2 if name == "autoattack" else 0.3, span) + 1e-6, (network, name)
                told = (", ".join(f"{value:.1f}" for value in side) for side in (ours, theirs))
                difference = f"{apart:+.2f}".replace("-", "−")
                yield f"| {title} | {NAMES[name]} | {' | '.join(told)} | {difference} | {span:.1f} |"


def test_other_random_numbers_move_each_attack_further_than_the_two_codes_are_apart() -> None:
    """All but the whole on DVERGE, of which the page says so: there ours is the stronger."""
    lines = PAGE.partition("<!-- the same by seed -->\n")[2].partition("\n\n")[0].splitlines()
    assert lines[2:] == list(_by_seed())
    alone = [0, 0]  # images that stand under theirs alone, under ours alone
    (whole,) = json.loads((STRENGTH[0] / "dverge-all-1.json").read_text())["attacks"]
    for ours, theirs in (_both("dverge"), ([whole], whole["versus"])):
        left, right = (_bits(of) for of in (ours, theirs))
        alone[0] += int((right & ~left).sum())
        alone[1] += int((left & ~right).sum())
    assert f"{alone[0]} images stand under theirs alone, {alone[1]} under ours alone" in PAGE.replace("\n", " ")


def test_apgd_dlr_on_the_weights_of_dverges_authors_is_theirs_image_by_image() -> None:
    """What docs/reproduction.md tells of the paper's row: the same start, and 69 of 100 images under both."""
    (attack,) = json.loads((STRENGTH[0] / "authors-apgd_dlr.json").read_text())["attacks"]
    (versus,) = attack["versus"]
    assert attack["outcomes"] == versus["outcomes"]
    standing = int(bits.from_text(attack["outcomes"], attack["images"]).sum())
    page = (ROOT / "docs" / "reproduction.md").read_text().replace("\n  ", " ")
    assert f"AutoAttack's own code leaves {standing} of the first {attack['images']} images, ours too" in page
