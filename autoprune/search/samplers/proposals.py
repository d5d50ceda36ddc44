"""Candidates among which the guided sampler picks: children of the front, neighbours, points from everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from autoprune.pareto import Floats
from autoprune.search.samplers.encoding import Encoding
from autoprune.search.samplers.known import Known

MOST_MUTATED = 0.4  # share of the choices that one mutation may change
CROSSED = 0.5  # share of the children that have two parents
IN_UNISON = 0.2  # share of the children in which a kind of choices moves as one
STEPS = 13  # numbers that `frugal` tries of each range
MOST_STEPS = 400  # that it takes
AT_ONCE = 60  # of so many choices one moves in a step
EXCESS = 30.0  # what a limit weighs beside costs
LEAST_DAMAGE = 1e-6
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


def frugal(
    encoding: Encoding,
    known: Known,
    start: Floats,
    weights: Mapping[str, float] | None = None,
    power: float = 1.0,
) -> Floats:
    """Points that should lose least at what they cost, from `start` to the smallest; (N, d).

    The knapsack over the values of all choices together, by greedy steps: each time the value that saves most for the
    damage it adds goes in. Costs are those of the whole point, so that what eight bits save depends on the width that
    is left. Excess over a limit weighs more than any cost. The first point within the limits is followed by one that
    has taken back what it can without leaving them.

    Args:
        encoding: of the points.
        known: costs and prior; only values of which the prior speaks are taken.
        start: where to begin, shape (d,).
        weights: how much the logarithm of each cost counts; None counts all costs alike, and so do steps towards a
            limit where no step brings those that count any nearer. There all choices of a kind may move as one, too:
            one layer alone in integers is no faster, all of them are.
        power: damages are raised to it: below 1 large ones weigh less than their sum.
    """
    moves = [(j, entry) for j in range(len(encoding.names)) for entry in known.offered(j, STEPS)]
    if not moves:
        return np.zeros((0, len(start)))
    places, entries = np.array([j for j, _ in moves]), np.array([entry for _, entry in moves])
    row = encoding.snapped(start[None])[0]
    path, was_allowed = [row], bool(known.allowed(row[None])[0])
    while len(path) < MOST_STEPS:
        single = _changed(encoding, row, places, entries)
        found = _cheaper(encoding, known, row, single, weights, power)
        if found is None and not was_allowed:
            every = np.vstack([single, _changed_as_one(encoding, row, places, entries)])
            found = _cheaper(encoding, known, row, every, None, power)
        if found is None:
            break
        row = found
        path.append(row)
        if not was_allowed and bool(known.allowed(row[None])[0]):
            was_allowed = True
            path.append(_refilled(encoding, known, row, places, entries))
    return encoding.snapped(np.array(path))


def _changed(encoding: Encoding, row: Floats, places: NDArray[np.int64], entries: Floats) -> Floats:
    """A point with each of the moves made alone, (M, d)."""
    rows = np.repeat(row[None], len(places), axis=0)
    rows[np.arange(len(places)), places] = entries
    return encoding.snapped(rows)


def _changed_as_one(encoding: Encoding, row: Floats, places: NDArray[np.int64], entries: Floats) -> Floats:
    """A point with each of the moves of options made by all choices of its kind that have it, (M, d)."""
    offered = list(zip(places.tolist(), entries.tolist(), strict=True))
    kinds = dict.fromkeys((int(encoding.kinds[j]), entry) for j, entry in offered if encoding.options[j])
    rows = np.repeat(row[None], len(kinds), axis=0)
    for i, (kind, entry) in enumerate(kinds):
        rows[i, [j for j, other in offered if encoding.kinds[j] == kind and other == entry]] = entry
    return rows


def _burden(known: Known, rows: Floats, weights: Mapping[str, float] | None) -> Floats:
    """What points cost, in logarithms, and what they exceed limits by."""
    costs = known.named_costs(rows)
    weighed = [
        (1.0 if weights is None else weights.get(name, 0.0)) * np.log(column.clip(1e-9))
        for name, column in costs.items()
    ]
    return np.asarray(np.sum(weighed, axis=0) + EXCESS * known.excess(rows))


def _cheaper(
    encoding: Encoding,
    known: Known,
    row: Floats,
    rows: Floats,
    weights: Mapping[str, float] | None,
    power: float,
) -> Floats | None:
    """The point after the best moves, one for each of a few choices; None where nothing saves anything.

    Args:
        encoding: of the points.
        known: costs and prior.
        row: before the moves, (d,).
        rows: after each of them alone, (M, d).
        weights, power: as in `frugal`.
    """
    # One by one: what a move adds must not depend on what the others have added already, else powers mix.
    before, after = known.each_prior(row[None]), known.each_prior(rows)
    added = (np.power(after, power) - np.power(before, power)).sum(axis=1)
    saved = _burden(known, row[None], weights)[0] - _burden(known, rows, weights)
    worth = np.where(saved > 1e-9, saved / (added.clip(0.0) + LEAST_DAMAGE), -1.0)
    if worth.max() <= 0:
        return None
    result: Floats = row.copy()
    taken = 0
    at_once = max(1, len(encoding.names) // AT_ONCE)
    for move in np.argsort(-worth, kind="stable"):
        if worth[move] <= 0 or taken == at_once:
            break
        moved = rows[move] != row
        if (result[moved] == row[moved]).all():
            result[moved] = rows[move, moved]
            taken += 1
    return result


def _refilled(
    encoding: Encoding, known: Known, row: Floats, places: NDArray[np.int64], entries: Floats
) -> Floats:
    """A point within the limits with less damage, as long as one change makes it so and stays within them."""
    for _ in range(MOST_STEPS):
        rows = _changed(encoding, row, places, entries)
        gain = known.prior(row[None])[0] - known.prior(rows)
        gain = np.where(known.allowed(rows), gain, 0.0)
        best = int(np.argmax(gain))
        if gain[best] <= 1e-12:
            break
        row = rows[best]
    return row


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
