"""Every registered plug-in passes the tests that a stranger's must pass; broken ones are found."""

from __future__ import annotations

import dataclasses

import pytest

from bench.attacks.base import Attack
from bench.core import registry
from bench.jobs import conformance
from bench.training.method import Method


@pytest.mark.parametrize("name", sorted({*registry.entries("methods")} - {*registry.NEED_SETTINGS}))
def test_methods_conform(name: str) -> None:
    faults = [check for check in conformance.check(name) if not check.ok]
    assert not faults


@pytest.mark.parametrize("name", sorted(registry.entries("attacks")))
def test_attacks_conform(name: str) -> None:
    faults = [check for check in conformance.check(name) if not check.ok]
    assert not faults


def _faults(monkeypatch: pytest.MonkeyPatch, kind: str, name: str, plugin: type) -> set[str]:
    entry = registry.entries(kind)[name]
    monkeypatch.setattr(type(entry), "load", lambda self: plugin if self.name == name else self.point.load())
    return {check.name for check in conformance.check(name) if not check.ok}


def test_broken_methods_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from bench.baselines.ece import Ece

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Random(Ece):
        """Draws from nowhere."""

        def loss(self, members, batch):  # type: ignore[no-untyped-def]
            noise = torch.rand((), generator=torch.Generator().manual_seed(torch.seed() % 1000))
            return {"ce": super().loss(members, batch)["ce"] * (1 + noise)}

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class OneLearns(Ece):
        """Only the first member learns."""

        def loss(self, members, batch):  # type: ignore[no-untyped-def]
            return super().loss(members[:1], batch)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Nan(Ece):
        """Not a number."""

        def loss(self, members, batch):  # type: ignore[no-untyped-def]
            return {"ce": super().loss(members, batch)["ce"] * float("nan")}

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Silent(Method):
        pass

    expected = {Random: "is repeatable", OneLearns: "every member learns", Nan: "runs", Silent: "runs"}
    for plugin, fault in expected.items():
        assert fault in _faults(monkeypatch, "methods", "ece", plugin), plugin


def test_broken_attacks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Outside(Attack):
        """Leaves the ball."""

        def run(self, problem):  # type: ignore[no-untyped-def]
            return problem.images + 2 * problem.budget

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Global(Attack):
        """Uses the global generator."""

        def run(self, problem):  # type: ignore[no-untyped-def]
            return problem.project(problem.images + problem.budget * torch.randn_like(problem.images).sign())

    assert "runs" in _faults(monkeypatch, "attacks", "fgsm", Outside)
    assert {"is repeatable", "leaves the global random state alone"} <= _faults(monkeypatch, "attacks", "fgsm", Global)
