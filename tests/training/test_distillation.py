"""FASTEN's step away from features; DVERGE's towards others is tested with the method."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.models.features import features_at, pre_activation_points
from bench.training.distillation import away


def test_the_step_leads_away_from_the_features_by_finite_differences():
    torch.manual_seed(2)
    member = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    images = torch.rand(2, 1, 2, 3).double() * 0.4 + 0.3
    points = images + 0.05 * torch.randn(2, 1, 2, 3).double()
    found = away(member, "2", images, points.clone(), 0.06)

    @torch.no_grad()
    def distance(x: torch.Tensor) -> torch.Tensor:
        return (member[:2](x) - member[:2](images)).square().mean()

    for place in range(images.numel()):
        shift = torch.zeros(images.numel(), dtype=torch.float64)
        shift[place] = 1e-6
        slope = distance(points + shift.view_as(points)) - distance(points - shift.view_as(points))
        expected = points.flatten()[place] + 0.06 * slope.sign()
        low, high = images.flatten()[place] - 0.06, images.flatten()[place] + 0.06
        assert found.flatten()[place].item() == pytest.approx(expected.clamp(low, high).item(), abs=1e-9)
    for layer in pre_activation_points(member, (1, 2, 3)):
        start = (features_at(member, layer, points) - features_at(member, layer, images)).square().mean()
        after = features_at(member, layer, away(member, layer, images, points.clone(), 0.06))
        assert (after - features_at(member, layer, images)).square().mean() > start
