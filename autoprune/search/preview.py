"""The part of a profile that pays for itself: what every point costs, and what every choice damages.

Workers answer (`foresight`), the driver puts together: prices by arithmetic, with what no arithmetic gives (bytes
around the weights, milliseconds) fitted to a few points that were really priced and measured, and a damage for each
value of each choice, measured where there is time and estimated from gradients elsewhere. What was found lies in the
cache folder, by a hash of the weights, a sample of the data, the space and the target: later searches read it there,
and a profile that was interrupted goes on.

How much is asked is decided by arithmetic alone, not by the clock, so that the same spec gives the same profile.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import AutopruneError
from autoprune.search.prices import EXACT, KINDS, LATENCY, SIZE, Prices
from autoprune.space import Choice, Range, Space, Value
from autoprune.space.levels import levels
from autoprune.space.widths import units_left
from autoprune.spec import Spec

SECONDS = 60.0  # that a full profile should take at most
START, LEAST_DAMAGE = 10.0, 20.0  # of them, for what comes before, and at least for damage
SHARE = 0.1  # of the search that a profile may take, where the spec does not say how much is wanted
PRICED_POINTS, POINTS = 12, 20  # that are really priced, and that are measured
# What a worker does, roughly; only what is asked of it depends on these.
MACS_PER_SECOND, PASSES, EVALUATION = 15e9, 300, 0.6
PROBE, PRICE, TIMED, LAYER = 0.15, 0.1, 0.5, 0.2
TRAINED_MACS = 3  # of a step of training, for each of a forward pass
AT_ONCE = 16  # probes between two writes of the cache, for each worker
PRICED = (".ratio", ".rank", ".drop", "_bits")  # and architecture: choices that change what is computed
PROBED = (".ratio", ".rank", ".drop", ".sparsity", ".weight_bits")
LEAST_HARMLESS = 8
CODING = "store.coding"
WRONG = 0.1  # relative error of a cost above which no point is refused by it
WRONG_TIME, USUAL = (
    0.5,
    0.9,
)  # the same of latency, and the share of points that keep the error that is told of it
ROUNDING = 1e-9
# For latency: integers are some two times faster at a sixteenth of the BOPs.
STANDING_IN = {"macs": 0.7, "bops": 0.15}

Point = dict[str, Value]
Damage = dict[str, list[tuple[Value, float]]]


class Asked(Protocol):
    """A pool of workers, as far as a preview needs one."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def call(self, method: str, *arguments: Any) -> Any:
        """The result of one method on one worker."""
        ...

    def map(self, method: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """The results of one method for many arguments, spread over the workers."""
        ...


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
    asked = _Cached(workers, made["choices"])
    try:
        found = _costs(asked, space)
        if plan.wants_latency:
            found |= _latency(asked, space, found["prices"], found["errors"])
        if plan.wants_damage:
            found.update(_damage(asked, space, found["prices"], plan))
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
        options = sum(len(getattr(space[n], "values", ())) for n in space if n.startswith("architecture."))
        prices = (PRICED_POINTS + options) * PRICE / workers
        self.wants_costs = bool(len(space)) and (wanted is not None or prices <= allowed)
        self.wants_damage = wanted == "full"
        # Weights that were trained for one architecture say nothing of another one, unless it shares them.
        self.looks_at_architecture = spec.rung_epochs[-1] == 0 or spec.supernet is not None
        self._probe = PROBE + PASSES * macs / MACS_PER_SECOND
        probes = len(list(_probes(space, self.looks_at_architecture)))
        measured = {o.metric for o in spec.objectives} | {c.metric for c in spec.constraints}
        layers = sum(name.endswith(".weight_bits") for name in space) or len(space)
        times = (POINTS * TIMED + layers * 4 * LAYER) / workers if LATENCY in measured else 0.0
        if wanted == "full":
            baseline = made["examples"]["val"] * macs / MACS_PER_SECOND
            left = max(SECONDS - START - baseline - prices - times, LEAST_DAMAGE)
        else:
            left = min(SECONDS, allowed) - prices
        if wanted is None:
            self.wants_damage = bool(probes) and min(probes, len(space)) * self._probe / workers <= left
        self.probes = min(probes, max(0, int(left * workers / self._probe)))
        damage = self.probes * self._probe / workers if self.wants_damage else 0.0
        self.wants_latency = LATENCY in measured and (
            wanted == "full" or (wanted is None and damage + times <= left)
        )


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


def _costs(asked: _Cached, space: Space) -> dict[str, Any]:
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


def _factors(asked: _Cached, space: Space) -> dict[str, Any]:
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
    asked: _Cached, space: Space, data: dict[str, Any], errors: Mapping[str, float]
) -> dict[str, Any]:
    """Enter the times of layers at a grid of widths in `data`, and fit their sum to whole networks."""
    from scipy.stats import spearmanr

    points = list(check_points(space, POINTS))
    data["layer_ms"] = _layer_times(asked, space, data)
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


