"""How many images at once an evaluation takes: as many as pay, and as memory allows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from bench.attacks.judge import evaluation_mode
from bench.core import seeds
from bench.data.base import ImageSet

T = TypeVar("T")

LARGEST = {
    "cpu": 250,
    "cuda": 1000,
}  # a CPU is at its rate long before; a GPU waits for the launches of smaller batches
SHARE = 4  # a job takes this part of the memory at most: other jobs may be there
TRANSIENT = (
    2  # peak of a pass over what it keeps for its backward pass: workspaces, gradients, the attack's own tensors
)
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # of a container


def batch_size(model: nn.Module, images: ImageSet) -> int:
    """Images a batch for attacks on `model`, on the images' device.

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
        needed = TRANSIENT * kept_bytes(model, sample) / len(sample)
    except Exception:  # a stranger's network raises what it likes
        return largest
    while largest > 1 and largest * needed > total / SHARE:
        largest //= 2
    return largest


def kept_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that a forward pass of float images [b, C, H, W] keeps for their gradient; weights do not count."""
    owned = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}  # held, so that no storage is given back and counted for another

    def keep(tensor: Tensor) -> Tensor:
        if (address := tensor.untyped_storage().data_ptr()) not in owned:
            kept[address] = tensor
        return tensor

    with (
        evaluation_mode(model),
        seeds.isolated("batches"),  # a model that draws random numbers does not notice
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.enable_grad(),
    ):
        model(x.clone().requires_grad_())
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


def within_memory(work: Callable[[int], T], batch_size: int, scarce: Callable[[int], None]) -> tuple[T, list[int]]:
    """The work in batches half as large whenever memory runs out, and the sizes tried; the result depends on none.

    Args:
        scarce: is told the next size before it is tried, and gives back what is only kept for later.

    Raises:
        torch.OutOfMemoryError, RuntimeError: not even one image fits.
    """
    tried = [batch_size]
    while True:
        try:
            return work(batch_size), tried
        except RuntimeError as error:
            if not is_out_of_memory(error) or batch_size == 1:
                raise
        # Outside of the handler: the traceback keeps the tensors of the batch alive.
        batch_size = max(1, batch_size // 2)
        tried.append(batch_size)
        scarce(batch_size)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
