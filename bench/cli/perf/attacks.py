"""`bench perf attacks`: robust accuracy and time of our attacks beside other libraries' and beside the floor."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.cli.options import Named, RunId, capture_option, open_database, precision_option, where, workplace
from bench.cli.parameters import IMAGES, Integer, Number, Once, Radius
from bench.cli.perf import printing
from bench.cli.perf.options import processor, rounds
from bench.cli.say import say_json
from bench.core import numbers
from bench.core.device import others, pick
from bench.core.errors import BenchError
from bench.core.memory import keep_freed_memory
from bench.core.numerics import numerics, usual_mode
from bench.core.recorded import usual_recorder
from bench.perf import ATTACKS, SLOW

if TYPE_CHECKING:
    from bench.core.config import Loaded
    from bench.core.precision import Precision


@click.command("attacks", cls=Once)
@click.option("-d", "--dataset", type=Named("datasets"), default="digits", show_default=True, help="Data set.")
@click.option("--model", type=Named("models"), help="Model of the members; that of the quick recipe unless given.")
@click.option("-m", "--method", type=Named("methods"), default="ece", show_default=True,
              help="How the ensemble was trained.")  # fmt: skip
@click.option("--run", "run_id", type=RunId(), help="A run to attack, instead of one trained quickly.")
@click.option("--attack", "names", multiple=True, type=click.Choice(ATTACKS), help="Repeat for several; unless "
              f"given all but {', '.join(SLOW)}, which take long.")  # fmt: skip
@click.option("--library", "libraries", multiple=True, help="Compare with this library only; repeat for several. "
              "Includes the attacks it is very slow at.")  # fmt: skip
@click.option("--eps", type=Radius(), help="Radius; each attack's first budget in bench.toml unless given.")
@click.option("--eps-l2", type=Number(), help="The same for attacks in an ℓ2 ball.")
@click.option("--c", "c", type=Number(), help="The same for CW and EAD.")
@click.option("--steps", type=Integer(1, numbers.EPOCHS),
              help="At most this many steps, of proportionally greater length.")  # fmt: skip
@precision_option("Of our own passes; libraries have no other than float32.")
@capture_option
@click.option("--images", type=IMAGES, help="Test images for robust accuracy.  [default: 1000, or all]")
@click.option("--timed", type=IMAGES, help="How many of them are timed.  [default: one batch]")
@click.option("--batch", type=IMAGES, default=250, show_default=True, help="Images a batch, for everybody.")
@click.option("--seed", type=Integer(0, numbers.SEED), default=0, show_default=True,
              help="Of everybody's random numbers: another number, other starts.")  # fmt: skip
@rounds(repeats=3, least=0)
@processor
@where
def command(
    dataset: str, model: str | None, method: str, run_id: str | None, names: tuple[str, ...],
    libraries: tuple[str, ...], eps: float | None, eps_l2: float | None, c: float | None, steps: int | None,
    precision: Precision, capture: bool, images: int | None, timed: int | None, batch: int, data: Path, seed: int,
    repeats: int, device: str | None, threads: int, changes: tuple[str, ...], as_json: bool, results: Path,
    db: str | None,
) -> int:  # fmt: skip
    """Compare our attacks with every installed library's: robust accuracy and time, on the same images.

    Everybody gets the same ensemble, images, batches, random start, steps and budget. What a library returns is judged
    by us. An attack passes where robust accuracy agrees with a library's within half a point (APGD: one point), or,
    for CW and EAD, is not above it; the exit code is 1 where one does not. Time never passes or fails: it is
    printed as theirs / ours; as ours / limit, what the bare passes for the images that still stand would take at the
    rates of a matrix product and of a copy on this machine; and as ours / these passes, eager. With --precision mixed,
    whose passes are of two precisions, there is no limit. Attacks of one norm and radius are also counted together, as
    AutoAttack does: the images that stand under every one of them.

    \b
    Examples:
      bench perf attacks --dataset digits --images 200 --timed 100
      bench perf attacks --dataset mnist --model lenet --attack pgd --attack apgd_ce
      bench perf attacks --dataset digits --attack square --attack autoattack --images 100
      bench perf attacks --run 4f0c1a --attack pgd --eps 8/255 --images 500
      bench perf attacks --dataset cifar10 --model resnet20 --images 100 --steps 10 --json
    """
    from rich.text import Text

    from bench.attacks.conditions import Conditions
    from bench.core import config
    from bench.perf import attacks as perf
    from bench.perf import ensembles
    from bench.perf.cases import Case, axes, configured
    from bench.perf.roofline import measure_rates
    from bench.report.console import console
    from bench.store import queries

    err, loaded = console(stderr=True), config.load(changes=changes)
    peers, missing = perf.compared(libraries or None)
    keep_freed_memory()  # as a run does; for everybody here
    place = workplace(results, data, pick(device, threads), batch)
    if run_id is None:
        run = ensembles.quick(loaded, method=method, dataset=dataset, model=model)
    else:
        with open_database(db, results) as base:
            run = ensembles.recorded(place, queries.find_run(base, run_id).run_id)
    found = ensembles.subject(
        run, place, images=images, database=partial(open_database, db, results, create=True), tell=err.print
    )
    for line in (*missing, others() if place.device == "cpu" and threads > 1 else ""):
        if line:
            err.print(line, style="yellow")
    budgets = {"linf": eps, "l2": eps_l2, None: c}
    done, out = [], console()
    recorder = usual_recorder(place.device) if capture else None
    ours = "" if precision == "float32" else f"; ours asks in {precision}"
    ours += "" if recorder is None else "; ours recorded and replayed"
    if not as_json:
        out.print(
            Text.assemble((found.title, "bold"), f", {len(found.images):,} test images, batches of {batch}{ours}"),
            soft_wrap=True,
        )
    rates = measure_rates(place.device, precision=precision) if repeats and precision != "mixed" else None
    if rates and not as_json:
        printing.rates(rates, out)
    with (
        numerics(deterministic=usual_mode(place.device)),
        err.status("") as status,
    ):  # as a run computes; for everybody here
        for name in names or [each for each in ATTACKS if each not in SLOW]:
            attack = configured(loaded, name, steps=steps)
            given = budgets[attack.norm]
            budget = _budget(loaded, name, run.dataset) if given is None else given
            conditions = Conditions(
                budget=budget, seed_axes=axes(seed), batch_size=batch, precision=precision, recorder=recorder
            )
            case = Case(found.ensemble, found.images, attack, conditions, seed)
            chosen = [peer for peer in peers if libraries or case.kind not in peer.slow]
            result = perf.compare(
                name, case, peers=chosen, timed=timed or batch, repeats=repeats, rates=rates,
                tell=lambda text: status.update(Text(text)),
            )  # fmt: skip
            done.append(result)
            if not as_json:
                printing.attack(result, out)
    if as_json:
        record = {"ensemble": found.title, "run": run.run_id, "seed": seed, "batch": batch, "threads": threads,
                  "precision": precision, "captured": recorder is not None, "device": place.device,
                  "rates": asdict(rates) if rates else None,
                  "attacks": [asdict(result) for result in done],
                  "together": [asdict(one) for one in perf.together(done)]}  # fmt: skip
        say_json(record)
    else:
        printing.attacks_summary(done, perf.together(done), out)
    return 0 if all(result.passed for result in done) else 1


def _budget(loaded: Loaded, name: str, dataset: str) -> float:
    budgets = loaded.config.attacks[name].budgets.get(dataset, ())
    if not budgets:
        raise BenchError(f"{loaded.path.name} has no budget of {name} for {dataset}; give --eps, --eps-l2 or --c")
    return float(budgets[0])
