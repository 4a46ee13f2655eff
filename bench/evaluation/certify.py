"""Certified accuracy by randomised smoothing: which images no perturbation within an ℓ2 radius can turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench.attacks.judge import evaluation_mode
from bench.core import seeds
from bench.core.bits import to_text
from bench.core.errors import JobError
from bench.core.progress import Progress
from bench.core.statistics import least_share
from bench.data.base import ImageSet
from bench.models.ensemble import Ensemble

DRAWN = 1000  # noisy images drawn at once, whatever the batches are: the noise must not depend on these


def certified(
    ensemble: Ensemble, images: ImageSet, radius: float, *, sigma: float, n0: int, n: int, alpha: float,
    seed_axes: tuple[object, ...], batch_size: int = 500, known: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Certified accuracy of the smoothed ensemble, the class that is the most frequent under N(0, σ²) noise.

    Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019, CERTIFY: the
    class is the most frequent one of n0 draws; p is the lower end of the one-sided Clopper-Pearson interval of its
    probability from n more, wrong with probability α at most; where p > ½ no perturbation within σ·Φ⁻¹(p) in ℓ2 changes
    the class, else nothing is said. Noisy images are not clipped to [0, 1]. What answers is the ensemble's fused
    prediction, for most methods the mean of the members' softmaxes.

    `clean_bits` are the images whose class is right and certified at some radius, `robust_bits` those at `radius`;
    `measurements.radii` has the radius of each image, 0 where it is wrong or nothing is said, `abstained` how many
    the latter are. All radii come of one computation: `known` are those of an earlier one.

    Args:
        radius: ℓ2, in units of the [0, 1] pixel range.
        sigma: σ, likewise.
        n0, n, alpha: as above.
        seed_axes: axes of the noise; each image has its own.
        known: the radii [len(images)].
    """
    started = time.perf_counter()
    forwards, abstained = 0, None
    if known is None:
        found, abstained = [], 0
        with evaluation_mode(ensemble), torch.no_grad():
            for place in range(len(images)):
                x, label = images.floats(slice(place, place + 1)), int(images.labels[place])
                generator = seeds.generator("certify", *seed_axes, place, device=x.device)
                guess = int(votes(ensemble, x, sigma, n0, generator, batch_size).argmax())
                count = int(votes(ensemble, x, sigma, n, generator, batch_size)[guess])
                own = radius_of(count, n, sigma, alpha)
                abstained += own == 0
                found.append(own if guess == label else 0.0)
                if progress is not None:
                    progress.images(place + 1, len(images))
        known, forwards = found, (n0 + n) * len(images)
    radii = torch.tensor(list(known), dtype=torch.float64)
    right = radii > 0
    stands = right & (radii >= radius)
    return {
        "n": len(images),
        "n_clean": int(right.sum()),
        "n_robust": int(stands.sum()),
        "clean_bits": to_text(right.numpy()),
        "robust_bits": to_text(stands.numpy()),
        "measurements": {"radii": radii.tolist(), **({} if abstained is None else {"abstained": abstained})},
        "forwards": forwards,
        "backwards": 0,
        "seconds": time.perf_counter() - started,
    }


def votes(
    ensemble: Ensemble, x: Tensor, sigma: float, count: int, generator: torch.Generator, batch_size: int
) -> Tensor:
    """How often each class is predicted, int64 [classes], for `count` noisy copies of one image [1, C, H, W].

    Raises:
        JobError: the ensemble's output is not finite.
    """
    total = torch.zeros(0, dtype=torch.long, device=x.device)
    for start in range(0, count, DRAWN):
        size = (min(DRAWN, count - start), *x.shape[1:])
        noisy = x + sigma * torch.randn(size, generator=generator, device=x.device)
        found = torch.cat([ensemble(noisy[at : at + batch_size]) for at in range(0, len(noisy), batch_size)])
        if not bool(found.isfinite().all()):
            raise JobError(f"the output for images with noise of deviation {sigma:g} is not finite")
        counts = found.argmax(1).bincount(minlength=found.shape[1])
        total = counts if not len(total) else total + counts
    return total


def radius_of(count: int, n: int, sigma: float, alpha: float) -> float:
    """σ·Φ⁻¹(p), or 0 where p ≤ ½; p is the lower end of the one-sided Clopper-Pearson interval of `count` in `n`."""
    from scipy.special import ndtri

    p = least_share(count, n, alpha)
    return sigma * float(ndtri(p)) if p > 0.5 else 0.0
