"""Small model spaces, right and wrong."""

from __future__ import annotations

import nni
import torch
from nni.mutable import CategoricalMultiple, Numerical
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, MutableConv2d, MutableLinear, Repeat
from torch import nn


class Small(ModelSpace):
    """A convolution of a searched width, alternatives for a block, a searched depth, and a number."""

    def __init__(self, channels: int = 1, classes: int = 4) -> None:
        super().__init__()
        width = nni.choice("width", [8, 4, 16])
        self.stem = MutableConv2d(channels, width, 3, padding=1)
        self.block = LayerChoice(
            {"wide": MutableConv2d(width, width, 3, padding=1), "none": nn.Identity()}, label="block"
        )
        self.body = Repeat(lambda i: MutableConv2d(width, width, 1), (1, 2), label="depth")
        self.drop = nn.Dropout(0.0)
        self.head = MutableLinear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.body(torch.relu(self.block(torch.relu(self.stem(x))))))
        return self.head(self.drop(x.mean((2, 3))))


class Inputs(ModelSpace):
    """Which inputs are added: exactly one of three, two of three, any number of two."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.one = InputChoice(n_candidates=3, n_chosen=1, label="one")
        self.two = InputChoice(n_candidates=3, n_chosen=2, label="two")
        self.any = InputChoice(n_candidates=2, n_chosen=None, label="any")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [layer(x) for layer in self.layers]
        return self.one(found) + self.two(found) + self.any(found[:2])


class Odd(ModelSpace):
    """Values that are neither numbers nor text, a number on a scale, and heads that need not divide the width."""

    def __init__(self) -> None:
        super().__init__()
        kernel = self.add_mutable(nni.choice("kernel", [(3, 3), (1, 3)]))
        rate = self.add_mutable(Numerical(0.0, 0.5, label="rate"))
        heads = self.add_mutable(nni.choice("heads", [2, 3]))
        fixed = [nni.mutable.ensure_frozen(m) for m in (kernel, rate, heads)]
        self.kernel, self.rate, self.heads = fixed
        self.conv = nn.Conv2d(1, 8, self.kernel, padding=(self.kernel[0] // 2, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x)).mean((2, 3))
        return self.head(x.reshape(len(x), self.heads, 8 // self.heads).flatten(1))


class Colliding(ModelSpace):
    """One label for two different things."""

    def __init__(self) -> None:
        super().__init__()
        self.first = LayerChoice([nn.Linear(4, 4), nn.Identity()], label="same")
        self.second = LayerChoice([nn.Linear(4, 4), nn.Identity(), nn.ReLU()], label="same")


class Unlabelled(ModelSpace):
    """NNI wants a label."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Linear(4, 4), nn.Identity()])


class Many(ModelSpace):
    """More combinations than one choice can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.add_mutable(CategoricalMultiple(range(20), n_chosen=10, label="many"))


def images(channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Four kinds of pictures."""
    y = torch.arange(160) % 4
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(160, channels, 8, 8, generator=generator) + 0.3 * y[:, None, None, None]
    return x, y
