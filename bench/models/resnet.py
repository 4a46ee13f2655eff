"""The CIFAR ResNets of He et al. 2016, section 4.2."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.settings import added
from bench.models.base import Model, dropout_layers

if TYPE_CHECKING:
    from torch import nn

# Parts of names as the public codes for CIFAR have them (also those that follow torchvision) → ours; and back.
OWN = (
    (r"^conv1\.", "conv."), (r"^bn1\.", "bn."), (r"^layer(\d)\.", r"stage\1."), (r"^(?:fc|classifier)\.", "linear."),
    (r"\.(?:downsample|shortcut)\.(?:0|conv)\.", ".shortcut.conv."),
    (r"\.(?:downsample|shortcut)\.(?:1|bn)\.", ".shortcut.bn."),
)  # fmt: skip
COMMON = (
    (r"^conv\.", "conv1."), (r"^bn\.", "bn1."), (r"^stage(\d)\.", r"layer\1."), (r"^linear\.", "fc."),
    (r"\.shortcut\.conv\.", ".downsample.0."), (r"\.shortcut\.bn\.", ".downsample.1."),
)  # fmt: skip


@dataclass(frozen=True)
class CifarResNet(Model):
    """ResNet of depth 6n+2 with widths 16-32-64 for 28 or 32 pixels (He et al. 2016, section 4.2).

    Three stages of n blocks. Batch normalisation after every convolution, global average pooling. Convolutions, those
    of shortcuts too, start from N(0, √(2 / (k²·channels out))), as in the public code of TRS and DVERGE and by He et
    al. 2015 (fan out); the rest as torch does.

    Args:
        width: that of the first stage.
        shortcut: where size and width change. "A", He et al.'s choice for CIFAR: every second pixel, the new channels
            are zeros, no parameters. "B", in the public code of TRS, DVERGE, FASTEN, AUTE, MORA and AdvOAP: a 1×1
            convolution and a batch normalisation (2,752 parameters more at depth 20).

    Raises:
        BenchError: the depth is not 8, 14, 20, …, the width is not positive, or there is no such shortcut.
    """

    depth: int = 20
    width: int = 16
    dropout: float = 0.0
    shortcut: Literal["A", "B"] = added("A")

    def __post_init__(self) -> None:
        if self.depth < 8 or (self.depth - 2) % 6:
            raise BenchError(f"the depth of a CIFAR ResNet is 6n+2 (8, 14, 20, 32, 44, 56, 110), not {self.depth}")
        if self.width < 1:
            raise BenchError(f"the width of a CIFAR ResNet must be 1 or more, not {self.width}")
        if self.shortcut not in ("A", "B"):
            raise BenchError(f"the shortcut of a CIFAR ResNet is A (padding) or B (projection), not {self.shortcut!r}")

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Logits [b, classes] of images [b, *shape]."""
        from bench.models.residual import ResidualBlock

        nn = torch.nn
        width = self.width
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(shape[0], width, 3, padding=1, bias=False),
            bn=nn.BatchNorm2d(width),
            relu=nn.ReLU(),
        )
        for stage, factor in enumerate((1, 2, 4), start=1):
            into = width * max(factor // 2, 1)
            stride = 1 if stage == 1 else 2
            blocks = [ResidualBlock(into, width * factor, stride=stride, shortcut=self.shortcut)]
            blocks += [ResidualBlock(width * factor, width * factor) for _ in range((self.depth - 2) // 6 - 1)]
            layers[f"stage{stage}"] = nn.Sequential(*blocks)
        layers.update(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
        layers.update(("dropout", layer) for layer in dropout_layers(self.dropout))
        layers["linear"] = nn.Linear(4 * width, classes)
        network = nn.Sequential(layers)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return network

    def own_name(self, name: str) -> str:
        """From `layer1.0.conv1.weight`, `layer2.0.downsample.0.weight` or `….shortcut.0.weight`, `fc.bias`."""
        for theirs, ours in OWN:
            name = re.sub(theirs, ours, name)
        return name

    def common_name(self, name: str) -> str:
        """As torchvision and the public codes of DVERGE, TRS and AdvOAP have it."""
        for ours, theirs in COMMON:
            name = re.sub(ours, theirs, name)
        return name
