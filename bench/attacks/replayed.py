"""Passes of an attack that are recorded and replayed, though its batches shrink as images break.

On a GPU a pass on few images takes as long as starting its operations does. So passes that are made again and again are
recorded (`bench.core.recorded`), for a few sizes of batches; a batch of another size is filled up to the next of these.
The numbers are those of passes that are not recorded, but for the rounding of convolutions in batches of other sizes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from bench.core.precision import USUAL, OfPasses
from bench.core.recorded import Recorder, hindrance
from bench.models.fast import TURNED

Rows = tuple[Tensor, ...]
Pass = Callable[..., Rows]

AFTER = 8  # usual passes in batches of one size before one is recorded: recording takes as long as some passes do
PIXELS = 2**18  # of a batch: in larger ones (256 images of 32 × 32) a GPU computes for longer than starting takes
LEAST = 16  # images; sizes are multiples of it, and at most four in each doubling
NOT_RECORDED = "attack steps are not recorded, which is slower on this device: {}"
RANDOM = "the network draws random numbers"
OTHERWISE = "replayed, a pass gives other numbers"


def filled_up(count: int, most: int) -> int:
    """The size, at most `most`, that a batch of `count` images is filled up to: below 5/4 of it from 64 images on."""
    step = max(LEAST, (1 << (count - 1).bit_length()) // 8) if count > 1 else LEAST
    return min(most, -(-count // step) * step)


class ReplayedPasses:
    """Makes the passes of an attack through one network, from a recording where there is one.

    Args:
        recorder: of the device; None makes every pass as usual.
        most: images in the largest batch.
        precision: of the passes: by how much they may differ when replayed.
        tell: is told once why passes are not recorded, if they are not.
    """

    def __init__(
        self, recorder: Recorder | None = None, *, most: int = 1, precision: OfPasses = USUAL,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._recorder, self._most, self._tell = recorder, most, tell
        self._apart = TURNED[precision]
        self._plans: dict[Hashable, _Plan] = {}
        self.refused = False
        """Whether something stood in the way."""

    def __call__(self, key: Hashable | None, work: Pass, *rows: Tensor) -> Rows:
        """What `work` makes of tensors with one row an image [b, ...]: tensors with one row an image too.

        Args:
            key: the same wherever `work` does the same, whatever the rows; None for work that is made as usual.
        """
        count, pixels = len(rows[0]), rows[0][0].numel() // rows[0].shape[1] if len(rows[0]) else 0
        size = filled_up(count, max(self._most, count))
        if self._recorder is None or self.refused or key is None or not count or size * pixels > PIXELS:
            return work(*rows)
        kinds = tuple((row.shape[1:], row.dtype) for row in rows)
        plan = self._plans.setdefault((key, size, kinds), _Plan())
        if plan.replay is not None:
            return plan.replay(*rows)
        before = _states(rows[0].device)
        made = work(*rows)
        plan.made += 1
        reason = ""
        if _states(rows[0].device) != before:
            reason = RANDOM
        elif plan.made > AFTER:
            reason = self._record(plan, work, rows, made, size)
        if reason:
            self._plans.clear()
            self.refused = True
            self._tell(NOT_RECORDED.format(reason))
        return made

    def _record(self, plan: _Plan, work: Pass, rows: Sequence[Tensor], made: Rows, size: int) -> str:
        """Record `work` in batches of `size`, and try it on `rows`, of which it `made` that; why not, if it fails."""
        assert self._recorder is not None
        with torch.no_grad():  # in another order than they are tried in: what a recording keeps of them is seen
            places = [torch.cat([row, row[:1].expand(size - len(row), *row.shape[1:])]).flip(0) for row in rows]
        try:
            again = self._recorder.record(lambda: work(*places))
            again()
        except Exception as error:  # whatever a device, or a network, says of being recorded
            return hindrance(error)

        def replay(*rows: Tensor) -> Rows:
            with torch.no_grad():
                for place, row in zip(places, rows, strict=True):
                    place[: len(row)].copy_(row)
                return tuple(part[: len(rows[0])].clone() for part in again())

        if not all(_close(mine, theirs, self._apart) for mine, theirs in zip(replay(*rows), made, strict=True)):
            return OTHERWISE
        plan.replay = replay
        return ""


class _Plan:
    """Passes of one kind in batches of one size: how many were made, and once there is one, their recording."""

    def __init__(self) -> None:
        self.made = 0
        self.replay: Pass | None = None


def _close(mine: Tensor, theirs: Tensor, apart: float) -> bool:
    difference = torch.where(mine == theirs, 0, mine - theirs)
    return bool(difference.norm() <= apart * theirs.norm() + 1e-30)


def _states(device: torch.device) -> tuple[object, ...]:
    """Of the generators that a network may draw from without saying so."""
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    return (random.getstate(), *(state.numpy().tobytes() for state in states))
