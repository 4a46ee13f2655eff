"""Content identity: what makes two pieces of work the same, and what says that their code has changed."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

ID_LENGTH = 24  # 96 bits: no collision to fear among 10^9 results; 12 are shown
SHOWN = 12


def canonical(value: Any) -> str:
    """`value` as JSON with sorted keys and no white space: equal values give equal text.

    Numbers that are equal are written equally (1 and 1.0), so an int typed for a float does not make new work.
    """
    return json.dumps(_normal(value), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def _normal(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _normal(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_normal(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def content_id(value: Any) -> str:
    """The first 24 hexadecimal digits of the SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:ID_LENGTH]


def short(identifier: str) -> str:
    """The part of an id that is shown to people; any unique prefix is accepted back."""
    return identifier[:SHOWN]


@cache
def file_digest(path: Path) -> str:
    """Digest of a Python file's code: comments, layout and docstrings do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            node.body = body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree, annotate_fields=False).encode()).hexdigest()


def source_digest(*objects: Any) -> str:
    """Digest of the source behind classes or modules: each class's file and those of its base classes.

    Stored beside a result. A difference is noted, never a reason to throw a result away: that is what a plug-in's
    `version` is for.
    """
    paths: set[Path] = set()
    for item in objects:
        for owner in inspect.getmro(item) if inspect.isclass(item) else (item,):
            module = sys.modules.get(getattr(owner, "__module__", ""), owner)
            name = getattr(module, "__file__", None)
            if owner is not object and name and name.endswith(".py"):
                paths.add(Path(name))
    digests = sorted((path.name, file_digest(path)) for path in paths)
    return hashlib.sha256(canonical(digests).encode()).hexdigest()[:ID_LENGTH]


def safe_name(name: str) -> str:
    """A file name for a name from outside: letters, digits, `_` and `-`, told apart from others by a digest."""
    safe = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-") else "-" for letter in name)
    return safe if safe == name else f"{safe[:80]}-{content_id(name)[:6]}"
