"""Convolutions over one and three axes: sensors, sound, video and volumes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def example_inputs() -> Tensor:
    """Four channels of a signal, 64 samples."""
    return torch.randn(1, 4, 64)


def volume() -> Tensor:
    """One small volume, or eight frames of a grey video."""
    return torch.randn(1, 1, 8, 16, 16)


def keyword_spotter() -> nn.Module:
    """Strided 1-D convolutions, pooled."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((4, 24), (24, 32), (32, 48)):
        layers += [nn.Conv1d(inputs, outputs, 5, 2, 2), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(48, 6))


class CausalBlock(nn.Module):
    """Dilated convolutions that see the past only: padded on both sides, then cut (Bai et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.past = 2 * dilation
        self.conv1 = nn.Conv1d(inputs, outputs, 3, padding=self.past, dilation=dilation)
        self.conv2 = nn.Conv1d(outputs, outputs, 3, padding=self.past, dilation=dilation)
        self.shortcut = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x)[:, :, : -self.past])
        y = F.relu(self.conv2(y)[:, :, : -self.past])
        return F.relu(y + self.shortcut(x))


class TemporalNetwork(nn.Module):
    """Three causal blocks, read at the last sample."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(CausalBlock(4, 16, 1), CausalBlock(16, 24, 2), CausalBlock(24, 24, 4))
        self.head = nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x)[:, :, -1])


class GatedBlock(nn.Module):
    """One half of the channels gates the other; a residual and a skip output (van den Oord et al. 2016)."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.both = nn.Conv1d(channels, 2 * channels, 3, padding=dilation, dilation=dilation)
        self.residual, self.skip = nn.Conv1d(channels, channels, 1), nn.Conv1d(channels, 32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        signal, gate = self.both(x).chunk(2, dim=1)
        y = torch.tanh(signal) * torch.sigmoid(gate)
        return x + self.residual(y), self.skip(y)


class GatedNetwork(nn.Module):
    """Gated blocks whose skip outputs are summed up."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv1d(4, 24, 1)
        self.blocks = nn.ModuleList(GatedBlock(24, dilation) for dilation in (1, 2, 4))
        self.leave = nn.Sequential(nn.ReLU(), nn.Conv1d(32, 32, 1), nn.ReLU(), nn.Conv1d(32, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        total: Tensor | float = 0.0
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return self.leave(total)


class GatedUnits(nn.Module):
    """`F.glu` after each convolution: channel c is gated by channel c + n (Dauphin et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(4, 48, 3, padding=1), nn.Conv1d(24, 64, 3, padding=1)
        self.head = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.conv2(F.glu(self.conv1(x), dim=1)), dim=1)
        return self.head(x.amax(2))


def volumetric() -> nn.Module:
    """3-D convolutions with BatchNorm."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 12), (12, 16), (16, 24)):
        layers += [nn.Conv3d(inputs, outputs, 3, padding=1), nn.BatchNorm3d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(24, 6))


class SpaceThenTime(nn.Module):
    """Each 3-D convolution as one over space and one over time, residual (Tran et al. 2018)."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, channels, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.space = nn.Conv3d(channels, 24, (1, 3, 3), padding=(0, 1, 1))
        self.norm = nn.BatchNorm3d(24)
        self.time = nn.Conv3d(24, channels, (3, 1, 1), padding=(1, 0, 0))
        self.head = nn.Linear(channels, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.time(F.relu(self.norm(self.space(x)))))
        return self.head(x.mean((2, 3, 4)))


MODELS = [
    ("1-D and 3-D convolution", keyword_spotter, example_inputs),
    ("1-D and 3-D convolution", TemporalNetwork, example_inputs),
    ("1-D and 3-D convolution", GatedNetwork, example_inputs),
    ("gated linear units", GatedUnits, example_inputs),
    ("1-D and 3-D convolution", volumetric, volume),
    ("1-D and 3-D convolution", SpaceThenTime, volume),
]
"""Family, factory without arguments, example inputs."""
