"""Figures and choices in the words that a person reads: in the report, the tables and the live view."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.constraint import Constraint
from autoprune.space import Value

if TYPE_CHECKING:
    from autoprune.study import Trial

MOST_LISTED = 8
LEAST_DEVIATION = 1e-6  # of the mean; less is rounding
_COUNTS = ("params", "macs", "bops")
_LAYER_CHOICE = re.compile(
    r"(?P<technique>[^.]+)\.(?P<layer>.+)\.(?P<name>ratio|weight_bits|activation_bits)"
)


def figure(metric: str, value: float | None) -> str:
    """A metric's value with its unit: `0.087 ms`, `41.2 KB`, `98.3 %`, `1.52 M`.

    Args:
        metric: its name, from which the unit follows.
        value: None and NaN are shown as a dash.
    """
    if value is None or math.isnan(value):
        return "–"
    if metric == "accuracy":
        return f"{value:.2f} %"
    if metric.endswith("_ms"):
        return f"{value:.3g} ms"
    if metric.endswith("_bytes"):
        return _scaled(value, (("MB", 1e6), ("KB", 1e3), ("B", 1.0)))
    if metric in _COUNTS:
        return _scaled(value, (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0)))
    return f"{value:.4g}"


def _scaled(value: float, units: Sequence[tuple[str, float]]) -> str:
    unit, size = next((u for u in units if abs(value) >= u[1]), units[-1])
    number = f"{value / size:.3g}" if size > 1 else f"{value:.0f}"
    return f"{number} {unit}".strip()


def with_deviation(metric: str, value: float | None, deviation: float | None) -> str:
    """A mean and its standard deviation, `96.40 ± 0.21 %`; the figure alone where it does not vary."""
    whole = figure(metric, value)
    if not deviation or value is None or deviation < LEAST_DEVIATION * abs(value):
        return whole
    beside = figure(metric, float(f"{deviation:.2g}"))
    number, _, unit = whole.partition(" ")
    own, _, other = beside.partition(" ")
    return f"{number} ± {own} {unit}".strip() if unit == other else f"{whole} ± {beside}"


def change(metric: str, before: float | None, after: float | None) -> str:
    """Two values of a metric, with their unit once where they share it: `0.171 → 0.0532 ms`."""
    first, second = figure(metric, before), figure(metric, after)
    number, _, unit = first.partition(" ")
    return f"{number if unit and second.endswith(f' {unit}') else first} → {second}"


def limit(constraint: Constraint, baseline: Mapping[str, float]) -> str:
    """A constraint, and what it comes to where it is relative: `size_bytes <= 25% (≤ 21.4 KB)`."""
    if constraint.relative is None or constraint.metric not in baseline:
        return str(constraint)
    sign = {"<=": "≤", ">=": "≥"}[constraint.operator]
    return f"{constraint} ({sign} {figure(constraint.metric, constraint.limit(baseline))})"


def duration(seconds: float) -> str:
    """`8.2 s`, `3.4 min`, `1.6 h`."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def summary(choices: Mapping[str, Value]) -> list[str]:
    """A point in a few lines: one for each choice that stands alone, one for each kind that every layer has.

    depth 2 · width 0.75
    prune ratio 0.10, 0.45, 0.80
    weight bits 8 ×5, 4 ×2
    """
    per_layer: dict[str, list[float]] = {}
    alone = []
    for name, value in choices.items():
        found = _LAYER_CHOICE.fullmatch(name)
        if found:
            title = "prune ratio" if found["name"] == "ratio" else found["name"].replace("_", " ")
            per_layer.setdefault(title, []).append(float(value))
        else:
            alone.append(f"{_short(name)} {_plain(value)}")
    lines = [f"{title} {_counted(v) if 'bits' in title else _listed(v)}" for title, v in per_layer.items()]
    return ([" · ".join(alone)] if alone else []) + lines


def _short(name: str) -> str:
    technique, _, rest = name.partition(".")
    return rest if technique in ("architecture", "distill", "train") and rest else name.replace(".", " ")


def _plain(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _counted(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g} ×{count}" for value, count in Counter(values).most_common())


def _listed(values: Sequence[float]) -> str:
    if len(values) > 1 and len(set(values)) == 1:
        return f"{values[0]:.2f} ×{len(values)}"
    if len(values) <= MOST_LISTED:
        return ", ".join(f"{value:.2f}" for value in values)
    mean = sum(values) / len(values)
    return f"{min(values):.2f} to {max(values):.2f}, mean {mean:.2f} over {len(values)} groups"


def budget_left(budget: Mapping[str, Any]) -> str:
    """What remains of each limited budget of `study.status()`: `48 trials, 28.2 minutes`."""
    left = [
        f"{max(0.0, one['limit'] - one['spent']):.3g} {name.replace('_', ' ')}"
        for name, one in budget.items()
        if one["limit"] is not None
    ]
    return ", ".join(left) or "no limit"


def rungs(found: Mapping[str, Mapping[str, int]]) -> str:
    """Evaluations by rung and state: `rung 0: 12 finished, 1 failed; rung 1: 4 finished, 2 running`."""
    listed = [
        f"rung {rung}: {', '.join(f'{count} {state}' for state, count in states.items() if count)}"
        for rung, states in found.items()
    ]
    return "; ".join(listed) or "none yet"


def spent(found: Mapping[str, Any]) -> str:
    """What `standing.spent_by` found, by rung and by shape of workers: `rung 0: 12 × 4.1 s; worker: 3.4 min, 0.85`."""
    rungs = [
        f"rung {rung}: {one['evaluations']} × {duration(one['device_seconds'] / max(1, one['evaluations']))}"
        for rung, one in found["by_rung"].items()
    ]
    shapes = [
        f"{name}: {duration(one['device_seconds'])}" + (f", {one['money']:.4g} spent" if one["money"] else "")
        for name, one in found["by_shape"].items()
    ]
    return "; ".join([*rungs, *shapes]) or "nothing"


def share_spent(budget: Mapping[str, Any]) -> float:
    """How much of the budget that will end the search first is spent, 0 to 1."""
    shares = [one["spent"] / one["limit"] for one in budget.values() if one["limit"]]
    return min(1.0, max(shares, default=0.0))


def modelled(status: Mapping[str, Any]) -> dict[str, str]:
    """A row on what was not measured, where there is something."""
    found = status.get("modelled", {})
    lines = [f"{name} of {one['trials']} trials: {one['source']}" for name, one in found.items()]
    return {"not measured": "\n".join(lines)} if lines else {}


def provenance(trials: Sequence[Trial], metrics: Collection[str]) -> list[str]:
    """Lines on which of these metrics were measured and which are modelled, and on times that were not steady."""
    found = {(name, source) for trial in trials for name, source in trial.sources.items() if name in metrics}
    lines = [f"{metric}: {source}" for metric, source in sorted(found)]
    if unsteady := [str(trial.number) for trial in trials if trial.is_unstable]:
        listed = ", ".join(unsteady)
        lines.append(
            f"unstable, also when measured again: the times of trial {listed}; mind close differences"
        )
    return lines
