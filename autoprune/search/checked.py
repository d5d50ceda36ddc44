"""What comes back from a worker, before it is believed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoprune.record import Evaluation

MOST = 1e150
"""The largest figure that is taken for one: hypervolumes multiply several of them."""


def checked(evaluation: Evaluation, needed: Sequence[str]) -> Evaluation:
    """The evaluation, turned into a failed one when it lacks an objective or a metric is not a finite number.

    Whatever a user's task computes ends here, so that no NaN or infinity reaches the study, the sampler or the rungs.

    Args:
        evaluation: as it came; changed in place.
        needed: names of the objectives.
    """
    if evaluation.state != "finished":
        return evaluation
    missing = [name for name in needed if name not in evaluation.metrics]
    wrong = [name for name, value in evaluation.metrics.items() if not _is_usable(value)]
    if missing or wrong:
        evaluation.state, evaluation.checkpoint = "failed", None
        evaluation.reason = "; ".join(
            [f"nothing measured {name}" for name in missing]
            + [f"{name} is {evaluation.metrics[name]}" for name in wrong]
        )
    return evaluation


def _is_usable(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) <= MOST
