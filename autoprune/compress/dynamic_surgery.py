"""Dynamic network surgery: connections are cut while training, and spliced back when they turn out to be needed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from autoprune.compress.sparsity import Hole, Renewal, cubic, zeros_in

# Around the magnitude that parts what stays from what goes: below the first a weight goes, above the second it
# comes back, in between nothing changes.
CUT, SPLICE = 0.9, 1.1


class DynamicSurgery:
    """Two thresholds decide on weights that go on learning while they are cut.

    The network computes with the masked weights; the gradients change all of them, also those that it does not
    see (Guo, Yao & Chen, "Dynamic network surgery for efficient DNNs", 2016, https://arxiv.org/abs/1608.04493,
    eq. 3 and 4). There the thresholds follow from mean and deviation of a layer; here from the sparsity that is
    wanted, which grows as in `agp` and is exact for the last quarter of the stretch. It costs a second copy of
    the weights; weights that are cut are forgotten at the end of a stretch.

    Args:
        weights: by name.
        holes: by the same names, as they are to be at the end.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], holes: Mapping[str, Hole]) -> None:
        self._weights, self._holes, self._renewal = dict(weights), holes, Renewal()
        self._start = {name: zeros_in(weight) for name, weight in weights.items()}
        self._dense = {name: weight.detach().clone() for name, weight in weights.items()}
        self._shown = {name: weight.detach().clone() for name, weight in weights.items()}
        self._masks = {name: weight.detach() == 0 for name, weight in weights.items()}

    @torch.no_grad()
    def step(self, step: int, total: int) -> None:
        """Let the unmasked weights take the step, decide where it is due, and show the network the masked ones."""
        share = self._renewal.share(step, total)
        for name, weight in self._weights.items():
            self._dense[name] += weight - self._shown[name]
            if share is not None:
                self._masks[name] = self._decided(name, share)
            weight.copy_(self._dense[name].masked_fill(self._masks[name], 0.0))
            self._shown[name].copy_(weight)

    def _decided(self, name: str, share: float) -> torch.Tensor:
        hole, magnitude = self._holes[name], self._dense[name].abs()
        if share >= 1.0:
            return hole.lowest(magnitude)
        wanted = cubic(share, min(self._start[name], hole.sparsity), hole.sparsity)
        lowest = hole.lowest(magnitude, wanted)
        between = magnitude[lowest].max() if bool(lowest.any()) else magnitude.new_zeros(())
        return (magnitude < CUT * between) | (self._masks[name] & (magnitude <= SPLICE * between))
