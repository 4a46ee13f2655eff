"""`bench.core.bits` against a loop over single bits."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core import bits
from bench.core.errors import BenchError


def by_hand(values: list[bool]) -> bytes:
    packed = bytearray((len(values) + 7) // 8)
    for index, value in enumerate(values):
        packed[index // 8] |= value << (7 - index % 8)
    return bytes(packed)


@given(st.lists(st.booleans(), max_size=70))
def test_pack_sets_the_bits_a_loop_would_set_and_unpack_gives_them_back(values: list[bool]) -> None:
    assert bits.pack(values) == by_hand(values)
    assert bits.unpack(by_hand(values), len(values)).tolist() == values
    assert bits.to_text(values) == base64.b64encode(by_hand(values)).decode()
    assert bits.from_text(bits.to_text(np.array(values, dtype=bool)), len(values)).tolist() == values


def test_a_torch_tensor_is_packed_like_a_list() -> None:
    import torch

    assert bits.pack(torch.tensor([True, False, True])) == by_hand([True, False, True])


@pytest.mark.parametrize("n", [0, 7, 17, 24])
def test_another_number_of_images_than_was_packed_is_refused(n: int) -> None:
    with pytest.raises(BenchError, match="hold"):
        bits.unpack(by_hand([True] * 8 + [False] * 7 + [True]), n)


def test_text_that_is_no_base64_is_refused() -> None:
    with pytest.raises(BenchError, match="base64"):
        bits.from_text("???", 8)


@pytest.mark.parametrize("values", [[0, 1], [[True]], [0.5]])
def test_what_is_not_a_row_of_booleans_is_refused(values: object) -> None:
    with pytest.raises(TypeError, match="booleans"):
        bits.pack(values)


@pytest.mark.parametrize("values", [[0], [3, 1, 255], [0, 256, 999], [65_535]])
def test_classes_take_a_byte_each_or_two(values: list[int]) -> None:
    data = bits.pack_classes(values)
    assert len(data) == len(values) * (1 if max(values) < 256 else 2)
    assert bits.unpack_classes(data, len(values)).tolist() == values
    assert bits.classes_from_text(bits.classes_to_text(values), len(values)).tolist() == values


@pytest.mark.parametrize("text", ["AAAA", "AAAAAAAAAA==", "???"])
def test_classes_of_other_images_are_refused(text: str) -> None:
    with pytest.raises(BenchError, match="classes"):
        bits.classes_from_text(text, 2)


@pytest.mark.parametrize("values", [[-1], [1 << 16]])
def test_what_is_no_class_is_refused(values: list[int]) -> None:
    with pytest.raises(ValueError, match="classes are 0 to"):
        bits.pack_classes(values)