def _layer_times(asked: _Cached, space: Space, data: Mapping[str, Any]) -> dict[str, Any]:
    """For each layer its milliseconds at every pair of its reachable widths, in floating point and in integers."""
    ends = [_uniform(space, share) for share in (0.0, 0.5, 1.0)]
    widths = Prices(data).widths(as_columns(space, ends))
    grids = {}
    for layer, (reads, writes) in widths.items():
        kinds = list(KINDS) if _can_be_integer(layer, data, space) else ["float"]
        grids[layer] = (np.unique(reads)[::-1].tolist(), np.unique(writes)[::-1].tolist(), kinds)
    calls = [
        (layer, one, other, kind == "integer")
        for layer, (reads, writes, kinds) in grids.items()
        for kind in kinds
        for one in reads
        for other in writes
    ]
    times = dict(zip(calls, asked.map("time_layer", calls), strict=True))
    tables = {}
    for layer, (reads, writes, kinds) in grids.items():
        table = {k: [[times[layer, a, b, k == "integer"] for b in writes] for a in reads] for k in kinds}
        table = {k: rows for k, rows in table.items() if all(ms is not None for row in rows for ms in row)}
        if "float" in table:
            tables[layer] = {"reads": reads, "writes": writes, **table}
    return tables


def _can_be_integer(layer: str, data: Mapping[str, Any], space: Space) -> bool:
    """Whether some point computes a layer with integers."""
    return all(
        any(
            value <= 8 for value in (getattr(space[bits], "values", ()) if isinstance(bits, str) else (bits,))
        )
        for bits in data["bits"].get(layer, (32, 32))
    )


# -- damage ----------------------------------------------------------------------------------------------------------


