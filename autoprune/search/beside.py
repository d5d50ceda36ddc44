"""What a trial tells of another point than its own: the same network before its weights were rounded.

Rounding is the last that happens to a candidate, so its accuracy in full precision costs one more look at some
validation examples. It says what architecture and ratios are worth apart from what the bits do to them, which is how
APQ (Wang et al. 2020) comes to quantized accuracies: learned in full precision, corrected by quantized ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.constraint import is_cost
from autoprune.record import Evaluation
from autoprune.space.precision import in_full_precision
from autoprune.study import Study


def beside(study: Study, evaluation: Evaluation, metrics: Mapping[str, float]) -> dict[str, Any] | None:
    """The unquantized point with its values and violations, None for those that only a trial of it would tell.

    Args:
        study: its objectives and goals.
        evaluation: a finished one.
        metrics: what it is told as; rounding is taken to do the same damage there.

    Returns:
        `point`, `values`, `violations`; None where nothing was rounded, or the space has no such point.
    """
    if not evaluation.unquantized:
        return None
    point = in_full_precision(evaluation.choices)
    if study.space.problems_of(point):
        return None
    known = {
        name: metrics[name] + value - evaluation.metrics[name]
        for name, value in evaluation.unquantized.items()
        if name in metrics and not is_cost(name)
    }
    violations = study.shortfalls({**metrics, **known})
    return {
        "point": point,
        "values": [known.get(objective.metric) for objective in study.spec.objectives],
        "violations": [
            violation if goal.metric in known else None
            for goal, violation in zip(study.goals, violations, strict=True)
        ],
    }
