"""ResNet-(6n+2) for small images (He et al. 2016): three stages of n blocks, 16, 32 and 64 channels wide.

Names of parameters are those of akamaster/pytorch_resnet_cifar10, so that its published weights fit. There
the shortcut into a new stage takes every other pixel and pads channels with zeros. Here it is written as the
1×1 convolution that it is, with weights of 0 and 1: coupled groups can then be cut through it, and training
may improve on it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Two convolutions with a shortcut around them."""

    def __init__(self, before: int, after: int, stride: int, kernel_size: int) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv1 = nn.Conv2d(before, after, kernel_size, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, kernel_size, 1, padding, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Identity() if (stride, before) == (1, after) else _padding(before, after, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features `(N, after, H / stride, W / stride)`."""
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))


@torch.no_grad()
def _padding(before: int, after: int, stride: int) -> nn.Conv2d:
    """The convolution that keeps every `stride`-th pixel and centres the channels among the new ones."""
    shortcut = nn.Conv2d(before, after, 1, stride, bias=False)
    shortcut.weight.zero_()
    first = max(0, (after - before) // 2)
    for channel in range(min(before, after)):
        shortcut.weight[first + channel, channel] = 1.0
    return shortcut


class ResNet(nn.Module):
    """A first convolution, three stages of blocks, the average over the image and one linear layer.

    Args:
        blocks: in each of the stages, at least one.
        widths: channels of each of the stages.
        kernel_size: of all convolutions but the shortcuts.
        classes: number of outputs.
    """

    def __init__(self, blocks: list[int], widths: list[int], kernel_size: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], kernel_size, padding=kernel_size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[0], blocks[0], 1, kernel_size)
        self.layer2 = _stage(widths[0], widths[1], blocks[1], 2, kernel_size)
        self.layer3 = _stage(widths[1], widths[2], blocks[2], 2, kernel_size)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(widths[2], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `(N, classes)` of images `(N, 3, H, W)`."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: torch.Tensor = self.linear(self.pool(x).flatten(1))
        return logits


def _stage(before: int, after: int, blocks: int, stride: int, kernel_size: int) -> nn.Sequential:
    first = Block(before, after, stride, kernel_size)
    return nn.Sequential(first, *(Block(after, after, 1, kernel_size) for _ in range(blocks - 1)))


def resnet(
    *,
    blocks1: int = 3,
    blocks2: int = 3,
    blocks3: int = 3,
    width: float = 1.0,
    kernel_size: int = 3,
    classes: int = 10,
) -> ResNet:
    """A member of the family; the defaults are ResNet-20.

    Args:
        blocks1, blocks2, blocks3: blocks in each stage; a stage with fewer keeps its first ones.
        width: multiplies the 16, 32 and 64 channels of the stages.
        kernel_size: of all convolutions but the shortcuts, odd.
        classes: number of outputs.

    Raises:
        ValueError: a stage without blocks, an even kernel or no width.
    """
    blocks = [blocks1, blocks2, blocks3]
    if min(blocks) < 1 or kernel_size % 2 == 0 or width <= 0:
        raise ValueError(
            f"resnet: got blocks={blocks}, kernel_size={kernel_size}, width={width}; "
            "expected at least one block a stage, an odd kernel and a positive width"
        )
    widths = [max(1, round(channels * width)) for channels in (16, 32, 64)]
    return ResNet(blocks, widths, kernel_size, classes)
