"""The part of a profile that pays for itself: what every point costs, and what every choice damages.

Workers answer (`foresight`), the driver puts together: prices by arithmetic, with what no arithmetic gives (bytes
around the weights, milliseconds) fitted to a few points that were really priced and measured, and a damage for each
value of each choice, measured where there is time and estimated from gradients elsewhere. What was found lies in the
cache folder, by a hash of the weights, a sample of the data, the space and the target: later searches read it there,
and a profile that was interrupted goes on.

How much is asked is decided by arithmetic alone, not by the clock, so that the same spec gives the same profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import AutopruneError
from autoprune.search.answers import Answers, Asked
from autoprune.search.damage import damages, probes
from autoprune.search.layer_times import layer_times
from autoprune.search.points import as_columns, check_points
from autoprune.search.prices import EXACT, KINDS, LATENCY, SIZE, Prices
from autoprune.space import ARCHITECTURE, Space
from autoprune.space.levels import levels
from autoprune.spec import Spec

SECONDS = 60.0  # that a full profile should take at most
START, LEAST_DAMAGE = 10.0, 20.0  # of them, for what comes before, and at least for damage
SHARE = 0.1  # of the search that a profile may take, where the spec does not say how much is wanted
MEASURED_DAMAGE = 0.5  # of a choice, or of all looks that there are: estimates are held against so many
PRICED_POINTS, POINTS = 12, 20  # that are really priced, and that are measured
# What a worker does, roughly; only what is asked of it depends on these.
MACS_PER_SECOND, PASSES, EVALUATION = 15e9, 300, 0.6
PROBE, PRICE, TIMED, LAYER = 0.15, 0.1, 0.5, 0.2
TRAINED_MACS = 3  # of a step of training, for each of a forward pass
USUAL = 0.9  # share of points that keep the error that is told of their latency


def make_preview(workers: Asked, spec: Spec, made: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of costs and damage beforehand, as plain data.

    Args:
        workers: they hold an evaluator each.
        spec: says how much is wanted (`search.profile`), and which costs matter.
        made: the profile so far: `choices`, `baseline`, `examples`.

    Returns:
        `prices` (data of `Prices`), `errors` (cost -> largest relative error on points left out of the fit; of
        latency that which nine of ten keep), `rank_correlation` (of predicted to measured latency, on points left out),
        `sensitivity` (choice -> [value, damage] pairs), `probed` (how many of these were measured). Parts that were not
        wanted, or do not pay, are missing; `reason` says why nothing is known of a network that could not be looked
        into.
    """
    space = Space.from_json(made["choices"])
    plan = Plan(spec, space, made, workers.size)
    if not plan.wants_costs:
        return {}
    asked = Answers(workers, made["choices"])
    try:
        found = _costs(asked, space)
        if plan.wants_latency:
            found |= _latency(asked, space, found["prices"], found["errors"])
        if plan.wants_damage:
            found |= damages(
                asked, space, found["prices"], count=plan.probes, architecture=plan.looks_at_architecture
            )
    except AutopruneError:
        raise
    except Exception as error:  # of the network: a search goes on without a preview
        return {"reason": f"{type(error).__name__}: {error}"[:300]}
    return found


class Plan:
    """How much is looked into, from what the spec asks for and what it should cost in seconds.

    Args:
        spec: `search.profile` is `full`, `costs`, or None: what takes at most a tenth of the search.
        space: the space.
        made: the profile so far.
        workers: how many there are.
    """

    def __init__(self, spec: Spec, space: Space, made: Mapping[str, Any], workers: int) -> None:
        macs, self._workers = float(made["baseline"].get("macs", 0.0)), workers
        wanted, allowed = spec.search.profile, SHARE * _expected_seconds(spec, made, macs)
        options = sum(len(getattr(space[n], "values", ())) for n in space if n.startswith(ARCHITECTURE))
        prices = (PRICED_POINTS + options) * PRICE / workers
        self.wants_costs = bool(len(space)) and (wanted is not None or prices <= allowed)
        # Weights that were trained for one architecture say nothing of another one, unless it shares them.
        self.looks_at_architecture = spec.rung_epochs[-1] == 0 or spec.supernet is not None
        self._probe = PROBE + PASSES * macs / MACS_PER_SECOND
        possible = len(list(probes(space, self.looks_at_architecture)))
        measured = {o.metric for o in spec.objectives} | {c.metric for c in spec.constraints}
        layers = sum(name.endswith(".weight_bits") for name in space) or len(space)
        times = (POINTS * TIMED + layers * 4 * LAYER) / workers if LATENCY in measured else 0.0
        if wanted == "full":
            baseline = made["examples"]["val"] * macs / MACS_PER_SECOND
            left = max(SECONDS - START - baseline - prices - times, LEAST_DAMAGE)
        else:
            left = min(SECONDS, allowed) - prices
        self.wants_latency = bool(times) and (wanted == "full" or (wanted is None and times <= left))
        if wanted is None and self.wants_latency:
            left -= times  # first of all: damage that is not measured is estimated, but nothing stands in for latency
        self.probes = min(possible, max(0, int(left * workers / self._probe)))
        enough = MEASURED_DAMAGE * min(possible, len(space))
        self.wants_damage = wanted == "full" or (wanted is None and bool(possible) and self.probes >= enough)


