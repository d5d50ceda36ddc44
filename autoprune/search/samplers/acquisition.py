"""What a point is worth trying for: the hypervolume that it can be expected to add."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from autoprune.pareto import Floats, front_mask

WEIGHTS = 96  # directions in which more than two objectives are looked at
DRAWS = 12  # of a candidate's objectives, for each direction


def expected_gain(means: Floats, deviations: Floats, losses: Floats, reference: Floats, seed: int) -> Floats:
    """Expected gain of hypervolume for each candidate, shape (N,).

    Exact for one and two objectives; for more an estimate by random scalarizations (Golovin and Zhang,
    "Random Hypervolume Scalarizations", 2020).

    Args:
        means: of the losses, (N, M); objectives are independent normal variables.
        deviations: their standard deviations, (N, M).
        losses: what was found already, (K, M); K may be 0.
        reference: where hypervolume ends, (M,).
        seed: of the estimate.
    """
    inside = losses[(losses < reference).all(axis=1)]
    front = inside[front_mask(inside)] if len(inside) else inside
    if means.shape[1] == 1:
        best = front.min() if len(front) else reference[0]
        return _below(best, means[:, 0], deviations[:, 0])
    if means.shape[1] == 2:
        return _two(means, deviations, front[np.argsort(front[:, 0])], reference)
    return _many(means, deviations, front, reference, np.random.default_rng(seed))


def _below(limit: float | Floats, mean: Floats, deviation: Floats) -> Floats:
    """E[max(0, limit - X)] of a normal X."""
    z = (limit - mean) / deviation
    return np.asarray((limit - mean) * ndtr(z) + deviation * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))


def _two(means: Floats, deviations: Floats, front: Floats, reference: Floats) -> Floats:
    """Sum over the strips between neighbours of the front: expected width times expected height."""
    edges = np.concatenate([front[:, 0], reference[:1]])
    heights = np.concatenate([reference[1:], front[:, 1]])
    widths = np.diff(_below(edges, means[:, :1], deviations[:, :1]), axis=1, prepend=0.0)
    return np.asarray((widths * _below(heights, means[:, 1:], deviations[:, 1:])).sum(axis=1))


def _many(
    means: Floats, deviations: Floats, front: Floats, reference: Floats, generator: np.random.Generator
) -> Floats:
    """Mean over directions and draws of how far a candidate goes beyond the front, as a volume."""
    objectives = means.shape[1]
    directions = np.abs(generator.normal(size=(WEIGHTS, objectives)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    reached = _reach(front, reference, directions).max(axis=0, initial=0.0)
    gain = np.zeros(len(means))
    for draw in generator.normal(size=(DRAWS, objectives)):
        reach = _reach(means + draw * deviations, reference, directions)
        gain += (reach - reached).clip(min=0.0).mean(axis=1)
    return gain / DRAWS


def _reach(losses: Floats, reference: Floats, directions: Floats) -> NDArray[np.float64]:
    """How far rows (N, M) reach from the reference in each direction, as a volume: (N, D)."""
    scaled = (reference - losses)[:, None, :] / directions[None].clip(1e-6)
    return np.asarray(scaled.min(axis=2).clip(0.0) ** losses.shape[1])
