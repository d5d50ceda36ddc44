"""Who is better when there are several objectives: pure functions on arrays.

Everywhere `losses` has one row per candidate and one column per objective, shape (N, M), and smaller is
better; M may be 1. A row with a NaN or an infinity is a candidate that was not measured: it is worse than any
other row, and equal to its like. Points beyond a hypervolume's reference point add nothing to it.

Non-dominated sorting and hypervolumes are moocore's.
"""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def dominates(a: ArrayLike, b: ArrayLike) -> bool:
    """Whether the losses `a` (M,) are nowhere worse than `b` (M,) and somewhere better."""
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if not np.isfinite(first).all():
        return False
    return not np.isfinite(second).all() or bool((first <= second).all() and (first < second).any())


def front_mask(losses: ArrayLike) -> NDArray[np.bool_]:
    """Which rows no other row dominates, shape (N,); of equal rows only the first."""
    table, mask = _measured(losses)
    mask[mask] = np.asarray(moocore.is_nondominated(table[mask]), dtype=bool)
    return mask


def ranks(losses: ArrayLike) -> NDArray[np.int64]:
    """Rank of each row, shape (N,): 0 on the front, 1 on the front of the rest, and so on.

    Non-dominated sorting as in NSGA-II (Deb et al. 2002). Equal rows share a rank, unmeasured ones the last.
    """
    table, mask = _measured(losses)
    result = np.zeros(len(table), dtype=np.int64)
    result[mask] = np.asarray(moocore.pareto_rank(table[mask]), dtype=np.int64)
    result[~mask] = result[mask].max() + 1 if mask.any() else 0
    return result


def hypervolume(losses: ArrayLike, reference: ArrayLike) -> float:
    """Volume that the rows dominate up to the point `reference` (M,); 0.0 when there are none."""
    table, mask = _measured(losses)
    return (
        float(moocore.hypervolume(table[mask], ref=np.asarray(reference, dtype=float))) if mask.any() else 0.0
    )


def contributions(losses: ArrayLike, reference: ArrayLike) -> Floats:
    """What the hypervolume would lose without each row, shape (N,), once dominated rows are left out.

    Dominated rows and rows beyond `reference` (M,) contribute 0. Of equal rows the first has the contribution
    that it would have alone, the others 0: they are one candidate found twice.
    """
    table, _ = _measured(losses)
    result = np.zeros(len(table))
    keep = np.flatnonzero(front_mask(table))
    if keep.size:
        front = table[keep]
        bound = np.broadcast_to(np.asarray(reference, dtype=float), table.shape[1])
        if table.shape[1] == 1:  # a constant column changes no contribution, and moocore wants at least two
            front, bound = np.column_stack([front, np.zeros(keep.size)]), np.append(bound, 1.0)
        result[keep] = moocore.hv_contributions(front, ref=bound)
    return result


def reference_point(losses: ArrayLike) -> Floats:
    """A point (M,) a tenth of the spread beyond the worst of each column, so that every row contributes.

    With no measured row it is the origin. It moves as rows are added: compare volumes under one point only.
    """
    table, mask = _measured(losses)
    if not mask.any():
        return np.zeros(table.shape[1])
    worst, best = table[mask].max(axis=0), table[mask].min(axis=0)
    spread = worst - best
    return np.asarray(worst + 0.1 * np.where(spread > 0, spread, 1.0), dtype=float)


def knee(losses: ArrayLike) -> int:
    """Index of the best compromise: the row of the front nearest to the ideal point.

    Each column is scaled so that the front spans 0 to 1; ties go to the first.

    Raises:
        ValueError: no row was measured.
    """
    table, _ = _measured(losses)
    keep = np.flatnonzero(front_mask(table))
    if not keep.size:
        raise ValueError("losses: got no row with finite values, expected at least one")
    front = table[keep]
    spread = front.max(axis=0) - front.min(axis=0)
    scaled = (front - front.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    return int(keep[np.linalg.norm(scaled, axis=1).argmin()])


def order(losses: ArrayLike, violations: ArrayLike, reference: ArrayLike | None = None) -> NDArray[np.int64]:
    """Indices of all rows, best first: a total order, so that "the best third" has a meaning.

    Feasible rows come first, then the others by how much they violate (Deb's rule), then those not measured.
    Among rows that are equal in that, a lower rank comes first; within a rank, the row that contributes more
    hypervolume to it; then the earlier one.

    Args:
        losses: (N, M).
        violations: (N,), 0 or less where a candidate is feasible, or (N, C) with one column per constraint.
        reference: (M,) for the contributions; by default `reference_point` of the rows that are compared.
    """
    table, mask = _measured(losses)
    total = np.where(mask, _total(violations, len(table)), np.inf)
    rank = np.zeros(len(table), dtype=np.int64)
    share = np.zeros(len(table))
    # Only equally feasible rows are compared by their losses: an infeasible one dominates nobody.
    levels, counts = np.unique(total, return_counts=True)
    for level in levels[counts > 1]:
        rows = np.flatnonzero(total == level)
        rank[rows] = ranks(table[rows])
        bound = reference_point(table[rows]) if reference is None else reference
        for number in np.unique(rank[rows]):
            peers = rows[rank[rows] == number]
            share[peers] = contributions(table[peers], bound)
    return np.lexsort((np.arange(len(table)), -share, rank, total)).astype(np.int64)


def _measured(losses: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """`losses` as a table of floats, and which of its rows are finite throughout."""
    table = np.asarray(losses, dtype=float)
    if table.size == 0 and table.ndim < 2:
        table = table.reshape(0, 1)
    if table.ndim != 2:
        raise ValueError(f"losses: got an array of shape {table.shape}, expected (candidates, objectives)")
    return table, np.isfinite(table).all(axis=1)


def _total(violations: ArrayLike, count: int) -> Floats:
    """One violation per row: the sum of what is above 0, infinity for NaN."""
    given = np.asarray(violations, dtype=float).reshape(count, -1 if count else 1)
    return np.asarray(np.where(np.isnan(given), np.inf, given.clip(min=0.0)).sum(axis=1), dtype=float)
