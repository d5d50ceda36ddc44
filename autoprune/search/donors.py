"""Which finished trial a new one starts from, in place of the uncompressed reference (`search.inherit`).

A donor has the same architecture and is no farther from the new trial, by what both have lost, than the reference is:
then its weights can be taken over, unit by unit (`autoprune.inheritance`). It has been trained in its compressed form,
which the reference never was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from autoprune.pareto import Floats
from autoprune.record import Donor, Evaluation
from autoprune.space import ARCHITECTURE, Value
from autoprune.study import Study

WHOLE = ".drop"  # end of the choices of what goes as a whole, and cannot be added to a donor
LOST = (".ratio", WHOLE)  # ends of the choices of how much is gone
ROUNDING = 1e-9
ALIKE = 0.1  # of what there is to lose: donors are told apart by steps of this, then by their training


class Donors:
    """The trained trials of a study, by their architecture.

    Args:
        study: has their weights, as far as they were good.
    """

    def __init__(self, study: Study) -> None:
        self._study, self._epochs = study, study.spec.rung_epochs
        self._lost = [name for name in study.space if name.endswith(LOST)]
        self._architecture = [name for name in study.space if name.startswith(ARCHITECTURE)]
        whole = np.array([name.endswith(WHOLE) for name in self._lost], dtype=bool)
        self._kin: defaultdict[tuple[Value, ...], _Kin] = defaultdict(lambda: _Kin(whole))

    def note(self, evaluation: Evaluation) -> None:
        """Enter a finished evaluation, from which others may start if anything was trained."""
        rung = evaluation.rung
        if rung < len(self._epochs) and self._epochs[rung] > self._epochs[0]:
            choices = evaluation.choices
            self._kin[self._family(choices)].enter(evaluation.trial, rung, self._row(choices))

    def nearest(self, point: Mapping[str, Value]) -> Donor | None:
        """The trial nearest to `point`, with its weights; None where the reference is the nearer start.

        The nearest is the one with the least difference in what is lost, in steps of `ALIKE`; among those alike the one
        trained longest, then the nearest, then the first.
        """
        kin = self._kin.get(self._family(point))
        if kin is None:
            return None
        for trial, rung in kin.nearest_first(self._row(point)):
            weights = self._study.load_checkpoint(trial, rung)
            if weights is not None:
                return Donor(trial, rung, weights)
            kin.forget(trial)
        return None

    def _family(self, point: Mapping[str, Value]) -> tuple[Value, ...]:
        return tuple(point[name] for name in self._architecture)

    def _row(self, point: Mapping[str, Value]) -> Floats:
        """How much a point loses in each place, (L,)."""
        return np.array([point[name] for name in self._lost], dtype=float)


class _Kin:
    """Trials of one architecture; there may be tens of thousands.

    Args:
        whole: which of the places in which each has lost something are lost as a whole.
    """

    def __init__(self, whole: NDArray[np.bool_]) -> None:
        self._whole = whole
        self._rows = np.zeros((8, len(whole)))
        self._rungs = np.full(8, -1)  # -1: none, or its weights are gone
        self._trials: dict[int, int] = {}  # trial -> row

    def enter(self, trial: int, rung: int, row: Floats) -> None:
        """Enter a trial, or that it was trained on."""
        place = self._trials.setdefault(trial, len(self._trials))
        if place == len(self._rungs):
            self._rows = np.vstack([self._rows, np.zeros_like(self._rows)])
            self._rungs = np.concatenate([self._rungs, np.full_like(self._rungs, -1)])
        self._rows[place], self._rungs[place] = row, rung

    def forget(self, trial: int) -> None:
        """Its weights are gone."""
        self._rungs[self._trials[trial]] = -1

    def nearest_first(self, row: Floats) -> list[tuple[int, int]]:
        """The trials, each with its rung, that are no farther from `row` (L,) than what has lost nothing."""
        apart, limit = np.abs(self._rows - row).sum(axis=1), row.sum() + ROUNDING
        has_all = (self._rows <= row)[:, self._whole].all(axis=1)
        fit = np.flatnonzero((self._rungs >= 0) & has_all & (apart <= limit))
        trials = np.array(list(self._trials), dtype=np.int64)[fit]
        steps = np.floor(apart[fit] / (ALIKE * max(1, len(row))) + ROUNDING)
        order = np.lexsort((trials, apart[fit], -self._rungs[fit], steps))
        return list(zip(trials[order].tolist(), self._rungs[fit][order].tolist(), strict=True))
