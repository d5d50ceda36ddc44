"""A family of small convolutional networks for signals of several sensors over time.

The defaults are the uncompressed baseline; a spec searches the arguments under `space.architecture`.
"""

from __future__ import annotations

import torch
from torch import nn


class SignalCNN(nn.Module):
    """Blocks of a convolution over time, norm, ReLU and halving, the average over time and one linear layer.

    Args:
        sensors: input channels.
        widths: channels of each block.
        kernel_size: of every convolution, odd.
        classes: number of outputs.
    """

    def __init__(self, sensors: int, widths: list[int], kernel_size: int, classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv1d(before, after, kernel_size, padding=kernel_size // 2, bias=False),
                    nn.BatchNorm1d(after),
                    nn.ReLU(),
                    nn.MaxPool1d(2),
                )
                for before, after in zip([sensors, *widths], widths, strict=False)
            )
        )
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        """Logits `(N, classes)` of signals `(N, sensors, T)`; T is at least `2 ** blocks`."""
        logits: torch.Tensor = self.head(self.dropout(self.pool(self.blocks(signals)).flatten(1)))
        return logits


def signal_cnn(
    *,
    sensors: int = 9,
    channels: int = 64,
    width: float = 1.0,
    depth: int = 3,
    kernel_size: int = 5,
    classes: int = 6,
) -> SignalCNN:
    """A member of the family.

    Args:
        sensors: input channels.
        channels: of every convolution.
        width: multiplies them.
        depth: number of blocks, at least one; fewer are the first ones.
        kernel_size: of every convolution, odd.
        classes: number of outputs.

    Raises:
        ValueError: an even kernel, no block or no width.
    """
    if kernel_size % 2 == 0 or depth < 1 or width <= 0:
        raise ValueError(
            f"signal_cnn: got kernel_size={kernel_size}, depth={depth}, width={width}; "
            "expected an odd kernel, at least one block and a positive width"
        )
    return SignalCNN(sensors, [max(1, round(channels * width))] * depth, kernel_size, classes)
