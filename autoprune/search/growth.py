"""What a result of a low rung is likely to become at the last one, learned from the trials that went on.

Hardly any compressed network is any good before it is trained, and a sampler that is shown results of different rungs
side by side takes stopped trials for bad ones. So it is shown each trial as it would stand at the last rung: rung by
rung the difference that training made is fitted to where a trial stood, by Bayesian ridge regression, which believes
in the same difference for all until the trials say otherwise.

Trials that went on were the best of their rung. Of a worse one nothing is claimed but the difference of the worst that
was seen: the fit is not extrapolated. Who goes on is decided by results of one rung, and by those as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEAST_PAIRS = 5  # trials with a result at a rung and at the next one, before anything is claimed
AGAIN = 1.1  # growth of the pairs after which the differences are fitted again


class Growth:
    """The differences that training makes to some metrics, between neighbouring rungs.

    Args:
        metrics: those that training changes.
        last_rung: index of the rung at which a trial has been trained in full.
    """

    def __init__(self, metrics: Sequence[str], last_rung: int) -> None:
        self._metrics, self._last_rung = tuple(metrics), last_rung
        self._results: list[dict[int, Mapping[str, float]]] = [{} for _ in range(last_rung + 1)]
        self._pairs = [0] * last_rung
        self._fitted = [0] * last_rung
        self._steps: list[dict[str, _Step]] = [{} for _ in range(last_rung)]

    def note(self, trial: int, rung: int, metrics: Mapping[str, float]) -> bool:
        """Enter a result; whether what is expected of other trials has changed by it."""
        if rung > self._last_rung:
            return False
        self._results[rung][trial] = metrics
        below = rung - 1
        if below < 0 or trial not in self._results[below]:
            return False
        self._pairs[below] += 1
        if self._pairs[below] < max(LEAST_PAIRS, AGAIN * self._fitted[below]):
            return False
        self._fitted[below] = self._pairs[below]
        lower, upper = self._results[below], self._results[rung]
        both = [(lower[one], upper[one]) for one in lower if one in upper]
        self._steps[below] = {
            name: _Step(*np.array([(before[name], after[name]) for before, after in both]).T)
            for name in self._metrics
        }
        return True

    def expected(self, rung: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics of a trial, those that training changes as they are expected at the last rung."""
        found = dict(metrics)
        for steps in self._steps[max(rung, 0) :]:
            for name, step in steps.items():
                found[name] = step.after(found[name])
        return found


class _Step:
    """One metric from one rung to the next.

    Args:
        before: at the lower rung, (N,).
        after: of the same trials at the next one, (N,).
    """

    def __init__(self, before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> None:
        from sklearn.linear_model import BayesianRidge

        self._low, self._high = float(before.min()), float(before.max())
        # On the scale of the values, for the regression's priors are on no scale in particular.
        self._middle, self._unit = float(before.mean()), float(np.std([*before, *after])) or 1.0
        found = BayesianRidge().fit(
            (before - self._middle)[:, None] / self._unit, (after - before) / self._unit
        )
        # All trials of a search ask again and again, and its `predict` takes a millisecond for one value.
        self._slope, self._offset = float(found.coef_[0]), float(found.intercept_) * self._unit

    def after(self, value: float) -> float:
        """What a value at the lower rung should become."""
        known = min(max(value, self._low), self._high)
        return value + self._offset + self._slope * (known - self._middle)
