"""How many jobs at once were found best on a kind of GPU: what `bench perf jobs` keeps and `bench run` goes by.

It is kept in `machine.json` of the results folder, by the name of the card, so that nothing is taken over from another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.core.errors import BenchError
from bench.core.files import read_json, write_json
from bench.core.lazy import torch

FILE = "machine.json"
MOST = 1024


def keep(results: Path, device: str, jobs: int) -> tuple[str, Path]:
    """Note that `jobs` at once are best on the GPU `device` (`cuda:1`, say); the card's name, and where it is noted."""
    card = torch.cuda.get_device_name(torch.device(device))
    path = results / FILE
    kept = _read(path)
    results.mkdir(parents=True, exist_ok=True)
    write_json(path, {**kept, "per_gpu": {**_of(kept), card: jobs}})
    return card, path


def per_gpu(results: Path, gpus: Sequence[str]) -> tuple[int, str]:
    """Jobs at once on each of `gpus` (numbers as this process has them) that nobody chose, and what says so.

    The fewest that were found best on any of these cards; 1, and nothing is said, where one was not measured.
    """
    known = _of(_read(results / FILE))
    cards = [_card(gpu) for gpu in gpus]
    found = [(jobs, card) for card in cards if isinstance(jobs := known.get(card), int) and 1 <= jobs <= MOST]
    if not found or len(found) < len(cards):
        return 1, ""
    jobs, card = min(found)
    return jobs, f"{jobs} at once on each GPU: what `bench perf jobs` found best on {card}; --per-gpu says otherwise."


def _card(gpu: str) -> str:
    try:
        return torch.cuda.get_device_name(int(gpu))
    except (ValueError, RuntimeError, AssertionError):  # an id instead of a number, or no such GPU: said elsewhere
        return ""


def _of(kept: dict[str, Any]) -> dict[str, Any]:
    found = kept.get("per_gpu")
    return found if isinstance(found, dict) else {}


def _read(path: Path) -> dict[str, Any]:
    """What is kept; nothing where the file is missing or no such one: it only spares a measurement."""
    try:
        found = read_json(path)
    except BenchError:
        return {}
    return found if isinstance(found, dict) else {}
