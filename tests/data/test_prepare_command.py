"""`bench prepare` from its command object."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from in_process import Done, command

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


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch):
    monkeypatch.delenv("BENCH_DATA", raising=False)


def run(*arguments: object) -> Done:
    return command("prepare", *arguments)


def test_built_in_data_need_no_folder_and_no_network():
    result = run("digits", "--data", "/no/such/folder")
    assert result.code == 0
    assert result.text == "digits is built in: nothing to prepare\n"


def test_the_folder_is_an_option_or_the_environment_or_data(plugins, monkeypatch):
    assert run("good", "--data", "/a").text == "good into /a\n"
    assert run("good").text == f"good into {Path('data')}\n"
    assert run("good", "-q").text == ""
    monkeypatch.setenv("BENCH_DATA", "/b")
    assert run("good").text == "good into /b\n"


def test_one_failure_does_not_stop_the_others(plugins):
    result = run("all")
    assert result.code == 2
    assert result.err.endswith("Error: 1 of 2 data sets could not be prepared: bad\n")
    assert "bad: cannot download bad" in result.err
    assert "good into" in result.out


def test_labels_are_looked_at_whatever_a_data_set_says_of_itself(plugins):
    plugins["good"].right = False
    assert "no training image has label 0" in run("good", "--data", "/c").err


def test_a_single_failure_is_its_own_message(plugins):
    assert run("bad") == (2, "", "Error: cannot download bad\n")


def test_unknown_names_are_found_before_anything_is_downloaded(tmp_path):
    code, out, err = run("digits", "mnits", "--data", tmp_path)
    assert (code, out) == (2, "")
    assert "did you mean mnist" in err


def test_help_has_worked_examples():
    text = run("--help").out
    assert "bench prepare cifar10 cifar100 --data /scratch/data" in text
    assert "BENCH_DATA" in text
