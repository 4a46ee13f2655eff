"""Singular vectors and norms against the unrolled layers, and norms that are led down."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.training.spectral import clip_layer, iterated, mapped, singular_vectors

LAYERS = {
    "padded": (nn.Conv2d(2, 3, 3, padding=1), (2, 6, 6)),
    "strided": (nn.Conv2d(2, 4, 3, stride=2, bias=False), (2, 7, 7)),
    "grouped": (nn.Conv2d(4, 4, 3, groups=2, dilation=2, padding=2), (4, 5, 5)),
    "reflected": (nn.Conv2d(1, 3, 5, padding=2, padding_mode="reflect"), (1, 6, 6)),
    "linear": (nn.Linear(20, 7), (20,)),
}


def layer_of(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(3)
    layer, size = LAYERS[name]
    layer = layer.double()
    layer.reset_parameters()
    return layer, size


def unrolled(layer: nn.Module, size: tuple[int, ...]) -> torch.Tensor:
    """The matrix of a layer without its bias: one column for each input, by what the layer itself gives."""
    count = int(torch.tensor(size).prod())
    basis = torch.eye(count, dtype=torch.float64).view(count, *size)
    with torch.no_grad():
        return (layer(basis) - layer(torch.zeros(1, *size, dtype=torch.float64))).flatten(1).T


@pytest.mark.parametrize("name", LAYERS)
def test_the_vector_is_the_top_right_singular_vector_of_the_unrolled_layer(name):
    layer, size = layer_of(name)
    matrix = unrolled(layer, size)
    _, values, right = torch.linalg.svd(matrix)
    (found,) = iterated([layer], [torch.randn(1, *size, dtype=torch.float64)], 8000)
    assert found.norm().item() == pytest.approx(1, abs=1e-12)
    assert torch.allclose(mapped(layer, found).flatten(), matrix @ found.flatten(), atol=1e-12)
    assert mapped(layer, found).norm().item() == pytest.approx(values[0].item(), rel=1e-9 if name != "padded" else 1e-7)
    space = right[: len(values)][values > (1 - 1e-6) * values[0]]
    assert (space @ found.flatten()).norm().item() == pytest.approx(1, abs=1e-4)  # within the space of the largest


def test_a_hundred_iterations_find_the_norm_in_a_network():
    torch.manual_seed(0)
    members = [nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(),
                             nn.Linear(144, 5)).double() for _ in range(2)]  # fmt: skip
    found = singular_vectors(members, (1, 8, 8))
    sizes = {"0": (1, 8, 8), "2": (4, 6, 6), "4": (144,)}
    assert {key: tuple(vector.shape[1:]) for key, vector in found.items()} == {
        f"{k}.{name}": size for k in range(2) for name, size in sizes.items()
    }
    for key, vector in found.items():
        member, _, name = key.partition(".")
        layer = members[int(member)].get_submodule(name)
        norm = torch.linalg.svdvals(unrolled(layer, sizes[name]))[0]
        assert mapped(layer, vector).norm().item() == pytest.approx(norm.item(), rel=1e-2)
    assert all(not part._forward_pre_hooks for member in members for part in member.modules())
    assert all(torch.equal(vector, found[key]) for key, vector in singular_vectors(members, (1, 8, 8)).items())


@pytest.mark.parametrize("name", LAYERS)
def test_clipping_leads_large_norms_down_and_leaves_small_ones(name):
    layer, size = layer_of(name)
    norm = torch.linalg.svdvals(unrolled(layer, size))[0].item()
    with torch.no_grad():
        layer.weight.mul_(1.5 / norm)
    (vector,) = iterated([layer], [torch.randn(1, *size, dtype=torch.float64)], 100)
    for _ in range(40):
        clip_layer(layer, vector, 1.0, inner=5, rate=0.35)
    clipped = torch.linalg.svdvals(unrolled(layer, size))[0].item()
    assert clipped == pytest.approx(1, abs=0.05)
    kept = layer.weight.detach().clone()
    clip_layer(layer, vector, clipped + 0.1, inner=5, rate=0.35)
    assert torch.equal(layer.weight, kept)


def test_one_inner_step_of_a_linear_layer_by_hand():
    """σ falls by 2·rate·(σ − clip) along the pair, and nothing else moves."""
    layer = nn.Linear(3, 3, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([2.0, 0.5, 0.25])))
    clip_layer(layer, torch.ones(1, 3).double(), 1.0, inner=1, rate=0.35)
    found = torch.linalg.svdvals(layer.weight.detach())
    assert found.tolist() == pytest.approx([2 - 0.7, 0.5, 0.25], abs=1e-9)
