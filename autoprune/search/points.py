"""Points by which a fit is made or checked, and points as columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.space import ARCHITECTURE, Space, Value, kind_of

PRICED = (".ratio", ".rank", ".drop", "_bits")  # and architecture: choices that change what is computed

Point = dict[str, Value]


def check_points(space: Space, count: int, seed: int = 0) -> Iterator[Point]:
    """Points over the whole range of what a network of the space can be; choices that do not change costs stay neutral.

    Choices of a kind lean to one value: independent draws come out all alike. Every third point has one other
    architecture option: to look into each architecture of a product of options would take minutes. Every fourth
    stays in floating point, which random bits hardly ever are.
    """
    generator = np.random.default_rng(seed)
    kinds = {name: kind_of(name) for name in space if name.endswith(PRICED)}
    options = [name for name in space if name.startswith(ARCHITECTURE)]
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


def uniform(space: Space, share: float) -> Point:
    """Every ratio so far along its range."""
    point = space.neutral()
    return {**point, **{name: choice.at(share) for name, choice in space.items() if name.endswith(".ratio")}}


def as_columns(space: Space, points: Sequence[Mapping[str, Value]]) -> dict[str, NDArray[Any]]:
    """The values of each choice at some points."""
    return {name: _column([point[name] for point in points]) for name in space}


def _column(values: list[Any]) -> NDArray[Any]:
    plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return np.array(values, dtype=float if plain else object)
