"""Single weights that are to be zero: chosen by a score, a share of its own in each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from autoprune.compress.gradual import Way
from autoprune.compress.sparsity import Hole

ScoreOf = Callable[[nn.Module], Mapping[str, torch.Tensor]]


class ZeroedWeights:
    """The weights that go of each layer; those that score lowest among what is left go next.

    Args:
        network: changed in place.
        weights: of it, by name.
        holes: by the same names, as they are to be at the end; on the way a pattern loses no more than it will.
        score: one for each value of each weight of a network, by the same names; the lowest go.
    """

    def __init__(
        self,
        network: nn.Module,
        weights: Mapping[str, nn.Parameter],
        holes: Mapping[str, Hole],
        score: ScoreOf,
    ) -> None:
        self.network = network
        self.chosen: dict[str, torch.Tensor] = {}
        self._weights, self._holes, self._score = dict(weights), dict(holes), score

    def choose(self, way: Way) -> None:
        """Choose what goes by now of each layer."""
        scores = self._score(self.network)
        self.chosen = {layer: self._gone(layer, scores[layer], way) for layer in self._holes}

    def _gone(self, layer: str, scores: torch.Tensor, way: Way) -> torch.Tensor:
        if layer in self.chosen:
            scores = scores.float().masked_fill(self.chosen[layer], -torch.inf)
        hole = self._holes[layer]
        ends = hole.lowest(scores)
        return hole.lowest(scores.masked_fill(~ends, torch.inf), way(hole.sparsity))

    @torch.no_grad()
    def zero(self) -> None:
        """Zero them in the network, on whichever device it is."""
        for layer, goes in self.chosen.items():
            weight = self._weights[layer]
            weight.masked_fill_(goes.to(weight.device), 0.0)
