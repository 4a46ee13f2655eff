"""Tracebacks and errors for others to read: where in the code it was stays, whose machine it was goes."""

from __future__ import annotations

import re

# Quoted paths may hold blanks; others end at one. Of a web address or a fraction nothing is a path.
_PATH = re.compile(
    r"""(?P<quote>["'])(?P<quoted>(?:/|[A-Za-z]:[\\/])[^"'\n]+)(?P=quote)|(?<![\w.:/~…\\])(?P<bare>(?:/|[A-Za-z]:[\\/])[^\s"'<>|;,()]+)"""
)
_HOME = re.compile(r"(?:/(?:home|Users)/[^/]+|/root|[A-Za-z]:/Users/[^/]+)(?=/|$)")
# From here on a path says the same on every machine.
_ROOTS = (
    re.compile(r".*/(?:site|dist)-packages/(.+)"),
    re.compile(r".*/(python\d(?:\.\d+)?/.+)"),
    re.compile(r".*?/((?:bench|methods|baselines)/(?:[^/]+/)*[^/]+\.py)"),
    re.compile(r".*/(runs/[0-9a-f]{24}(?:/.*)?)"),
)


def relative(text: str) -> str:
    """The text with every absolute path made relative: to its package, to the checkout, to the folder of results.

    Of other paths the last part stays (`…/members.pt`); homes, and with them the names of users, go. What is relative
    already stays, so doing it twice changes nothing.
    """
    if "/" not in text and "\\" not in text:
        return text
    return _PATH.sub(_shortened, text.replace("file:///", "/"))


def _shortened(found: re.Match[str]) -> str:
    quote = found["quote"] or ""
    path = found["quoted"] or found["bare"]
    tail = ""
    if not quote:
        bare = path.rstrip(".:")
        path, tail = bare, path[len(bare) :]
    return f"{quote}{_short(path.replace(chr(92), '/'))}{quote}{tail}"


def _short(path: str) -> str:
    for root in _ROOTS:
        if match := root.fullmatch(path):
            return match[1]
    inside = _HOME.sub("~", path, count=1) if _HOME.match(path) else path
    if inside == "~":
        return inside
    parts = [part for part in inside.split("/") if part]
    if inside == path and (len(parts) < 2 or parts[0] in ("dev", "proc", "sys")):
        return path
    return f"…/{parts[-1]}"
