"""`bench evaluate`: an ensemble that was trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from bench.cli import run
from bench.cli.options import (
    Named,
    PluginName,
    at_work,
    attack_options,
    capture_option,
    choose,
    machine,
    precision_option,
    where,
    workplace,
)
from bench.cli.parameters import IMAGES, InputFile, Integer, Numbers, Once, ParamType
from bench.cli.say import say
from bench.core import numbers
from bench.core.device import pick
from bench.core.errors import BenchError, unknown_name
from bench.core.terms import WEIGHTS, Activation

if TYPE_CHECKING:
    from bench.core.config import Loaded


class Renamed(ParamType):
    """`OLD=NEW`."""

    name = "old=new"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The two names."""
        old, equals, new = str(value).partition("=")
        if not equals or not old:
            self.fail(f"{value!r} is not a renaming; write OLD=NEW, e.g. layer1=stage1", param, ctx)
        return old.rstrip("."), new.rstrip(".")


@click.command("evaluate", cls=Once)
@click.argument("files", nargs=-1, required=True, type=InputFile(*WEIGHTS), metavar="FILE...")
@click.option("--name", required=True, help="What tables call it.")
@click.option("-d", "--dataset", required=True, type=Named("datasets"), help="Data set.")
@click.option("--model", type=Named("models"), help="Model of each member: a configured one or timm/NAME.")
@click.option("--factory", metavar="MODULE:FUNCTION", help="Your function that returns one member, untrained.")
@click.option("--prefix", "prefixes", multiple=True, metavar="BEGINNING",
              help="Take what begins with this alone, without it; repeat for several members.")  # fmt: skip
@click.option("--map", "renamed", multiple=True, type=Renamed(), metavar="OLD=NEW",
              help="Rename the beginning of names, e.g. layer1=stage1; repeat for several.")  # fmt: skip
@click.option("--by-order", is_flag=True, help="Ignore names: take tensors in the order of the file.")
@click.option("--normalisation", type=click.Choice(["none", "dataset"]),
              help="None, or the data set's. [default: that in the files; without one dataset for --model, none for "
              "--factory]")  # fmt: skip
@click.option("--mean", type=Numbers(), help="Normalisation by numbers: one, or one a channel.")
@click.option("--std", type=Numbers(positive=True), help="The same.")
@click.option("--fusion", type=PluginName("fusions"), metavar="NAME",
              help="How members make one prediction: `bench list fusions`. [default: mean_probability]")  # fmt: skip
@click.option("--weights", type=Numbers(), help="One weight a member, for rules that take them (`bench list fusions`).")
@click.option("--activation", type=click.Choice(get_args(Activation)),
              help="leaky_relu (slope .1) for members trained with GAL. [default: relu]")  # fmt: skip
@click.option("--seed", type=Integer(0, numbers.SEED),
              help="Which training of this name it is; several give mean ± std. [default: the next]")  # fmt: skip
@click.option("--publication", metavar="NAME", type=Named("publications"),
              help="The paper it is from, one of [publications] in bench.toml.")  # fmt: skip
@click.option("--paper-title", help="The paper it is from, where bench.toml does not have it: its title. An empty text "
              "here and below takes back what was said.")  # fmt: skip
@click.option("--author", "authors", multiple=True, help="An author of the paper; repeat for several, in order.")
@click.option("--venue", help="Where it was published, such as NeurIPS.")
@click.option("--year", type=Integer(1900, 3000), help="When it was published.")
@click.option("--url", help="Address of the paper: https://…")
@click.option("--code", help="Address of the authors' code: https://…")
@click.option("--adversarial/--not-adversarial", default=None, help="Whether it was trained on attacked images.")
@click.option("--extra-data/--no-extra-data", default=None,
              help="Whether it was trained on images beside the data set's own.")  # fmt: skip
