"""Identity, seeds, atomic files, the registry."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from bench.core import files, identity, registry, seeds
from bench.core.errors import BenchError


def test_an_id_is_the_sha256_of_canonical_json() -> None:
    text = b'{"a":[1,2.5],"b":{"c":null,"d":"\\u03b5"}}'
    assert identity.content_id({"b": {"d": "ε", "c": None}, "a": (1.0, 2.5)}) == hashlib.sha256(text).hexdigest()[:24]


def test_nan_has_no_identity() -> None:
    with pytest.raises(ValueError, match="JSON"):
        identity.content_id({"a": float("nan")})


def test_comments_and_docstrings_do_not_change_the_digest_of_source(tmp_path: Path) -> None:
    texts = (
        '"""One."""\n\ndef f(x):\n    """Doc."""\n    return x + 1\n',
        "# comment\ndef f(x):\n    'other'\n\n    return (x + 1)  # why\n",
        "def f(x):\n    return x + 2\n",
    )
    digests = []
    for index, text in enumerate(texts):
        path = tmp_path / f"{index}.py"
        path.write_text(text)
        digests.append(identity.file_digest(path))
    assert digests[0] == digests[1] != digests[2]


def test_seeds_differ_by_axis_and_repeat() -> None:
    assert seeds.derive("a", 1) == seeds.derive("a", 1)
    assert len({seeds.derive("a", 1), seeds.derive("a", 2), seeds.derive("b", 1), seeds.derive("a", 1, 0)}) == 4


def test_isolated_randomness_leaves_the_callers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeds.isolated("x"):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeds.isolated("x"):
        assert torch.equal(torch.rand(3), inside)


@pytest.mark.parametrize(
    ("text", "expected"), [("0", (0,)), ("0-4", (0, 1, 2, 3, 4)), ("0,3", (0, 3)), ("1-2,7,1", (1, 2, 7))]
)
def test_lists_of_seeds(text: str, expected: tuple[int, ...]) -> None:
    assert seeds.parse_seeds(text) == expected


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,,2"])
def test_bad_lists_of_seeds(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - int's own message
        seeds.parse_seeds(text)


def test_a_block_that_raises_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"x": float("inf")})
    assert files.read_json(path) == {"x": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_a_truncated_file_is_told_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"x": ')
    with pytest.raises(BenchError, match=r"a\.json is damaged"):
        files.read_json(path)


def test_a_writer_killed_at_any_moment_leaves_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    code = (
        "import sys; from pathlib import Path; from bench.core.files import write_json\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1; write_json(Path(sys.argv[1]), {'n': n, 'pad': 'x' * 100000})\n"
    )
    last = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)])
        while not path.exists() or json.loads(path.read_text())["n"] <= 2:
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        last = json.loads(path.read_text())["n"]
        assert len(path.read_text()) > 100000
        path.unlink()
    assert last > 2


def test_a_name_that_two_packages_declare_is_an_error_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("x", "a:A", "bench.methods"), EntryPoint("x", "b:B", "bench.methods")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry.entries.cache_clear()
    try:
        with pytest.raises(BenchError, match="two packages declare the method 'x'"):
            registry.load("methods", "x")
    finally:
        registry.entries.cache_clear()


def test_a_plugin_that_cannot_be_imported_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("x", "no_such_module:A", "bench.methods")])
    registry.entries.cache_clear()
    try:
        with pytest.raises(BenchError, match="No module named 'no_such_module'"):
            registry.load("methods", "x")
    finally:
        registry.entries.cache_clear()
