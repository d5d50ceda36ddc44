"""Self-distillation: the average of a network's own recent weights teaches it (mean teacher).

Tarvainen & Valpola 2017, https://arxiv.org/abs/1703.01780. The average is steadier than the weights of any one step,
and less sure of labels that are wrong. It needs no other network, and works for any candidate, also where the
uncompressed one is no better. It costs a copy of the network and a pass of it in each step: what a teacher of the
candidate's own size costs.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from autoprune.tensors import Inputs, call

DECAY = 0.95
RAMP = 5.0


class MeanTeacher:
    """The moving average of the weights of `trained`, asked in eval mode.

    The average follows quickly: after `n` steps the newest weights count 1/n, and never less than `1 - DECAY` (theirs
    is 0.999, for stretches a hundred times as long). Buffers, such as the statistics of BatchNorm, are those of
    `trained`.

    Args:
        trained: the network in training; it is copied when first asked for, on the device where it is by then.
        steps: of an epoch, over which the weight of what it says grows to its full size, or longer (see `lasts`).
    """

    def __init__(self, trained: nn.Module, steps: int) -> None:
        self._trained, self._ramp = trained, max(1, steps)
        self._mean: nn.Module | None = None
        self._steps = 0

    def lasts(self, steps: int) -> None:
        """The stretch has so many steps: what it says has its full weight after half of them, if that is later."""
        self._ramp = max(self._ramp, steps // 2)

    @property
    def trust(self) -> float:
        """How much of its weight it has by now, from nearly 0 to 1: a network that knows nothing teaches nothing."""
        return math.exp(-RAMP * (1.0 - min(1.0, self._steps / self._ramp)) ** 2)

    @torch.no_grad()
    def __call__(self, inputs: Inputs) -> Any:
        """What the average says, with the weights as they are now taken into it: asked once in each step."""
        if self._mean is None:
            self._mean = copy.deepcopy(self._trained).eval().requires_grad_(False)
        self._steps += 1
        share = max(1.0 / self._steps, 1.0 - DECAY)
        for mean, weight in zip(self._mean.parameters(), self._trained.parameters(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(weight, share)
        for kept, buffer in zip(self._mean.buffers(), self._trained.buffers(), strict=True):
            kept.copy_(buffer)
        return call(self._mean, inputs)
