"""What each value of each choice does to the outputs: measured where there is time for it, estimated elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.search.answers import Answers
from autoprune.space import ARCHITECTURE, Choice, Range, Space, Value, kind_of
from autoprune.space.levels import levels
from autoprune.space.widths import units_left

PROBED = (".ratio", ".rank", ".drop", ".sparsity", ".weight_bits")
LEAST_HARMLESS = 8

Damage = dict[str, list[tuple[Value, float]]]


def damages(
    asked: Answers, space: Space, prices: Mapping[str, Any], *, count: int, architecture: bool
) -> dict[str, Any]:
    """The damage of each value of each choice alone, as plain data.

    Args:
        asked: workers answer.
        space: the space.
        prices: data of `Prices`.
        count: how many are measured; the others are estimated.
        architecture: measure architecture options, too.

    Returns:
        `sensitivity` (choice -> [value, damage] pairs) and `probed` (how many of these were measured).
    """
    estimated = {n: [(v, d) for v, d in pairs] for n, pairs in asked.of_space("estimated").items()}
    guess = {(name, value): damage for name, pairs in estimated.items() for value, damage in pairs}
    worth_a_look = _distinct(probes(space, architecture), prices)
    wanted = sorted(worth_a_look, key=lambda probe: -guess.get(probe, np.inf))[:count]
    found = asked.map("damage", [({name: value},) for name, value in wanted])
    measured = {probe: float(d) for probe, d in zip(wanted, found, strict=True) if d is not None}
    scales = _scales(measured, guess)
    table: Damage = {}
    tried = {name for name, _ in measured}
    for name, value in {**guess, **measured}:
        known = measured.get((name, value))
        if known is None and name in tried and isinstance(space[name], Range):
            continue  # what was measured at other numbers says more
        damage = guess.get((name, value), 0.0) * scales.get(kind_of(name), 1.0) if known is None else known
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


def probes(space: Space, architecture: bool) -> Iterator[tuple[str, Value]]:
    """Values whose damage can be looked at; those of the architecture where that is wanted."""
    for name, choice in space.items():
        if name.endswith(PROBED) or (name.startswith(ARCHITECTURE) and architecture):
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
            ratios.setdefault(kind_of(name), []).append(damage / guess[name, value])
    return {kind: float(np.median(found)) for kind, found in ratios.items()}


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
