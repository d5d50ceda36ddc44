"""Zeros inside a weight: which shape they have, which weights they take, and when they are chosen anew in training.

A `Hole` says how many zeros and in which pattern; whoever has scores gets a mask from it. Schedules (`agp`,
`dynamic_surgery`, `movement`) differ in what they score and in whether a weight that went can come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

UNSTRUCTURED = "unstructured"
# Masks are chosen anew about so often at most in a stretch of training, and are fixed for its last quarter.
RENEWALS = 50
RAMP = 0.75


@dataclass(frozen=True)
class Hole:
    """The zeros that a weight is to have.

    Attributes:
        sparsity: share of its values, from 0 up to but not including 1; rounded so that one stays at least.
        pattern: `unstructured`, or `N:M`: of M values in a row along the axis that is read, N stay.
        axis: of the weight: the one along which it is multiplied with inputs; only `N:M` looks at it.
    """

    sparsity: float
    pattern: str = UNSTRUCTURED
    axis: int = 1

    def lowest(self, scores: torch.Tensor, sparsity: float | None = None) -> torch.Tensor:
        """True where a value is to go: the lowest scores, and of equals the first.

        Args:
            scores: one for each value of the weight, in its shape.
            sparsity: on the way to the full sparsity, which is taken where None; there is no pattern yet then.
        """
        if self.pattern != UNSTRUCTURED and (sparsity is None or sparsity >= self.sparsity):
            return self._lowest_of_each(scores)
        share = self.sparsity if sparsity is None else sparsity
        count = min(round(share * scores.numel()), scores.numel() - 1)
        goes = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
        goes[torch.argsort(scores.reshape(-1), stable=True)[:count]] = True
        return goes.view(scores.shape)

    def _lowest_of_each(self, scores: torch.Tensor) -> torch.Tensor:
        stay, of = stays_of(self.pattern)
        rows = scores.movedim(self.axis, -1)
        blocks = rows.reshape(*rows.shape[:-1], -1, of)
        ranks = blocks.argsort(dim=-1, stable=True).argsort(dim=-1)
        return (ranks < of - stay).reshape(rows.shape).movedim(-1, self.axis)


def stays_of(pattern: str) -> tuple[int, int]:
    """N and M of `N:M`."""
    stay, _, of = pattern.partition(":")
    return int(stay), int(of)


class Schedule(Protocol):
    """When the zeros of a network are chosen, in one stretch of training."""

    def step(self, step: int, total: int) -> None:
        """Look at the weights after optimizer step `step` (from 1) of `total`, and zero what is to be zero."""
        ...


class Renewal:
    """At which steps of a stretch masks are chosen anew, and how far the sparsity is to be by then.

    Args:
        ramp: the share of the stretch at which the end is reached.
        times: how often masks are chosen anew on the way there, about.
    """

    def __init__(self, ramp: float = RAMP, times: int = RENEWALS) -> None:
        self._ramp, self._times = ramp, times
        self.is_final = False

    def share(self, step: int, total: int) -> float | None:
        """How much of the ramp is behind us, 1 at its end, where a mask is due; None where the old one holds.

        The end is never left out, however few steps are reported.
        """
        end = max(1, round(self._ramp * total))
        if self.is_final or (step < end and step % max(1, end // self._times)):
            return None
        self.is_final = step >= end
        return min(1.0, step / end)


def cubic(share: float, start: float, final: float) -> float:
    """The sparsity after `share` of the ramp: fast while much is redundant, slow at the end.

    Zhu & Gupta, "To prune, or not to prune", 2017, https://arxiv.org/abs/1710.01878, eq. 1.
    """
    return final + (start - final) * (1.0 - share) ** 3


def beside(weights: Mapping[str, torch.Tensor], *kept: dict[str, torch.Tensor]) -> None:
    """Move what a schedule keeps of each weight to where that is: it goes to its device once training begins."""
    for tensors in kept:
        for name, weight in weights.items():
            tensors[name] = tensors[name].to(weight.device)


def zeros_in(weight: torch.Tensor) -> float:
    """The share of values that are zero."""
    return 1.0 - float(weight.detach().count_nonzero()) / weight.numel()


class Fixed:
    """`one_shot`: what is zero stays zero.

    Args:
        weights: by name; each already has its zeros, or gets them at the first step.
        holes: by the same names.
        masks: by the same names, of those where it is known what goes; of the others the lowest magnitudes do. A weight
            that was rewound to zero and one that is to stay zero look alike.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        holes: Mapping[str, Hole],
        masks: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        known = masks or {}
        self._masks = [
            (weight, known[name] if name in known else holes[name].lowest(weight.detach().abs()))
            for name, weight in weights.items()
        ]

    @torch.no_grad()
    def step(self, step: int, total: int) -> None:  # noqa: ARG002 - the signature of a schedule
        """Zero what was trained away from zero."""
        for weight, goes in self._masks:
            weight.masked_fill_(goes.to(weight.device), 0.0)
