"""`bench config`: what bench.toml comes to here, and where each value is from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import data_option
from bench.cli.parameters import Once
from bench.cli.say import say, say_json
from bench.core.errors import BenchError, unknown_name

if TYPE_CHECKING:
    from bench.core.config import Explained


@click.command("config", cls=Once)
@click.argument("name", metavar="[KEY]", required=False)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="As for `bench run`: what it would change.")
@click.option("--json", "as_json", is_flag=True, help="Print an object: file, values, and the origin of each.")
@data_option()
def command(name: str | None, changes: tuple[str, ...], as_json: bool, data: Path) -> None:
    """Print the configuration that holds here, as TOML, each value with where it is from.

    A bench.toml of one's own (in this folder or one above, or the file that BENCH_CONFIG names) adds to the built-in
    one: its tables are merged with those, its values win, its lists replace. With `include = "nothing"` as its first
    line it stands alone. Data sets of plug-ins, and those of pictures of one's own, have a table too.

    KEY is a part of it, such as recipes.quick or methods.trs.lambda_a; of a setting that no file gives, the default.

    \b
    Examples:
      bench config                             everything; it is a bench.toml itself
      bench config recipes.quick
      bench config methods.trs --set methods.trs.lambda_a=50
      bench config datasets --json
    """
    from bench.core import config

    config.load(changes=changes)  # says what is wrong with it
    found = _with_default(config.explained(changes=changes), name)
    part, above = _part(found, name)
    if as_json:
        origins = {".".join(place): origin for place, origin in found.origins.items() if place[: len(above)] == above}
        told = {"file": str(found.path), "include": "default" if found.adds else "nothing"}
        say_json({**told, "key": name, "value": _plain(part), "origins": origins})
        return
    for line in _lines(found, part, above, changes):
        say(line)


def _with_default(found: Explained, name: str | None) -> Explained:
    """With the setting of a plug-in that `name` asks for, where no file gives it."""
    from bench.core import registry
    from bench.core.settings import defaults
    from bench.core.toml_text import leaves

    kind, _, rest = (name or "").partition(".")
    key, _, word = rest.partition(".")
    own = found.table.get(kind, {}).get(key) if kind in registry.KINDS else None
    if not isinstance(own, dict) or word in own:
        return found
    known = defaults(registry.load(kind, own["plugin"]))
    if word not in known:
        return found
    own[word] = known[word]
    told = f"default of the plug-in {own['plugin']!r}"
    places = {place: told for place, _ in leaves({word: known[word]}, (kind, key))}
    return replace(found, origins={**found.origins, **places})


def _part(found: Explained, name: str | None) -> tuple[Any, tuple[str, ...]]:
    """What stands at a dotted key, and the key's parts."""
    part: Any = found.table
    above: tuple[str, ...] = ()
    for word in name.split(".") if name else ():
        if not isinstance(part, dict):
            raise BenchError(f"{'.'.join(above)} is a value; nothing is within it")
        if word not in part:
            raise unknown_name(f"key of [{'.'.join(above)}]" if above else "key of bench.toml", word, part)
        part, above = part[word], (*above, word)
    return part, above


def _lines(found: Explained, part: Any, above: tuple[str, ...], changes: tuple[str, ...]) -> Iterator[str]:
    from bench.core.toml_text import key, literal, written

    def origin(place: tuple[str, ...]) -> str:
        return found.origins[place]

    if part is None:  # of which TOML has none
        yield f"# {'.'.join(map(key, above))} is none: {origin(above)}"
        return
    if above and (not isinstance(part, dict) or not part):
        yield f"{'.'.join(map(key, above))} = {literal(part)}  # {origin(above)}"
        return
    yield f"# {found.told}"
    for change in changes:
        if change.strip().startswith(("training.", "data.")):
            yield f"# for every run: --set {change}"
    yield from written(part, origin, above)


def _plain(value: Any) -> Any:
    """With dates as text, which JSON has none of."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
