"""What commands print beside tables: one way for lines, one for JSON; neither lets text from outside do anything."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import click

from bench.core.printable import fitting, forget, visible

_LONGEST = 2000
_UNSEEN = re.compile("[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufff9-\ufffb]")


def say(text: str, *, fg: str | None = None, err: bool = False, nl: bool = True) -> None:
    """Print text; its own line breaks stay, other control characters show as their code."""
    forget()
    stream = sys.stderr if err else sys.stdout
    click.secho(fitting(visible(text, keep="\n\t"), stream.encoding), fg=fg, err=err, nl=nl)


def complain(text: str) -> None:
    """One red line on stderr, whatever the text holds and however long it is."""
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}… ({len(text):,} characters)"
    say(f"Error: {visible(text)}", fg="red", err=True)


def say_json(value: Any) -> None:
    r"""Print a value as JSON; letters that do not show, or that the output has not, as `\u202e`."""
    forget()
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        text = json.dumps(json.loads(text), indent=1)
    click.echo(text)
