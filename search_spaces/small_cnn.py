"""A family of small convolutional networks: blocks of conv, norm and ReLU, halving the image between stages.

The defaults are the uncompressed baseline; a spec searches the arguments under `space.architecture`.
"""

from __future__ import annotations

import torch
from torch import nn


class SmallCNN(nn.Module):
    """`depth` stages of two blocks each, then the average over the image and one linear layer.

    Args:
        widths: channels of each stage.
        kernel_size: of every convolution, odd.
        in_channels: of the input image; its sides must be at least `2 ** (stages - 1)` pixels long.
        classes: number of outputs.
    """

    def __init__(self, widths: list[int], kernel_size: int, in_channels: int, classes: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for number, width in enumerate(widths):
            before = in_channels if number == 0 else widths[number - 1]
            pool = [] if number == 0 else [nn.MaxPool2d(2)]
            blocks = [_block(before, width, kernel_size), _block(width, width, kernel_size)]
            stages.append(nn.Sequential(*pool, *blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `(N, classes)` of images `(N, in_channels, H, W)`."""
        logits: torch.Tensor = self.head(self.pool(self.stages(images)).flatten(1))
        return logits


def _block(before: int, after: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


def small_cnn(
    *,
    channels: int = 32,
    width: float = 1.0,
    depth: int = 3,
    kernel_size: int = 3,
    in_channels: int = 1,
    classes: int = 10,
) -> SmallCNN:
    """A member of the family.

    Args:
        channels: of the first stage; each later stage has twice as many as the one before.
        width: multiplies the channels of all stages.
        depth: number of stages, 1 or more.
        kernel_size: of every convolution, odd.
        in_channels: of the input image.
        classes: number of outputs.

    Raises:
        ValueError: an even kernel, no stage, or no channel.
    """
    if kernel_size % 2 == 0 or depth < 1 or width <= 0:
        raise ValueError(
            f"small_cnn: got kernel_size={kernel_size}, depth={depth}, width={width}; "
            "expected an odd kernel, at least one stage and a positive width"
        )
    widths = [max(1, round(channels * 2**stage * width)) for stage in range(depth)]
    return SmallCNN(widths, kernel_size, in_channels, classes)
