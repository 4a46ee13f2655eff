"""The block of a CIFAR ResNet, and its two shortcuts."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

Shortcut = Literal["A", "B"]


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016).

    relu2(bn2(conv2(relu1(bn1(conv1(x))))) + shortcut(x)); `stride` is that of the first convolution. Where neither size
    nor width changes the shortcut is x itself; elsewhere it is `Padding` ("A") or a projection: a 1×1 convolution
    without bias and a batch normalisation ("B").
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int = 1, shortcut: Shortcut = "A") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        # The last with weights, so that they come in the order of the public code's files.
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            make = Padding if shortcut == "A" else projection
            self.shortcut = make(channels_in, channels_out, stride=stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Features [b, channels_out, H / stride, W / stride] of features [b, channels_in, H, W]."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        output: Tensor = self.relu2(residual + self.shortcut(x))
        return output


class Padding(nn.Module):
    """Option A: every `stride`-th pixel, with half of the added (zero) channels on either side; no parameters."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.added = channels_out - channels_in

    def forward(self, x: Tensor) -> Tensor:
        """As `ResidualBlock`."""
        if self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.added:
            before = self.added // 2
            x = torch.nn.functional.pad(x, (0, 0, 0, 0, before, self.added - before))
        return x


def projection(channels_in: int, channels_out: int, *, stride: int) -> nn.Module:
    """Option B: the input's channels mixed pixel by pixel."""
    convolution = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, bn=nn.BatchNorm2d(channels_out)))
