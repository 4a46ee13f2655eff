"""Images a batch from memory: what a pass keeps is counted, the machine decides and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.attacks import batches
from bench.data.base import ImageSet
from bench.models.ensemble import Ensemble

PIXELS = 3 * 16 * 16


class Noisy(nn.Module):
    """Keeps the output of its tanh, 4 bytes a pixel, for the gradient; draws random numbers in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(PIXELS, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head((x + torch.rand(())).tanh().flatten(1))
        return logits


def ensemble(members: int = 3) -> Ensemble:
    return Ensemble([Noisy() for _ in range(members)])


def images() -> ImageSet:
    return ImageSet(torch.zeros(5, 3, 16, 16, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize(("members", "count"), [(1, 1), (3, 1), (3, 4)])
def test_what_a_pass_keeps(members, count):
    found = batches.kept_bytes(ensemble(members), torch.rand(count, 3, 16, 16))
    activations = 4 * PIXELS * members * count
    assert activations <= found <= 1.2 * activations  # and a few numbers of the fusion; never the weights (12 kB)


@pytest.mark.parametrize(("total", "expected"), [(None, 250), (2**40, 250), (2**24, 125), (2**22, 31), (1, 1)])
def test_batches_are_halved_until_a_quarter_of_the_memory_holds_them(monkeypatch, total, expected):
    monkeypatch.setattr(batches, "memory", lambda device: total)
    assert batches.batch_size(ensemble(), images()) == expected
    if total and expected > 1:  # by the definition
        needed = batches.TRANSIENT * batches.kept_bytes(ensemble(), images().floats(slice(0, 2))) / 2
        assert expected * needed <= total / 4 or expected == 1
        assert expected == 250 or 2 * expected * needed > total / 4


def test_models_and_random_numbers_do_not_notice():
    net = ensemble()
    net.train()
    before = torch.get_rng_state()
    batches.batch_size(net, images())
    assert torch.equal(before, torch.get_rng_state())
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


def test_the_memory_of_this_machine(monkeypatch, tmp_path):
    total = batches.memory(torch.device("cpu"))
    assert total is None or 2**28 < total < 2**50
    if total is not None:
        limit = tmp_path / "memory.max"
        monkeypatch.setattr(batches, "LIMITS", (limit, tmp_path / "no such file"))
        unlimited = batches.memory(torch.device("cpu"))
        limit.write_text("max\n")
        assert batches.memory(torch.device("cpu")) == unlimited
        limit.write_text("1000000\n")
        assert batches.memory(torch.device("cpu")) == 1000000


def test_a_network_that_fails_is_left_to_the_measurement():
    class Failing(Noisy):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise IndexError("squeezed")

    assert batches.batch_size(Ensemble([Failing()]), images()) == 250


def test_no_images_need_no_batches():
    none = ImageSet(torch.zeros(0, 3, 16, 16, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    assert batches.batch_size(ensemble(), none) == 250
