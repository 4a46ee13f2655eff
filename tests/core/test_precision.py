"""How results of another precision than float32 are named."""

from __future__ import annotations

from bench.core.precision import file_stem, titled


def test_float32_is_not_named() -> None:
    assert (titled("PGD (50)", "float32"), titled("PGD (50)", "bfloat16")) == ("PGD (50)", "PGD (50), bfloat16")
    assert (file_stem("transfer-a", "float32"), file_stem("transfer-a", "bfloat16")) == (
        "transfer-a", "transfer-a-bfloat16")  # fmt: skip
