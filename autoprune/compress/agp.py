"""Automated gradual pruning: the sparsity grows during training, so that the network recovers as it shrinks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from autoprune.compress.gradual import SHAPING, Zeros, whole
from autoprune.compress.sparsity import RENEWALS, Hole, Renewal, beside, cubic, zeros_in
from autoprune.compress.technique import Recovery


class GradualPruning:
    """Every few steps the weights of least magnitude go, along a cubic ramp over three quarters of the stretch.

    What went is zero and stays behind, for zero is the least magnitude (Zhu & Gupta, "To prune, or not to prune",
    2017, https://arxiv.org/abs/1710.01878). A stretch that starts with all its zeros keeps them.

    Args:
        weights: by name.
        holes: by the same names, as they are to be at the end.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], holes: Mapping[str, Hole]) -> None:
        self._weights, self._holes, self._renewal = dict(weights), holes, Renewal()
        self._start = {name: zeros_in(weight) for name, weight in weights.items()}
        self._masks = {name: weight.detach() == 0 for name, weight in weights.items()}

    @torch.no_grad()
    def step(self, step: int, total: int) -> None:
        """Grow the masks where they are due, and zero what they cover."""
        beside(self._weights, self._masks)
        share = self._renewal.share(step, total)
        for name, weight in self._weights.items():
            if share is not None:
                hole = self._holes[name]
                wanted = cubic(share, min(self._start[name], hole.sparsity), hole.sparsity)
                magnitude = weight.abs().masked_fill_(self._masks[name], 0.0)
                self._masks[name] = hole.lowest(magnitude, wanted if share < 1.0 else None)
            weight.masked_fill_(self._masks[name], 0.0)


def ramp_up(zeros: Zeros, recovery: Recovery, times: int = RENEWALS) -> None:
    """Zero more and more of what is to go while training, along the same ramp over the first half of the stretch.

    What is left is scored anew each time; what went stays zero. It is for units, which are then cut out, so that the
    second half trains what is left of the network.

    Args:
        zeros: what goes; afterwards all of it is chosen and zero.
        recovery: the training.
        times: how often it is chosen anew, about: each time costs a scoring.
    """
    renewal = Renewal(ramp=1.0, times=times)

    def on_step(step: int, total: int) -> None:
        share = renewal.share(step, total)
        if share is not None:
            zeros.choose(lambda final: cubic(share, 0.0, final))
        zeros.zero()

    recovery.train(zeros.network, SHAPING, on_step)
    if not renewal.is_final:  # the training was ended early, by time
        zeros.choose(whole)
        zeros.zero()
