"""One trial: a point of the space and its evaluations so far, one for each rung that it reached."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from autoprune.record import Evaluation
from autoprune.space import Value

TrialState = Literal["running", "stopped", "finished", "failed", "rejected"]


@dataclass
class Trial:
    """A trial of a study, as it stands.

    Attributes:
        number: counts the trials of a study from 0.
        choices: the point that was proposed.
        folder: the run folder.
        last_rung: index of the rung at which a trial has been trained in full.
        evaluations: by rung, whether finished, rejected or failed.
        pending: the rung that is being evaluated, None when none is.
        violation: sum over all constraints of how far the latest metrics are beyond the limit; 0 when they
            hold.
    """

    number: int
    choices: dict[str, Value]
    folder: Path
    last_rung: int
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    pending: int | None = None
    violation: float = math.inf

    @property
    def state(self) -> TrialState:
        """Where it stands.

        `running`: an evaluation is under way; `finished`: the last rung is reached; `stopped`: it has a
        result, of an earlier rung, and is not being continued; `rejected`: a cost that is computed before
        training breaks a constraint; `failed`: it has no result, for the reason in `reason`.
        """
        if self.pending is not None:
            return "running"
        if self.has_result:
            return "finished" if self.rung >= self.last_rung else "stopped"
        return "rejected" if self.latest is not None and self.latest.state == "rejected" else "failed"

    @property
    def latest(self) -> Evaluation | None:
        """The finished evaluation of the highest rung; where none finished, the one of the highest rung."""
        rungs = sorted(self.evaluations)
        finished = [rung for rung in rungs if self.evaluations[rung].state == "finished"]
        return self.evaluations[(finished or rungs)[-1]] if rungs else None

    @property
    def has_result(self) -> bool:
        """Whether an evaluation finished."""
        return any(evaluation.state == "finished" for evaluation in self.evaluations.values())

    @property
    def rung(self) -> int:
        """The rung of the latest result, -1 without one."""
        return self.latest.rung if self.latest is not None and self.has_result else -1

    @property
    def metrics(self) -> dict[str, float]:
        """Figures of the latest result; of a rejected trial those that were computed."""
        return self.latest.metrics if self.latest is not None else {}

    @property
    def structure(self) -> dict[str, Any]:
        """What was really built: widths, bits, architecture."""
        return self.latest.structure if self.latest is not None else {}

    @property
    def is_feasible(self) -> bool:
        """Whether it has a result that meets every constraint of the study."""
        return self.has_result and self.violation <= 0

    @property
    def read(self) -> dict[str, Value]:
        """Every choice that any of its evaluations read: together they identify the candidate."""
        return {name: value for one in self.evaluations.values() for name, value in one.read.items()}

    @property
    def reason(self) -> str:
        """Why the last evaluation was rejected or failed, empty where it did neither."""
        return self.evaluations[max(self.evaluations)].reason if self.evaluations else ""

    @property
    def seconds(self) -> float:
        """Device-seconds of all its evaluations."""
        return sum(evaluation.seconds.get("total", 0.0) for evaluation in self.evaluations.values())
