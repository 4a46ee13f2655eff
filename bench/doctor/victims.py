"""What attacks are tried on: two small networks that know the digits, and images that they are right on."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.attacks.judge import predictions
from bench.data.base import ImageSet, load_splits
from bench.doctor.rules import world
from bench.models.ensemble import Ensemble

IMAGES = 24


class Precise(nn.Module):
    """A network in float64 between float32 images and float32 logits: no sum depends on the size of a batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, x: Tensor) -> Tensor:
        """Logits [b, classes] of images [b, C, H, W]."""
        logits: Tensor = self.network(x.double())
        return logits.float()


def _network() -> nn.Module:
    """Has what an attack could disturb: batch normalisation and dropout."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(1, 16, 3, stride=2, padding=1),
        bn1=nn.BatchNorm2d(16),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(16, 32, 3, padding=1),
        bn2=nn.BatchNorm2d(32),
        relu2=nn.ReLU(),
        flatten=nn.Flatten(),
        dropout=nn.Dropout(0.2),
        linear=nn.Linear(512, 10),
    )
    return nn.Sequential(layers)


@cache
def victim(seed: int) -> tuple[Ensemble, ImageSet]:
    """Two networks that know the digits, in eval mode, and images with the labels that they give these.

    So every image is attacked, and none stands where it was.
    """
    splits = load_splits("digits", folder=Path(), test_limit=IMAGES)
    with world("victim", seed):
        members = [_network() for _ in range(2)]
        for member in members:
            optimizer = torch.optim.Adam(member.parameters(), lr=3e-3)
            for rows in torch.randperm(len(splits.train)).split(64):  # type: ignore[no-untyped-call]
                output = member(splits.train.floats(rows))
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(output, splits.train.labels[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            member.zero_grad()
        ensemble = Ensemble([Precise(member) for member in members]).eval()
        return ensemble, ImageSet(splits.test.images, predictions(ensemble, splits.test))
