"""What a sampler sees of a search: an Optuna study in memory, with one trial for each proposal.

Asking an in-memory study takes milliseconds where the durable one would take a hundred. It differs from a
plain Optuna study in one thing: when a trial goes on to a higher rung, its values are replaced by the
better-founded ones, so that a sampler always compares the latest that is known.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping, Sequence
from typing import Any

from optuna import create_study
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from autoprune.constraint import COMPUTABLE, Objective
from autoprune.errors import BadInput, raised
from autoprune.search.prices import LATENCY
from autoprune.search.samplers import BESIDE, COSTS, REJECTED
from autoprune.space import Space, Value
from autoprune.study.journal import quiet, running_trial


class RevisedStorage(InMemoryStorage):
    """An in-memory storage in which the values of a finished trial can be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self._revised: dict[int, FrozenTrial] = {}

    def revise(
        self,
        trial_id: int,
        values: Sequence[float],
        attributes: Mapping[str, Any],
        costs: Mapping[str, float],
    ) -> None:
        """Show a finished trial with these values, system attributes and costs from now on."""
        trial = copy.copy(self.get_trial(trial_id))
        trial.values = list(values)
        trial.system_attrs = {**trial.system_attrs, **attributes}
        trial.user_attrs = {**trial.user_attrs, COSTS: {**trial.user_attrs.get(COSTS, {}), **costs}}
        self._revised[trial_id] = trial

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """One trial, with its latest values."""
        return self._revised.get(trial_id) or super().get_trial(trial_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """All trials, with their latest values."""
        trials = super().get_all_trials(study_id, deepcopy=False, states=states)
        latest = [self._revised.get(trial._trial_id, trial) for trial in trials]
        return copy.deepcopy(latest) if deepcopy else latest


class Sampling:
    """Asks a sampler for points and tells it what became of them.

    Args:
        space: what may be decided.
        objectives: metrics and their directions, in the order in which values are told.
        sampler: who proposes.
        baseline: metrics of the uncompressed network; what is told of a rejected point is no better.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        sampler: BaseSampler,
        baseline: Mapping[str, float],
    ) -> None:
        self._distributions = space.distributions()
        self._objectives = objectives
        self._storage = RevisedStorage()
        with quiet():
            self._study = create_study(
                storage=self._storage, sampler=sampler, directions=[o.direction for o in objectives]
            )
        self._worst = [baseline[o.metric] for o in objectives]

    def ask(self) -> tuple[int, dict[str, Value]]:
        """A point that the sampler proposes, and the number under which to tell of it.

        Raises:
            BadInput: the sampler raises.
        """
        try:
            trial = self._study.ask(dict(self._distributions))
        except Exception as error:
            name = type(self._study.sampler).__name__
            raise BadInput(
                f"search.sampler: {name} {raised(error)}; once that is mended, `autoprune resume` goes on"
            ) from error
        return trial._trial_id, dict(trial.params)

    def insert(self, point: Mapping[str, Value]) -> int:
        """A point that somebody else proposed: the number under which to tell of it."""
        distributions = {name: self._distributions[name] for name in point}
        trial = running_trial(point, distributions)
        number = self._storage.create_new_trial(self._study._study_id, trial)
        # A genetic sampler takes as parents only what belongs to a generation.
        if hasattr(self._study.sampler, "get_trial_generation"):
            self._study.sampler.get_trial_generation(self._study, self._storage.get_trial(number))
        return number

    def tell(
        self,
        number: int,
        metrics: Mapping[str, float],
        violations: Sequence[float],
        other: Mapping[str, Any] | None = None,
        *,
        steady: bool = True,
    ) -> None:
        """What an evaluation found; told again of the same number it replaces what was told before.

        Args:
            number: from `ask` or `insert`.
            metrics: every objective among them, finite.
            violations: one per goal of the study, 0 or less where it is met.
            other: what it tells of another point (see `beside`).
            steady: whether its latency was; one that kept changing tells nothing of those of other points.
        """
        values = [float(metrics[o.metric]) for o in self._objectives]
        self._worst = [
            max(old, new, key=o.loss)
            for o, old, new in zip(self._objectives, self._worst, values, strict=True)
        ]
        # What a guided sampler learns to predict.
        telling = (*COMPUTABLE, *([LATENCY] if steady else []))
        costs = {name: float(metrics[name]) for name in telling if name in metrics}
        if self._storage.get_trial(number).state.is_finished():
            told = {} if other is None else {BESIDE: other}
            self._storage.revise(number, values, {**told, "constraints": list(violations)}, costs)
        else:
            self._storage.set_trial_user_attr(number, COSTS, costs)
            if other is not None:
                self._storage.set_trial_system_attr(number, BESIDE, dict(other))
            self._finish(number, values, violations)

    def tell_rejected(self, number: int, violations: Sequence[float]) -> None:
        """The point breaks constraints: it counts as being as bad as the worst that was measured."""
        self._storage.set_trial_system_attr(number, REJECTED, True)
        self._finish(number, self._worst, violations)

    def tell_failed(self, number: int) -> None:
        """Nothing is known of the point."""
        self._end(number, TrialState.FAIL, None)

    def _finish(self, number: int, values: Sequence[float], violations: Sequence[float]) -> None:
        if violations:
            self._storage.set_trial_system_attr(number, "constraints", list(violations))
        self._end(number, TrialState.COMPLETE, list(values))

    def _end(self, number: int, state: TrialState, values: list[float] | None) -> None:
        """What `study.tell` does, without its copy of the trial, which takes longer than all the rest."""
        self._study.sampler.after_trial(self._study, self._storage.get_trial(number), state, values)
        self._storage.set_trial_state_values(number, state, values)
