"""NNI's assessors as stopping rules, in place of successive halving: Medianstop and Curvefitting.

They look at one number, the first objective at each rung so far. Medianstop stops a trial whose best is worse than the
median of what completed trials had on average by then (Golovin et al. 2017); Curvefitting one that is not foreseen to
come near the best of the completed ones (Domhan et al. 2015). Whoever is not stopped goes on at once. A small network
that is less accurate than most is stopped for it: for fronts, successive halving is the better rule.

An assessor is made anew for each decision and told all that completed, so that a search that is resumed decides alike.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from autoprune.nni_imports import nni_module
from autoprune.spec.sections import CURVE, LEAST_POINTS, MEDIAN
from autoprune.study import Study, Trial

NEAR = 0.95  # of the best completed trial, which a forecast has to reach


def check_installed(rule: str) -> None:
    """Refuse a rule of NNI's where there is no NNI.

    Raises:
        MissingExtra: so it is.
    """
    if rule in (MEDIAN, CURVE):
        nni_module("nni", f"search.stop: {rule}")


class Assessed:
    """Who goes on in a search, decided once for each trial and rung.

    Args:
        study: its spec names the rule; its trials are what was found.
    """

    def __init__(self, study: Study) -> None:
        self._study, self._rule = study, study.spec.search.stop
        self._objective = study.spec.objectives[0]
        self._rungs = len(study.spec.rung_epochs)
        self._verdicts: dict[tuple[int, int], bool] = {}

    def next_promotion(
        self, rungs: Sequence[Collection[int]], promoted: Sequence[Collection[int]]
    ) -> tuple[int, int] | None:
        """The next trial to go on, and the rung to evaluate it at; None when all others are stopped.

        Args:
            rungs: for each rung but the last, trials with a result, in the order in which they began.
            promoted: for each of them, those that have gone on.
        """
        for rung in range(len(rungs) - 1, -1, -1):
            for trial in rungs[rung]:
                if trial not in promoted[rung] and self._goes_on(trial, rung):
                    return trial, rung + 1
        return None

    def alive(self, trials: Iterable[int]) -> set[int]:
        """Those of some trials that are not stopped."""
        stopped = {trial for (trial, _), good in self._verdicts.items() if not good}
        return set(trials) - stopped

    def _goes_on(self, trial: int, rung: int) -> bool:
        if (trial, rung) not in self._verdicts:
            self._verdicts[trial, rung] = goes_on(
                self._rule,
                self._history(self._study.trial(trial), rung),
                [self._history(t, self._rungs - 1) for t in self._study.results if t.rung == self._rungs - 1],
                self._rungs,
                maximize=self._objective.direction == "maximize",
            )
        return self._verdicts[trial, rung]

    def _history(self, trial: Trial, last: int) -> list[float]:
        found = [trial.evaluations[rung] for rung in range(last + 1) if rung in trial.evaluations]
        return [one.metrics[self._objective.metric] for one in found if one.state == "finished"]


def goes_on(
    rule: str, history: Sequence[float], completed: Sequence[Sequence[float]], rungs: int, *, maximize: bool
) -> bool:
    """Whether a trial goes on to the next rung.

    Args:
        rule: `nni-medianstop` or `nni-curvefitting`.
        history: its results so far, one for each rung.
        completed: those of the trials that came to the last rung, in the order in which they did.
        rungs: how many there are.
        maximize: whether more is better; Curvefitting knows nothing else.

    Raises:
        MissingExtra: NNI is not installed.
    """
    assessor = _assessor(rule, rungs, maximize)
    bad = nni_module("nni.assessor", rule).AssessResult.Bad
    with _quiet():
        for number, other in enumerate(completed):
            # Curvefitting looks at the last result alone, and would fit curves to the others first.
            assessor.assess_trial(number, list(other[-1:] if rule == CURVE else other))
            assessor.trial_end(number, True)
        verdict = assessor.assess_trial(len(completed), list(history))
    return bool(verdict != bad)  # it says nothing where its fit fails


def _assessor(rule: str, rungs: int, maximize: bool) -> Any:
    if rule == MEDIAN:
        module = nni_module("nni.algorithms.hpo.medianstop_assessor", rule)
        return module.MedianstopAssessor("maximize" if maximize else "minimize")
    module = nni_module("nni.algorithms.hpo.curvefitting_assessor", rule)
    return module.CurvefittingAssessor(epoch_num=rungs, start_step=LEAST_POINTS, threshold=NEAR)


@contextmanager
def _quiet() -> Iterator[None]:
    """Curvefitting draws from NumPy's own generator, and writes of each curve that does not fit."""
    log = logging.getLogger("curvefitting_Assessor")
    drawn, was = np.random.get_state(), log.disabled
    log.disabled = True
    np.random.seed(0)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(drawn)
        log.disabled = was
