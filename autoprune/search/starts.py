"""How a trial begins: from whose weights (`search.inherit`), at which rung, and who goes on unranked.

An architecture of which there are no trained weights ranks, untrained, below every pruned reference, whatever it may
become; so it is ranked from the first rung on that trains. Where a limit on what is measured may spare its training, it
is looked at before, and goes on if it is within.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from autoprune.constraint import COMPUTABLE, is_cost
from autoprune.record import INHERITED, Donor, Evaluation, Request
from autoprune.search.donors import Donors
from autoprune.space import ARCHITECTURE, Space, Value
from autoprune.spec import Spec
from autoprune.study import Study, Trial


class Starts:
    """The beginnings of the trials of a study.

    Args:
        study: its trials are who new ones may start from.
        in_order: every trial goes through all rungs, as assessors need it.
    """

    def __init__(self, study: Study, *, in_order: bool) -> None:
        spec = study.spec
        self._trains = trains = [rung for rung, epochs in enumerate(spec.rung_epochs) if epochs > 0]
        self._study, self._donors = study, Donors(study)
        self._trained = trained_architecture(spec, study.space)
        self._first_training = trains[0] if trains and not in_order else 0
        self._is_cost = [is_cost(goal.metric) for goal in study.goals]
        limited = [constraint.metric for constraint in spec.constraints if is_cost(constraint.metric)]
        self._looks_first = any(metric not in COMPUTABLE for metric in limited)

    def request(self, point: dict[str, Value], may_be_at: Callable[[int], bool]) -> Request:
        """The first evaluation of a point.

        Args:
            point: a new one.
            may_be_at: whether there is a worker and a budget for a rung; rung 0 has both.
        """
        study = self._study
        donor = self._donors.nearest(point) if study.spec.search.inherits else None
        rung = 0
        if (
            donor is None
            and self._is_bare(point)
            and not self._looks_first
            and may_be_at(self._first_training)
        ):
            rung = self._first_training
        return Request(len(study.trials), rung, point, donor=donor)

    def donor_again(self, trial: Trial, rung: int) -> Donor | None:
        """Whom a trial began from, where it goes on to the first rung that trains: who becomes smaller little by little
        is made anew there."""
        number = trial.structure.get(INHERITED)
        if number is None or rung not in self._trains[:1]:
            return None
        trained = self._study.trial(number).rung
        return Donor(number, trained, self._study.load_checkpoint(number, trained))

    def note(self, evaluation: Evaluation) -> None:
        """Enter a finished evaluation: others may start from it."""
        self._donors.note(evaluation)

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
