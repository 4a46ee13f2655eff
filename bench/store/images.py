"""Which images stand: right when clean, or right after every one of some evaluations. The one room for this."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from bench.core.bits import Bools
from bench.store import queries
from bench.store.database import Database
from bench.store.typed_rows import Outcomes

CHUNK = 400  # ids in one query: SQLite allows a limited number of parameters


class ImageOutcomes:
    """The per-image outcomes of evaluations, [n]; read when first asked for, those named at the start at once.

    An evaluation that has gone meanwhile, or holds no outcomes, has none.
    """

    def __init__(self, db: Database, evaluation_ids: Iterable[str]) -> None:
        self._db = db
        self._wanted = set(evaluation_ids)
        self._found: dict[str, Outcomes] = {}

    def clean(self, evaluation_id: str) -> Bools | None:
        """Right when clean."""
        found = self._read(evaluation_id)
        return None if found is None else found.clean

    def robust(self, evaluation_ids: Sequence[str]) -> Bools | None:
        """Right after every one of these attacks: the pointwise worst case. None where they are not of equal length."""
        found = [self._read(each) for each in evaluation_ids]
        bits = [each.robust for each in found if each is not None and each.robust is not None]
        if not bits or len(bits) < len(found) or len({len(each) for each in bits}) > 1:
            return None
        every: Bools = np.logical_and.reduce(bits)
        return every

    def _read(self, evaluation_id: str) -> Outcomes | None:
        if evaluation_id not in self._found:
            todo = sorted({evaluation_id, *self._wanted} - self._found.keys())
            for start in range(0, len(todo), CHUNK):
                self._found |= queries.outcomes(self._db, todo[start : start + CHUNK])
            self._wanted.clear()
        return self._found.get(evaluation_id)
