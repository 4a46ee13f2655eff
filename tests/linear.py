"""Linear models, whose distances and expected accuracies have closed forms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.core.seeds import generator


class Linear(nn.Module):
    """Five logits; only the first two depend on the image, so that the best wrong class of 0 is 1 and of 1 is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, generator=generator("linear weight")))
        self.bias = nn.Parameter(-0.5 * self.weight.detach().sum())

    def margin(self, x: Tensor) -> Tensor:
        """By how much 1 leads over 0, [b], for images [b, 1, 4, 4]."""
        return x.flatten(1) @ self.weight + self.bias

    def forward(self, x: Tensor) -> Tensor:
        value = self.margin(x)
        rest = torch.tensor([-20.0, -21.0, -22.0]).expand(len(x), 3)
        return torch.cat([torch.stack([-value / 2, value / 2], 1), rest], 1)


class Line(nn.Module):
    """Class 0 where `slope`·x + `offset` is above 0, else class 1; images have two pixels."""

    def __init__(self, slope: tuple[float, float], offset: float) -> None:
        super().__init__()
        self.line = nn.Linear(2, 1)
        with torch.no_grad():
            self.line.weight.copy_(torch.tensor([slope]))
            self.line.bias.fill_(offset)

    def forward(self, x: Tensor) -> Tensor:
        lead = self.line(x.flatten(1))
        return torch.cat([lead, -lead], 1)
