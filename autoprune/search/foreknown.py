"""What the profile of a search says to its sampler: prices, damages, limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.search.prices import EXACT, LATENCY, SIZE, Prices
from autoprune.space import Space, Value
from autoprune.spec import Spec

CODING = "store.coding"
WRONG = 0.1  # relative error of a cost above which no point is refused by it
WRONG_TIME = 0.5  # the same of latency
ROUNDING = 1e-9
# For latency: integers are some two times faster at a sixteenth of the BOPs.
STANDING_IN = {"macs": 0.7, "bops": 0.15}


@dataclass(frozen=True)
class Foreknown:
    """What a sampler can be told of a study before its first trial.

    Attributes:
        prices: computes costs of points; None where nothing is known of them.
        prior: choice -> value -> damage to expect.
        limits: cost -> (lowest, highest) that the constraints allow.
        errors: how far off each of these costs may be known, relative: some percent of a size, tens of percent of a
            latency.
        weights: cost -> how much its logarithm counts among what the objectives want to be small.
    """

    prices: Prices | None
    prior: Mapping[str, Mapping[Value, float]]
    limits: Mapping[str, tuple[float, float]]
    errors: Mapping[str, float]
    weights: Mapping[str, float]


def foreknown(spec: Spec, profile: Mapping[str, Any]) -> Foreknown:
    """What the profile of a search knows of this spec's objectives and constraints."""
    preview = profile.get("preview", {})
    if "prices" not in preview:
        return Foreknown(None, {}, {}, {}, {})
    errors, baseline = preview["errors"], profile["baseline"]
    prior = {name: dict(map(tuple, pairs)) for name, pairs in preview.get("sensitivity", {}).items()}
    limits: dict[str, tuple[float, float]] = {}
    for constraint in spec.constraints:
        error = errors.get(constraint.metric, 1.0)
        is_bound = constraint.metric == SIZE and CODING in profile["choices"]  # coded files are smaller
        if error > (WRONG_TIME if constraint.metric == LATENCY else WRONG) or is_bound:
            continue
        limit, (low, high) = constraint.limit(baseline), limits.get(constraint.metric, (0.0, float("inf")))
        if constraint.operator == "<=":
            limits[constraint.metric] = (low, min(high, limit))
        else:
            limits[constraint.metric] = (max(low, limit), high)
    space = Space.from_json(profile["choices"])
    # Samplers do not propose what leaves no choice; the one value there is need not be the neutral one.
    settled = {name: space[name].at(0.0) for name, d in space.distributions().items() if d.single()}
    off = {metric: errors[metric] + ROUNDING for metric in limits}
    return Foreknown(
        Prices(preview["prices"], settled), prior, limits, off, _weights(spec, preview["prices"])
    )


def _weights(spec: Spec, data: Mapping[str, Any]) -> dict[str, float]:
    """What the objectives want to be small; operations stand for latency where that is not predicted."""
    computed = {*EXACT, *data.get("fits", ())}
    weights: dict[str, float] = {}
    for objective in spec.objectives:
        if objective.direction == "minimize" and objective.metric in computed:
            weights[objective.metric] = 1.0
        elif objective.metric == LATENCY:
            weights.update(STANDING_IN)
    return weights
