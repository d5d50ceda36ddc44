"""A family of convolutional networks of equal cells, whose edges are chosen: the space of NAS-Bench-201 in small.

The defaults are the uncompressed baseline, with a convolution on each edge; a spec searches the arguments under
`space.architecture`.
"""

from __future__ import annotations

import torch
from torch import nn

from autoprune.blocks import Cell, Kinds, repeated

STAGES = 3


class CellCNN(nn.Module):
    """A first convolution, three stages of equal cells, half as large and twice as wide each, and one linear layer.

    Args:
        edge01, edge02, edge03, edge12, edge13, edge23: what is between two of a cell's four nodes: `none`, `skip`,
            `conv1`, `conv3` or `pool3`.
        depth: cells of a stage, at least one; fewer are the first ones.
        width: multiplies the channels.
        channels: of the first stage.
        in_channels: of the images.
        classes: number of outputs.

    Raises:
        ValueError: an unknown operation, cells through which nothing leads, no cell or no width.
    """

    def __init__(
        self,
        *,
        edge01: str = "conv3",
        edge02: str = "conv3",
        edge03: str = "conv3",
        edge12: str = "conv3",
        edge13: str = "conv3",
        edge23: str = "conv3",
        depth: int = 1,
        width: float = 1.0,
        channels: int = 16,
        in_channels: int = 1,
        classes: int = 10,
    ) -> None:
        super().__init__()
        if depth < 1 or width <= 0:
            raise ValueError(
                f"CellCNN: got depth={depth}, width={width}; expected at least one cell and a positive width"
            )
        named = {"01": edge01, "02": edge02, "03": edge03, "12": edge12, "13": edge13, "23": edge23}
        edges = {(int(pair[0]), int(pair[1])): chosen for pair, chosen in named.items()}
        widths = [max(1, round(channels * 2**stage * width)) for stage in range(STAGES)]
        self.stem = _normed(nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False))
        stages: list[nn.Module] = []
        for number, size in enumerate(widths):
            before = widths[max(0, number - 1)]
            narrow = [_normed(nn.Conv2d(before, size, 3, 2, 1, bias=False))] if number else []
            cells = repeated(depth, lambda _, size=size: Cell(edges, operations(size)))  # type: ignore[misc]
            stages.append(nn.Sequential(*narrow, cells))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `(N, classes)` of images `(N, in_channels, H, W)`."""
        logits: torch.Tensor = self.head(self.pool(self.stages(self.stem(images))).flatten(1))
        return logits


def operations(channels: int) -> Kinds:
    """What an edge may be besides `none` and `skip`; all keep the shape."""
    return {
        "conv1": lambda: _normed(nn.Conv2d(channels, channels, 1, bias=False)),
        "conv3": lambda: _normed(nn.Conv2d(channels, channels, 3, padding=1, bias=False)),
        "pool3": lambda: nn.AvgPool2d(3, 1, 1),
    }


def _normed(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())
