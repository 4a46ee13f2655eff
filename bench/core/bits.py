"""Outcomes of images as bytes, and their base64 text for JSON files: one bit each, or a predicted class."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import BenchError

Bools = NDArray[np.bool_]
Classes = NDArray[np.int64]


def pack(values: Any) -> bytes:
    """Booleans [n] (a list, a numpy array or a torch tensor on any device) as ⌈n/8⌉ bytes, first image in the high bit.

    Raises:
        TypeError: `values` is not one-dimensional or not boolean.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype != np.bool_):
        raise TypeError(f"expected booleans of shape [n], got {array.dtype} of shape {list(array.shape)}")
    return np.packbits(array.astype(np.bool_)).tobytes()


def unpack(data: bytes, n: int) -> Bools:
    """The n booleans that `pack` turned into `data`.

    Raises:
        BenchError: `data` does not hold exactly n booleans.
    """
    if not isinstance(data, bytes | bytearray | memoryview):  # SQLite keeps any type in any column
        raise BenchError(f"outcomes are bytes, not a {type(data).__name__}")
    expected = (n + 7) // 8
    if len(data) != expected:
        raise BenchError(f"{len(data)} bytes of outcomes do not hold {n} images, {expected} bytes would")
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    if bits[n:].any():
        raise BenchError(f"the outcomes hold more than {n} images: the bits after the last image are not zero")
    return bits[:n].astype(np.bool_)


def to_text(values: Any) -> str:
    """Booleans [n] as base64 text, for a JSON file."""
    return base64.b64encode(pack(values)).decode("ascii")


def from_text(text: str, n: int) -> Bools:
    """The n booleans that `to_text` turned into `text`.

    Raises:
        BenchError: `text` is not base64 or does not hold exactly n booleans.
    """
    return unpack(_decoded(text, "outcomes"), n)


def pack_classes(values: Any) -> bytes:
    """Predicted classes [n] (as `pack` takes them) as one byte each, or two, low first, where one is above 255.

    Raises:
        ValueError: a class is negative or above 65,535.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    array = np.asarray(values, dtype=np.int64)
    if array.size and not 0 <= array.min() <= array.max() < 1 << 16:
        raise ValueError(f"classes are 0 to {(1 << 16) - 1:,}")
    return array.astype("<u1" if not array.size or array.max() < 1 << 8 else "<u2").tobytes()


def unpack_classes(data: bytes, n: int) -> Classes:
    """The n classes that `pack_classes` turned into `data`.

    Raises:
        BenchError: `data` does not hold exactly n classes.
    """
    if not isinstance(data, bytes | bytearray | memoryview) or not n or len(data) not in (n, 2 * n):
        raise BenchError(f"these are not the predicted classes of {n} images")
    return np.frombuffer(data, dtype="<u1" if len(data) == n else "<u2").astype(np.int64)


def classes_to_text(values: Any) -> str:
    """Classes [n] as base64 text, for a JSON file."""
    return base64.b64encode(pack_classes(values)).decode("ascii")


def classes_from_text(text: str, n: int) -> Classes:
    """The n classes that `classes_to_text` turned into `text`.

    Raises:
        BenchError: `text` is not base64 or does not hold exactly n classes.
    """
    return unpack_classes(_decoded(text, "predicted classes"), n)


def _decoded(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BenchError(f"{what} are not base64 text ({error})") from error
