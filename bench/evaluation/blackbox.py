"""The black-box suite (TRS paper, Figure 2): images crafted on surrogates, tried on a victim that they never saw.

Images are made once on each surrogate, kept in full precision with a digest, and used for every victim.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.attacks.base import Attack
from bench.attacks.conditions import Conditions
from bench.attacks.judge import attack_images, evaluation_mode, predictions
from bench.core.bits import to_text
from bench.core.errors import JobError
from bench.core.progress import Progress
from bench.core.tensors import DamagedError, set_aside
from bench.data.base import ImageSet
from bench.models.ensemble import Ensemble
from bench.training import checkpoint

KEY = "adversarial"


class TransferAttack(NamedTuple):
    """One attack on a surrogate: its name in the suite, and which of its random starts (from 0)."""

    name: str
    restart: int

    @property
    def file_name(self) -> str:
        """`pgd-0.safetensors`."""
        return f"{self.name}-{self.restart}.safetensors"


class TransferImages(NamedTuple):
    """Where the images of one attack on a surrogate lie, and the digest they must have."""

    surrogate: str
    attack: TransferAttack
    path: Path
    digest: str


def transfer_attacks(names: Sequence[str], restarts: int) -> list[TransferAttack]:
    """Every attack with every random start, in the order of the names."""
    return [TransferAttack(name, restart) for name in names for restart in range(restarts)]


def craft(
    surrogate: Ensemble,
    images: ImageSet,
    attacks: Mapping[str, Attack],
    conditions: Conditions,
    *,
    restarts: int,
    folder: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Attack every image on a surrogate, once an attack and random start, and keep the last iterates.

    Each random start has seed axes of its own; the stop rule is `last`, whatever the conditions say.
    The images of each are one file in `folder`: float32 [n, C, H, W] in [0, 1]. A file that is there and belongs to
    these clean images is kept, so that a killed job goes on after the last attack that it finished.

    Returns:
        The measurement: bits of each attack (the surrogate misclassifies the image), digests of the files.

    Raises:
        JobError: an attack is at fault.
    """
    started = time.perf_counter()
    wanted = transfer_attacks(list(attacks), restarts)
    broken: list[Tensor] = []
    digests: dict[str, str] = {}
    forwards = backwards = 0
    for place, attack in enumerate(wanted):
        path = folder / attack.file_name
        made = _kept(path, images, conditions.budget)
        if made is None:
            own = replace(conditions, stop="last", seed_axes=(*conditions.seed_axes, "blackbox", attack.restart))
            outcome = attack_images(attacks[attack.name], surrogate, images, own, keep_images=True, progress=progress)
            assert outcome.adversarial is not None
            made = outcome.adversarial
            forwards += outcome.forwards
            backwards += outcome.backwards
            path.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.save(path, {KEY: made}, {"images_digest": images.digest, "budget": conditions.budget})
        digests[path.name] = checkpoint.digest({KEY: made})
        broken.append(_misclassified(surrogate, made, images, conditions.batch_size))
        if progress is not None:
            progress.images(place + 1, len(wanted))
    rows = [("own", attack, bits) for attack, bits in zip(wanted, broken, strict=True)]
    return _record(surrogate, images, rows, conditions.batch_size, started) | {
        "measurements": {"files": digests, "bytes": sum((folder / name).stat().st_size for name in digests)},
        "forwards": forwards,
        "backwards": backwards,
    }


def judge(
    victim: Ensemble, images: ImageSet, crafted: Sequence[TransferImages], *, batch_size: int = 250
) -> dict[str, Any]:
    """Try the images of all attacks on a victim. An image is broken as soon as one attack breaks it.

    Returns:
        The measurement: bits of each attack (the victim misclassifies the image); `robust` are the images that are
        right when clean and survive every attack.

    Raises:
        JobError: the images of an attack are missing, damaged, or of other clean images.
    """
    started = time.perf_counter()
    rows: list[tuple[str, TransferAttack, Tensor]] = []
    for item in crafted:
        try:
            tensors, metadata = checkpoint.load(item.path, expected=item.digest)
        except DamagedError as error:
            told = f"{set_aside(item.path)}; the same command makes it again" if item.path.exists() else "make it again"
            raise JobError(f"{error}; {told}") from error
        if metadata.get("images_digest") != images.digest:
            raise JobError(f"{item.path} was crafted from other clean images than these")
        rows.append((item.surrogate, item.attack, _misclassified(victim, tensors[KEY], images, batch_size)))
    return _record(victim, images, rows, batch_size, started) | {
        "measurements": {"attempts": len(rows)},
        "forwards": len(images) * (len(rows) + 1),
        "backwards": 0,
    }


def _record(
    model: Ensemble, images: ImageSet, rows: list[tuple[str, TransferAttack, Tensor]], batch_size: int, started: float
) -> dict[str, Any]:
    clean = ~_misclassified(model, None, images, batch_size)
    robust = clean & ~torch.stack([bits for _, _, bits in rows]).any(0)
    return {
        "n": len(images),
        "n_clean": int(clean.sum()),
        "n_robust": int(robust.sum()),
        "clean_bits": to_text(clean.numpy()),
        "robust_bits": to_text(robust.numpy()),
        "attempts": [
            {
                "surrogate": surrogate,
                "attack": attack.name,
                "restart": attack.restart,
                "bits": to_text(bits.numpy()),
            }
            for surrogate, attack, bits in rows
        ],
        "seconds": time.perf_counter() - started,
    }


def _kept(path: Path, images: ImageSet, budget: float) -> Tensor | None:
    """Images that an earlier, killed job finished; None where there are none for these clean images, or damaged ones.

    Files of an older version carry no digest; their images are made again, which gives the same.
    """
    if not path.exists():
        return None
    try:
        tensors, metadata, _, sealed = checkpoint.read(path)
    except DamagedError:
        return None
    fits = sealed and metadata.get("images_digest") == images.digest and metadata.get("budget") == budget
    return tensors[KEY] if fits and tensors.get(KEY, torch.empty(0)).shape == images.images.shape else None


def _misclassified(model: Ensemble, adversarial: Tensor | None, images: ImageSet, batch_size: int) -> Tensor:
    """Bool [n] on the CPU: misclassified, of the adversarial images or of the clean ones."""
    with evaluation_mode(model):
        shown = images if adversarial is None else adversarial.to(images.device)
        return (predictions(model, shown, batch_size=batch_size) != images.labels).cpu()
