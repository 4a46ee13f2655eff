"""One bit an image: boolean outcomes packed into bytes, and their base64 text for JSON files."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import BenchError

Bools = NDArray[np.bool_]


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
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BenchError(f"outcomes are not base64 text ({error})") from error
    return unpack(data, n)
