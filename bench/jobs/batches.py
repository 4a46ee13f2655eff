"""How many images at once an evaluation takes: as many as pay, and as memory allows."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from bench.attacks.judge import evaluation_mode
from bench.core import seeds
from bench.data.base import ImageSet
from bench.models.ensemble import Ensemble

LARGEST = {
    "cpu": 250,
    "cuda": 1000,
}  # a CPU is at its rate long before; a GPU waits for the launches of smaller batches
SHARE = 4  # a job takes this part of the memory at most: other jobs may be there
TRANSIENT = (
    2  # peak of a pass over what it keeps for its backward pass: workspaces, gradients, the attack's own tensors
)
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # of a container


def batch_size(ensemble: Ensemble, images: ImageSet) -> int:
    """Images a batch for attacks on `ensemble`, on the images' device.

    What a forward pass keeps for the gradient of the images is counted on two images. Batches are halved from the
    largest until a quarter of the device's whole memory holds them: not of what is free at the moment, so that the same
    machine always takes the same batches. The largest also where the pass fails: whatever is wrong, the measurement
    will tell of it.
    """
    device = images.images.device
    largest = LARGEST.get(device.type, LARGEST["cpu"])
    total = memory(device)
    if total is None or not len(images):
        return largest
    sample = images.floats(slice(0, 2))
    try:
        needed = TRANSIENT * kept_bytes(ensemble, sample) / len(sample)
    except Exception:  # a stranger's network raises what it likes
        return largest
    while largest > 1 and largest * needed > total / SHARE:
        largest //= 2
    return largest


def kept_bytes(ensemble: Ensemble, x: Tensor) -> int:
    """Bytes that a forward pass of float images [b, C, H, W] keeps for their gradient; weights do not count."""
    owned = {tensor.untyped_storage().data_ptr() for tensor in (*ensemble.parameters(), *ensemble.buffers())}
    kept: dict[int, Tensor] = {}  # held, so that no storage is given back and counted for another

    def keep(tensor: Tensor) -> Tensor:
        if (address := tensor.untyped_storage().data_ptr()) not in owned:
            kept[address] = tensor
        return tensor

    with (
        evaluation_mode(ensemble),
        seeds.isolated("batches"),  # a model that draws random numbers does not notice
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.enable_grad(),
    ):
        ensemble(x.clone().requires_grad_())
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def memory(device: torch.device) -> int | None:
    """Bytes of memory of a device, of the container where it has less; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    for limit in LIMITS:
        try:
            total = min(total, int(limit.read_text(encoding="ascii")))
        except (OSError, ValueError):  # no container, or no limit ("max")
            continue
    return total
