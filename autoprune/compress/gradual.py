"""What schedules that train in between have in common: what they make smaller, on which way, and how they look back.

`iterative`, `lottery_ticket` and `agp` know nothing of channels or weights: they work on whatever is chosen, zeroed and
kept zero (`Zeros`), which are the units of coupled groups (`zeroed_units`) or single weights (`zeroed_weights`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

Way = Callable[[float], float]
"""The share that is to be gone at the end -> the share that is gone now."""


# Share of a stretch in which a network is shaped; in the rest, what came of it is trained. Digits, a perceptron, four
# seeds: at 97 % zeros iterative reaches 79.0 %, with three quarters 76.8 (one shot 70.4); at a tenth of the units 89.1
# and 82.6 (89.6), and gradual pruning 89.1 and 85.5.
SHAPING = 0.5


@dataclass(frozen=True)
class Gradual:
    """How a network becomes smaller in several rounds.

    Attributes:
        steps: of `iterative`: how many rounds of pruning and recovery.
        guard: of `iterative`: by how much the first metric may fall below the dense network's, in its own unit; None
            lets it fall.
        rounds: of `lottery_ticket`: how often the weights are pruned and rewound.
        rewind: of `lottery_ticket`: share of the stretch that is trained before what is rewound to; 0 rewinds to the
            weights before any training.
        compare: of `lottery_ticket`: train the same mask from other initial weights, too, and record what it reaches.
    """

    steps: int = 3
    guard: float | None = None
    rounds: int = 3
    rewind: float = 0.0
    compare: bool = False


class Zeros(Protocol):
    """What is to go of a network, zero until then.

    Attributes:
        network: changed in place.
        chosen: what goes by now; replaced by `choose`, never changed, so that whoever keeps it can go back.
    """

    network: nn.Module
    chosen: Any

    def choose(self, way: Way) -> None:
        """Choose what goes by now, from the network as it is; what went before stays chosen. Changes no weight."""
        ...

    def zero(self) -> None:
        """Zero all that is chosen."""
        ...


def whole(share: float) -> float:
    """The end of every way."""
    return share


def alike(done: float) -> Way:
    """The way on which each round takes the same share of what is left, after `done` of its rounds (0 to 1).

    Han et al., "Learning both weights and connections", 2015, https://arxiv.org/abs/1506.02626, and Frankle & Carbin
    2019, https://arxiv.org/abs/1803.03635, prune in this way.
    """
    return whole if done >= 1.0 else lambda share: 1.0 - (1.0 - share) ** done


def copied(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict that further training does not reach."""
    return {name: tensor.detach().clone() for name, tensor in weights.items()}
