"""What is asked of a GPU before operations are recorded on it."""

from __future__ import annotations

import pytest
import torch

from bench.core import recorded

GIB = 2**30


@pytest.mark.parametrize(
    ("free", "fraction", "fits"),
    [
        (10, 1.0, True),  # 2 GiB more were needed once: 3 with something to spare, and 10 + 4 - 3 are there
        (1, 1.0, False),  # 1 + 4 - 3: enough for the work, not for a recording of it
        (2, 1.0, True),
        (10, 0.25, True),  # of 24 GiB this process may take 6, and holds 3
        (10, 0.2, False),
    ],
)
def test_a_recording_needs_room_beside_what_is_held(
    monkeypatch: pytest.MonkeyPatch, free: float, fraction: float, fits: bool
) -> None:
    told = {
        "mem_get_info": (int(free * GIB), 24 * GIB),
        "memory_reserved": 4 * GIB,
        "memory_allocated": 3 * GIB,
        "max_memory_allocated": 5 * GIB,
        "get_per_process_memory_fraction": fraction,
    }
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert recorded._room() is fits
