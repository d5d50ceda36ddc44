"""How a trial begins: from whose weights (`search.inherit`), at which rung, and who goes on unranked.

A donor has the same architecture and has lost nothing that the new trial keeps: then all of its weights can be taken
over, unit by unit (`autoprune.inheritance`). It has been trained in its compressed form, which the reference never was.

An architecture of which there are no trained weights ranks, untrained, below every pruned reference, whatever it may
become; so it is ranked from the first rung on that trains. Where a limit on what is measured may spare its training, it
is looked at before, and goes on if it is within.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from autoprune.constraint import COMPUTABLE, is_cost
from autoprune.record import INHERITED, Donor, Evaluation, Request
from autoprune.space import ARCHITECTURE, Space, Value
from autoprune.spec import Spec
from autoprune.study import Study, Trial

LOST = (".ratio", ".drop")  # ends of the choices of how much is gone


class Starts:
    """The beginnings of the trials of a study.

    Args:
        study: its trials are who new ones may start from.
        in_order: every trial goes through all rungs, as assessors need it.
    """

    def __init__(self, study: Study, *, in_order: bool) -> None:
        spec = study.spec
        trains = [rung for rung, epochs in enumerate(spec.rung_epochs) if epochs > 0]
        self._study = study
        self._trained = trained_architecture(spec, study.space)
        self._first_training = trains[0] if trains and not in_order else 0
        self._is_cost = [is_cost(constraint.metric) for constraint in spec.constraints]
        limited = [constraint.metric for constraint in spec.constraints if is_cost(constraint.metric)]
        self._looks_first = any(metric not in COMPUTABLE for metric in limited)

    def request(self, point: dict[str, Value], may_be_at: Callable[[int], bool]) -> Request:
        """The first evaluation of a point.

        Args:
            point: a new one.
            may_be_at: whether there is a worker and a budget for a rung; rung 0 has both.
        """
        study = self._study
        donor = nearest_donor(study, point) if study.spec.search.inherit == "nearest" else None
        rung = 0
        if (
            donor is None
            and self._is_bare(point)
            and not self._looks_first
            and may_be_at(self._first_training)
        ):
            rung = self._first_training
        return Request(len(study.trials), rung, point, donor=donor)

    def is_entitled(self, evaluation: Evaluation, violations: Sequence[float]) -> bool:
        """Whether a trial goes on unranked: of an architecture that is still untrained, within all limits on costs."""
        return (
            evaluation.rung < self._first_training
            and INHERITED not in evaluation.structure
            and self._is_bare(evaluation.choices)
            and all(
                violation <= 0.0
                for violation, of_cost in zip(violations, self._is_cost, strict=True)
                if of_cost
            )
        )

    def _is_bare(self, point: Mapping[str, Value]) -> bool:
        """Whether a point has an architecture of which there are no weights from the start."""
        return any(point[name] != value for name, value in self._trained.items())


def trained_architecture(spec: Spec, space: Space) -> dict[str, Value]:
    """The architecture of which there are weights from the start, by choice; empty where a supernet has all."""
    neutral = space.neutral() if spec.supernet is None else {}
    return {name: value for name, value in neutral.items() if name.startswith(ARCHITECTURE)}


def nearest_donor(study: Study, point: Mapping[str, Value]) -> Donor | None:
    """The trained trial nearest to `point`, with its weights; None where the reference is the nearer start.

    The nearest is the one that has lost most of what `point` will lose, then the one trained longest, then the first.

    Args:
        study: its trials have checkpoints as far as they were good.
        point: the new trial.
    """
    epochs = study.spec.rung_epochs
    fit = [
        trial
        for trial in study.results
        if trial.searched is not None
        and epochs[min(trial.searched.rung, len(epochs) - 1)] > epochs[0]
        and _loses_no_more(trial.choices, point)
    ]
    for trial in sorted(fit, key=lambda trial: _nearness(trial, point)):
        rung = trial.searched.rung if trial.searched is not None else 0
        weights = study.load_checkpoint(trial.number, rung)
        if weights is not None:
            return Donor(trial.number, rung, weights)
    return None


def _loses_no_more(donor: Mapping[str, Value], point: Mapping[str, Value]) -> bool:
    """Whether the architecture is the same, and no choice takes more from the donor than from the new trial."""
    for name, value in point.items():
        if name.startswith(ARCHITECTURE) and donor[name] != value:
            return False
        if name.endswith(LOST) and float(donor[name]) > float(value):
            return False
    return True


def _nearness(trial: Trial, point: Mapping[str, Value]) -> tuple[float, int, int]:
    """What donors are sorted by, nearest first."""
    apart = sum(float(point[name]) - float(trial.choices[name]) for name in point if name.endswith(LOST))
    return apart, -trial.rung, trial.number
