"""`bench plot`: figures of what was measured, each with the CSV that it was drawn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import (
    Chosen,
    Named,
    RunId,
    allow_factory,
    choose,
    machine,
    page_options,
    reading,
    selectors,
    where,
    workplace,
)
from bench.cli.parameters import Once, Real, Seeds
from bench.core import numbers
from bench.core.device import pick
from bench.core.errors import BenchError
from bench.core.identity import safe_name, short
from bench.core.precision import USUAL, file_stem

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from bench.report.plots.style import Page


def output(function: Callable[..., Any]) -> Callable[..., Any]:
    """`-o`, and how it is printed."""
    return click.option(
        "-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
        help="Picture to write: .png, .svg, .pdf; a .csv beside it.  [default: RESULTS/figures/KIND-DATASET.png]",
    )(page_options(function))  # fmt: skip


@click.group("plot")
def command() -> None:
    """Draw results: training curves, robust accuracy against budget or steps, ablations, decision boundaries.

    Colours are told apart by the colour-blind, markers and dashes in grey print. Beside each picture stands the CSV
    that it was drawn from.

    \b
    Examples:
      bench plot curves -m trs --dataset digits
      bench plot budget -m paper --dataset digits -o figure2.pdf
      bench plot budget -m paper -d digits --attack pgd --width 3.25 --no-title -o column.pdf
      bench plot boundary 6e5a2f 061763
    """


@command.command("curves", cls=Once, short_help="Accuracies and loss terms against epochs.")
@selectors
@output
@where
def curves(output: Path | None, page: Page, results: Path, db: str | None, **given: Any) -> None:
    """Accuracy of members and ensemble, and the terms of the loss, against epochs: one panel a method.

    With what `--monitor` measured while they were trained: natural and robust accuracy on held-out images.

    \b
    Examples:
      bench plot curves -m trs --dataset digits
      bench plot curves --dataset digits -o curves.pdf          every method that was trained
      bench plot curves -m trs -d digits --set data.validation=200
    """
    from bench.report.plots import curves as plot

    chosen = choose(**given)
    with reading(db, results) as base:
        frame = plot.read(chosen.loaded, chosen.selection, base, seeds=chosen.seeds)
    _need(frame, "training", chosen)
    on = ", ".join(dict.fromkeys(frame["accuracy_on"].dropna()))
    head = _heading("Training", chosen, frame, images=False)
    _save(
        plot.draw(frame, head[0], f"accuracy on: {on}; {head[1]}", page=page),
        frame,
        output,
        results,
        f"curves-{chosen.selection.dataset}",
    )


@command.command("budget", cls=Once, short_help="Robust accuracy against the radius ε.")
@selectors
@output
@where
def budget(output: Path | None, page: Page, results: Path, db: str | None, **given: Any) -> None:
    """Robust accuracy against the radius ε, all methods: one panel for each attack of the suite (or --attack).

    Every radius below 1 that was run is drawn, whichever command ran it (an ℓ∞ ball of 1 holds every image).
    ε = 0 is the clean accuracy.

    \b
    Examples:
      bench plot budget -m paper --dataset digits
      bench plot budget -m trs -m ece -d digits --attack pgd
      bench run -m trs -m ece -d digits --attack pgd --eps .05,.2,.25       more radii
    """
    from bench.core import registry
    from bench.report.plots import budget as plot
    from bench.report.plots import points

    chosen = choose(**given)
    if chosen.selection.eps or chosen.selection.c:
        raise BenchError("the figure is over all budgets: leave --eps and --c out")
    for attack in chosen.selection.attacks:
        if registry.load("attacks", chosen.loaded.config.attacks[attack].plugin).budget_name != "eps":
            raise BenchError(f"{attack} has no radius ε; this figure is for attacks in a ball")
    with reading(db, results) as base:
        found = points.white_box(chosen.loaded, chosen.selection, base, seeds=chosen.seeds)
        frame = points.of_suite(chosen.loaded, chosen.selection, found)
    frame = plot.with_clean(plot.short_of_everything(frame))
    _need(frame, "attack with a radius ε", chosen)
    head = _heading("Robust accuracy against ε, white box", chosen, frame)
    _save(
        plot.draw(frame, *head, page=page), frame, output, results, _named(f"budget-{chosen.selection.dataset}", frame)
    )


@command.command("blackbox", cls=Once, short_help="Robust accuracy against ε, black box (Figure 2).")
@selectors
@click.option("--of", type=click.Choice(["all", "correct"]), default="all", show_default=True,
              help="Share of all images, or of those right when clean (the paper's authors).")  # fmt: skip
@output
@where
def blackbox(of: str, output: Path | None, page: Page, results: Path, db: str | None, **given: Any) -> None:
    """Robust accuracy against ε under the black-box suite (Figure 2 of the TRS paper), all methods.

    The suite is `figure2` unless --suite names another with a black-box part.

    \b
    Examples:
      bench run -m paper --dataset digits --suite figure2
      bench plot blackbox -m paper --dataset digits -o figure2.pdf
      bench plot blackbox --dataset digits --suite transfer
    """
    from bench.report.plots import budget as plot
    from bench.report.plots import points
    from bench.report.titles import Titles

    if given["attack"]:
        raise BenchError("the attacks are those of the suite: leave --attack out")
    given["suite"] = given["suite"] or "figure2"
    chosen = choose(**given)
    with reading(db, results) as base:
        frame = points.black_box(chosen.loaded, chosen.selection, base, seeds=chosen.seeds)
    frame = plot.with_clean(frame)
    _need(frame, "black-box result", chosen)
    if of == "correct":
        frame = plot.spread(frame.assign(robust_accuracy=frame["n_robust"] / frame["n_clean"]))
    names = chosen.loaded.config.suites[chosen.selection.suite or "figure2"].blackbox
    attacks = chosen.loaded.blackbox.attacks if names is True else names
    titles = Titles(chosen.loaded)
    told = ", ".join(dict.fromkeys(titles.attack(name) for name in attacks or ()))
    source = titles.source(chosen.loaded.blackbox.method, chosen.loaded.blackbox.members)
    frame = frame.assign(attack_title=f"images made on {source}: {told}")
    head = _heading("Robust accuracy against ε, black box", chosen, frame)
    figure = plot.draw(frame, *head, of="all images" if of == "all" else "images right when clean", page=page)
    _save(figure, frame, output, results, f"blackbox-{chosen.selection.dataset}")


@command.command("convergence", cls=Once, short_help="Robust accuracy against the steps of an attack.")
@selectors
@output
@where
def convergence(output: Path | None, page: Page, results: Path, db: str | None, **given: Any) -> None:
    """Robust accuracy against the number of steps of an attack: whether it has converged.

    Every attack is drawn that was run with two numbers of steps or more and is equal otherwise, whichever command ran
    it. --attack and --eps pick some.

    \b
    Examples:
      bench run -m trs -m ece --dataset digits --suite convergence
      bench plot convergence -m trs -m ece --dataset digits
      bench run -m trs -d digits --attack pgd --eps 0.1 --set attacks.pgd.steps=1000         one more point
    """
    from bench.report.plots import convergence as plot
    from bench.report.plots import points

    chosen = choose(**given)
    with reading(db, results) as base:
        found = points.white_box(chosen.loaded, chosen.selection, base, seeds=chosen.seeds)
    selection = chosen.selection
    if selection.attacks:
        found = found[found["plugin"].isin([chosen.loaded.config.attacks[name].plugin for name in selection.attacks])]
    for name in ("eps", "c"):
        if budgets := selection.budgets(name):
            found = found[(found["budget_name"] != name) | found["budget"].isin(budgets)]
    frame = plot.with_several_steps(found)
    _need_steps(frame, chosen)
    head = _heading("Robust accuracy against steps", chosen, frame)
    _save(plot.draw(frame, *head, page=page), frame, output, results, f"convergence-{chosen.selection.dataset}")


@command.command("ablation", cls=Once, short_help="What a setting of a method does.")
@selectors
@click.option("--over", multiple=True, metavar="SETTING",
              help="Setting to draw, such as lambda_a; repeat for several.  [default: all varied ones]")  # fmt: skip
@output
@where
def ablation(
    over: tuple[str, ...], output: Path | None, page: Page, results: Path, db: str | None, **given: Any
) -> None:
    """What a setting of a method does: accuracies and training time against its values, all else equal.

    Runs are drawn that differ from the method in this one setting. Grey: the configured value.

    \b
    Examples:
      for v in 0 .5 5 20; do bench run -m trs -d digits --set methods.trs.lambda_a=$v; done
      for v in 0 .02 .5 2; do bench run -m trs -d digits --set methods.trs.lambda_b=$v; done
      for v in 1 3 12; do bench run -m trs -d digits --set methods.trs.steps=$v; done
      bench plot ablation -m trs --dataset digits
      bench plot ablation -m trs --dataset digits --over lambda_a --attack pgd
    """
    from bench.report.plots import ablation as plot

    chosen = choose(needs_method=True, **given)
    with reading(db, results) as base:
        frame = plot.read(chosen.loaded, chosen.selection, base, over=over, seeds=chosen.seeds)
    (name,) = chosen.selection.methods
    if frame.empty:
        setting = over[0] if over else "SETTING"
        raise BenchError(
            f"no two values of {over[0] if over else 'any setting'} of {name} were run with these selectors; "
            f"`{_command(chosen)} --set methods.{name}.{setting}=VALUE` adds one"
        )
    title = chosen.loaded.title_of(name)
    head = _heading(f"{title}: one setting changed at a time", chosen, frame)
    stem = _named(f"ablation-{name}-{chosen.selection.dataset}", frame)
    _save(plot.draw(frame, *head, page=page), frame, output, results, stem)


@command.command("boundary", cls=Once, short_help="Decision boundaries around test images.")
@click.argument("identifiers", metavar="ID...", nargs=-1, required=True, type=RunId())
@click.option("--images", type=Seeds(), metavar="NUMBERS",
              help="Test images such as 0-2 or 4,7.  [default: the first three that all runs get right]")  # fmt: skip
@click.option("--radius", type=Real(numbers.BUDGET), default=10.0, show_default=True,
              help="How far the plane reaches, ℓ2.")  # fmt: skip
@click.option("--step", type=Real(numbers.BUDGET), default=0.2, show_default=True,
              help="Distance between two points, ℓ2.")  # fmt: skip
@machine(batch=False)
@allow_factory
@output
@where
def boundary(
    identifiers: tuple[str, ...], images: tuple[int, ...] | None, radius: float, step: float, data: Path,
    device: str | None, threads: int | None, factories: tuple[str, ...], output: Path | None, page: Page,
    results: Path, db: str | None,
) -> None:  # fmt: skip
    """Decision boundaries of runs around test images: a row a run, a column an image, a colour a class.

    To the right along the gradient of the loss (minus the log-probability of the true class), upwards along a random
    direction orthogonal to it, the same for all runs. Nothing is clipped to [0, 1].

    \b
    Examples:
      bench plot boundary 6e5a2f
      bench plot boundary 6e5a2f 061763 --images 0-3 --radius 5 --step 0.1
    """
    from bench.core import config
    from bench.evaluation.boundary import chosen_images, measure
    from bench.jobs.boundary import subjects_of
    from bench.report.plots import boundary as plot

    if radius < step:
        raise BenchError(f"--radius {radius:g} is less than one --step of {step:g}")
    if radius / step > 500:
        raise BenchError(f"{radius / step:,.0f} steps of {step:g} to {radius:g} are too many; at most 500")
    place = workplace(results, data, pick(device, threads), factories=factories)
    with reading(db, results) as base:
        subjects, pixels, labels, dataset = subjects_of(identifiers, base, place)
    numbers = list(images) if images else chosen_images(subjects, pixels, labels, 3)
    if numbers and max(numbers) >= len(labels):
        raise BenchError(f"there are {len(labels):,} test images, numbered from 0; {max(numbers)} is none")
    frame = measure(subjects, pixels, labels, numbers, radius=radius, step=step)
    title = config.load().title_of_dataset(dataset)
    head = (
        f"Decision boundaries on {title}: predicted class around test images (at the cross)",
        "Thick line: boundary of the true class. Right: the loss rises. Up: a random orthogonal direction.",
    )
    name = "boundary-" + "-".join(short(subject.run_id) for subject in subjects[:4])
    _save(plot.draw(frame, *head, page=page), frame, output, results, name)


@command.command("theory", cls=Once, short_help="Measured transfer between its two bounds.")
@selectors
@output
@where
def theory(output: Path | None, page: Page, results: Path, db: str | None, **given: Any) -> None:
    """Transferability between members, measured, and dashed the bounds of Theorems 1 and 2, against the radius ε.

    A line a method, mean over its pairs of members and seeds: one panel for attacks that lead to a class, one for those
    that do not. A bound that says nothing is drawn as 0 or 1. `bench theory ID` measures what is drawn.

    \b
    Examples:
      bench plot theory -m paper --dataset digits
      bench plot theory -m trs -m ece -d digits -o theory.pdf
    """
    from bench.report.plots import theory as plot

    chosen = choose(**given)
    if chosen.selection.attacks:
        raise BenchError("the attack is that of [theory] in bench.toml: leave --attack out")
    with reading(db, results) as base:
        frame = plot.read(chosen.loaded, chosen.selection, base, seeds=chosen.seeds)
    if frame.empty:
        raise BenchError("no bounds with these selectors; `bench theory ID` measures those of a run")
    head = _heading(
        "Transferability between members and its bounds", chosen, frame.drop(columns="attack"), images=False
    )
    images = ", ".join(f"{n:,}" for n in sorted(set(frame["n"])))
    figure = plot.draw(frame, head[0], f"{images} test images; dashed: upper bound; {head[1]}", page=page)
    _save(figure, frame, output, results, f"theory-{chosen.selection.dataset}")


@command.command("predict", cls=Once, short_help="Whether gradients, smoothness, CKA … predict transfer.")
@click.option("-d", "--dataset", type=Named("datasets"), help="Only ensembles on this data set.")
@output
@where
def predict(dataset: str | None, output: Path | None, page: Page, results: Path, db: str | None) -> None:
    """Rank correlation of gradient similarity, smoothness, both, CKA and diversity with measured transfer.

    Over all stored ensembles that have a transferability matrix and what `bench theory` measures. Across methods a
    point is an ensemble, within methods a pair of members; lines are 95 % intervals, bootstraps over methods and over
    ensembles. The pairs themselves lie in a second CSV.

    \b
    Examples:
      bench plot predict
      bench plot predict --dataset digits -o predict.pdf
    """
    from bench.core.files import write_text
    from bench.report.plots import predict as plot
    from bench.report.plots import style

    with reading(db, results) as base:
        pairs = plot.read(base, dataset=dataset)
    ensembles = pairs["run_id"].nunique()
    if ensembles < plot.LEAST:
        raise BenchError(
            f"{ensembles} ensembles have a transferability matrix and diversity; a rank correlation takes "
            f"{plot.LEAST} or more. `bench run` measures the one, `bench theory ID` the other"
        )
    frame = plot.correlations(pairs)
    picture = output or results / "figures" / f"{safe_name(f'predict-{dataset}' if dataset else 'predict')}.png"
    head = "Does it predict the heatmap? Spearman's rank correlation with measured transfer between members"
    told = "lines: 95 % bootstrap over methods (across), over ensembles (within)"
    _save(plot.draw(frame, head, told, page=page), frame, picture, results, picture.stem)
    write_text(picture.with_suffix(".pairs.csv"), style.csv_text(pairs))


def _save(figure: Figure, frame: pd.DataFrame, output: Path | None, results: Path, name: str) -> None:
    from bench.report.console import console
    from bench.report.plots import style

    picture, table = style.save(figure, frame, output or results / "figures" / f"{safe_name(name)}.png")
    console().print(f"saved {picture} and {table}", soft_wrap=True)


def _named(stem: str, frame: pd.DataFrame) -> str:
    """The stem of the default file: another one where attacks of the frame asked in another precision than float32."""
    return file_stem(stem, next((each for each in frame["precision"] if each != USUAL), USUAL))


def _heading(what: str, chosen: Chosen, frame: pd.DataFrame, *, images: bool = True) -> tuple[str, str]:
    """Two lines: what is shown of which experiment and recipe; on how many test images, and which seeds."""
    from bench.experiment.select import recipe_name
    from bench.report.plots import style
    from bench.report.recipes import setting_on_paper
    from bench.report.results import changes_shown, images_label, recipe_shown, run_specs, sizes

    loaded, selection = chosen.loaded, chosen.selection
    specs = run_specs(loaded, selection)
    if "method" in frame:
        specs = {name: run for name, run in specs.items() if name in set(frame["method"])}
    attacks = set(frame["attack"]) if "attack" in frame else set()
    name = recipe_name(loaded, selection.recipe, selection.dataset)
    recipe = recipe_shown(loaded, name, specs, changes_shown(loaded, specs, attacks))
    members = sizes(run.members for run in specs.values())
    models = [run.model for run in specs.values()]
    label = f"{images_label(loaded, selection)}; " if images else ""
    return (
        f"{what}: {setting_on_paper(loaded, selection.dataset, members, models, recipe)}",
        f"{label}{style.seeds_told(frame)}",
    )


def _command(chosen: Chosen, suite: str | None = None) -> str:
    from bench.experiment.command import of_selection

    return of_selection(chosen.loaded, chosen.selection, suite=suite)


def _need(frame: pd.DataFrame, what: str, chosen: Chosen) -> None:
    """Say in one line what is missing and what makes it.

    Raises:
        BenchError: the frame is empty.
    """
    if frame.empty:
        raise BenchError(f"no {what} with these selectors; `{_command(chosen)}` makes one")


def _need_steps(frame: pd.DataFrame, chosen: Chosen) -> None:
    """The same for the figure over steps: the suite `convergence` where there is one, else another number of steps.

    Raises:
        BenchError: the frame is empty.
    """
    if not frame.empty:
        return
    selection, suites = chosen.selection, chosen.loaded.config.suites
    if not selection.attacks and {"convergence", f"convergence-{selection.dataset}"} & set(suites):
        command = _command(chosen, "convergence")
    else:
        name = next(iter(selection.attacks), "pgd")
        one = replace(chosen, selection=replace(selection, attacks=(name,)))
        command = f"{_command(one)} --set attacks.{name}.steps=N"
    raise BenchError(f"no attack with two numbers of steps with these selectors; `{command}` adds one")
