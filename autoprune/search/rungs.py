"""When a trial is stopped: asynchronous successive halving with several objectives, as pure functions.

Every trial is evaluated at the cheapest rung. Whenever a worker is free, the best 1/`reduction` of the
results of a rung that have not gone on yet do, highest rung first; only when none is left is a new trial
begun (ASHA, "A System for Massively Parallel Hyperparameter Tuning", Li et al. 2020, algorithm 2). Nobody
waits for a rung to fill. "Best" is the total order of `pareto.order`: feasibility, then rank, then
hypervolume.

A trial is not stopped for good: as results come in, a share of them grows, and it may yet go on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoprune.pareto import order

AGAIN = 50  # an order of so many results is worth another one when there is one more


class Result(NamedTuple):
    """What is known of a trial at a rung.

    Attributes:
        losses: one number per objective, smaller is better.
        violations: one number per goal of the study, 0 or less where it is met.
    """

    losses: Sequence[float]
    violations: Sequence[float]


def next_promotion(
    rungs: Sequence[Mapping[int, Result]],
    promoted: Sequence[Collection[int]],
    reduction: int,
    *,
    orders: Orders | None = None,
    at_least: int = 0,
) -> tuple[int, int] | None:
    """The next trial to go on, and the rung to evaluate it at; None when no trial may.

    Args:
        rungs: for each rung but the last, trial -> result, in the order in which trials began; empty where none may go
            on.
        promoted: for each of them, the trials that have gone on.
        reduction: of so many results one goes on.
        orders: of the rungs, where they were asked for before.
        at_least: how many go on from each rung that has results, however few those are.
    """
    orders = orders or Orders()
    for rung in range(len(rungs) - 1, -1, -1):
        results = rungs[rung]
        if not results:  # or none that may go on now, whatever is remembered of it
            continue
        order = orders.best_first(rung, results, anew=at_least > 0)
        trial = orders.first_left(rung, max(at_least, len(order) // reduction), promoted[rung])
        if trial is not None:
            return trial, rung + 1
    return None


class Orders:
    """The trials of each rung, best first, remembered until there are more: every free worker of a turn asks anew.

    Ordering takes longer the more results there are. From fifty on, an order holds until there are a fiftieth more of
    them, so that all the orders of a search together take no longer than some fifty of the last one.

    Args:
        improvable: for each constraint, whether training may yet meet it; see `relaxed`.
    """

    def __init__(self, improvable: Sequence[bool] = ()) -> None:
        self._improvable = improvable
        self._known: dict[int, list[int]] = {}
        # Rung -> how many of its order, from the best on, are known to have gone on.
        self._passed: dict[int, int] = {}

    def best_first(self, rung: int, results: Mapping[int, Result], *, anew: bool = False) -> list[int]:
        """The trials of a rung that is not the last; a trial has one result there, which stays what it is.

        Args:
            rung: which one.
            results: of its trials.
            anew: leave none of them out.
        """
        more = len(results) - len(self._known.setdefault(rung, []))
        if more and (anew or AGAIN * more >= len(results)):
            self._known[rung], self._passed[rung] = best_first(results, self._improvable), 0
        return self._known[rung]

    def first_left(self, rung: int, count: int, promoted: Collection[int]) -> int | None:
        """The best of the first `count` in the order of a rung that has not gone on; who has, has for good."""
        order, place = self._known[rung][:count], self._passed.get(rung, 0)
        while place < len(order) and order[place] in promoted:
            place += 1
        self._passed[rung] = place
        return order[place] if place < len(order) else None


def best_first(results: Mapping[int, Result], improvable: Sequence[bool] = ()) -> list[int]:
    """The trials of a rung that is not the last, best first."""
    if not results:
        return []
    trials = list(results)
    losses = np.array([results[trial].losses for trial in trials], dtype=float)
    violations = np.array([results[trial].violations for trial in trials], dtype=float)
    return [trials[i] for i in order(losses, relaxed(violations.reshape(len(trials), -1), improvable))]


def relaxed(violations: NDArray[np.float64], improvable: Sequence[bool]) -> NDArray[np.float64]:
    """Violations (N, C), those that training may mend counted from what the better half of the trials reach.

    Before it is trained hardly any compressed network is as accurate as it has to be in the end. Held to
    the limit itself, the least compressed would always go on, and the others never show what training makes
    of them.
    """
    if not violations.size or not any(improvable):
        return violations
    middle = np.quantile(violations, 0.5, axis=0, method="lower")
    allowed = np.where(np.asarray(improvable), np.maximum(middle, 0.0), 0.0)
    return np.asarray(violations - allowed, dtype=float)
