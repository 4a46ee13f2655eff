"""The small network for MNIST of much published work on adversarial training."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.models.base import Model, check_dropout

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class SmallCNN(Model):
    """SmallCNN: convolutions 32-32-64-64 of 3×3 in two blocks, then 200-200 units (TRADES, Zhang et al. 2019).

    The network of Carlini and Wagner 2017 for MNIST. Parameters are named as in the public code of TRADES. Each block
    ends with 2×2 max pooling; convolutions have no padding, so images have 16 pixels or more. Convolutions start as by
    He et al. 2015 (fan in), as there; the rest as torch does, the last layer too, which starts at 0 there.

    Args:
        dropout: before the second linear layer.

    Raises:
        BenchError: the dropout is not in [0, 1).
    """

    dropout: float = 0.5

    def __post_init__(self) -> None:
        check_dropout(self.dropout)

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Logits [b, classes] of images [b, *shape]."""
        nn = torch.nn
        channels, height, width = shape
        if min(height, width) < 16:
            raise BenchError(f"small_cnn needs images of 16×16 pixels or more, not {height}×{width}; take digits_cnn")
        sides = [((side - 4) // 2 - 4) // 2 for side in (height, width)]
        features: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(channels, 32, 3), relu1=nn.ReLU(), conv2=nn.Conv2d(32, 32, 3), relu2=nn.ReLU(),
            maxpool1=nn.MaxPool2d(2), conv3=nn.Conv2d(32, 64, 3), relu3=nn.ReLU(), conv4=nn.Conv2d(64, 64, 3),
            relu4=nn.ReLU(), maxpool2=nn.MaxPool2d(2), flatten=nn.Flatten(),
        )  # fmt: skip
        classifier: OrderedDict[str, nn.Module] = OrderedDict(
            fc1=nn.Linear(64 * sides[0] * sides[1], 200), relu1=nn.ReLU(), drop=nn.Dropout(self.dropout),
            fc2=nn.Linear(200, 200), relu2=nn.ReLU(), fc3=nn.Linear(200, classes),
        )  # fmt: skip
        for module in features.values():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        return nn.Sequential(
            OrderedDict(feature_extractor=nn.Sequential(features), classifier=nn.Sequential(classifier))
        )
