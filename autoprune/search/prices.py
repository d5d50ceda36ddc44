"""What points cost, by arithmetic: thousands of them in milliseconds, without a network.

A worker lists once what a network's costs are made up of (`cost.cost_terms`): weights, the groups along their axes,
the choices of their bits. From that the multiply-accumulates, parameters and BOPs of any point follow; where the space
has architecture, depth or rank, the factor by which each of their values alone changes each layer is measured as well,
and factors are multiplied. What is not a plain sum of these (bytes around the weights, milliseconds) is fitted to
points that were really priced and measured. How far all of it holds is checked on points that were left out, and
milliseconds are corrected by what trials turn out to take.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.space.widths import units_left

Floats = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]
FLOAT_BITS = 32
INTEGER_BITS = 8  # weights and inputs of at most so many bits are multiplied as integers
EXACT = ("params", "macs", "bops")
SIZE, LATENCY = "size_bytes", "latency_ms"
KINDS = ("float", "integer")  # of the arithmetic of a layer
LATEST = 300  # trials by which latencies are corrected


class Prices:
    """Costs of points: `params`, `macs`, `bops`, and, once fitted, `size_bytes` and `latency_ms`.

    Args:
        data: plain data:
            `terms` (see `cost.cost_terms`); `groups` (name -> `choice`, `units`, `together`, and `units_at`: choice ->
            [value, units] pairs where an architecture option changes them); `channel_multiple`; `bits` (layer -> the
            bits of weight and input, each a number or the name of its choice); `elsewhere` (multiply-accumulates
            outside of all layers) and `attention` (lists of groups in proportion to which they shrink); `factors`
            (choice -> [value, {layer: [of MACs, of parameters]}] pairs); `layer_ms` (layer -> `reads` and `writes`,
            shares of full width in descending order, and `float` and `integer`, milliseconds for each pair of
            these); `call_ms` (what each of these includes for being called alone); `fits` (cost -> `weights` and
            `constant`).
        settled: the values of choices that leave none, which points need not name.
    """

    def __init__(self, data: Mapping[str, Any], settled: Mapping[str, Any] | None = None) -> None:
        self._data, self._settled = data, settled or {}
        self._fits: Mapping[str, Any] = data.get("fits", {})

    def __call__(self, point: Mapping[str, Any]) -> dict[str, float]:
        """Costs of one point by name."""
        costs = self.columns({name: np.array([value]) for name, value in point.items()})
        return {name: float(values[0]) for name, values in costs.items()}

    def columns(self, columns: Columns) -> dict[str, Floats]:
        """Costs by name, (N,) each.

        Args:
            columns: for each choice its values at N points.
        """
        made = self._made(columns)
        costs = {"params": made.params, "macs": made.macs, "bops": made.bops}
        for name, fit in self._fits.items():
            # Fewer in a profile of before changes of arithmetic were counted.
            weights = np.array(fit["weights"])
            costs[name] = made.features(name)[:, : len(weights)] @ weights + fit["constant"]
        return costs

    def features(self, name: str, columns: Columns) -> Floats:
        """What a fitted cost is a weighted sum of, (N, F)."""
        return self._made(columns).features(name)

    def corrected(self, columns: Columns, told: Sequence[Mapping[str, float]]) -> Prices:
        """The same with latencies drawn towards those of trials; however often, it starts from the profile's fit.

        The profile measured few networks, and whole kinds of others are off alike: those of integers took 1.4 times
        what it says. Errors count as shares. The profile counts as much as one trial, so that trials change a weight
        only as far as they speak of it.

        Args:
            columns: for each choice its values at N trials, the latest last.
            told: costs of each; those without a latency tell nothing.
        """
        fit = self._data.get("fits", {}).get(LATENCY)
        timed = [i for i, costs in enumerate(told) if 0.0 < costs.get(LATENCY, 0.0) < float("inf")][-LATEST:]
        if fit is None or not timed:
            return self
        from scipy.optimize import lsq_linear

        before = np.array([*fit["weights"], fit["constant"]])
        truth = np.array([told[i][LATENCY] for i in timed])
        features = self._made({name: column[timed] for name, column in columns.items()}).features(LATENCY)
        parts = np.column_stack([features[:, : len(before) - 1], np.ones(len(timed))])
        usual = np.abs(parts).mean(axis=0)
        unit = np.where(usual > 0, usual, 1.0) / np.median(truth)
        lowest = np.zeros(len(before))
        lowest[-1] = -np.inf  # layers timed alone may include more than they take in a network
        found = lsq_linear(
            np.vstack([parts / truth[:, None] / unit, np.eye(len(before))]),
            np.concatenate([np.ones(len(timed)), before * unit]),
            bounds=(lowest, np.inf),
        )
        *weights, constant = (found.x / unit).tolist()
        other = copy.copy(self)
        other._fits = {**self._fits, LATENCY: {"weights": weights, "constant": constant}}
        return other

    def widths(self, columns: Columns) -> dict[str, tuple[Floats, Floats]]:
        """Layer that can be quantized -> which share of its inputs and of its outputs stays, (N,) each."""
        made = self._made(columns)
        return {
            term["layer"]: (made.axis(term, "reads"), made.axis(term, "writes"))
            for term in self._data["terms"]
            if term["can_round"]
        }

    def _made(self, columns: Columns) -> _Made:
        count = len(next(iter(columns.values()), np.zeros(1)))
        settled = {name: np.array([value] * count) for name, value in self._settled.items()}
        return _Made(self._data, {**settled, **columns})


class _Made:
    """The sums over all weights, for N points."""

    def __init__(self, data: Mapping[str, Any], columns: Columns) -> None:
        count = len(next(iter(columns.values()), np.zeros(1)))
        self._columns, self._data, self._count = columns, data, count
        self._factors = [(columns[name], pairs) for name, pairs in data["factors"].items() if name in columns]
        # Group -> which share of its units stays, of those that the architecture and that the reference has.
        self._kept, self._width = dict[str, Floats](), dict[str, Floats]()
        for name, group in data["groups"].items():
            left, units = self._units(group, count)
            self._kept[name], self._width[name] = left / units, left / group["units"]
        self._layer_factors: dict[str, tuple[Floats, Floats]] = {}
        self.params, self.bops = np.zeros(count), np.zeros(count)
        self.macs = self._elsewhere(count)
        self.bops += self.macs * FLOAT_BITS**2
        self._rounded_bytes, self._float_bytes = np.zeros(count), np.zeros(count)
        self._rounded_layers, self._outputs = np.zeros(count), np.zeros(count)
        self._tensors = np.zeros(count)
        self._ms = {kind: np.zeros(count) for kind in KINDS}
        self._calls = {kind: np.zeros(count) for kind in KINDS}
        self._changes, self._was_integer = np.zeros(count), np.zeros(count, dtype=bool)
        for term in data["terms"]:
            self._add(term, count)

    def features(self, name: str) -> Floats:
        """The sums that a cost of this name is fitted by, (N, F)."""
        if name == LATENCY:
            changes = self._changes + self._was_integer  # outputs are floating-point numbers
            return np.column_stack([*self._ms.values(), *self._calls.values(), changes])
        any_rounded = (self._rounded_layers > 0).astype(float)
        parts = [self._rounded_bytes, self._float_bytes * any_rounded, self._float_bytes * (1 - any_rounded)]
        return np.column_stack([*parts, self._rounded_layers, self._outputs, self._tensors])

    def axis(self, term: Mapping[str, Any], role: str) -> Floats:
        """How long the input or output axis of a weight is, as a share of the reference's, (N,)."""
        return self._axis(term["axes"][term[role]], self._count, self._width)

    def _add(self, term: Mapping[str, Any], count: int) -> None:
        of_macs, of_params = self._layer_factor(term["layer"], count)
        axes = [self._axis(axis, count, self._kept) for axis in term["axes"]]
        share = np.prod(axes, axis=0) if axes else np.ones(count)
        params, macs = term["params"] * share * of_params, term["macs"] * share * of_macs
        weight_bits, input_bits = self._bits_of(term, count)
        self._tensors += of_params > 0
        self.params += params
        self.macs += macs
        self.bops += macs * weight_bits * input_bits
        if not term["can_round"]:
            self._float_bytes += 4 * params
            return
        rounded = (weight_bits < FLOAT_BITS) & (of_params > 0)
        outputs = axes[term["writes"]] * term["outputs"]
        self._rounded_bytes += params * weight_bits / 8
        self._rounded_layers += rounded
        self._outputs += rounded * outputs
        self._time(term, share * of_macs, (weight_bits <= INTEGER_BITS) & (input_bits <= INTEGER_BITS))

    def _time(self, term: Mapping[str, Any], macs: Floats, integer: NDArray[np.bool_]) -> None:
        """Add what a layer takes that has this share of the reference's MACs.

        A narrow layer takes more for each of them than a wide one, whether it was made so or cut: what the grid says
        of its widths counts, and only what they do not explain (kernels, places, widths beyond the grid) is taken to be
        proportional.
        """
        table = self._data.get("layer_ms", {}).get(term["layer"])
        if table is None:
            return
        places, explained = [], np.ones(self._count)
        for role in ("reads", "writes"):
            shares = np.array(table[role], dtype=float)  # descending
            share = self.axis(term, role).clip(shares.min(), shares.max())
            explained *= share
            places.append(np.interp(-share, -shares, np.arange(len(shares), dtype=float)))
        is_there, alone = macs > 0, self._data.get("call_ms", 0.0)
        for kind, chosen in zip(KINDS, (~integer, integer), strict=True):
            grid = np.array(table[kind if table.get(kind) else "float"], dtype=float) - alone
            self._ms[kind] += np.where(chosen, _between(grid, *places) * macs / explained, 0.0)
            self._calls[kind] += chosen & is_there
        self._changes += (integer != self._was_integer) & is_there
        self._was_integer = np.where(is_there, integer, self._was_integer)

    def _bits_of(self, term: Mapping[str, Any], count: int) -> tuple[Floats, Floats]:
        weight, given = (
            self._data["bits"].get(term["layer"], (FLOAT_BITS, FLOAT_BITS))
            if term["can_round"]
            else (FLOAT_BITS, FLOAT_BITS)
        )
        weight_bits, input_bits = self._numbers(weight, count), self._numbers(given, count)
        return weight_bits, np.where(weight_bits < FLOAT_BITS, input_bits, FLOAT_BITS)

    def _numbers(self, given: str | float, count: int) -> Floats:
        """A number, or the values of the choice of this name."""
        if isinstance(given, str):
            return np.asarray(self._columns.get(given, np.full(count, FLOAT_BITS)), dtype=float)
        return np.full(count, float(given))

    def _elsewhere(self, count: int) -> Floats:
        """Multiply-accumulates outside of all layers: of attention, in proportion to the heads and widths kept."""
        layers = self._data.get("attention", ())
        shares = [np.prod([self._kept[name] for name in names], axis=0) for names in layers]
        return np.asarray(self._data["elsewhere"] * (np.mean(shares, axis=0) if shares else np.ones(count)))

    def _units(self, group: Mapping[str, Any], count: int) -> tuple[Floats, Floats]:
        """How many units of a group stay, and how many the architecture has, (N,) each."""
        units = np.full(count, float(group["units"]))
        for name, pairs in group["units_at"].items():
            if name in self._columns:
                scale = np.array([[other / group["units"]] for _, other in pairs])
                units = units * _looked_up(self._columns[name], [value for value, _ in pairs], scale)[:, 0]
        units = np.maximum(np.round(units), 1)
        if group["choice"] not in self._columns:
            return units, units
        ratio = np.asarray(self._columns[group["choice"]], dtype=float)
        left = units_left(units, group["together"], ratio, self._data["channel_multiple"])
        return np.asarray(left, dtype=float), units

    def _axis(self, axis: Sequence[tuple[str, float]], count: int, of: Mapping[str, Floats]) -> Floats:
        """How long an axis is, of the shares of its groups: those that share it out add up, factors multiply."""
        gone = [share * (1 - of[name]) for name, share in axis if name in of]
        if not gone:
            return np.ones(count)
        if sum(share for _, share in axis) <= 1 + 1e-9:
            return np.asarray(1 - np.sum(gone, axis=0))
        return np.asarray(np.prod([1 - part for part in gone], axis=0))

    def _layer_factor(self, layer: str, count: int) -> tuple[Floats, Floats]:
        """By how much architecture, depth and rank change the MACs and the parameters of a layer."""
        if layer not in self._layer_factors:
            both = np.ones((count, 2))
            for column, pairs in self._factors:
                values = np.array([changed.get(layer, (1.0, 1.0)) for _, changed in pairs], dtype=float)
                both *= _looked_up(column, [value for value, _ in pairs], values)
            self._layer_factors[layer] = both[:, 0], both[:, 1]
        return self._layer_factors[layer]


def _looked_up(column: NDArray[Any], values: Sequence[Any], rows: Floats) -> Floats:
    """For each entry of a column the row of the value that it is; numbers between values are interpolated."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        order = np.argsort(values)
        known, numbers = np.array(values, dtype=float)[order], np.asarray(column, dtype=float)
        return np.column_stack([np.interp(numbers, known, part) for part in rows[order].T])
    found = np.ones((len(column), rows.shape[1]))
    for value, row in zip(values, rows, strict=True):
        found[np.asarray(column == value, dtype=bool)] = row
    return found


def _between(grid: Floats, first: Floats, second: Floats) -> Floats:
    """Values at places between the points of a grid, bilinear."""
    i, j = (np.floor(place).astype(int) for place in (first, second))
    a, b = first - i, second - j
    i1, j1 = np.minimum(i + 1, grid.shape[0] - 1), np.minimum(j + 1, grid.shape[1] - 1)
    return np.asarray(
        (1 - a) * ((1 - b) * grid[i, j] + b * grid[i, j1]) + a * ((1 - b) * grid[i1, j] + b * grid[i1, j1])
    )
