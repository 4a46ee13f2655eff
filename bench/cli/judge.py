"""`bench judge`: adversarial images that somebody else made, on a stored run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from bench.cli.options import RunId, allow_factory, at_work, machine, reading, where, workplace
from bench.cli.parameters import InputFile, Number, Once
from bench.cli.say import say, say_json
from bench.core.device import pick
from bench.core.errors import BenchError
from bench.core.identity import short
from bench.core.numbers import beyond_pixels
from bench.core.terms import WEIGHTS, Norm

if TYPE_CHECKING:
    from bench.jobs.judging import Verdict


@click.command("judge", cls=Once)
@click.argument("file", type=InputFile(*WEIGHTS, ".npy"), metavar="FILE")
@click.option("--run", "identifier", required=True, metavar="ID", type=RunId(), help="The run, as `bench list runs` "
              "shows.")  # fmt: skip
@click.option("--eps", type=Number(), help="Radius of the ball that they lie in, such as 0.03 or 8/255.")
@click.option("--norm", type=click.Choice(get_args(Norm)), help="Norm of the ball.  [default: linf]")
@click.option("--c", type=Number(), help="Instead of --eps, of an attack without a ball: its weight c.")
@click.option("--name", help="What boards call the images; the file's name unless given.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@machine()
@allow_factory
@where
def command(
    file: Path, identifier: str, eps: float | None, norm: Norm | None, c: float | None, name: str | None, as_json: bool,
    data: Path, device: str | None, threads: int | None, batch: int | None, factories: tuple[str, ...], results: Path,
    db: str | None,
) -> None:  # fmt: skip
    """Judge adversarial images that somebody else made against a stored run.

    FILE is .safetensors, .npy, or a tensor that torch.save wrote (.pt, .pth); no code in it is run. It holds the test
    images of a board, one for one in their order (of fewer than all a fixed random part, the one that `bench show ID
    --export` writes), as floats in [0, 1] or as uint8 (divided by 255): [n, C, H, W]. Of several tensors `adversarial`
    is meant; `labels` and `original` are compared where they are there, and `index` (place in the whole test set) says
    in which order they are. What `bench show ID --export` writes goes in as it is, with its own budget.

    Images outside the ball or [0, 1] by more than rounding (1e-4) are refused, with the worst one. The run's float32
    weights judge; the outcome is stored under the digest of the images. What they break lowers the "lowest known" of
    the run, with their name; no score and no rank changes. The file itself is not kept.

    \b
    Examples:
      bench show 9be1d2 --export images.safetensors
      bench judge images.safetensors --run 4f0c1a
      bench judge theirs.npy --run 4f0c1a --eps 8/255 --name "Square, by A. Author"
      bench judge theirs.pt --run 4f0c1a --eps 0.5 --norm l2
    """
    from bench.core import config
    from bench.experiment import protocols
    from bench.jobs import judging
    from bench.jobs.display import Display
    from bench.report.console import console
    from bench.store import ids

    if not file.is_file():
        raise BenchError(f"there is no file {file}")
    if eps is not None and c is not None:
        raise BenchError("--eps is the radius of a ball, --c the weight of an attack without one: leave one out")
    if norm is not None and eps is None:
        raise BenchError("--norm goes with --eps")
    if eps is not None and (fault := beyond_pixels(norm or "linf", eps)):
        raise BenchError(fault)
    for text, what in ((name, "--name"), (file.name, "the name of the file")):
        if text is not None and (not text.strip() or len(text) > 80 or not text.isprintable()):
            told = "" if what == "--name" else "; give another with --name and rename it"
            raise BenchError(f"{what} is 1 to 80 printable characters, as it stands on boards{told}")
    with reading(db, results) as base:
        run_id = ids.find(base, identifier, ("run",)).id
    place = workplace(results, data, pick(device, threads), batch, factories)
    submission = judging.Submission(file, name, norm, eps, c)
    out = console(stderr=as_json)
    with at_work(db, results) as base, Display(1, out) as display:
        standards = protocols.standards(config.load())
        done = judging.judge(base, place, run_id, submission, standards, display.of(""))
    if as_json:
        row = done.row
        say_json(
            {
                "evaluation": row.evaluation_id, "run": row.run_id, "name": row.attack,
                "digest": row.settings["images"], "norm": row.settings["norm"], "budget_name": row.budget_name,
                "budget": row.budget, "n": row.n,
                "n_clean": row.n_clean, "n_robust": row.n_robust, "judged": row.started, "before": done.before,
                "lowest_known": [asdict(each) for each in done.lowest],
            }
        )  # fmt: skip
        return
    _print(done)


def _print(done: Verdict) -> None:
    row = done.row
    assert row.n_robust is not None
    if done.before:
        say(f"These images were judged on {row.started[:10]} already, as {row.attack}; nothing is stored again.")
    broken = row.n_clean - row.n_robust
    say(
        f"{row.attack}: {row.n:,} images, {row.n_clean:,} right when clean, {broken:,} of these broken: robust "
        f"{100 * row.n_robust / row.n:.1f} % ({row.method} on {row.dataset}, seed {row.seed}; evaluation "
        f"{short(row.evaluation_id)})"
    )
    for each in done.lowest:
        then = "unchanged" if each.now == each.before else f"before {each.before:.1f} %"
        say(f"{each.board}: lowest known {each.now:.1f} % ({then}; score {each.score:.1f} %)")
    if not done.lowest:
        say("It lowers what is known on no board: none that this run stands on has this threat and these images.")
