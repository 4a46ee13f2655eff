"""What tests of `bench evaluate` share: the command, files of weights, what it printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from in_process import Done, command
from torch import Tensor

State = dict[str, Tensor]


def bench(results: Path, *arguments: object, ok: bool = True) -> Done:
    done = command(*arguments, "--results", results)
    assert not ok or done.code == 0, done.text
    return done


def evaluate(results: Path, files: list[Path], *arguments: object, ok: bool = True) -> Done:
    return bench(results, "evaluate", *files, "-d", "digits", "--attack", "pgd", "--eps", "0.1", "--limit", "60",
                 "--threads", "1", *arguments, ok=ok)  # fmt: skip


def outcome(result: Done) -> dict[str, float]:
    table: dict[str, float] = {row["attack"]: row["mean"] for row in json.loads(result.out)["table"]}
    return table


def refused(result: Done) -> str:
    assert result.code == 2, result.text
    return result.err


def saved(folder: Path, states: list[State], rename: Any = lambda name: name) -> list[Path]:
    files = [folder / f"member{k}.pth" for k in range(len(states))]
    for file, state in zip(files, states, strict=True):
        torch.save({rename(name): tensor for name, tensor in state.items()}, file)
    return files


def contents(results: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in results.glob("runs/*/evaluations/*.json")}
