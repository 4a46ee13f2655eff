"""`bench`: a benchmark harness and leaderboard for adversarially robust ensembles."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bench.core.release import VERSION

if TYPE_CHECKING:
    from bench.api.attacking import attack as attack
    from bench.api.evaluating import evaluate as evaluate
    from bench.api.reading import compare as compare
    from bench.api.reading import results as results
    from bench.api.work import train as train
    from bench.exchange.torch_files import ensemble as ensemble
    from bench.report.frames import load as load

__version__ = VERSION
# Each needs torch, the database or pandas, which no command pays for at its start, nor `import bench` alone.
_PLACES = {
    "attack": "bench.api.attacking",
    "compare": "bench.api.reading",
    "evaluate": "bench.api.evaluating",
    "ensemble": "bench.exchange.torch_files",
    "load": "bench.report.frames",
    "results": "bench.api.reading",
    "train": "bench.api.work",
}
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_PLACES]
