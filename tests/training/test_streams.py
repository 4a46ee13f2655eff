"""Members of recorded steps on streams of their own: the order of forks and joins, by doubles that note it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.training import captured, streams


class Stream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: Stream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens, as if this were a GPU."""
    told: list[str] = []
    main = Stream("main", told)
    names: dict[int, str] = {}

    @contextlib.contextmanager
    def on(stream: Stream) -> Iterator[None]:
        told.append(f"on {stream.name}")
        yield
        told.append("back")

    def kept(self: Tensor, stream: Stream) -> None:
        told.append(f"{names.setdefault(id(self), 'x' if self.dim() == 2 else 'made')} is read on {stream.name}")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: main)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(Tensor, "record_stream", kept)
    monkeypatch.setattr(streams, "_streams", lambda device, count: [Stream(f"s{k}", told) for k in range(count)])
    return told


def test_each_member_forks_from_the_step_and_joins_it(log: list[str]) -> None:
    x = torch.ones(2, 2)

    def work(member: int) -> tuple[Tensor, list[Tensor]]:
        log.append(f"member {member}")
        return x.sum() * member, [x.mean() * member]

    found = streams.abreast(work, [1, 2], x)
    assert [(float(total), float(mean)) for total, (mean,) in found] == [(4.0, 1.0), (8.0, 2.0)]
    assert log == [
        "s0 waits for main", "on s0", "member 1", "back",
        "s1 waits for main", "on s1", "member 2", "back",
        "main waits for s0", "main waits for s1",
        "x is read on s0", "made is read on main", "made is read on main",
        "x is read on s1", "made is read on main", "made is read on main",
    ]  # fmt: skip


def test_one_member_or_a_cpu_needs_none(log: list[str]) -> None:
    assert streams.abreast(lambda member: member + 1, [1], torch.ones(2, 2)) == [2]
    assert log == []


def test_only_steps_that_may_be_recorded_on_a_gpu_have_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_stream", lambda device, number: number)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert streams._streams(gpu, 3) == []
    token: Any = captured._now.set(object())  # type: ignore[arg-type]
    try:
        assert streams._streams(gpu, 3) == [0, 1, 2]
        assert streams._streams(cpu, 3) == []
        with streams.one_stream():
            assert streams._streams(gpu, 3) == []
        assert streams._streams(gpu, 3) == [0, 1, 2]
    finally:
        captured._now.reset(token)


@pytest.mark.gpu
@pytest.mark.usefixtures("_one_thread", "_in_float64")
def test_on_a_gpu_several_streams_give_what_one_gives() -> None:
    """In recordings that are replayed often, so that memory that is given back too early is seen."""
    from test_captured import on_a_gpu

    from bench.core import recorded

    for name in ("trs", "trs_official", "gal", "dverge", "adp"):
        apart, made, told = on_a_gpu(name, recorded.usual_recorder("cuda"))
        assert made.captured, told
        with streams.one_stream():
            together, *_ = on_a_gpu(name, recorded.usual_recorder("cuda"))
        for mine, theirs in zip(apart, together, strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-6, atol=1e-9)