def _expected_seconds(spec: Spec, made: Mapping[str, Any], macs: float) -> float:
    """Roughly what the search will take on its workers."""
    budget = spec.budget
    limits = [60.0 * budget.minutes] if budget.minutes is not None else []
    workers = spec.cluster.most_workers
    if budget.device_seconds is not None:
        limits.append(budget.device_seconds / workers)
    if budget.device_hours is not None:
        limits.append(3600.0 * budget.device_hours / workers)
    if budget.money is not None:
        limits.append(3600.0 * budget.money / max(spec.cluster.price_at(0), 1e-9) / workers)
    if budget.trials is not None:
        trained = TRAINED_MACS * made["examples"]["train"] * float(np.mean(spec.rung_epochs))
        each = EVALUATION + (made["examples"]["val"] + trained) * macs / MACS_PER_SECOND
        limits.append(budget.trials * each / workers)
    return min(limits)


# -- costs -----------------------------------------------------------------------------------------------------------


def _costs(asked: Answers, space: Space) -> dict[str, Any]:
    """The data of `Prices`, fitted, and how wrong it is on points that were left out."""
    data = dict(asked.of_space("terms"))
    data["factors"] = {**data["factors"], **_factors(asked, space)}
    points = list(check_points(space, PRICED_POINTS))
    priced = asked.map("price", [(point,) for point in points])
    known = [(point, costs) for point, costs in zip(points, priced, strict=True) if costs is not None]
    columns = as_columns(space, [point for point, _ in known])
    prices, truth = Prices(data), {name: np.array([c[name] for _, c in known]) for name in (*EXACT, SIZE)}
    predicted = prices.columns(columns)
    fit, held_out = _fitted(prices.features(SIZE, columns), truth[SIZE], known=1)
    data["fits"] = {SIZE: fit}
    predicted[SIZE] = held_out
    errors = {name: _worst(predicted[name], truth[name]) for name in truth}
    return {"prices": data, "errors": errors}


def _factors(asked: Answers, space: Space) -> dict[str, Any]:
    """For choices of depth and rank by how much some values of each alone change each layer."""
    names = [name for name in space if name.endswith((".rank", ".drop"))]
    values = [(name, value) for name in names for value in levels(space[name])]
    changed = asked.map("changed", values)
    found: dict[str, Any] = {name: [(space[name].neutral, {})] for name in names}
    for (name, value), factors in zip(values, changed, strict=True):
        found[name].append((value, factors))
    return found


def _fitted(
    features: NDArray[Any],
    truth: NDArray[Any],
    *,
    known: int = 0,
    weights: NDArray[Any] | None = None,
) -> tuple[dict[str, Any], NDArray[Any]]:
    """A sum of features, weighted by 0 or more, that gives the truth; and what each point is given by the others.

    Args:
        features: (N, F).
        truth: (N,).
        known: so many features count fully; only what is left is fitted.
        weights: of the squared errors, (N,).
    """
    from sklearn.linear_model import LinearRegression
    from sklearn.model_selection import LeaveOneOut, cross_val_predict

    base, free = features[:, :known].sum(axis=1), features[:, known:]
    scale = np.abs(free).max(axis=0)
    scale[scale == 0] = 1.0
    model = LinearRegression(positive=True)
    counted = {"sample_weight": np.ones(len(truth)) if weights is None else weights}
    held_out = base + cross_val_predict(model, free / scale, truth - base, cv=LeaveOneOut(), params=counted)
    model.fit(free / scale, truth - base, **counted)
    found = [1.0] * known + (model.coef_ / scale).tolist()
    return {"weights": found, "constant": float(model.intercept_)}, np.asarray(held_out)


def _worst(predicted: NDArray[Any], truth: NDArray[Any]) -> float:
    """The largest relative error."""
    return float((np.abs(predicted - truth) / np.maximum(np.abs(truth), 1e-12)).max(initial=0.0))


# -- milliseconds ----------------------------------------------------------------------------------------------------


def _latency(
    asked: Answers, space: Space, data: dict[str, Any], errors: Mapping[str, float]
) -> dict[str, Any]:
    """Enter the times of layers at a grid of widths in `data`, and fit their sum to whole networks."""
    from scipy.stats import spearmanr

    points = list(check_points(space, POINTS))
    data["layer_ms"] = layer_times(asked, space, data)
    measured = asked.map("time_point", [(point,) for point in points])
    known = [(point, ms) for point, ms in zip(points, measured, strict=True) if ms is not None]
    if len(known) < POINTS // 2 or not data["layer_ms"]:
        return {}
    data["call_ms"] = min(
        ms
        for table in data["layer_ms"].values()
        for kind in KINDS
        for row in table.get(kind, ())
        for ms in row
    )
    truth = np.array([ms for _, ms in known])
    if not np.ptp(truth):  # of a circuit: it depends on the target's own choices, which are neutral here
        return {}
    features = Prices(data).features(LATENCY, as_columns(space, [point for point, _ in known]))
    # Errors count as shares: small networks matter.
    fit, held_out = _fitted(features, truth, weights=truth**-2)
    data["fits"] = {**data["fits"], LATENCY: fit}
    error = float(np.quantile(np.abs(held_out / truth - 1.0), USUAL))
    return {
        "rank_correlation": float(spearmanr(held_out, truth).statistic),
        "errors": {**errors, LATENCY: error},
    }
