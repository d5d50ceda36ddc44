"""What a search is asked for in terms of named metrics: objectives to improve and limits to keep.

A limit is absolute, or relative to the uncompressed baseline, which is only known once the reference network
has been trained and measured; so a constraint is parsed early and turned into a number late.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from autoprune.errors import SpecError
from autoprune.references import nearest

Direction = Literal["minimize", "maximize"]
Operator = Literal["<=", ">="]
Relative = Literal["percent", "difference"]

COMPUTABLE = ("params", "macs", "bops", "size_bytes", "peak_memory_bytes")
"""Metrics that are computed exactly from a candidate's structure, before anything is trained."""

MEASURED = ("latency_ms", "energy_uj", "cycles", "dsp", "lut", "bram")
"""Metrics that a target measures or models. With several targets each is there as `latency_ms@name` as well."""

ALLOWANCE = 0.1
"""Share of the baseline by which a candidate may be worse in an objective that has no limit, and still count."""

ACCEPTED_FORMS = (
    "'latency_ms <= 2' (absolute), 'size_bytes <= 25%' (percent of the baseline), "
    "or 'accuracy >= baseline - 1.0' (difference from the baseline)"
)

_OPERATORS: dict[str, Operator] = {"<=": "<=", ">=": ">="}
_TOLERANCE = 1e-9  # baseline - 1.0 is not exact in binary; a value on the limit keeps it
_NUMBER = r"[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?|\.[0-9]+(?:e[+-]?[0-9]+)?"
_CONSTRAINT = re.compile(
    rf"(?P<metric>[a-z_]\w*(?:@[a-z_]\w*)?)\s*(?P<operator><=|>=)\s*"
    rf"(?:(?P<number>-?(?:{_NUMBER}))(?P<percent>\s*%)?|baseline(?:\s*(?P<sign>[+-])\s*(?P<offset>{_NUMBER}))?)",
    re.IGNORECASE | re.ASCII,
)


def is_cost(metric: str) -> bool:
    """Whether a metric is what a network costs, not how good it is: training it longer does not change that."""
    return metric.partition("@")[0] in COMPUTABLE or is_measured(metric)


def is_measured(metric: str) -> bool:
    """Whether a metric is a cost that a target measures or models, so that it is no exact number."""
    return metric.partition("@")[0] in MEASURED


def is_metric_name(text: object) -> bool:
    """Whether a text can name a metric: `latency_ms`, or that of one target, `latency_ms@board`."""
    return isinstance(text, str) and all(part.isidentifier() for part in text.split("@", 1))


@dataclass(frozen=True)
class Objective:
    """A metric to make as small or as large as possible."""

    metric: str
    direction: Direction

    def loss(self, value: float) -> float:
        """`value` with the sign under which smaller is better."""
        return value if self.direction == "minimize" else -value

    @property
    def bound(self) -> Operator:
        """The operator of a limit on it."""
        return "<=" if self.direction == "minimize" else ">="


@dataclass(frozen=True)
class Constraint:
    """A limit that a candidate must keep.

    Attributes:
        metric: name of a metric of the task, the target, or one of `COMPUTABLE`.
        operator: `<=` or `>=`; a value on the limit keeps it.
        value: the limit, or a percentage of the baseline's metric, or what is added to the baseline's metric.
        relative: how to read `value`: None, `percent`, `difference`.
    """

    metric: str
    operator: Operator
    value: float
    relative: Relative | None = None

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """The constraint that `text` writes down; `str()` gives the text back.

        A percentage is always one of the baseline's metric: `accuracy >= 99%` asks for 99 % of the baseline's
        accuracy, `accuracy >= 99` for an accuracy of 99 %.

        Raises:
            SpecError: `text` has none of the `ACCEPTED_FORMS`.
        """
        found = _CONSTRAINT.fullmatch(text.strip()) if isinstance(text, str) else None
        if found is None:
            raise SpecError([f"got {text!r}, expected {ACCEPTED_FORMS}{_hint(text)}"])
        metric, operator = found["metric"], _OPERATORS[found["operator"]]
        value = float(found["number"] or found["offset"] or 0.0)
        if not math.isfinite(value) or (found["percent"] and value <= 0):
            raise SpecError([f"got {text!r}, expected a finite limit, and a percentage above 0"])
        if found["number"] is None:
            return cls(metric, operator, -value if found["sign"] == "-" else value, "difference")
        return cls(metric, operator, value, "percent" if found["percent"] else None)

    def __str__(self) -> str:
        if self.relative == "difference":
            sign = "-" if self.value < 0 else "+"
            return f"{self.metric} {self.operator} baseline {sign} {_plain(abs(self.value))}"
        return f"{self.metric} {self.operator} {_plain(self.value)}{'%' if self.relative else ''}"

    def limit(self, baseline: Mapping[str, float]) -> float:
        """The limit as a number, in the metric's own unit.

        Args:
            baseline: metrics of the uncompressed network; not looked at by an absolute constraint.

        Raises:
            SpecError: the baseline has no such metric.
        """
        if self.relative is None:
            return self.value
        if self.metric not in baseline:
            known = ", ".join(sorted(baseline)) or "none"
            guess = nearest(self.metric, baseline)
            raise SpecError(
                [f"constraint '{self}': there is no metric {self.metric!r}{guess} (known: {known})"]
            )
        if self.relative == "percent":
            return self.value / 100 * baseline[self.metric]
        return baseline[self.metric] + self.value

    def violation(self, metrics: Mapping[str, float], baseline: Mapping[str, float]) -> float:
        """How far `metrics` are beyond the limit, as a share of it; 0 or less where the limit is kept.

        A metric that is missing or NaN gives infinity. Of a limit of 0 there is no share: the violation is
        then in the metric's own unit.

        Raises:
            SpecError: the limit is relative and the baseline has no such metric.
        """
        limit = self.limit(baseline)
        value = metrics.get(self.metric, math.nan)
        if math.isnan(value):
            return math.inf
        beyond = value - limit if self.operator == "<=" else limit - value
        share = beyond / (abs(limit) or 1.0)
        return 0.0 if abs(share) < _TOLERANCE else share

    def is_met(self, metrics: Mapping[str, float], baseline: Mapping[str, float]) -> bool:
        """Whether `metrics` keep the limit."""
        return self.violation(metrics, baseline) <= 0


