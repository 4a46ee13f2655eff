"""How results of another precision than float32 are named, and how a stored one is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from bench.attacks.iterative import PGD
from bench.core import registry
from bench.core.precision import file_stem, precision_of, titled


def test_float32_is_not_named() -> None:
    assert (titled("PGD (50)", "float32"), titled("PGD (50)", "bfloat16")) == ("PGD (50)", "PGD (50), bfloat16")
    assert (file_stem("transfer-a", "float32"), file_stem("transfer-a", "bfloat16")) == (
        "transfer-a", "transfer-a-bfloat16")  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "precision"),
    [
        ({"steps": 50}, "float32"),
        ({"precision": "bfloat16"}, "bfloat16"),
        ({"precision": "float32"}, "float32"),
        ({"precision": "high"}, "float32"),
        ({"precision": [1]}, "float32"),
    ],
)
def test_a_record_names_it_among_the_settings(settings: dict[str, Any], precision: str) -> None:
    assert precision_of("pgd", settings) == precision
    assert precision_of("of-a-package-that-is-gone", settings) == precision


def test_a_setting_of_the_attacks_own_is_no_precision_of_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Own(PGD):
        """PGD with a setting of that name."""

        precision: str = "bfloat16"

    monkeypatch.setattr(registry, "load", lambda kind, name: Own)
    assert precision_of("own", {"precision": "bfloat16"}) == "float32"
