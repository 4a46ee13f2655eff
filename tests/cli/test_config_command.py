"""`bench config`: the file that holds, its parts, and origins."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from in_process import bench, refused

from bench.core import registry


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a bench.toml of one's own, which is worked in."""
    for name in ("BENCH_CONFIG", "BENCH_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bench.toml"
    path.write_text("[recipes.quick.digits]\nepochs = 4\n")
    return path


def test_a_part_is_printed_with_origins(own: Path) -> None:
    out = bench("config", "recipes.quick.digits", "--set", "recipes.quick.digits.lr=0.01")
    head, _, table, *lines = out.splitlines()
    assert head == f"# {own} added to the built-in file"
    assert table == "[recipes.quick.digits]"
    assert f"epochs = 4  # {own}" in lines
    assert "lr = 0.01  # --set" in lines
    assert 'model = "digits_cnn"  # built-in' in lines
    assert bench("config", "recipes.quick.digits.epochs") == f"recipes.quick.digits.epochs = 4  # {own}\n"


def test_a_setting_that_no_file_gives_is_told_at_its_default() -> None:
    value = registry.load("methods", "trs").lambda_a
    told = "default of the plug-in 'trs'"
    assert bench("config", "methods.trs.lambda_a") == f"methods.trs.lambda_a = {value!r}  # {told}\n"
    assert bench("config", "attacks.mora.temperature") == (
        "# attacks.mora.temperature is none: default of the plug-in 'mora'\n"
    )
    assert json.loads(bench("config", "methods.trs.lambda_a", "--json"))["origins"] == {"methods.trs.lambda_a": told}
    changed = bench("config", "methods.trs.lambda_a", "--set", "methods.trs.lambda_a=5")
    assert changed == "methods.trs.lambda_a = 5  # --set\n"


def test_everything_is_a_bench_toml_that_gives_the_same(own: Path) -> None:
    whole = bench("config")
    assert tomllib.loads(whole)["recipes"]["quick"]["digits"]["epochs"] == 4
    own.write_text(whole)
    again = bench("config")
    assert again.startswith(f"# {own} alone, without the built-in file")
    assert tomllib.loads(again) == tomllib.loads(whole)


def test_as_json_values_and_origins_stand_beside_each_other(own: Path) -> None:
    told = json.loads(bench("config", "recipes.quick.digits", "--json"))
    assert (told["file"], told["include"]) == (str(own), "default")
    assert told["value"]["epochs"] == 4
    assert told["origins"]["recipes.quick.digits.epochs"] == str(own)


def test_the_file_of_the_environment_is_named_so(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.toml"
    other.write_text("")
    monkeypatch.setenv("BENCH_CONFIG", str(other))
    assert bench("config", "theory").startswith(f"# {other}, which BENCH_CONFIG names, added to the built-in file")


@pytest.mark.parametrize(
    ("name", "words"),
    [("recepies", "did you mean recipes"), ("recipes.quik", "did you mean quick"), ("theory.limit.x", "is a value")],
)
def test_what_is_not_there_is_told_with_what_is(name: str, words: str) -> None:
    assert words in refused("config", name)


def test_a_damaged_file_is_one_line(own: Path) -> None:
    own.write_text("[recipes.quick.digits]\nepoch = 4\n")
    assert "unknown key of bench.toml [recipes.quick.digits] 'epoch'" in refused("config")