@click.option("-s", "--suite", type=Named("suites"), help="Suite; the data set's own unless given.")
@attack_options
@click.option("--limit", type=IMAGES, help="Use this many test images only.")
@precision_option("As for `bench run`.", default=None)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="As for `bench run`.")
@machine()
@capture_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON, progress on stderr.")
@where
@click.pass_context
def command(
    context: click.Context, /, files: tuple[Path, ...], name: str, dataset: str, model: str | None, factory: str | None,
    prefixes: tuple[str, ...], renamed: tuple[tuple[str, str], ...], by_order: bool,
    normalisation: Literal["none", "dataset"] | None, mean: tuple[float, ...] | None, std: tuple[float, ...] | None,
    fusion: str | None, weights: tuple[float, ...] | None, activation: str | None, seed: int | None,
    publication: str | None, paper_title: str | None, authors: tuple[str, ...], venue: str | None, year: int | None,
    url: str | None, code: str | None, adversarial: bool | None, extra_data: bool | None, **given: Any,
) -> int:  # fmt: skip
    """Evaluate an ensemble that was trained elsewhere, from the files of its members' weights.

    FILE is .safetensors or what torch.save made of a state_dict; one file may hold several members. Files are read
    without running code from them, and before it measures it says what it understood: members, names, normalisation,
    fusion. The ensemble becomes a method of its NAME: `bench run`, `table`, `heatmap` and `show` know it from then on,
    and the same command goes on where it was interrupted. Other files under the same NAME are its next seed.

    What is said of its paper and of its training data stands on its page of `bench report`, as a claim, and changes
    nothing of what is measured. Said of an ensemble that is there already it is noted, and nothing is measured again.

    \b
    Examples:
      bench evaluate a.pth b.pth c.pth --model resnet20 --dataset cifar10 --name "my defence"
      bench evaluate epoch_200.pth --model resnet20 -d cifar10 --name "DVERGE, authors" --publication dverge
      bench evaluate 0_last_*.pth --model resnet20 -d cifar10 --name AdvOAP --fusion mean_logits --normalisation none
      bench evaluate checkpoint.pth --model resnet20 -d cifar10 --name theirs --prefix state_dict_ema.
      bench evaluate m.safetensors --factory my_package.nets:make -d mnist --name mine --fusion mean_logits
      bench evaluate a.pth b.pth --model lenet -d mnist --name "mine, seed 1" --attack pgd --eps 0.1 --limit 1000
      bench evaluate a.pth --model resnet20 -d cifar10 --name mine --paper-title "On Nets" --venue ICLR --year 2026
    """
    from bench.jobs.given import Given
    from bench.jobs.outside import take_in
    from bench.models.layouts import Renaming

    if by_order and renamed:
        raise BenchError("--by-order ignores names, --map changes them: leave one out")
    selectors: dict[str, Any] = {"recipe": None, "model": None, "members": None, "split": "test", "seeds": None}
    selectors |= {key: given[key] for key in ("suite", "attack", "eps", "c", "limit", "precision", "changes")}
    chosen = choose(**selectors, methods=(), dataset=dataset)
    facts = _facts(
        chosen.loaded, publication, title=paper_title, authors=[*authors] or None, venue=venue, year=year, url=url,
        code=code, adversarial=adversarial, extra_data=extra_data,
    )  # fmt: skip
    for file in files:  # before a folder of results is made
        if not file.is_file():
            raise BenchError(f"there is no file {file}")
    device = pick(given["device"], given["threads"])  # a first look is taken where the jobs run
    place = workplace(given["results"], given["data"], device, given["batch"])
    with at_work(given["db"], given["results"]) as base:
        adopted = take_in(
            base,
            Given(
                files=files, name=name, dataset=dataset, model=model, factory=factory, normalisation=normalisation,
                mean=mean, std=std, fusion=fusion, weights=weights, activation=activation, seed=seed, facts=facts,
                renaming=Renaming(prefixes=prefixes, renamed=renamed, by_order=by_order),
            ),
            chosen.loaded,
            place,
            tell=lambda line: None if given["quiet"] else say(line, err=given["as_json"]),
            warn=lambda line: say(line, fg="yellow", err=True),
        )  # fmt: skip
    selectors |= {"methods": (name,), "dataset": dataset, "seeds": (adopted.seed,)}
    selectors |= {"factories": (factory,) if factory else ()}
    result: int = context.invoke(run.command, **{**given, **selectors})
    return result


def _facts(loaded: Loaded, publication: str | None, **said: Any) -> dict[str, Any]:
    """What was said, by the names of `bench.experiment.records.Facts`; None for what an empty text takes back.

    Raises:
        BenchError: no publication of this name.
    """
    known = loaded.config.publications
    if publication is not None and publication not in known:
        raise unknown_name("publication", publication, known)
    found = {} if publication is None else known[publication].model_dump(mode="json")
    found |= {name: value for name, value in said.items() if value is not None}
    return {name: None if value in ("", [""]) else value for name, value in found.items()}
