"""Movement pruning: weights that training pulls to zero go, whatever their size, which suits fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from autoprune.compress.sparsity import Hole, Renewal, beside, cubic, zeros_in


class Movement:
    """A weight's score is how far it was pushed away from zero: the sum of `-weight * gradient` over all steps.

    Magnitudes of a pretrained network tell what its pretraining needed; movement tells what the new task needs
    (Sanh, Wolf & Rush, "Movement pruning: adaptive sparsity by fine-tuning", 2020,
    https://arxiv.org/abs/2005.07683, eq. 4 and 6, the hard variant with a share of its own for each weight). The
    gradient reaches scores of weights that are masked too, so that within a stretch they can come back with the
    value they had. The sparsity grows as in `agp`. It costs two more copies of the weights.

    Args:
        weights: by name. Without gradients on them at a step (training by other means) magnitudes decide.
        holes: by the same names, as they are to be at the end.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], holes: Mapping[str, Hole]) -> None:
        self._weights, self._holes, self._renewal = dict(weights), holes, Renewal()
        self._start = {name: zeros_in(weight) for name, weight in weights.items()}
        self._dense = {name: weight.detach().clone() for name, weight in weights.items()}
        self._masks = {name: weight.detach() == 0 for name, weight in weights.items()}
        # What is zero from the start has no value to come back with.
        self._scores = {
            name: torch.zeros_like(weight.detach()).masked_fill_(self._masks[name], -torch.inf)
            for name, weight in weights.items()
        }

    @torch.no_grad()
    def step(self, step: int, total: int) -> None:
        """Add up the movement, choose where it is due, and zero what is masked."""
        beside(self._weights, self._dense, self._masks, self._scores)
        share = self._renewal.share(step, total)
        for name, weight in self._weights.items():
            if weight.grad is not None:
                self._scores[name] -= self._dense[name] * weight.grad
            self._dense[name] = torch.where(self._masks[name], self._dense[name], weight)
            if share is not None:
                self._masks[name] = self._chosen(name, share)
            weight.copy_(self._dense[name].masked_fill(self._masks[name], 0.0))

    def _chosen(self, name: str, share: float) -> torch.Tensor:
        hole, scores = self._holes[name], self._scores[name]
        if not bool(scores[scores > -torch.inf].any()):
            scores = self._dense[name].abs()
        wanted = cubic(share, min(self._start[name], hole.sparsity), hole.sparsity)
        return hole.lowest(scores, wanted if share < 1.0 else None)
