"""What is knowable before the first trial: the space, the baseline, and the range of every metric.

The two ends of a range are a point that compresses nothing and one that compresses all it can. Costs that are
computed (params, macs, bops, size_bytes) are exact there; latency is measured there. A constraint beyond the range
is refused before anything is trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.constraint import COMPUTABLE, Constraint, conflicts, is_cost
from autoprune.errors import NoNetwork, SpecError, TaskError
from autoprune.record import Evaluation, Request
from autoprune.search.answers import Asked
from autoprune.search.foretold import score_architectures
from autoprune.search.preview import make_preview
from autoprune.space import ARCHITECTURE, Options, Space, Value
from autoprune.space.kinds import kinds
from autoprune.spec import Spec

SIZE = "size_bytes"
CODING = "store.coding"
# What is measured is measured at the ends of the space only, and the fastest point need not be one of them. The size
# of a coded file depends on the weights as trained.
MARGIN = 0.7
MOST_COMPRESSED = (".ratio", ".sparsity", ".drop")


def make_profile(workers: Asked, spec: Spec) -> dict[str, Any]:
    """The profile of a search, as plain data.

    Args:
        workers: they hold an evaluator each.
        spec: says how far its `preview` goes.

    Returns:
        `choices` (the space), `techniques` (groups, layers, what is frozen and why), `baseline` (metrics of the
        uncompressed network), `ranges` (metric -> lowest and highest), `seconds` (per epoch and per evaluation),
        `preview` (what every point costs and every choice damages; see `preview.make_preview`), `scored` (what
        proxies say of architectures; see `foretold`).

    Raises:
        TaskError: the uncompressed network cannot be evaluated.
    """
    described = workers.call("describe")
    space = Space.from_json(described["choices"])
    smallest = smallest_point(space, lambda point: workers.call("price_point", point))
    baseline, *ends = _evaluated(workers, [space.neutral(), *_ends(space, smallest)])
    trains = spec.rung_epochs[-1] > 0
    made = {**described, "baseline": baseline.metrics}
    return {
        **made,
        "layers": baseline.structure.get("layers", []),
        "ranges": _ranges([baseline, *ends]),
        "seconds": {
            "per_epoch": workers.call("seconds_per_epoch") if trains else 0.0,
            "per_evaluation": baseline.seconds["total"],
        },
        "preview": make_preview(workers, spec, made),
        "scored": score_architectures(workers, spec, made),
    }


def unreachable(constraints: Sequence[Constraint], profile: Mapping[str, Any]) -> list[str]:
    """One line for each constraint that no point of the space can meet, with the achievable range."""
    problems = []
    baseline, ranges = profile["baseline"], profile["ranges"]
    for constraint in constraints:
        limit = constraint.limit(baseline)
        low, high = ranges.get(constraint.metric, (float("-inf"), float("inf")))
        is_measured = is_cost(constraint.metric) and constraint.metric not in COMPUTABLE
        if is_measured or (constraint.metric == SIZE and CODING in profile["choices"]):
            low *= MARGIN
        beyond = limit < low if constraint.operator == "<=" else limit > high
        if beyond:
            problems.append(
                f"constraints: {constraint}: cannot be met (it asks for {constraint.operator} {limit:.6g}); "
                f"achievable is {low:.6g} to {high:.6g}"
            )
    return problems


def smallest_point(space: Space, price: Any) -> dict[str, Value]:
    """The point that compresses all it can: highest ratios and sparsities, fewest blocks, ranks and bits, the
    cheapest of each architecture option.

    Args:
        space: the space.
        price: point -> its exact costs; asked once for each architecture option, or kind of them.
    """
    point = space.neutral()
    for name, choice in space.items():
        if name.endswith(MOST_COMPRESSED) or name == CODING:
            point[name] = choice.at(1.0)
        elif name.endswith(("_bits", ".rank")):
            point[name] = min(choice.values) if isinstance(choice, Options) else choice.low
    return {**point, **_smallest_architecture(space, price)}


def _smallest_architecture(space: Space, price: Any) -> dict[str, Value]:
    """The cheapest value of each option, those of a kind together, each beside what was found of the kinds before."""
    options = {n: c for n, c in space.items() if n.startswith(ARCHITECTURE) and isinstance(c, Options)}
    neutral, found = space.neutral(), dict[str, Value]()
    for names in kinds(options).values():
        values = dict.fromkeys(value for name in names for value in options[name].values)
        changes = [{name: value for name in names if value in options[name]} for value in values]
        macs = [_macs(price, {**neutral, **found, **change}) for change in changes]
        if min(macs) < math.inf:  # otherwise none of them makes a network, beside what was found
            found.update(changes[macs.index(min(macs))])
    return found


def _macs(price: Any, point: Mapping[str, Value]) -> float:
    try:
        return float(price(point)["macs"])
    except NoNetwork:
        return math.inf


def _ends(space: Space, smallest: Mapping[str, Value]) -> list[dict[str, Value]]:
    """The smallest point as it is, and with its numbers left in floating point."""
    bits = {name: space[name].neutral for name in space if name.endswith("_bits")}
    floating = {**smallest, **bits}
    return [dict(smallest)] if floating == smallest else [dict(smallest), floating]


def _evaluated(workers: Asked, points: Sequence[dict[str, Value]]) -> list[Evaluation]:
    """The uncompressed network and the smallest candidates, untrained; of these, costs alone matter."""
    requests = [Request(-1, 0, point, epochs=0.0) for point in points]
    results = workers.map("evaluate", [(request, number > 0) for number, request in enumerate(requests)])
    for number, result in enumerate(results):
        if result.state == "failed":
            what = "smallest candidate" if number else "uncompressed network"
            raise TaskError(f"the {what} of this spec cannot be evaluated: {result.reason}")
    return results


def _ranges(evaluations: Sequence[Evaluation]) -> dict[str, tuple[float, float]]:
    names = [name for name in evaluations[0].metrics if is_cost(name)]
    values = {name: [evaluation.metrics[name] for evaluation in evaluations] for name in names}
    return {name: (min(found), max(found)) for name, found in values.items()}


def check_reachable(spec: Spec, profile: Mapping[str, Any]) -> None:
    """Refuse a spec that no candidate can meet, or that asks for a metric nobody produces.

    Raises:
        SpecError: with one line for each such objective or constraint.
    """
    problems = spec.problems_of_metrics(profile["baseline"])
    if not problems:
        contrary = conflicts(spec.objectives, spec.constraints, profile["baseline"])
        problems = unreachable(spec.constraints, profile) + contrary
    if problems:
        raise SpecError(problems)