def _damage(asked: _Cached, space: Space, prices: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """The damage of each value of each choice alone: measured for as many as planned, estimated for the others."""
    estimated = {n: [(v, d) for v, d in pairs] for n, pairs in asked.of_space("estimated").items()}
    guess = {(name, value): damage for name, pairs in estimated.items() for value, damage in pairs}
    probes = _distinct(_probes(space, plan.looks_at_architecture), prices)
    wanted = sorted(probes, key=lambda probe: -guess.get(probe, np.inf))[: plan.probes]
    found = asked.map("damage", [({name: value},) for name, value in wanted])
    measured = {probe: float(d) for probe, d in zip(wanted, found, strict=True) if d is not None}
    scales = _scales(measured, guess)
    table: Damage = {}
    tried = {name for name, _ in measured}
    for name, value in {**guess, **measured}:
        known = measured.get((name, value))
        if known is None and name in tried and isinstance(space[name], Range):
            continue  # what was measured at other numbers says more
        damage = guess.get((name, value), 0.0) * scales.get(_kind(name), 1.0) if known is None else known
        table.setdefault(name, []).append((value, damage))
    for name in space:
        if name.endswith(".activation_bits"):
            # Eight bits for an input hardly move anything; fewer are not known.
            harmless = [v for v in levels(space[name]) if not isinstance(v, str) and v >= LEAST_HARMLESS]
            table[name] = [(value, 0.0) for value in harmless]
    return {
        "sensitivity": {name: _growing(space[name], pairs) for name, pairs in table.items()},
        "probed": len(measured),
    }


def _probes(space: Space, architecture: bool) -> Iterator[tuple[str, Value]]:
    """Values whose damage can be looked at; those of the architecture where that is wanted."""
    for name, choice in space.items():
        if name.endswith(PROBED) or (name.startswith("architecture.") and architecture):
            yield from ((name, value) for value in levels(choice))


def _distinct(probes: Iterable[tuple[str, Value]], data: Mapping[str, Any]) -> list[tuple[str, Value]]:
    """The probes without ratios that leave the same widths as one before."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for group in data["groups"].values():
        groups.setdefault(group["choice"], []).append(group)
    found: dict[Any, tuple[str, Value]] = {}
    for name, value in probes:
        left: Any = value
        if name in groups and isinstance(value, int | float):
            multiple = data["channel_multiple"]
            left = tuple(int(units_left(g["units"], g["together"], value, multiple)) for g in groups[name])
            if all(units == g["units"] for units, g in zip(left, groups[name], strict=True)):
                continue
        found.setdefault((name, left), (name, value))
    return list(found.values())


def _scales(
    measured: Mapping[tuple[str, Value], float], guess: Mapping[tuple[str, Value], float]
) -> dict[str, float]:
    """For each kind of choice how much larger damage is than was estimated, by the median."""
    ratios: dict[str, list[float]] = {}
    for (name, value), damage in measured.items():
        if guess.get((name, value), 0.0) > 0 and damage > 0:
            ratios.setdefault(_kind(name), []).append(damage / guess[name, value])
    return {kind: float(np.median(found)) for kind, found in ratios.items()}


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _growing(choice: Choice, pairs: Sequence[tuple[Value, float]]) -> list[tuple[Value, float]]:
    """Damage that grows with the distance from doing nothing, where values are numbers; 0 for doing nothing."""
    neutral = choice.neutral
    if isinstance(neutral, str) or any(isinstance(value, str) for value, _ in pairs):
        return [(neutral, 0.0), *pairs]
    below = sorted((pair for pair in pairs if pair[0] < neutral), key=lambda pair: -pair[0])  # type: ignore[operator]
    above = sorted((pair for pair in pairs if pair[0] > neutral), key=lambda pair: pair[0])  # type: ignore[operator]
    found: list[tuple[Value, float]] = [(neutral, 0.0)]
    for side in (below, above):
        grown = np.maximum.accumulate([damage for _, damage in side] or [0.0]).tolist()
        found += [(value, damage) for (value, _), damage in zip(side, grown, strict=False)]
    return found


@dataclass(frozen=True)
class Foreknown:
    """What a sampler can be told of a study before its first trial.

    Attributes:
        prices: computes costs of points; None where nothing is known of them.
        prior: choice -> value -> damage to expect.
        limits: cost -> (lowest, highest) that the constraints allow, wider than they are by what a cost is known to:
            some percent of a size, tens of percent of a latency.
        weights: cost -> how much its logarithm counts among what the objectives want to be small.
    """

    prices: Prices | None
    prior: Mapping[str, Mapping[Value, float]]
    limits: Mapping[str, tuple[float, float]]
    weights: Mapping[str, float]


def foreknown(spec: Spec, profile: Mapping[str, Any]) -> Foreknown:
    """What the profile of a search knows of this spec's objectives and constraints."""
    preview = profile.get("preview", {})
    if "prices" not in preview:
        return Foreknown(None, {}, {}, {})
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
            limits[constraint.metric] = (low, min(high, limit * (1 + error + ROUNDING)))
        else:
            limits[constraint.metric] = (max(low, limit * (1 - error - ROUNDING)), high)
    space = Space.from_json(profile["choices"])
    # Samplers do not propose what leaves no choice; the one value there is need not be the neutral one.
    settled = {name: space[name].at(0.0) for name, d in space.distributions().items() if d.single()}
    return Foreknown(Prices(preview["prices"], settled), prior, limits, _weights(spec, preview["prices"]))


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


# -- points ----------------------------------------------------------------------------------------------------------


def check_points(space: Space, count: int, seed: int = 0) -> Iterator[Point]:
    """Points over the whole range of what a network of the space can be; choices that do not change costs stay neutral.

    Choices of a kind lean to one value: independent draws come out all alike. Every third point has one other
    architecture option: to look into each architecture of a product of options would take minutes. Every fourth
    stays in floating point, which random bits hardly ever are.
    """
    generator = np.random.default_rng(seed)
    kinds = {name: _kind(name) for name in space if name.endswith(PRICED)}
    options = [name for name in space if name.startswith("architecture.")]
    for number in range(count):
        centre = {kind: generator.uniform() for kind in dict.fromkeys(kinds.values())}
        spread = generator.uniform(0.0, 0.6)
        point = space.neutral()
        for name, kind in kinds.items():
            if number % 4 == 1 and name.endswith("_bits"):
                continue
            share = float(np.clip(centre[kind] + spread * generator.normal(), 0.0, 1.0))
            point[name] = space[name].at(share)
        if options and number % 3 == 2:
            name = options[int(generator.integers(len(options)))]
            point[name] = space[name].at(generator.uniform())
        yield point


def _uniform(space: Space, share: float) -> Point:
    """Every ratio so far along its range."""
    point = space.neutral()
    return {**point, **{name: choice.at(share) for name, choice in space.items() if name.endswith(".ratio")}}


def as_columns(space: Space, points: Sequence[Mapping[str, Value]]) -> dict[str, NDArray[Any]]:
    """The values of each choice at some points."""
    return {name: _column([point[name] for point in points]) for name in space}


def _column(values: list[Any]) -> NDArray[Any]:
    plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return np.array(values, dtype=float if plain else object)


# -- cache -----------------------------------------------------------------------------------------------------------


class _Cached:
    """Questions to workers, and the answers that are known from before.

    Args:
        workers: they answer.
        space: of the search, as plain data.
    """

    def __init__(self, workers: Asked, space: Mapping[str, Any]) -> None:
        from autoprune.targets.cache import cache_folder

        self._space, self._workers = space, workers
        key = workers.call("foresee", "key", space)
        self._path: Path | None = cache_folder() / "previews" / f"{key}.json"
        self._answers = self._read()

    def of_space(self, question: str) -> Any:
        """The answer of one worker about the whole space."""
        if question not in self._answers:
            self._answers[question] = _plain(self._workers.call("foresee", question, self._space))
            self._write()
        return self._answers[question]

    def map(self, question: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """An answer for each tuple of arguments; those that are not known are asked for, and written as they come."""
        keys = [json.dumps([question, *arguments], sort_keys=True) for arguments in calls]
        wanted = [i for i, key in enumerate(keys) if key not in self._answers]
        step = AT_ONCE * self._workers.size
        for start in range(0, len(wanted), step):
            part = wanted[start : start + step]
            answers = self._workers.map("foresee", [(question, *calls[i]) for i in part])
            self._answers.update({keys[i]: _plain(answer) for i, answer in zip(part, answers, strict=True)})
            self._write()
        return [self._answers[key] for key in keys]

    def _read(self) -> dict[str, Any]:
        """What is known from before; nothing where the file is absent or damaged."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8")) if self._path is not None else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        """Replace the file in one step; a folder that cannot be written is no reason to fail."""
        from autoprune.targets.cache import write_cache

        if self._path is None:
            return
        try:
            write_cache(self._path, self._answers)
        except OSError:
            self._path = None


def _plain(answer: Any) -> Any:
    """As JSON reads it back, so that an answer is the same from a worker and from the cache."""
    return json.loads(json.dumps(answer))
