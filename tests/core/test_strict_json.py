"""JSON of strangers: refused with one line, whatever it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.core import strict_json
from bench.core.errors import BenchError
from bench.core.files import read_json


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("9" * 5000, "63 bits"), ("[9223372036854775808]", "63 bits"), ("[-9223372036854775809]", "63 bits"),
        ("[" * 100_000, "nested"), ("[" * 42 + "]" * 42, "nested more than 40"),
        ('{"a":' * 60 + "1" + "}" * 60, "nested"),
        ("1e999", "not finite"), ("[-1E+400]", "not finite"), ("NaN", "not a number"),
        ('{"a": -Infinity}', "not a number"),
        (r'{"a": "\ud800"}', "Unicode"), ("{", "not JSON"), ("", "not JSON"), ("\udcff", "Unicode|not JSON"),
    ],
)  # fmt: skip
def test_what_is_beyond_bounds_is_refused_in_a_line(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as fault:
        strict_json.parse(text)
    assert "\n" not in str(fault.value)
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(BenchError, match=r"x.json is damaged"):
        read_json(path)


def test_what_lies_within_bounds_is_read_as_it_is(tmp_path: Path) -> None:
    for text in (
        "9223372036854775807",
        "-9223372036854775808",
        "[" * 41 + "]" * 41,
        "0.12345678901234567890123",
        "1e308",
    ):
        strict_json.parse(text)
    assert strict_json.parse('[NaN, 1, "é", "\\ud83d\\ude00"]', numbers=False) == [None, 1, "é", "😀"]
    with pytest.raises(ValueError, match="no UTF-8"):
        strict_json.parse(b"\xff")
    (tmp_path / "large.json").write_text(" " * 100)
    with pytest.raises(BenchError, match="too large"):
        read_json(tmp_path / "large.json", limit=99)
    with pytest.raises(BenchError, match="cannot read"):
        read_json(tmp_path)
