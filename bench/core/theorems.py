"""The bounds of Theorems 1 and 2 of the TRS paper, their untargeted forms, and what makes one say nothing.

Numbers in, numbers out: what is put in is measured in `bench.evaluation.theory`; the derivations, the untargeted forms
(ours) and the proof that the lower bound is never above 0 stand in docs/theory.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.core.statistics import ALPHA

NO_CONDITION = "c_G ≤ −ε"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the theorems say of two models F (attacked) and G, for a ball ‖δ‖₂ ≤ ε; lengths in units of [0, 1] pixels.

    Args:
        eps: the radius, above 0.
        alpha: share of images on which the attack fails on F itself.
        risk: η_F + η_G, shares of images that each classifies wrongly when clean.
        loss: ξ_F + ξ_G, their mean losses.
        smoothness: β of Definition 5, of both models.
        gradient: B, the largest ‖∇ℓ‖₂ of both.
        lower, upper: the lower and the upper loss gradient similarity of Definition 4, in [−1, 1].
        l_min: the smallest loss towards the class that is led to (untargeted: towards any wrong class).
        c_f, c_g: as in Theorem 1, in units of length; None where a gradient is exactly 0.
        targeted: whether the attack leads to a class.
    """

    eps: float
    alpha: float
    risk: float
    loss: float
    smoothness: float
    gradient: float
    lower: float
    upper: float
    l_min: float
    c_f: float | None
    c_g: float | None
    targeted: bool


@dataclass(frozen=True)
class TransferBound:
    """A bound of a probability.

    Attributes:
        value: as the theorem has it, below 0 or above 1 where it says nothing; None where its condition fails.
        limits: whether it says more than that a probability lies in [0, 1].
        why: the term that makes it say nothing; empty where it says something.
    """

    value: float | None
    limits: bool
    why: str = ""


def lower_bound(terms: Terms) -> TransferBound:
    """Theorem 1: transferability is at least this; the untargeted form is the same with −c_F and −c_G.

    The theorem needs c_G > −ε (untargeted: c_G < ε), which the paper does not print: its proof divides by c_G + ε as
    the mean of a variable that is at least 0 (Markov).
    """
    if terms.c_f is None or terms.c_g is None:
        return TransferBound(None, False, "a gradient is exactly 0, so that c is not defined")
    sign = 1 if terms.targeted else -1
    c_f, c_g = sign * terms.c_f, sign * terms.c_g
    if c_g + terms.eps <= 0:
        return TransferBound(None, False, NO_CONDITION if terms.targeted else "c_G ≥ ε")
    own = terms.eps * (1 + terms.alpha) + c_f * (1 - terms.alpha)
    unlike = terms.eps * (1 - terms.alpha) * math.sqrt(max(0.0, 2 - 2 * terms.lower))
    parts = {
        "α": terms.alpha,
        "η_F + η_G": terms.risk,
        "c_F beside c_G": own / (c_g + terms.eps),
        "the lower similarity": unlike / (c_g + terms.eps),
    }
    value = 1 - sum(parts.values())
    return (
        TransferBound(value, True)
        if value > 0
        else TransferBound(value, False, max(parts, key=lambda name: parts[name]))
    )


def upper_bound(terms: Terms) -> TransferBound:
    """Theorem 2: transferability is at most this, where ℓ_min − εB(1 + √((1 + S̄)/2)) − βε² is above 0.

    The untargeted form is the same, ℓ_min then being the smallest loss towards any wrong class.
    """
    parts = {
        "B": terms.eps * terms.gradient * (1 + math.sqrt(max(0.0, (1 + terms.upper) / 2))),
        "β": terms.smoothness * terms.eps**2,
    }
    left = terms.l_min - sum(parts.values())
    if left > 0 and terms.loss < left:
        return TransferBound(terms.loss / left, True)
    value = terms.loss / left if left > 0 else None
    if terms.loss >= terms.l_min:  # no ε, however small, would help
        return TransferBound(value, False, "ℓ_min")
    return TransferBound(value, False, max(parts, key=lambda name: parts[name]))


def unseen(n: int) -> float:
    """The share of all images that may lie beyond the most extreme of `n` of them, at most, with 95 % confidence."""
    return float(1 - ALPHA ** (1 / n))
