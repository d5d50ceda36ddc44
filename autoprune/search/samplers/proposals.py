"""Candidates among which the guided sampler picks: children of the front, neighbours, points from everywhere."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from autoprune.pareto import Floats
from autoprune.search.samplers.encoding import Encoding
from autoprune.search.samplers.known import Known

MOST_MUTATED = 0.4  # share of the choices that one mutation may change
CROSSED = 0.5  # share of the children that have two parents
IN_UNISON = 0.2  # share of the children in which a kind of choices moves as one
PRICES = 24  # of a unit of cost, at which `frugal` looks
_STEP_LOGS = (math.log(0.02), math.log(0.5))  # of standard deviations of the move of a number, in its range


def anywhere(encoding: Encoding, count: int, generator: np.random.Generator) -> Floats:
    """Points drawn alike from the whole space, half of them with each kind of choice leaning to one value.

    Independent draws of dozens of choices all come out alike on average, neither small nor large; those that lean
    cover the range of what the whole network can be.
    """
    rows = _drawn(encoding, count, generator)
    for kind in range(int(encoding.kinds.max(initial=-1)) + 1):
        members = np.flatnonzero(encoding.kinds == kind)
        if len(members) < 2:
            continue
        targets = _drawn(encoding, count, generator)[:, members[:1]]
        leaning = generator.uniform(size=(count, 1)) * (np.arange(count) % 2 == 0)[:, None]
        follow = generator.uniform(size=(count, len(members))) < leaning
        rows[:, members] = np.where(follow, targets, rows[:, members])
    return encoding.snapped(rows)


def children(encoding: Encoding, parents: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Points (count, d) near rows of `parents` (P, d): crossed, mutated, or with one kind of choices moved."""
    if not len(parents) or not count:
        return np.zeros((0, len(encoding.names)))
    first, second = parents[generator.integers(len(parents), size=(2, count))]
    cross = generator.uniform(size=(count, 1)) < CROSSED
    mixed = np.where(cross & (generator.uniform(size=first.shape) < 0.5), second, first)
    choices = len(encoding.names)
    rate = np.exp(
        generator.uniform(np.log(1.0 / choices), np.log(max(1.0 / choices, MOST_MUTATED)), (count, 1))
    )
    change = generator.uniform(size=first.shape) < rate
    change[np.arange(count), generator.integers(choices, size=count)] = True
    rows = np.where(change, _moved(encoding, mixed, generator), mixed)
    moving = np.flatnonzero(generator.uniform(size=count) < IN_UNISON)
    for row in moving:
        rows[row] = _kind_moved(encoding, mixed[row], generator)
    return encoding.snapped(rows)


def neighbours(encoding: Encoding, centres: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Points (K * count, d) that differ in one choice from the rows of `centres` (K, d), as many from each."""
    rows = np.repeat(centres, count, axis=0)
    places = np.arange(len(rows)), generator.integers(rows.shape[1], size=len(rows))
    rows[places] = _moved(encoding, rows, generator)[places]
    return encoding.snapped(rows)


def frugal(encoding: Encoding, known: Known) -> Floats:
    """Points that should lose least at what they cost, from the least compressed to the smallest.

    The knapsack of one item per choice, relaxed: for each price of a unit of cost every choice takes the value with
    the least loss and cost together. Costs of a value are what it changes alone, in logarithms.
    """
    start = np.zeros(len(encoding.names))
    items = [
        np.arange(count, dtype=float) if count else np.linspace(0.0, 1.0, 9) for count in encoding.options
    ]
    losses, costs = [], []
    for j, entries in enumerate(items):
        rows = np.tile(start, (len(entries), 1))
        rows[:, j] = entries
        losses.append(known.prior(rows))
        costs.append(np.log1p(known.costs(rows)).sum(axis=1))
    scale = sum(float(np.ptp(loss)) for loss in losses) / (sum(float(np.ptp(c)) for c in costs) or 1.0)
    points = []
    for price in scale * np.geomspace(0.01, 100.0, PRICES):
        chosen = [e[int(np.argmin(a + price * c))] for e, a, c in zip(items, losses, costs, strict=True)]
        points.append(chosen)
    return encoding.snapped(np.unique(np.array(points), axis=0))


def _drawn(encoding: Encoding, count: int, generator: np.random.Generator) -> Floats:
    drawn = generator.uniform(size=(count, len(encoding.names)))
    return np.asarray(np.where(encoding.options > 0, np.floor(drawn * encoding.options), drawn))


def _moved(encoding: Encoding, rows: Floats, generator: np.random.Generator) -> Floats:
    """Every choice changed: another option, a number nearby."""
    scale = np.exp(generator.uniform(*_STEP_LOGS, size=(len(rows), 1)))
    near = rows + scale * generator.normal(size=rows.shape)
    others = np.maximum(encoding.options - 1, 1)
    jump = 1 + np.floor(generator.uniform(size=rows.shape) * others)
    other = np.mod(rows + jump, np.maximum(encoding.options, 1))
    return np.asarray(np.where(encoding.options > 0, other, near))


def _kind_moved(encoding: Encoding, row: Floats, generator: np.random.Generator) -> Floats:
    """One kind of choices moved by the same step, or some of it set to the same option."""
    kind = encoding.kinds[generator.integers(len(encoding.kinds))]
    members: NDArray[np.int64] = np.flatnonzero(encoding.kinds == kind)
    result = row.copy()
    if encoding.options[members[0]]:
        some = members[generator.uniform(size=len(members)) < generator.uniform()]
        result[some] = generator.integers(encoding.options[members[0]])
    else:
        result[members] += generator.normal(0.0, 0.2)
    return np.asarray(result)
