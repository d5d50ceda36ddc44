"""A task that trains in a second, for tests: bright bars in four places, seen by a small residual network."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from autoprune.task import ClassificationTask, Data, make_data


class TinyNet(nn.Module):
    """A stem, one residual block if `depth` is 2, and a classifier."""

    def __init__(self, width: int = 8, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.block = (
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
            )
            if depth > 1
            else None
        )
        self.linear = nn.Linear(width * 4, 4)
        self.pool = nn.AvgPool2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of four classes."""
        x = self.stem(x)
        if self.block is not None:
            x = torch.relu(x + self.block(x))
        return self.linear(self.pool(x).flatten(1))


class TinyTask(ClassificationTask):
    """Which corner is bright."""

    def __init__(self) -> None:
        super().__init__(TinyNet, bars, architecture={"width": [4, 8], "depth": [1, 2]})


def bars() -> Data:
    """480 noisy 8×8 images with one bright corner."""
    rng = np.random.default_rng(0)
    y = np.arange(480) % 4
    x = rng.normal(0, 0.5, (480, 8, 8)).astype(np.float32)
    for image, label in zip(x, y, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[row : row + 4, column : column + 4] += 1.0
    return make_data((x[:, None], y), shares=(0.25, 0.25))
