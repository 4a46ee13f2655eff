"""Work that a device carries out as one: its operations are recorded once, and replayed without Python.

On a GPU a recording is a CUDA graph. It holds operations and places in memory: whatever differs from time to time has
to stand at the same place each time. Training steps (`bench.training.captured`) and the passes of attacks
(`bench.attacks.replayed`) are recorded by what is here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from bench.core.lazy import torch

T = TypeVar("T")

NO_ROOM = "too little memory is left on this device"
SPARE = 1.5  # a recording has memory of its own, and may need a little more than the same work did before


class Recorder(Protocol):
    """How a device records."""

    def record(self, work: Callable[[], T]) -> Callable[[], T]:
        """Note the operations of `work`; what is given carries them out, and gives the same tensors each time.

        The work counts as carried out when what is given has been called once, not before. Raises whatever stands in
        the way; then nothing has been changed.
        """


class CudaGraphs:
    """Records on a CUDA device; all recordings of one of these share their memory, so only one may run at a time."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._first: torch.cuda.CUDAGraph | None = None  # kept, and with it the memory that the others share

    def record(self, work: Callable[[], T]) -> Callable[[], T]:
        """As `Recorder.record`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            if not _room():
                raise RuntimeError(NO_ROOM)
            stream = torch.cuda.current_stream()
            generator = torch.cuda.default_generators[torch.cuda.current_device()]  # `cuda` alone may be any of several
            drawn = generator.clone_state()
            try:
                with torch.cuda.graph(graph, pool=None if self._first is None else self._first.pool()):
                    made = work()
            except BaseException:  # torch's generator goes on as if it were being recorded, and refuses to draw
                generator.graphsafe_set_state(drawn)
                raise
            finally:  # torch stays on the stream of a recording that failed
                torch.cuda.set_stream(stream)
        self._first = self._first or graph

        def replay() -> T:
            graph.replay()
            return made

        return replay


def _room() -> bool:
    """Whether the current device has as much memory left as work has ever needed beyond what is held now, and more.

    Memory that runs out while operations are recorded ends the process without a word of Python's.
    """
    free, total = torch.cuda.mem_get_info()
    held = torch.cuda.memory_allocated()
    most = min(free + torch.cuda.memory_reserved(), torch.cuda.get_per_process_memory_fraction() * total)
    return most - held >= SPARE * (torch.cuda.max_memory_allocated() - held)


def usual_recorder(device: torch.device | str) -> Recorder | None:
    """What records on a device where nobody says otherwise; None where nothing is gained, as on a CPU."""
    device = torch.device(device)
    return CudaGraphs(device) if device.type == "cuda" else None


def hindrance(error: BaseException) -> str:
    """What stood in the way of a recording, in a line: what was raised first, since its end raises once more."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).strip().partition("\n")[0] or type(error).__name__
