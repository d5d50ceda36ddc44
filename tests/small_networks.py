"""Small real networks for the tests of export, float and deployed."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.deployed import ActivationQuantizer, deploy

torch.set_num_threads(1)


class Residual(nn.Module):
    """A convolution, a residual branch, a concatenation, constants and a linear layer."""

    def __init__(self, channels: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.branch = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.gain = nn.Parameter(torch.full((1, channels, 1, 1), 0.5))
        self.head = nn.Linear(2 * channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        y = (x + self.gain * self.branch(x)).clamp(min=0.0)
        pooled = torch.cat([x.mean(dim=(2, 3)), y[:, :, ::2].amax((2, 3))], dim=1)
        return self.head(pooled.reshape(x.shape[0], -1))


class Untraceable(nn.Module):
    """A network whose forward depends on values."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(6, width)
        self.second = nn.Linear(width, 2)
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x) + self.shift
        return self.second(x if x.sum() > 0 else -x)


def trained(model: nn.Module) -> nn.Module:
    """`model` with weights that are not at their symmetric beginning, in eval mode."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return model.eval()


def quantized(bits: int = 4) -> nn.Module:
    """`Residual` as it is deployed with few bits, its activations calibrated."""
    example = torch.zeros(1, 1, 8, 8)
    model = deploy(trained(Residual()), {"stem": (8, 8), "branch": (bits, 8), "head": (bits, 8)}, example)
    for module in model.modules():
        if isinstance(module, ActivationQuantizer):
            module.set_range(-2.0, 3.0)
    return model
