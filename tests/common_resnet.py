"""The CIFAR ResNet as other people write it, and ensembles of it: shares no code with bench."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two convolutions and a shortcut; `projection` is what the shortcut's module is called."""

    def __init__(self, into: int, out: int, stride: int, projection: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.projection = projection
        if stride != 1 or into != out:
            setattr(self, projection, nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + getattr(self, self.projection, nn.Identity())(x))


class CommonResNet(nn.Module):
    """Depth 6n + 2; `head` and `projection` are names that differ between codes."""

    def __init__(
        self, blocks: int = 1, *, channels: int = 1, classes: int = 10, head: str = "fc", projection: str = "downsample"
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        into = 16
        for stage, out in enumerate((16, 32, 64), start=1):
            layers = []
            for block in range(blocks):
                layers.append(Block(into, out, 2 if stage > 1 and block == 0 else 1, projection))
                into = out
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.head = head
        setattr(self, head, nn.Linear(64, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        y: Tensor = getattr(self, self.head)(x.mean((2, 3)))
        return y


class Normalizer(nn.Module):
    """A normalisation whose numbers are saved with the weights."""

    def __init__(self, mean: float, std: float, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("mean", torch.tensor([mean]).view(1, 1, 1))
        self.register_buffer("std", torch.tensor([std]).view(1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = (x * self.scale - self.mean) / self.std
        return y


class Within(nn.Module):
    """A network with its normalisation, as in the public code of DVERGE."""

    def __init__(self, model: nn.Module, normalizer: nn.Module) -> None:
        super().__init__()
        self.model, self.normalizer = model, normalizer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(self.normalizer(x))
        return y


def networks(count: int = 3, **names: str) -> list[CommonResNet]:
    """Networks in evaluation mode that agree on some images and differ on others, the same ones at each call."""
    made = []
    for seed in range(count):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = CommonResNet(**names)  # type: ignore[arg-type]
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr, operator]
                    module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr, operator]
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, 0, 0.1)
            images = (torch.tensor(load_digits().images[:256, None], dtype=torch.float32) / 16 - 0.3) / 0.4
            with torch.no_grad():
                network.train()(images)  # counters of batches are not 0, as after a training
                logits = network.eval()(images)
                head = getattr(network, network.head)
                head.weight /= logits.std(0)[:, None]
                head.bias.copy_((head.bias - logits.mean(0)) / logits.std(0))  # every class wins somewhere
        made.append(network.eval())
    return made
