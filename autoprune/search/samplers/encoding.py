"""Points as arrays: what the surrogate and the proposals of the guided sampler calculate with.

A row (d,) holds one number per choice: the index of an option, or where a number lies between its bounds, 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Floats = NDArray[np.float64]

CENTRES = np.linspace(0.0, 1.0, 5)  # of the bumps that describe a number
WIDTH = 0.3  # of a bump: neighbours overlap, so that what is learned of 0.4 is believed of 0.45
ORDERED_FROM = 6  # so many numeric options in order are described as a number as well


class Encoding:
    """Translates points to rows, and rows to the features that are compared.

    Every choice becomes a block of features of length 1: an option its own axis, a number five bumps. The
    product of two points' blocks is 1 where they agree, 0 where they have nothing in common.

    Attributes:
        names: of the choices, in the order of the columns of a row.
        options: how many options each choice has, shape (d,); 0 for a number.
        kinds: for each choice the number of its kind, shape (d,): choices alike in their options whose names end
            alike (`prune.*.ratio`).
        blocks: for each feature the choice that it describes.
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self.names = list(space)
        self._distributions = list(space.values())
        self.options = np.array([_options(d) for d in self._distributions])
        self._numbers = {
            j: _Number.of(d)
            for j, d in enumerate(self._distributions)
            if isinstance(d, FloatDistribution | IntDistribution)
        }
        keys = [(n.rpartition(".")[2] if "." in n else "", _options(d)) for n, d in space.items()]
        order = list(dict.fromkeys(keys))
        self.kinds = np.array([order.index(key) for key in keys])
        self._ordered = np.array([_is_ordered(d) for d in self._distributions])
        self._groups = self._alike()
        self.blocks = np.concatenate(
            [np.repeat(members, width) for members, width in self._groups] or [np.zeros(0, dtype=np.int64)]
        )

    def _alike(self) -> list[tuple[NDArray[np.int64], int]]:
        """Choices whose features are worked out at once, and how many features each has."""
        forms = list(zip(self.options.tolist(), self._ordered.tolist(), strict=True))
        groups = []
        for count, ordered in sorted(set(forms)):
            members = np.array(
                [j for j, form in enumerate(forms) if form == (count, ordered)], dtype=np.int64
            )
            groups.append((members, count + len(CENTRES) * (count == 0 or ordered)))
        return groups

    def row(self, point: Mapping[str, Any]) -> Floats:
        """A point as a row, shape (d,); a value outside its distribution counts as the nearest inside."""
        return np.array([self.entry(j, point[name]) for j, name in enumerate(self.names)], dtype=float)

    def offers(self, choice: int, value: Any) -> bool:
        """Whether a choice has this value; what a number stands for need not be within its range."""
        distribution = self._distributions[choice]
        return not isinstance(distribution, CategoricalDistribution) or value in distribution.choices

    def entry(self, choice: int, value: Any) -> float:
        """What a value of a choice is in a row."""
        distribution = self._distributions[choice]
        if isinstance(distribution, CategoricalDistribution):
            return float(distribution.to_internal_repr(value))
        return float(self._numbers[choice].places(np.array(value, dtype=float)))

    def point(self, row: Floats) -> dict[str, Any]:
        """A row as a point, every value one that its distribution allows."""
        return {name: self.value(j, float(row[j])) for j, name in enumerate(self.names)}

    def columns(self, rows: Floats) -> dict[str, NDArray[Any]]:
        """For each choice what the entries of rows (N, d) stand for, (N,)."""
        found: dict[str, NDArray[Any]] = {}
        for j, (name, distribution) in enumerate(zip(self.names, self._distributions, strict=True)):
            if isinstance(distribution, CategoricalDistribution):
                values = np.empty(len(distribution.choices), dtype=object)
                values[:] = distribution.choices
                found[name] = values[rows[:, j].astype(int)]
            else:
                numbers = self._numbers[j].values(rows[:, j])
                found[name] = np.round(numbers) if isinstance(distribution, IntDistribution) else numbers
        return found

    def value(self, choice: int, entry: float) -> Any:
        """What an entry of a row stands for."""
        distribution = self._distributions[choice]
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[int(entry)]
        value = float(self._numbers[choice].values(np.array(entry)))
        return round(value) if isinstance(distribution, IntDistribution) else value

    def snapped(self, rows: Floats) -> Floats:
        """Rows (N, d) with numbers within their bounds and on their grid."""
        result = np.where(self.options > 0, rows, rows.clip(0.0, 1.0))
        for j, number in self._numbers.items():
            if number.step is not None:
                result[:, j] = number.places(number.values(result[:, j]))
        return result

    def features(self, rows: Floats, kind: type[np.floating[Any]] = np.float64) -> NDArray[Any]:
        """What describes rows (N, d), shape (N, len(blocks)); as numbers of a kind."""
        parts = []
        rows = rows.astype(kind, copy=False)
        for members, width in self._groups:
            count, columns = int(self.options[members[0]]), rows[:, members]
            own = (columns[:, :, None] == np.arange(count)).astype(kind) if count else _bumps(columns)
            if count and self._ordered[members[0]]:
                own = np.concatenate([own, _bumps(columns / kind(count - 1))], axis=2) / kind(math.sqrt(2.0))
            parts.append(own.reshape(len(rows), len(members) * width))
        return np.hstack(parts) if parts else np.zeros((len(rows), 0), kind)

    def summaries(self, rows: Floats) -> Floats:
        """How far each kind of choice goes in all, shape (N, S): mean of its numbers, shares of its options."""
        parts = []
        for kind in range(int(self.kinds.max(initial=-1)) + 1):
            members = np.flatnonzero(self.kinds == kind)
            count = int(self.options[members[0]])
            if len(members) < 2:
                continue
            if count == 0:
                parts.append(rows[:, members].mean(axis=1, keepdims=True))
            else:
                parts.append(np.stack([(rows[:, members] == k).mean(axis=1) for k in range(count)], axis=1))
        return np.hstack(parts) if parts else np.zeros((len(rows), 0))


