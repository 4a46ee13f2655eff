"""A small tree of results for figures and frames: two methods × two seeds, trained for a moment."""

from __future__ import annotations

from pathlib import Path

from in_process import bench

from bench.report.cells import Cell, SeedOutcome

QUICK = ("--set", "training.epochs=5", "--set", "training.limit=320", "--set", "training.lr=0.003", "--limit", "60")
FEW = ("--set", "blackbox.members=[2]", "--set", "blackbox.restarts=1", "--set", "blackbox.budgets.digits=[0.1, 0.2]")


def make(folder: Path) -> None:
    """Core suite; PGD at one more ε and with fewer steps; one more λa; the black-box suite."""
    where = (*QUICK, "--results", folder, "--threads", 1, "-q")
    bench("run", "-m", "ece", "-m", "cos_only", "--seeds", "0-1", *where)
    bench("run", "-m", "ece", "--seeds", "0-1", "--attack", "pgd", "--eps", 0.05, *where)
    bench("run", "-m", "ece", "--seeds", "0-1", "--attack", "pgd", "--eps", 0.1, "--set", "attacks.pgd.steps=5", *where)
    bench("run", "-m", "cos_only", "--set", "methods.cos_only.lambda_a=5", *where)
    bench("run", "-m", "ece", "--suite", "figure2", *FEW, *where)


def cell(values: dict[int, float], n: int = 500, *, stale: bool = False) -> Cell:
    """A cell of a table with these percentages of `n` images, by seed."""
    return Cell(
        {seed: SeedOutcome(value, (), round(value * n / 100), n) for seed, value in values.items()}, stale=stale
    )
