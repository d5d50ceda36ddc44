"""Norms other than BatchNorm, and weights that are computed from other parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize


def example_inputs() -> Tensor:
    """One colour image of 16 × 16."""
    return torch.randn(1, 3, 16, 16)


def row() -> Tensor:
    """Sixteen numbers."""
    return torch.randn(1, 16)


class Normed(nn.Module):
    """Three convolutions, each followed by a norm that is made for its width, and a sum around the last."""

    def __init__(self, norms: list[nn.Module], widths: tuple[int, int]) -> None:
        super().__init__()
        first, second = widths
        self.conv1, self.conv2 = nn.Conv2d(3, first, 3, padding=1), nn.Conv2d(first, second, 3, padding=1)
        self.conv3 = nn.Conv2d(second, second, 3, padding=1)
        self.norm1, self.norm2, self.norm3 = norms
        self.head = nn.Linear(second, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        x = F.relu(x + self.norm3(self.conv3(x)))
        return self.head(x.mean((2, 3)))


def group_norm() -> nn.Module:
    """Four groups of channels, each normalised by itself (Wu and He 2018)."""
    return Normed([nn.GroupNorm(4, 16), nn.GroupNorm(4, 32), nn.GroupNorm(4, 32)], (16, 32))


def instance_norm() -> nn.Module:
    """Each channel normalised by itself, with and without learned gains (Ulyanov et al. 2016)."""
    return Normed(
        [nn.InstanceNorm2d(16), nn.InstanceNorm2d(32, affine=True), nn.InstanceNorm2d(32, affine=True)],
        (16, 32),
    )


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of a map, written out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        x = centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + 1e-6)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


def layer_norm() -> nn.Module:
    """Channels normalised together at each pixel."""
    return Normed([ChannelNorm(16), ChannelNorm(32), ChannelNorm(32)], (16, 32))


def layer_norm_mlp() -> nn.Module:
    """A residual-free MLP with LayerNorm between its layers."""
    return nn.Sequential(
        nn.Linear(16, 48),
        nn.LayerNorm(48),
        nn.GELU(),
        nn.Linear(48, 32),
        nn.LayerNorm(32),
        nn.GELU(),
        nn.Linear(32, 5),
    )


def weight_norm() -> nn.Module:
    """Weights as direction and length, by parametrization (Salimans and Kingma 2016)."""
    return nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 24, 3, padding=1)),
        nn.ReLU(),
        parametrizations.weight_norm(nn.Conv2d(24, 32, 3, padding=1)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def weight_norm_hooks() -> nn.Module:
    """The same by the older hooks, which recompute the weight before each call."""
    return nn.Sequential(
        torch.nn.utils.weight_norm(nn.Linear(16, 48)),
        nn.ReLU(),
        torch.nn.utils.weight_norm(nn.Linear(48, 32)),
        nn.ReLU(),
        nn.Linear(32, 5),
    )


def spectral_norm() -> nn.Module:
    """Weights divided by their largest singular value, kept in buffers (Miyato et al. 2018)."""
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Conv2d(3, 24, 3, padding=1)),
        nn.LeakyReLU(0.1),
        parametrizations.spectral_norm(nn.Conv2d(24, 32, 3, padding=1)),
        nn.LeakyReLU(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


class Standardised(nn.Module):
    """A weight brought to mean 0 and variance 1 for each filter (Qiao et al. 2019)."""

    def forward(self, weight: Tensor) -> Tensor:
        mean = weight.mean((1, 2, 3), keepdim=True)
        return (weight - mean) / (weight.std((1, 2, 3), keepdim=True, unbiased=False) + 1e-5)


def standardised_weights() -> nn.Module:
    """A parametrization of our own, with GroupNorm behind it."""
    network = Normed([nn.GroupNorm(4, 16), nn.GroupNorm(4, 32), nn.GroupNorm(4, 32)], (16, 32))
    for name in ("conv2", "conv3"):
        parametrize.register_parametrization(getattr(network, name), "weight", Standardised())
    return network


MODELS = [
    ("Group/Layer/Instance norm", group_norm, example_inputs),
    ("Group/Layer/Instance norm", instance_norm, example_inputs),
    ("Group/Layer/Instance norm", layer_norm, example_inputs),
    ("Group/Layer/Instance norm", layer_norm_mlp, row),
    ("weight norm, parametrizations", weight_norm, example_inputs),
    ("weight norm, parametrizations", weight_norm_hooks, row),
    ("weight norm, parametrizations", spectral_norm, example_inputs),
    ("weight norm, parametrizations", standardised_weights, example_inputs),
]
"""Family, factory without arguments, example inputs."""
