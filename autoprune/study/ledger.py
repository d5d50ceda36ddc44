"""What the evaluations of a study add up to: trials, front, hypervolume, what is spent. No files, no Optuna.

It is kept up to date with each request and evaluation, so that nothing is counted anew when a search has
thousands of trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from autoprune.constraint import total_violation
from autoprune.errors import BadInput
from autoprune.record import LOST, Evaluation, Request
from autoprune.spec import Spec
from autoprune.study.duplicates import Duplicates
from autoprune.study.ranking import front_of, losses_of, volume_of
from autoprune.study.trial import Trial


class Ledger:
    """The trials of a study and what follows from them.

    Args:
        folder: the run folder, for the trials to name.
        spec: objectives, constraints and rungs.
        baseline: metrics of the uncompressed network.

    Attributes:
        trials: all trials, by number.
        requests: (trial, rung, repeat) -> a request without an answer, its weights left out.
        planned: (trial, repeat) of the re-validations that are still to come.
        finished: numbers of the trials with a result.
        device_seconds: what all evaluations took together.
        spent: rung -> how many evaluations it had, and their device-seconds; re-validations are under the last one.
    """

    def __init__(self, folder: Path, spec: Spec, baseline: Mapping[str, float]) -> None:
        self._folder, self._spec, self._baseline = folder, spec, baseline
        self.trials: list[Trial] = []
        self.requests: dict[tuple[int, int, int], Request] = {}
        self.planned: set[tuple[int, int]] = set()
        self.finished: set[int] = set()
        self.device_seconds = 0.0
        self.spent: dict[int, tuple[int, float]] = {}
        self.duplicates = Duplicates()
        self._history: list[tuple[Evaluation, float]] = []  # finished ones, and when
        self._front: list[Trial] | None = None

    def trial(self, number: int) -> Trial:
        """One trial.

        Raises:
            BadInput: there is none of that number.
        """
        if not 0 <= number < len(self.trials):
            there = f"0 to {len(self.trials) - 1}" if self.trials else "none"
            raise BadInput(f"there is no trial {number} in {self._folder} (there are {there})")
        return self.trials[number]

    def note_request(self, request: Request) -> None:
        """An evaluation is under way."""
        if request.trial == len(self.trials):
            last_rung = len(self._spec.rung_epochs) - 1
            self.trials.append(Trial(request.trial, request.choices, self._folder, last_rung))
        trial = self.trial(request.trial)
        if not request.repeat:
            trial.pending = request.rung
        # The weights stay on disk: those of thousands of trials would not fit in memory.
        donor = None if request.donor is None else request.donor._replace(weights=None)
        self.requests[request.trial, request.rung, request.repeat] = replace(
            request, checkpoint=None, donor=donor
        )

    def note_evaluation(self, evaluation: Evaluation, at: float) -> None:
        """A request is answered.

        Args:
            evaluation: its answer; the checkpoint is let go of.
            at: seconds of search until now.
        """
        del self.requests[evaluation.trial, evaluation.rung, evaluation.repeat]
        evaluation.checkpoint = None
        trial = self.trial(evaluation.trial)
        if evaluation.repeat:
            self._note_repeat(trial, evaluation)
            return
        trial.pending = None
        trial.evaluations[evaluation.rung] = evaluation
        self._spend(evaluation)
        if evaluation.state == "finished":
            self._history.append((evaluation, at))
            self.finished.add(trial.number)
            trial.violation = self.violation(trial.metrics)
            self._front = None
        if evaluation.is_poison and not trial.has_result:
            self.duplicates.add(trial.number, trial.choices)  # nobody knows what it read before it broke
        elif evaluation.state != "failed":
            self.duplicates.add(trial.number, trial.read)

    def _note_repeat(self, trial: Trial, evaluation: Evaluation) -> None:
        """A re-validation is answered."""
        trial.repeats[evaluation.repeat] = evaluation
        self._spend(evaluation)
        self.planned.discard((trial.number, evaluation.repeat))
        self._settle(trial)

    def _spend(self, evaluation: Evaluation) -> None:
        """Count what an evaluation took, and what was lost with workers that died of it or under it."""
        seconds = evaluation.seconds.get("total", 0.0) + evaluation.seconds.get(LOST, 0.0)
        count, before = self.spent.get(evaluation.rung, (0, 0.0))
        self.spent[evaluation.rung] = count + 1, before + seconds
        self.device_seconds += seconds

    def plan(self, repeats: Iterable[tuple[int, int]]) -> None:
        """Take re-validations as those that are asked for, in place of any before.

        Args:
            repeats: (trial, repeat); what is answered already need not be asked again.
        """
        self.planned = {(trial, n) for trial, n in repeats if n not in self.trial(trial).repeats}
        for trial in self.trials:
            if trial.repeats:
                self._settle(trial)

    def _settle(self, trial: Trial) -> None:
        """Decide whether the re-validations of a trial stand for it: once none of them is still to come.

        The middle one by the first objective then does, of an even number the worse of the two in the middle.
        """
        objective, found = self._spec.objectives[0], trial.validations
        is_waiting = any(number == trial.number for number, _ in self.planned)
        in_order = sorted(found, key=lambda one: objective.loss(one.metrics[objective.metric]))
        trial.standing = None if is_waiting or not found else in_order[len(found) // 2].repeat
        if trial.has_result:
            self.duplicates.add(trial.number, trial.read)
            trial.violation = self.violation(trial.metrics)
        self._front = None

    def violation(self, metrics: Mapping[str, float]) -> float:
        """Sum over all constraints of how far they are broken."""
        return total_violation(self._spec.constraints, metrics, self._baseline)

    @property
    def front(self) -> list[Trial]:
        """The feasible trials that no other one dominates."""
        if self._front is None:
            feasible = [trial for trial in self.trials if trial.is_feasible]
            self._front = front_of(feasible, self._spec.objectives)
        return list(self._front)

    def volume(self, metrics: Sequence[Mapping[str, float]]) -> float:
        """Hypervolume of feasible metrics."""
        losses = losses_of(metrics, self._spec.objectives)
        return volume_of(losses, self._spec.objectives, self._spec.constraints, self._baseline)

    def history(self) -> list[tuple[int, float, float]]:
        """(trials with a result, seconds of search, hypervolume) after each finished evaluation."""
        rows = []
        started: set[int] = set()
        feasible: dict[int, Mapping[str, float]] = {}
        # A study that is opened again reads its trials in the order of the requests, not of the answers.
        for evaluation, at in sorted(self._history, key=lambda noted: noted[1]):
            started.add(evaluation.trial)
            feasible.pop(evaluation.trial, None)
            if self.violation(evaluation.metrics) <= 0:
                feasible[evaluation.trial] = evaluation.metrics
            rows.append((len(started), at, self.volume(list(feasible.values()))))
        return rows
