"""Measurements as lines for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from bench.perf.attacks import Result, Together
    from bench.perf.roofline import Bound, Rates
    from bench.perf.training import Step

RATES = (
    " The limit is by the machine's rates: how long the operations of these passes take in matrix products, or "
    "their bytes in a copy, whichever is longer; caches may serve a part of the bytes."
)


def rates(found: Rates, out: Console) -> None:
    """What the machine does in a second."""
    products, copies = _si(found.operations, "op/s"), _si(found.bytes, "B/s")
    out.print(
        f"this machine: {found.precision} matrix products {products}, copies {copies}", style="dim", soft_wrap=True
    )


def attack(result: Result, out: Console) -> None:
    """An attack: ours, a line for each library, the floor."""
    from rich.text import Text

    symbol = "ε" if result.budget_name == "eps" else "c"
    steps = f", {result.settings['steps']} steps" if "steps" in result.settings else ""
    robust = f"{result.first:.1f} % robust"
    if result.last is not None:
        robust = f"{result.last:.1f} % robust with stop = last, {result.first:.1f} % with first_success"
    out.print(
        Text.assemble(
            ("\n" + result.attack, "bold"),
            f" {symbol} {result.budget:g}{steps}: ours {robust} (clean {result.clean:.1f} %)",
        ),
        soft_wrap=True,
    )
    for one in result.versus:
        style = "green" if one.verdict == "PASS" else "red"
        head = f"  {one.library:<13}{one.theirs:5.1f} %  ours {one.difference:+.1f}  "
        both = result.last is not None
        rule = f"{one.rule} {one.points:.3g}" + (", first_success" if both and one.against != "last" else "")
        line = f" ({rule})"
        if one.speed_first:
            line += (
                f"  theirs / ours {one.speed_last} last, {one.speed_first} first_success"
                if both
                else (f"  theirs / ours {one.speed_first}")
            )
        unreal = [f"{count} images {what}" for count, what in ((one.outside, "outside"), (one.black, "black")) if count]
        notes = "; ".join([*unreal, *([one.note] if one.note else [])])
        told = [(f"  {notes}", "dim")] if notes else []
        out.print(Text.assemble(head, (one.verdict, style), line, *told), soft_wrap=True)
    if not result.versus:
        out.print("  no library to compare with")
    if result.floor:
        passes = (result.passes.gradients + result.passes.forwards) / max(1, result.timed)
        fast = f"; / on the fastest layout {result.floor_fast}" if result.floor_fast else ""
        fast += f"; / these and the judge's one pass {result.floor_judged}" if result.floor_judged else ""
        if result.by_rates:
            out.print(f"  {_limit(result.by_rates)}", soft_wrap=True)
        out.print(f"  ours / the same passes, eager {result.floor} ({passes:.1f} an image){fast}", soft_wrap=True)


def attacks_summary(done: Sequence[Result], sets: Sequence[Together], out: Console) -> None:
    """What stands under several attacks at once, the verdicts, medians over the attacks, and what the numbers are."""
    failed = [f"{result.attack} against {one.library}" for result in done for one in result.versus
              if one.verdict == "FAIL"]  # fmt: skip
    out.print()
    for one in sets:
        theirs = "".join(f", {name} {value:.1f} % (ours {one.ours - value:+.1f})" for name, value in one.theirs.items())
        out.print(f"stands under each of {', '.join(one.attacks)}: ours {one.ours:.1f} %{theirs}", soft_wrap=True)
    if failed:
        out.print(f"FAIL: {', '.join(failed)}", style="red", soft_wrap=True)
    elif any(result.versus for result in done):
        out.print("PASS: no library contradicts ours", style="green")
    for stop in ("last", "first"):
        fastest = [
            min(speeds)
            for result in done
            if (speeds := [ratio.median for one in result.versus if (ratio := getattr(one, f"speed_{stop}"))])
        ]
        if fastest:
            name = "stop = last" if stop == "last" else "first_success"
            out.print(
                f"fastest library / ours ({name}): median over attacks {median(fastest):.2f}, smallest "
                f"{min(fastest):.2f}, largest {max(fastest):.2f}",
                soft_wrap=True,
            )
    if any(result.floor for result in done):
        out.print(
            f"Ratios of {done[0].clock}: median (smallest–largest) of the rounds, all in turns in one process. "
            "Everybody's time ends when robust accuracy is known. The same passes: our first_success against the "
            f"bare ones for the images that still stand.{RATES}",
            style="dim",
            soft_wrap=True,
        )


def step(one: Step, out: Console) -> None:
    """A method: its step over the floor, and of TRS the authors' step over ours."""
    from rich.text import Text

    needed = " + ".join(str(need) for need in one.needed) or "no floor is known for this method"
    needed += "; ours recorded and replayed" if one.captured else ""
    if one.by_rates:
        out.print(f"  {one.method:<22}{_limit(one.by_rates)}", soft_wrap=True)
    ratio = f"ours / the same passes, eager {one.ours}" if one.ours else ""
    name = "" if one.by_rates else one.method
    out.print(Text.assemble(f"  {name:<22}{ratio:<48}", (needed, "dim")), soft_wrap=True)
    if one.exact is not None:
        word = ("PASS", "green") if one.equal else ("FAIL", "red")
        ratio = f", theirs / ours {one.authors}" if one.authors else ""
        ratio += f", as torch runs it by default (TF32 convolutions) {one.by_default}" if one.by_default else ""
        ours, authors = one.exact
        out.print(
            Text.assemble(
                f"  {'':<22}the authors' step: loss in float64 {authors:.8f}, ours {ours:.8f} ",
                word,
                " (1e-5) ",
                (f"(float32 {one.authors_loss:.6f}, {one.loss:.6f})", "dim"),
                ratio,
            ),
            soft_wrap=True,
        )


def steps_summary(done: Sequence[Step], out: Console) -> None:
    """The median over the methods, and what the numbers are."""
    ratios = [one.ours.median for one in done if one.ours]
    if ratios:
        out.print()
        limits = [one.by_rates.over_limit for one in done if one.by_rates]
        for name, values in (("limit", limits), ("the same passes, eager", ratios)):
            if values:
                out.print(f"ours / {name}: median over methods {median(values):.2f}, largest {max(values):.2f}")
        out.print(
            f"Ratios of {done[0].clock}: median (smallest–largest) of the rounds, in turns in one process. "
            f"The same passes: those listed, and the optimiser's update.{RATES}",
            style="dim",
            soft_wrap=True,
        )


def _limit(one: Bound) -> str:
    operations, moved = _si(one.operations, "op"), _si(one.bytes, "B")
    return (
        f"ours / limit {one.over_limit:.2f} by the machine's rates: "
        f"{operations} in {_si(one.operations_seconds, 's')}, {moved} in "
        f"{_si(one.bytes_seconds, 's')}; ours {_si(one.ours_seconds, 's')}"
    )


def _si(value: float, unit: str) -> str:
    """Three digits, and the unit with its prefix."""
    power = min(5, max(-3, math.floor(math.log10(float(f"{value:.2e}")) / 3))) if value else 0
    prefix = ("n", "µ", "m", "", "k", "M", "G", "T", "P")[power + 3]
    return f"{value / 1000**power:.3g} {prefix}{unit}"
