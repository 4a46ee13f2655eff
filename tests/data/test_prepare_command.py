"""`bench prepare` from its command object."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench.cli.prepare import command
from bench.core import registry
from bench.core.errors import BenchError
from bench.data import base
from bench.data.base import Dataset


@pytest.fixture
def plugins(monkeypatch):
    class Good(Dataset):
        title = "Good"
        classes, shape = 2, (1, 2, 2)

        def load(self, folder, *, train):
            return torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1] if Good.right else [1, 1])

        def prepare(self, folder, progress):
            progress(f"good into {folder}")
            return []

    class Bad(Dataset):
        title = "Bad"

        def prepare(self, folder, progress):
            raise BenchError("cannot download bad")

    Good.right = True
    known = {"bad": Bad, "good": Good}
    monkeypatch.setattr(registry, "entries", lambda kind: known)
    monkeypatch.setattr(registry, "load", lambda kind, name: known[name])
    base._read.cache_clear()
    return known


def run(*arguments: str, **environment: str):
    return CliRunner().invoke(command, arguments, env={"BENCH_DATA": None, **environment})


def test_built_in_data_need_no_folder_and_no_network():
    result = run("digits", "--data", "/no/such/folder")
    assert result.exit_code == 0
    assert result.output == "digits is built in: nothing to prepare\n"


def test_the_folder_is_an_option_or_the_environment_or_data(plugins):
    assert run("good", "--data", "/a").output == "good into /a\n"
    assert run("good", BENCH_DATA="/b").output == "good into /b\n"
    assert run("good").output == f"good into {Path('data')}\n"
    assert run("good", "-q").output == ""


def test_one_failure_does_not_stop_the_others(plugins):
    result = run("all")
    assert isinstance(result.exception, BenchError)
    assert str(result.exception) == "1 of 2 data sets could not be prepared: bad"
    assert "bad: cannot download bad" in result.output
    assert "good into" in result.output


def test_labels_are_looked_at_whatever_a_data_set_says_of_itself(plugins):
    plugins["good"].right = False
    result = run("good", "--data", "/c")
    assert "no training image has label 0" in str(result.exception)


def test_a_single_failure_is_its_own_message(plugins):
    assert str(run("bad").exception) == "cannot download bad"


def test_unknown_names_are_found_before_anything_is_downloaded(tmp_path):
    result = run("digits", "mnits", "--data", str(tmp_path))
    assert isinstance(result.exception, BenchError)
    assert "did you mean mnist" in str(result.exception)
    assert result.output == ""


def test_help_has_worked_examples():
    text = run("--help").output
    assert "bench prepare cifar10 cifar100 --data /scratch/data" in text
    assert "BENCH_DATA" in text
