"""TRS combined with adversarial training."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar

from bench.methods.trs import Trs
from bench.training.compound import AtJoint


@dataclass(frozen=True, kw_only=True)
class TrsAt(AtJoint, Trs):
    """TRS with the cross-entropy on PGD images of the ensemble (TRS + adversarial training).

    Yang et al., TRS, NeurIPS 2021, appendix I.2: mean_k CE_k(x̂) with x̂ the PGD images of the whole ensemble, as in
    `at_ensemble`, plus the two terms of `trs`, which stay where they are: cosine at the clean images, norms at the
    support points. BatchNorm's running statistics see clean and attacked images. It is `at_joint` on TRS, whose
    settings are its own: results from before there was `at_joint` are the same.

    Official settings: ε 8/255, 10 steps of 2/255 (CIFAR-10), .2 (MNIST); the rest as for `trs`.
    """

    replayable: ClassVar[bool] = True

    @cached_property
    def inner(self) -> Trs:
        """TRS with the settings that it has here."""
        return Trs(**{field.name: getattr(self, field.name) for field in fields(Trs)})
