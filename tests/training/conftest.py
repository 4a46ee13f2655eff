"""What tests of training share: images in double precision, in which two ways to a number agree to many digits."""

from __future__ import annotations

import pytest


@pytest.fixture
def _in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.data import base, loader
    from bench.training import dual, trainer

    unit = base.unit
    for place in (base, loader, trainer):
        monkeypatch.setattr(place, "unit", lambda pixels: unit(pixels).double())
    dual._agreeing.clear()
