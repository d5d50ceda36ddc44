"""A family of small networks of depthwise-separable convolutions for spoken words: DS-CNN (Zhang et al. 2017).

The default is the network of the keyword-spotting benchmark of MLPerf Tiny: 64 channels and four blocks.
"""

from __future__ import annotations

import torch
from torch import nn


class DSCNN(nn.Module):
    """One wide convolution with stride 2, blocks of a depthwise and a pointwise one, the average, one linear layer.

    Args:
        channels: of all convolutions.
        depth: number of blocks.
        kernel_size: of the depthwise convolutions, odd.
        classes: number of outputs.
    """

    def __init__(self, channels: int, depth: int, kernel_size: int, classes: int) -> None:
        super().__init__()
        self.stem = _normed(nn.Conv2d(1, channels, (10, 4), stride=2, padding=(5, 1), bias=False))
        self.blocks = nn.Sequential(*(_block(channels, kernel_size) for _ in range(depth)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(channels, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits `(N, classes)` of spectral features `(N, 1, frames, bands)`."""
        logits: torch.Tensor = self.head(self.dropout(self.pool(self.blocks(self.stem(features))).flatten(1)))
        return logits


def _normed(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())


def _block(channels: int, kernel_size: int) -> nn.Sequential:
    padding = kernel_size // 2
    depthwise = nn.Conv2d(channels, channels, kernel_size, padding=padding, groups=channels, bias=False)
    return nn.Sequential(_normed(depthwise), _normed(nn.Conv2d(channels, channels, 1, bias=False)))


def ds_cnn(
    *, channels: int = 64, width: float = 1.0, depth: int = 4, kernel_size: int = 3, classes: int = 10
) -> DSCNN:
    """A member of the family.

    Args:
        channels: of all convolutions.
        width: multiplies them.
        depth: number of blocks, at least one; fewer are the first ones.
        kernel_size: of the depthwise convolutions, odd.
        classes: number of outputs.

    Raises:
        ValueError: an even kernel, no block or no width.
    """
    if kernel_size % 2 == 0 or depth < 1 or width <= 0:
        raise ValueError(
            f"ds_cnn: got kernel_size={kernel_size}, depth={depth}, width={width}; "
            "expected an odd kernel, at least one block and a positive width"
        )
    return DSCNN(max(1, round(channels * width)), depth, kernel_size, classes)