@dataclass(frozen=True)
class _Number:
    """A range of numbers, translated to places between 0 and 1 and back."""

    low: float
    high: float
    step: float | None
    log: bool

    @classmethod
    def of(cls, distribution: FloatDistribution | IntDistribution) -> _Number:
        step = None if distribution.step is None else float(distribution.step)
        return cls(float(distribution.low), float(distribution.high), step, distribution.log)

    def places(self, values: Floats) -> Floats:
        """Where values lie, 0 to 1."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        scaled = np.log(np.maximum(values, self.low)) if self.log else values
        return np.asarray(((scaled - low) / (high - low)).clip(0.0, 1.0))

    def values(self, places: Floats) -> Floats:
        """The values of the range that are nearest to places."""
        inside = places.clip(0.0, 1.0)
        way = (self.high / self.low) ** inside if self.log else inside * (self.high - self.low)
        found = self.low * way if self.log else self.low + way
        if self.step is not None:
            found = self.low + np.round((found - self.low) / self.step) * self.step
        return np.asarray(found.clip(self.low, self.high))


def _options(distribution: BaseDistribution) -> int:
    """How many options a choice has; 0 for a number.

    Raises:
        ValueError: a distribution that Optuna does not have today.
    """
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return 0
    raise ValueError(
        f"got a {type(distribution).__name__}, expected a categorical, float or int distribution"
    )


def _is_ordered(distribution: BaseDistribution) -> bool:
    """Whether the options are numbers in ascending order, and many."""
    if not isinstance(distribution, CategoricalDistribution) or len(distribution.choices) < ORDERED_FROM:
        return False
    numbers = [v for v in distribution.choices if isinstance(v, int | float) and not isinstance(v, bool)]
    return len(numbers) == len(distribution.choices) and sorted(numbers) == numbers


def _bumps(numbers: NDArray[Any]) -> NDArray[Any]:
    """Numbers (N, m) of 0 to 1 as bumps (N, m, 5) of length 1, in their own precision."""
    bumps = (numbers[:, :, None] - CENTRES.astype(numbers.dtype)) * numbers.dtype.type(1 / WIDTH)
    np.square(bumps, out=bumps)
    bumps *= numbers.dtype.type(-0.5)
    np.exp(bumps, out=bumps)
    bumps /= np.sqrt(np.einsum("ijk,ijk->ij", bumps, bumps))[:, :, None]
    return np.asarray(bumps)
