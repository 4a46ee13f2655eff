"""Whether a classifier does better than one that does not look at its images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.core.statistics import is_guess

if TYPE_CHECKING:
    from torch import Tensor


def guessed(right: int, labels: Tensor, classes: int) -> float | None:
    """Accuracy, in (0, 1], of guessing, where `right` of the images with these labels are no more than that.

    Guessing answers the most frequent class, always. A classifier beats it where the exact binomial test says (p below
    1 %) that its odds of being right are above 1.2 times those: on 10,000 images of ten equal classes from 12.6 %, on
    500 from 15.4 %, on 10,000 of two classes from 55.8 %.

    Args:
        right: correctly classified images.
        labels: int64 [n], n ≥ 1.
        classes: number of classes there are.

    Returns:
        None where the classifier does better.
    """
    images = len(labels)
    chance = max(1 / classes, float(labels.bincount().max()) / images)
    return chance if is_guess(right, images, chance) else None
