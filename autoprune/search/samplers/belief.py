"""What is believed of points: every objective and every constraint, learned from the trials so far.

A belief is made anew for each proposal, and holds nothing but arrays. Objectives and constraints are predicted by a
`Surrogate` each, except those that turn out to be a known cost: these are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoprune.pareto import Floats, ranks
from autoprune.search.samplers.encoding import Encoding
from autoprune.search.samplers.known import Known
from autoprune.search.samplers.surrogate import Surrogate

MOST_TRIALS = 400  # that the surrogates are conditioned on; suggestion time grows with its square
BEST = 0.5  # share of them that are the best ones; without the rest what is bad is forgotten, and found again
MOST_TUNED = 50  # that a kernel is learned from
BAG = 0.7  # share of the trials that a kernel is learned from, drawn anew each time
LEAST_EXACT = 5  # trials on which a cost has to agree with an objective to stand for it
EXACT = 1e-6  # of its spread: how well it has to agree
SURE = 1e-6  # deviation of what is computed

Scale = Callable[[Floats], Floats]


class Beside(NamedTuple):
    """What trials tell of other points than their own.

    Attributes:
        rows: (E, d).
        outputs: (E, M + C), losses and violations; NaN where nothing is known.
    """

    rows: Floats
    outputs: Floats


@dataclass(frozen=True)
class Results:
    """What became of the finished trials.

    Attributes:
        rows: (N, d).
        losses: (N, M), finite.
        violations: (N, C), 0 or less where a constraint is met, finite.
        measured: (N,), False where losses were made up, as of points that were rejected.
        beside: what is learned from as well, as long as there are few trials.
    """

    rows: Floats
    losses: Floats
    violations: Floats
    measured: NDArray[np.bool_]
    beside: Beside | None = None

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """Which trials were measured and meet every constraint, (N,)."""
        return self.measured & (self.violations <= 0).all(axis=1)


class Belief:
    """Predicts scaled losses and scaled violations.

    Losses are scaled so that the better half is linear and of unit scale and the worse half logarithmic: how
    bad a broken network is says little about good ones. Where damage is known beforehand, an output is a multiple of
    it and what the surrogate makes of the rest: after five trials a surrogate alone ranks worse than damage alone.

    Args:
        encoding: of the points.
        known: figures that need no trial.
        results: at least two trials of them measured.
        surrogates: one for each objective and constraint, tuned here where `tune` is set.
        tune: learn the kernels again.
        generator: draws which trials kernels are learned from. Each time others: kernels that vary keep the
            search from believing in one mistake for ever.

    Attributes:
        objectives: how many there are.
        losses: of all trials, scaled, (N, M).
        ends: the scaled losses beyond which constraints allow nothing, (M,); infinite where none is about one.
    """

    def __init__(
        self,
        encoding: Encoding,
        known: Known,
        results: Results,
        surrogates: list[Surrogate],
        *,
        tune: bool,
        generator: np.random.Generator,
    ) -> None:
        self._encoding, self._known, self._surrogates = encoding, known, surrogates
        self.objectives = results.losses.shape[1]
        told = results.measured if results.measured.sum() >= 2 else np.ones(len(results.rows), dtype=bool)
        self._scales: list[Scale] = [
            _loss_scale(np.concatenate([column[told], _known(results.beside, k)]))
            for k, column in enumerate(results.losses.T)
        ]
        self._scales += [_violation_scale(column) for column in results.violations.T]
        self.losses = self.scaled_losses(results.losses)
        self.ends = self.scaled_losses(_limits(results.losses[told], results.violations[told])[None])[0]
        chosen = _chosen(results, generator)
        rows = results.rows[chosen]
        outputs = np.column_stack([results.losses, results.violations])[chosen]
        enough = told[chosen] if told[chosen].sum() >= 2 else np.ones(len(chosen), dtype=bool)
        trusted = [enough if k < self.objectives else np.ones_like(enough) for k in range(outputs.shape[1])]
        other = results.beside
        if other is not None and len(rows) + len(other.rows) <= MOST_TRIALS:
            rows, outputs = np.vstack([rows, other.rows]), np.vstack([outputs, other.outputs])
            trusted = [
                np.concatenate([use, np.isfinite(column)])
                for use, column in zip(trusted, other.outputs.T, strict=True)
            ]
        figures = known.figures(rows)
        self._centre, deviation = figures.mean(axis=0), figures.std(axis=0)
        self._spread = np.where(deviation > 0, deviation, 1.0)
        damage = self._damage(rows)
        self._middle, self._unit = float(damage.mean()), float(damage.std()) or 1.0
        damage = (damage - self._middle) / self._unit
        self._slopes: list[float] = []
        self._exact = _exact(known, rows, outputs, trusted)
        self._trained: list[tuple[Floats, Floats, Floats]] = []
        described = self._described(rows)
        for k, surrogate in enumerate(surrogates):
            use = trusted[k]
            values = self._scales[k](outputs[use, k])
            self._slopes.append(_slope(damage[use], values))
            training = described[0][use], described[1][use], values - self._slopes[k] * damage[use]
            self._trained.append(training)
            if k in self._exact:
                continue
            if tune:
                most = max(2, min(MOST_TUNED, math.ceil(BAG * int(use.sum()))))
                bag = generator.permutation(int(use.sum()))[:most]
                surrogate.tune(*(part[bag] for part in training))
            surrogate.fit(*training)

    def scaled_losses(self, losses: Floats) -> Floats:
        """Losses (N, M) as they are predicted."""
        return np.column_stack([self._scales[k](losses[:, k]) for k in range(self.objectives)])

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """Means and deviations of scaled losses and violations, (N, M + C) each."""
        # Surrogates predict in single precision: what describes hundreds of points need not be more precise.
        described, foreknown = self._described(rows, np.float32), self._foreknown(rows)
        means, deviations = [], []
        costs = self._known.costs(rows) if self._exact else np.zeros((len(rows), 0))
        for k, surrogate in enumerate(self._surrogates):
            if k in self._exact:
                cost, slope, offset = self._exact[k]
                mean = self._scales[k](slope * costs[:, cost] + offset)
                deviation = np.full(len(rows), SURE)
            else:
                mean, deviation = surrogate.predict(*described)
                mean = mean + foreknown[:, k]
            means.append(mean)
            deviations.append(deviation)
        return np.column_stack(means), np.column_stack(deviations)

    def assume(self, rows: Floats) -> Floats:
        """Take points under way for what is expected of them; their scaled losses (K, M), the feasible ones'.

        Nothing new is learned of the mean, but nobody is uncertain about them any more.
        """
        means, _ = self.predict(rows)
        left = means - self._foreknown(rows)
        features, figures = self._described(rows)
        for k, (surrogate, before) in enumerate(zip(self._surrogates, self._trained, strict=True)):
            if k not in self._exact:
                surrogate.fit(
                    np.vstack([before[0], features]),
                    np.vstack([before[1], figures]),
                    np.concatenate([before[2], left[:, k]]),
                )
        return means[(means[:, self.objectives :] <= 0).all(axis=1), : self.objectives]

    def _damage(self, rows: Floats) -> Floats:
        """The damage that is expected of points before any trial, (N,)."""
        return self._known.expected_damage(rows) if self._known.has_prior else np.zeros(len(rows))

    def _foreknown(self, rows: Floats) -> Floats:
        """What outputs are by the damage alone, (N, M + C); the surrogates learn what is left of them."""
        return np.outer((self._damage(rows) - self._middle) / self._unit, self._slopes)

    def _described(
        self, rows: Floats, kind: type[np.floating[Any]] = np.float64
    ) -> tuple[NDArray[Any], Floats]:
        figures = (self._known.figures(rows) - self._centre) / self._spread
        return self._encoding.features(rows, kind), figures


def _slope(damage: Floats, values: Floats) -> float:
    """By how much values grow with the damage that is expected, 0 or more; drawn to 0 by as much as one trial tells."""
    away = damage - damage.mean()
    return max(0.0, float(away @ (values - values.mean()) / (away @ away + 1.0)))


def _known(beside: Beside | None, output: int) -> Floats:
    """What is known of one output of other points."""
    if beside is None:
        return np.zeros(0)
    column: Floats = beside.outputs[:, output]
    return column[np.isfinite(column)]


def _chosen(results: Results, generator: np.random.Generator) -> NDArray[np.int64]:
    """The trials to condition on: all, or the better ones and some of the rest."""
    count = len(results.rows)
    if count <= MOST_TRIALS:
        return np.arange(count)
    order = np.lexsort((ranks(results.losses), ~results.feasible))
    best = round(BEST * MOST_TRIALS)
    rest = generator.choice(order[best:], MOST_TRIALS - best, replace=False)
    return np.concatenate([order[:best], rest])


def _exact(
    known: Known, rows: Floats, outputs: Floats, trusted: list[NDArray[np.bool_]]
) -> dict[int, tuple[int, float, float]]:
    """Which outputs are a computed cost, up to a factor and an offset: output -> cost, factor, offset."""
    if not known.is_exact:
        return {}
    costs = known.costs(rows)
    found = {}
    for k, values in enumerate(outputs.T):
        use = trusted[k]
        for cost, column in enumerate(costs.T):
            if (line := _line(column[use], values[use])) is not None:
                found[k] = (cost, *line)
    return found


def _line(x: Floats, y: Floats) -> tuple[float, float] | None:
    """Factor and offset by which `y` (N,) follows from `x` (N,); None where it does not, or too little is known."""
    if len(x) < LEAST_EXACT or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return None
    slope, offset = np.polyfit(x, y, 1)
    is_exact = np.abs(slope * x + offset - y).max() <= EXACT * float(np.ptp(y))
    return (float(slope), float(offset)) if is_exact else None


def _limits(losses: Floats, violations: Floats) -> Floats:
    """What constraints allow of objectives, (M,), infinite where none is about one.

    Args:
        losses: (N, M).
        violations: (N, C), of which those grow with a loss, up to a factor and an offset, that limit it.
    """
    limits = np.full(losses.shape[1], np.inf)
    for k, values in enumerate(losses.T):
        for column in violations.T:
            slope, offset = _line(values, column) or (0.0, 0.0)
            if slope > 0:
                limits[k] = min(limits[k], -offset / slope)
    return limits


def _loss_scale(losses: Floats) -> Scale:
    """0 at the median, -1 at the best tenth, logarithmic beyond the median."""
    middle = float(np.median(losses))
    unit = middle - float(np.quantile(losses, 0.1)) or float(np.std(losses)) or 1.0

    def scaled(column: Floats) -> Floats:
        away = (column - middle) / unit
        return np.asarray(np.where(away > 0, np.log1p(away.clip(min=0.0)), away))

    return scaled


def _violation_scale(violations: Floats) -> Scale:
    """Of unit scale near the limit, logarithmic far away; the sign stays."""
    unit = float(np.median(np.abs(violations))) or 1.0
    return lambda column: np.asarray(np.arcsinh(column / unit))