def goals(
    objectives: Sequence[Objective], constraints: Sequence[Constraint], baseline: Mapping[str, float]
) -> list[Constraint]:
    """The constraints, and a limit on each objective that has none: what is `ALLOWANCE` worse than the baseline counts
    for nothing. Nothing is worse than a baseline that is no number."""
    limited = {(constraint.metric, constraint.operator) for constraint in constraints}
    found = list(constraints)
    for objective in objectives:
        base = baseline.get(objective.metric, math.nan)
        if (objective.metric, objective.bound) not in limited and math.isfinite(base):
            away = objective.loss(ALLOWANCE * (abs(base) or 1.0))
            found.append(Constraint(objective.metric, objective.bound, away, "difference"))
    return found


def conflicts(
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    baseline: Mapping[str, float] | None = None,
) -> list[str]:
    """One line for each constraint that works against an objective, or leaves nothing beside another constraint.

    Args:
        objectives: a limit from above on what is maximized, or from below on what is minimized, rules out the best.
        constraints: a lower limit above an upper one leaves nothing.
        baseline: what relative limits refer to; None while it is not known, then only limits alike are compared.
    """
    directions = {objective.metric: objective.direction for objective in objectives}
    wrong = {"maximize": "<=", "minimize": ">="}
    problems = []
    for i, one in enumerate(constraints):
        direction = directions.get(one.metric)
        if direction is not None and one.operator == wrong[direction]:
            other = ">=" if one.operator == "<=" else "<="
            problems.append(
                f"constraints[{i}]: got '{one}' although objectives.{one.metric} is to {direction}, which rules out "
                f"the best; expected {other!r}, the other direction, or no such objective"
            )
        for k, two in enumerate(constraints):
            if (one.metric, one.operator, two.operator) == (two.metric, ">=", "<=") and _apart(
                one, two, baseline
            ):
                problems.append(
                    f"constraints[{i}], constraints[{k}]: got '{one}' and '{two}', which nothing can meet together"
                )
    return problems


def _apart(low: Constraint, high: Constraint, baseline: Mapping[str, float] | None) -> bool:
    """Whether a lower limit lies above an upper one, as far as that can be told."""
    if baseline is not None and low.metric in baseline:
        return low.limit(baseline) > high.limit(baseline)
    return low.relative == high.relative != "percent" and low.value > high.value


def total_violation(
    constraints: Iterable[Constraint], metrics: Mapping[str, float], baseline: Mapping[str, float]
) -> float:
    """Sum of all violations: 0.0 exactly when every constraint is met, infinity when a metric is missing."""
    return sum((max(0.0, c.violation(metrics, baseline)) for c in constraints), 0.0)


def parse_where(text: str) -> list[Constraint]:
    """The constraints of a comma-separated list: `latency_ms<=2, size_bytes<=40%`; none for blank text.

    Raises:
        SpecError: with one line for each part that is not a constraint.
    """
    constraints: list[Constraint] = []
    problems: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            constraints.append(Constraint.parse(part))
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    return constraints


def _hint(text: object) -> str:
    """What the writer of `text` most likely meant, where the operator gives it away."""
    operators = re.findall(r"[<>=≤≥!]+", text) if isinstance(text, str) else []
    meant = {"<": "<=", ">": ">=", "=<": "<=", "=>": ">=", "≤": "<=", "≥": ">="}
    if len(operators) == 1 and operators[0] in meant:
        return f"; write {meant[operators[0]]!r} instead of {operators[0]!r}"
    if len(operators) == 1 and operators[0] in ("=", "=="):
        return "; write '<=' or '>=' instead of an equality"
    return ""


def _plain(value: float) -> str:
    """The shortest text that reads back as `value`: 25 rather than 25.0."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
