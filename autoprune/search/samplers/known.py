"""What is known of a point before anybody tries it: costs, sensitivity, and how far it goes in all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from autoprune.constraint import MEASURED
from autoprune.search.samplers.encoding import Encoding, Floats

Costs = Callable[[Mapping[str, Any]], Mapping[str, float]]
Prior = Mapping[str, Mapping[Any, float]]
Limits = Mapping[str, tuple[float, float]]


LEAST_TOLD = 8  # trials that tell of their costs, before costs of other points are predicted from them
REMEMBERED = 100_000  # points whose costs are kept
DOUBT = 0.3  # standard deviation of the logarithm of a loss that is expected
AIMS = (-1.0, 0.5)  # margins from which one is drawn for a point
SMALL = 0.01  # share of the most damage there can be, below which damages are told apart no more


class Proxies(Protocol):
    """What is said of points without training any; `search.foretold` has it."""

    def used(self) -> tuple[str, ...]:
        """The proxies to go by now."""
        ...

    def figures(self, proxies: Sequence[str], names: Sequence[str], rows: Floats) -> Floats:
        """Scores (N, proxies) of rows (N, d) of the choices of these names."""
        ...


class Known:
    """Figures of points that cost next to nothing.

    Args:
        encoding: of the points.
        costs: the costs of a point by name, always the same names; asked for some hundred points a proposal, so it
            should take microseconds. One with a method `columns` is given all points at once: for each choice an
            array of its values; one with a method `corrected` is corrected by what trials told (`learn`): it is given
            their values in the same way and their costs, and returns what computes costs from then on. Without `costs`
            they are predicted from what trials told.
        prior: choice -> value -> loss that is expected of it; between the values of a number it is interpolated, and
            choices that are not named expect none.
        limits: cost -> lowest and highest that is allowed.
        proxies: what training-free proxies say of points.
        errors: cost -> how far off it may be, relative; 0 for those that are not named.

    Attributes:
        margin: of its error a cost may be beyond its limits; points that are to keep them in truth aim lower.
    """

    def __init__(
        self,
        encoding: Encoding,
        costs: Costs | None,
        prior: Prior | None,
        limits: Limits | None = None,
        proxies: Proxies | None = None,
        errors: Mapping[str, float] | None = None,
    ) -> None:
        self.margin = 1.0
        self._encoding, self._proxies = encoding, proxies
        self._used: tuple[str, ...] = ()  # of the proxies, until the next look at the trials
        self._computed = None if costs is None else _Computed(encoding, costs)
        self._corrected = getattr(costs, "corrected", None)
        self._limits, self._errors = limits or {}, errors or {}
        self._told: Ridge | None = None
        self._learned = 0
        expected = {
            j: {
                value: loss
                for value, loss in (prior or {}).get(name, {}).items()
                if encoding.offers(j, value)
            }
            for j, name in enumerate(encoding.names)
        }
        self._prior = {j: _curve(encoding, j, losses) for j, losses in expected.items() if losses}
        self._offered = {
            j: np.unique([encoding.entry(j, value) for value in expected[j]]) for j in self._prior
        }
        self._most = sum(float(losses.max()) for _, losses in self._prior.values())

    @property
    def has_prior(self) -> bool:
        """Whether any choice has a prior."""
        return bool(self._prior)

    def aiming(self, margin: float) -> Known:
        """The same with another margin; both remember the costs of the same points."""
        other = copy.copy(self)
        other.margin = margin
        return other

    def doubted(self, generator: np.random.Generator) -> Known:
        """The same, as it might be: what each choice loses times a factor that is drawn, and costs as far off."""
        other = self.aiming(float(generator.uniform(*AIMS)) if self._errors else self.margin)
        factors = np.exp(DOUBT * generator.normal(size=len(self._prior)))
        other._prior = {
            j: (entries, losses * factor)
            for (j, (entries, losses)), factor in zip(self._prior.items(), factors, strict=True)
        }
        return other

    def harmless(self, row: Floats) -> Floats:
        """A point (d,) with every choice that the prior speaks of where it expects to lose least."""
        result: Floats = row.copy()
        for j, (entries, losses) in self._prior.items():
            result[j] = entries[int(losses.argmin())]
        return result

    def may_learn(self, count: int) -> bool:
        """Whether costs of so many trials tell enough that was not learned yet."""
        if self.is_exact and self._corrected is None:
            return False
        return count >= max(1 if self.is_exact else LEAST_TOLD, 1.1 * self._learned)

    def learn(self, rows: Floats, told: Sequence[Mapping[str, float]]) -> None:
        """Correct costs by those of trials, or predict them: log-linear, as most are products of what choices keep.

        Args:
            rows: (N, d), the latest last.
            told: costs of each.
        """
        if not self.may_learn(len(told)):
            return
        self._learned = len(told)
        if self._corrected is not None:
            costs = self._corrected(self._encoding.columns(rows), told)
            self._computed = _Computed(self._encoding, costs)
            return
        # What is measured is for the surrogates: predicted in this way it would equal what it was learned from.
        names = sorted(set.intersection(*(set(costs) for costs in told)).difference(MEASURED))
        if names:
            table = np.array([[costs[name] for name in names] for costs in told], dtype=float)
            self._told = Ridge(alpha=0.01).fit(self._encoding.features(rows), _logs(table))

    def costs(self, rows: Floats) -> Floats:
        """Costs of points (N, C); exact where they are computed, C = 0 where nothing is known of them."""
        if self._computed is not None:
            return self._computed.of(rows)
        if self._told is None:
            return np.zeros((len(rows), 0))
        return np.asarray(np.expm1(self._told.predict(self._encoding.features(rows)).reshape(len(rows), -1)))

    @property
    def is_exact(self) -> bool:
        """Whether costs are computed rather than predicted."""
        return self._computed is not None

    def named_costs(self, rows: Floats) -> dict[str, Floats]:
        """Computed costs by name, (N,) each; none where they are not computed."""
        if self._computed is None:
            return {}
        costs = self._computed.of(rows)
        return dict(zip(self._computed.names, costs.T, strict=True))

    def allowed(self, rows: Floats) -> NDArray[np.bool_]:
        """Which points keep all limits on costs, (N,)."""
        kept = np.ones(len(rows), dtype=bool)
        costs = self.named_costs(rows) if self._limits and len(rows) else {}
        for name, column in costs.items():
            if name in self._limits:
                low, high = self._limit(name)
                kept &= (column >= low) & (column <= high)
        return kept

    def excess(self, rows: Floats) -> Floats:
        """By how much points go beyond the upper limits, as a sum of logarithms, (N,)."""
        costs = self.named_costs(rows)
        total = np.zeros(len(rows))
        for name, column in costs.items():
            _, high = self._limit(name)
            if 0 < high < float("inf"):
                total += np.log(column.clip(1e-9) / high).clip(0.0)
        return total

    def _limit(self, name: str) -> tuple[float, float]:
        """The limits of a cost, moved outwards by the margin."""
        low, high = self._limits.get(name, (-float("inf"), float("inf")))
        beyond = self.margin * self._errors.get(name, 0.0)
        return low * (1 - beyond), high * (1 + beyond)

    def offered(self, choice: int, steps: int) -> Floats:
        """The entries of a choice of which the prior speaks: options, or numbers from the lowest to the highest."""
        entries = self._offered.get(choice, np.zeros(0))
        if self._encoding.options[choice] or len(entries) < 2:
            return entries
        return np.linspace(entries[0], entries[-1], steps)

    def expected_damage(self, rows: Floats) -> Floats:
        """The prior on a scale on which factors are steps, (N,)."""
        return np.asarray(np.log(self.prior(rows).clip(0.0) + SMALL * (self._most or 1.0)))

    def prior(self, rows: Floats) -> Floats:
        """Loss that is expected of points, shape (N,)."""
        return np.asarray(self.each_prior(rows).sum(axis=1))

    def each_prior(self, rows: Floats) -> Floats:
        """Loss that is expected of each choice for itself, shape (N, choices with a prior)."""
        parts = [np.interp(rows[:, j], entries, losses) for j, (entries, losses) in self._prior.items()]
        return np.column_stack(parts) if parts else np.zeros((len(rows), 0))

    def figures(self, rows: Floats) -> Floats:
        """All of it that describes points, shape (N, G)."""
        parts = [self._encoding.summaries(rows), _logs(self.costs(rows))]
        if self._prior:
            parts.append(self.expected_damage(rows)[:, None])
        if self._used and self._proxies is not None:
            parts.append(self._proxies.figures(self._used, self._encoding.names, rows))
        return np.hstack(parts)

    def look_at_proxies(self) -> None:
        """Go by those proxies from now on that the trials speak for."""
        self._used = self._proxies.used() if self._proxies is not None else ()


class _Computed:
    """Costs that are computed: of all points at once where that is offered, else of each, remembered.

    Args:
        encoding: of the points.
        ask: as `costs` of `Known`.

    Attributes:
        names: of the costs, in their order; known once some were computed.
    """

    def __init__(self, encoding: Encoding, ask: Costs) -> None:
        self.names: list[str] = []
        self._encoding, self._ask = encoding, ask
        self._ask_all = getattr(ask, "columns", None)
        self._remembered: dict[bytes, list[float]] = {}

    def of(self, rows: Floats) -> Floats:
        """Costs of points (N, C)."""
        if self._ask_all is not None:
            table = self._ask_all(self._encoding.columns(rows))
            self.names = self.names or sorted(table)
            return np.column_stack([table[name] for name in self.names])
        if len(self._remembered) > REMEMBERED:
            self._remembered.clear()
        return np.array([self._of_one(row) for row in rows], dtype=float).reshape(len(rows), -1)

    def _of_one(self, row: Floats) -> list[float]:
        key = row.tobytes()
        if key not in self._remembered:
            named = self._ask(self._encoding.point(row))
            self.names = self.names or sorted(named)
            self._remembered[key] = [float(named[name]) for name in self.names]
        return self._remembered[key]


def _logs(costs: Floats) -> Floats:
    """Costs on a scale on which factors are steps."""
    return np.asarray(np.log1p(costs.clip(min=0.0)))


def _curve(encoding: Encoding, choice: int, losses: Mapping[Any, float]) -> tuple[Floats, Floats]:
    """Entries of a choice and the losses there, ascending; options that are not named lose nothing."""
    given = {encoding.entry(choice, value): float(loss) for value, loss in losses.items()}
    options = int(encoding.options[choice])
    entries = [float(k) for k in range(options)] if options else sorted(given)
    return np.array(entries), np.array([given.get(entry, 0.0) for entry in entries])
