"""One trial: a point of the space and its evaluations so far, one for each rung that it reached.

Where it was re-validated, the means over its re-validations are its metrics, and the one in the middle is what stands
for it: its weights are exported.
"""

from __future__ import annotations

import math
import statistics
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
        repeats: its re-validations by their number, whether finished, rejected or failed.
        standing: the number of the one that stands for it, None until all that were asked for are there.
    """

    number: int
    choices: dict[str, Value]
    folder: Path
    last_rung: int
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    pending: int | None = None
    violation: float = math.inf
    repeats: dict[int, Evaluation] = field(default_factory=dict)
    standing: int | None = None

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
        """The evaluation that stands for the trial: the middle one of its re-validations, else its latest."""
        if self.is_revalidated and self.standing is not None:
            return self.repeats[self.standing]
        return self.searched

    @property
    def searched(self) -> Evaluation | None:
        """The finished evaluation of the highest rung; where none finished, the one of the highest rung."""
        if len(self.evaluations) == 1:  # most trials of a long search
            return next(iter(self.evaluations.values()))
        rungs = sorted(self.evaluations)
        finished = [rung for rung in rungs if self.evaluations[rung].state == "finished"]
        return self.evaluations[(finished or rungs)[-1]] if rungs else None

    @property
    def has_result(self) -> bool:
        """Whether an evaluation finished."""
        return "finished" in [evaluation.state for evaluation in self.evaluations.values()]

    @property
    def rung(self) -> int:
        """The rung of the latest result, -1 without one."""
        latest = self.latest
        return latest.rung if latest is not None and self.has_result else -1

    @property
    def metrics(self) -> dict[str, float]:
        """Figures of the latest result, means where it was re-validated; of a rejected trial what was computed."""
        if self.is_revalidated:
            return {name: statistics.fmean(values) for name, values in self._repeated().items()}
        latest = self.latest
        return latest.metrics if latest is not None else {}

    @property
    def deviations(self) -> dict[str, float]:
        """Standard deviations of the metrics over the re-validations; empty where there are fewer than two."""
        if not self.is_revalidated or len(self.validations) < 2:
            return {}
        return {name: statistics.stdev(values) for name, values in self._repeated().items()}

    @property
    def validations(self) -> list[Evaluation]:
        """Its finished re-validations, by number."""
        return [self.repeats[n] for n in sorted(self.repeats) if self.repeats[n].state == "finished"]

    @property
    def is_revalidated(self) -> bool:
        """Whether its metrics are means over re-validations: all are there, and it was not trained on since."""
        return self.standing is not None and not self.is_trained_on

    @property
    def is_trained_on(self) -> bool:
        """Whether it was trained beyond the last rung."""
        return any(
            rung > self.last_rung and one.state == "finished" for rung, one in self.evaluations.items()
        )

    def _repeated(self) -> dict[str, list[float]]:
        """The values of each metric that all of its re-validations have."""
        found = self.validations
        names = [name for name in found[0].metrics if all(name in one.metrics for one in found)]
        return {name: [one.metrics[name] for one in found] for name in names}

    @property
    def structure(self) -> dict[str, Any]:
        """What was really built: widths, bits, architecture."""
        return self.latest.structure if self.latest is not None else {}

    @property
    def is_feasible(self) -> bool:
        """Whether it has a result that meets every constraint of the study."""
        return self.has_result and self.violation <= 0

    @property
    def sources(self) -> dict[str, str]:
        """Latency and energy -> whether they were measured or modelled, and by what."""
        return dict(self.latest.measurement.get("sources", {})) if self.latest is not None else {}

    @property
    def is_unstable(self) -> bool:
        """Whether the time of its network kept changing while it was measured, also when that was done again."""
        return self.latest is not None and bool(self.latest.measurement.get("unstable", False))

    def summary(self) -> dict[str, Any]:
        """Its number and figures as plain data, with deviations and seeds where it was re-validated."""
        found: dict[str, Any] = {"trial": self.number, "metrics": dict(self.metrics)}
        if self.is_revalidated:
            found |= {"seeds": len(self.validations), "deviations": self.deviations}
        return found

    @property
    def read(self) -> dict[str, Value]:
        """Every choice that any of its evaluations read: together they identify the candidate."""
        evaluations = (*self.evaluations.values(), *self.repeats.values())
        return {name: value for one in evaluations for name, value in one.read.items()}

    @property
    def reason(self) -> str:
        """Why the last evaluation was rejected or failed, empty where it did neither."""
        return self.evaluations[max(self.evaluations)].reason if self.evaluations else ""

    @property
    def seconds(self) -> float:
        """Device-seconds of all its evaluations."""
        evaluations = (*self.evaluations.values(), *self.repeats.values())
        return sum(evaluation.seconds.get("total", 0.0) for evaluation in evaluations)
