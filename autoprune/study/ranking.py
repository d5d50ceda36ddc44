"""Which trials of a study are best: its front, its best trial, its hypervolume. Pure functions of trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from autoprune.constraint import Constraint, Direction, Objective, goals, total_violation
from autoprune.errors import SearchFailed, SpecError
from autoprune.pareto import front_mask, hypervolume, knee
from autoprune.references import nearest
from autoprune.study.trial import Trial

Floats = NDArray[np.float64]

SMALLER_IS_BETTER = ("latency_ms", "size_bytes")


def losses_of(metrics: Iterable[Mapping[str, float]], objectives: Sequence[Objective]) -> Floats:
    """Losses (N, M), NaN where a metric is missing."""
    rows = [[o.loss(one.get(o.metric, np.nan)) for o in objectives] for one in metrics]
    return np.asarray(rows, dtype=float).reshape(len(rows), len(objectives))


def front_of(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The trials that no other one dominates, sorted by the first objective, best first.

    Of those that are alike in all objectives it has one: the fastest, then the smallest.
    """
    losses = losses_of([trial.metrics for trial in trials], objectives)
    if not len(losses):
        return []
    order = _best_first(trials, losses)
    losses = losses[order]
    return [trials[i] for i in order[front_mask(losses) & np.isfinite(losses).all(axis=1)]]


def _best_first(trials: Sequence[Trial], losses: Floats) -> NDArray[np.int64]:
    """The places of trials in the order of their losses (N, M), of those alike the fastest, then the smallest first."""
    others = [[trial.metrics.get(metric, np.inf) for trial in trials] for metric in SMALLER_IS_BETTER]
    return np.lexsort([*others[::-1], *losses.T[::-1]])


def confirmed(front: Sequence[Trial]) -> list[Trial]:
    """Of a front the trials that were re-validated, and those trained on beside them; none where none is re-validated.

    Args:
        front: trials of which none dominates another.
    """
    if not any(trial.is_revalidated for trial in front):
        return []
    return [trial for trial in front if trial.is_revalidated or trial.is_trained_on]


def volume_of(
    losses: Floats,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    baseline: Mapping[str, float],
) -> float:
    """Hypervolume of feasible losses (N, M), in shares of the baseline; comparable under one spec.

    The reference point is where an objective is as bad as its own constraint allows, and without one a
    tenth worse than the uncompressed baseline. Gains are measured from there, in units of the baseline's
    metric.
    """
    base = np.array([o.loss(baseline[o.metric]) for o in objectives])
    scale = np.where(base == 0, 1.0, np.abs(base))
    limits = goals(objectives, constraints, baseline)
    worst = [
        min(
            (o.loss(c.limit(baseline)) for c in limits if (c.metric, c.operator) == (o.metric, o.bound)),
            default=np.nan,
        )
        for o in objectives
    ]
    return hypervolume(losses / scale, worst / scale) if len(losses) else 0.0


def best_of(
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    baseline: Mapping[str, float],
    ranked_by: Objective | None,
) -> Trial:
    """The best trial among those that meet the constraints.

    Args:
        trials: with a result each.
        objectives: of the study.
        constraints: what the trial must meet.
        baseline: what relative constraints refer to.
        ranked_by: the metric that decides; None takes the knee of the front, the best compromise.

    Raises:
        SearchFailed: no trial meets the constraints; names the one that comes closest.
        SpecError: nothing measures a metric that is constrained or ranked by.
    """
    if not trials:
        raise SearchFailed("there is no finished trial to choose from")
    known = sorted({name for trial in trials for name in trial.metrics})
    wanted = [("where", constraint.metric) for constraint in constraints]
    wanted += [] if ranked_by is None else [(ranked_by.direction, ranked_by.metric)]
    if unknown := [(field, metric) for field, metric in wanted if metric not in known]:
        raise SpecError(
            f"{field}: got {metric!r}, expected one of {', '.join(known)}{nearest(metric, known)}"
            for field, metric in unknown
        )
    violations = [total_violation(constraints, trial.metrics, baseline) for trial in trials]
    fitting = [trial for trial, violation in zip(trials, violations, strict=True) if violation <= 0]
    if not fitting:
        raise SearchFailed(_closest(trials, violations, constraints, baseline))
    losses = losses_of([trial.metrics for trial in fitting], objectives)
    if ranked_by is None:
        order = _best_first(fitting, losses)
        return fitting[int(order[knee(losses[order])])]
    first = losses_of([trial.metrics for trial in fitting], [ranked_by])
    return fitting[int(_best_first(fitting, np.hstack([first, losses]))[0])]


def _closest(
    trials: Sequence[Trial],
    violations: Sequence[float],
    constraints: Sequence[Constraint],
    baseline: Mapping[str, float],
) -> str:
    trial = trials[int(np.argmin(violations))]
    broken = [c for c in constraints if not c.is_met(trial.metrics, baseline)]
    listed = ", ".join(f"{c} (it has {trial.metrics.get(c.metric, float('nan')):.6g})" for c in broken)
    return (
        f"none of {len(trials)} trials meets {', '.join(map(str, constraints))}; "
        f"trial {trial.number} comes closest but breaks {listed}; loosen that, or search longer"
    )


def worth_keeping(
    trials: Sequence[Trial], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> set[int]:
    """Numbers of the trials that may still be asked for: the best in any mix of what anyone may want of them.

    That is the front over objectives, constrained metrics, latency and size together, feasible or not.
    """
    wanted = {o.metric: o for o in objectives}
    for constraint in constraints:
        direction: Direction = "minimize" if constraint.operator == "<=" else "maximize"
        wanted.setdefault(constraint.metric, Objective(constraint.metric, direction))
    for metric in SMALLER_IS_BETTER:
        if any(metric in trial.metrics for trial in trials):
            wanted.setdefault(metric, Objective(metric, "minimize"))
    return {trial.number for trial in front_of(trials, list(wanted.values()))}
