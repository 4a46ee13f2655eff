"""Text from outside, made fit to be shown: nothing in it moves a cursor, hides letters or turns their order round."""

from __future__ import annotations

import codecs
import logging
import shutil
import sys
import unicodedata

HANDLER = "bench.printable"
"""Name of the handler for letters that an encoding lacks: known ones in words, others as their code."""

# One letter where a table may hold it, so that columns stay in line.
_WORDS = {
    "✓": "+", "✗": "x", "†": "*", "–": "-", "—": "-", "−": "-", "±": "~", "×": "x", "ε": "eps", "λ": "lambda",
    "δ": "delta", "ℓ": "l", "∞": "inf", "²": "2", "→": "->", "↓": "v", "·": "-", "…": "...", "≤": "<=", "≥": ">=",
    "µ": "u", "μ": "u", "‘": "'", "’": "'", "“": '"', "”": '"',
}  # fmt: skip


def visible(text: str, keep: str = "") -> str:
    r"""The text with every letter that does not show as its code: `\x1b`, `\u202e`, `\n`.

    Those are control characters (C0 and C1), marks of direction, spaces of no width, halves of surrogate pairs and
    separators of lines; blanks of any width stay.

    Args:
        keep: letters that stay as they are all the same, such as line breaks.
    """
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or letter in keep or unicodedata.category(letter) == "Zs"
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def fitting(text: str, encoding: str | None) -> str:
    """The text in letters that the encoding has: `eps = 0.1` for `ε = 0.1` in ASCII."""
    if text.isascii() or (encoding or "utf-8").lower().replace("-", "").startswith("utf"):
        return text
    return text.encode(str(encoding), HANDLER).decode(str(encoding))


def _in_words(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    told = [_WORDS.get(letter) or letter.encode("unicode_escape").decode("ascii") for letter in letters]
    return "".join(told), error.end


codecs.register_error(HANDLER, _in_words)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(record.getMessage())


def prepare_streams() -> None:
    """No letter stops what is written to stdout and stderr, whatever their encoding; warnings are plain lines."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=HANDLER)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_OneLine())


_begun = False


def begin(text: str) -> None:
    """On a terminal, say at once what was understood, on stderr and until something else is said (`forget`).

    Imports and the database take seconds, on a busy machine many: nobody should look at nothing meanwhile.
    """
    global _begun
    if sys.stderr.isatty():
        room = shutil.get_terminal_size().columns - 3  # a line that breaks could not be taken back
        shown = fitting(visible(text), sys.stderr.encoding)
        sys.stderr.write(f"{shown if len(shown) <= room else shown[:room]} …")
        sys.stderr.flush()
        _begun = True


def forget() -> None:
    """Take back what `begin` said: now there is something to be read."""
    global _begun
    if _begun:
        _begun = False
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()
