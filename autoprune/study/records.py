"""Requests and evaluations as trials of an Optuna storage: one for each trial and rung, and for each re-validation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.record import Evaluation, Request
from autoprune.study.reading import Rows, evaluation_of, once, request_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from autoprune.study.header import Header

RECORD = "record"  # the attribute with the evaluation

Key = tuple[int, int, int]
"""(trial, rung, repeat), which no two requests have in common."""


def key_of(one: Request | Evaluation) -> Key:
    """What tells a request, or its answer, from all others."""
    return one.trial, one.rung, one.repeat


class Records:
    """What was asked and answered, in the storage. What is written is durable at the storage's next commit.

    Args:
        storage: of Optuna's kind.
        header: of the study in it.

    Attributes:
        found: Optuna's trials that were there when it was opened, for `read`.
    """

    def __init__(self, storage: Any, header: Header) -> None:
        self._storage, self._header = storage, header
        self._distributions = header.space.distributions()
        self._objectives = [o.metric for o in header.spec.objectives]
        self._numbers: dict[Key, int] = {}  # of Optuna's trials
        self.found: list[FrozenTrial] = storage.get_all_trials(header.study, deepcopy=False)
        self._rows = Rows(one.user_attrs.get(RECORD) for one in self.found if one.state.is_finished())

    def read(self, stored: FrozenTrial) -> tuple[Request, Evaluation | None, float]:
        """A request, its answer where there is one, and after how many seconds of search that came.

        Raises:
            ValueError: it is no record of ours, or on record already.
        """
        request = request_of(stored)
        key = key_of(request)
        if key in self._numbers:
            raise ValueError(f"trial {request.trial} at rung {request.rung} is on record already")
        self._numbers[key] = stored._trial_id
        if not stored.state.is_finished():
            return request, None, 0.0
        evaluation, at = evaluation_of(stored, request, self._objectives, self._rows)
        self._storage.let_go(stored._trial_id)
        return request, evaluation, at

    def ask(self, request: Request) -> None:
        """Write a request."""
        from autoprune.study.journal import running_trial

        attributes: dict[str, Any] = {"trial": request.trial, "rung": request.rung}
        if request.epochs is not None:
            attributes["epochs"] = float(request.epochs)
        if request.repeat:
            attributes["repeat"] = request.repeat
        if request.donor is not None:
            attributes["donor"] = [request.donor.trial, request.donor.rung]
        distributions = {name: self._distributions[name] for name in request.choices}
        template = running_trial(request.choices, distributions, attributes)
        self._numbers[key_of(request)] = self._storage.create_new_trial(self._header.study, template)

    def answer(
        self, request: Request, evaluation: Evaluation, at: float, violations: Sequence[float]
    ) -> None:
        """Write the answer to a request; what of it is on record already it holds no second time.

        Args:
            request: one that was asked.
            evaluation: its answer.
            at: seconds of search until now.
            violations: of each constraint.
        """
        from optuna.trial import TrialState

        number, record = self._numbers[key_of(request)], {**plain(evaluation.to_json()), "at": at}
        evaluation.structure, evaluation.choices = self._rows.pack(record), request.choices
        evaluation.read = once(record["read"], request.choices)
        self._storage.set_trial_user_attr(number, RECORD, record)
        if violations and evaluation.state != "failed":
            self._storage.set_trial_system_attr(number, "constraints", list(violations))
        states = {"finished": TrialState.COMPLETE, "rejected": TrialState.PRUNED, "failed": TrialState.FAIL}
        values = None
        if evaluation.state == "finished":
            values = [float(evaluation.metrics[name]) for name in self._objectives]
        self._storage.set_trial_state_values(number, states[evaluation.state], values)
        self._storage.let_go(number)


def plain(value: Any) -> Any:
    """The same as JSON can hold it: NumPy numbers as numbers, what is not finite as None."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
