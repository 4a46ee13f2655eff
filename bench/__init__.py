"""`bench`: a benchmark harness and leaderboard for adversarially robust ensembles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.core.release import VERSION

if TYPE_CHECKING:
    from bench.exchange.torch_files import ensemble as ensemble
    from bench.report.frames import load as load

__all__ = ["__version__", "ensemble", "load"]
__version__ = VERSION


def __getattr__(name: str) -> Any:
    # `bench.load` needs the database and pandas, `bench.ensemble` torch, which no command pays for at its start.
    if name == "load":
        from bench.report.frames import load

        return load
    if name == "ensemble":
        from bench.exchange.torch_files import ensemble

        return ensemble
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
