"""Criteria that look at the weights alone: the larger those that make a unit, the more it matters."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.compress.criteria.units import Evidence, Score, balanced, written
from autoprune.structure import Group


def l1(evidence: Evidence) -> Score:
    """Sum of the absolute weights that make a unit (Li et al. 2017, https://arxiv.org/abs/1608.08710)."""
    return lambda group: absolute_weights(group, evidence.model)


def absolute_weights(group: Group, model: nn.Module) -> torch.Tensor:
    """`l1` of one group, which every group has: other criteria fall back to it."""
    return balanced([rows.abs().sum(1) for rows in written(group, model)])


def l2(evidence: Evidence) -> Score:
    """Euclidean norm of the weights that make a unit (He et al. 2018, https://arxiv.org/abs/1808.06866)."""
    return lambda group: balanced([rows.norm(dim=1) for rows in written(group, evidence.model)])


def lamp(evidence: Evidence) -> Score:
    """Squared norm of a unit, relative to those of its layer that are at least as large (see `survivors_share`).

    Of one layer's units it makes the order of `l2`; what it adds is that scores of different layers compare. So they
    are averaged as they are where several layers write a group.
    """

    def scores(group: Group) -> torch.Tensor:
        layers = [survivors_share(rows.square().sum(1)) for rows in written(group, evidence.model)]
        return torch.stack(layers).mean(0)

    return scores


def survivors_share(squares: torch.Tensor) -> torch.Tensor:
    """Each value divided by the sum of all that go no sooner, itself included; of equals the first go first.

    The layer-adaptive magnitude-based pruning score of squared weights (Lee et al. 2021,
    https://arxiv.org/abs/2010.07611, eq. 3). The largest value of every layer scores 1, so that no layer is emptied
    before all others are. Returns float32 in the shape of `squares`.
    """
    order = torch.argsort(squares.reshape(-1), stable=True)
    ascending = squares.reshape(-1)[order].double()
    rest = ascending.flip(0).cumsum(0).flip(0)
    shares = torch.empty_like(ascending)
    shares[order] = ascending / rest.clamp_min(torch.finfo(torch.float64).tiny)
    return shares.float().view(squares.shape).cpu()
