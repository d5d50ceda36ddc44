"""The first points of a search, before any sampler is asked: a handful of uniform designs that span the space, and
where costs and damage are known, points that should lose least at what they cost.

The same pruning ratio in every group, the same bits in every layer, each architecture option
on its own. On a synthetic space of 60 choices eight such designs reach more hypervolume (.65) than a thousand
random points (.50): random points hardly ever compress all layers alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from autoprune.search.foreknown import foreknown
from autoprune.search.prices import LATENCY
from autoprune.space import ARCHITECTURE, Choice, Options, Space, Value

if TYPE_CHECKING:
    from autoprune.search.samplers.encoding import Encoding
    from autoprune.search.samplers.known import Known
    from autoprune.study import Study

RATIOS = (0.0, 0.25, 0.5)
SPARSITIES = (0.5, 0.8)
DROPPED = 0.34
RANK = 0.4
INTEGER_BITS = 8
MOST = 20
PLANNED = 10  # points along one way through the space
PLANS = ((1.0, -0.25), (1.4, -0.5), (0.8, 0.0), (1.0, -0.75))
"""The power of the damages that are added up (how far large ones weigh more than their sum is not known), and the share
of the error of a limited cost to keep away from its limit: half of what seems to be just within one is beyond it.
"""
CODING = "store.coding"
UNTOLD = (".criterion", ".schedule", ".quantizer", ".method")

Point = dict[str, Value]


def anchors(
    space: Space, neutral: Mapping[str, Value], designs: Sequence[Mapping[str, Value]] = ()
) -> list[Point]:
    """Up to `MOST` different points of the space, the most telling first.

    Args:
        space: the space.
        neutral: the uncompressed baseline; where it lies outside the space the nearest point stands for it.
        designs: values of the target's own choices that go together, each tried in eight bits.
    """
    start = {name: _nearest(choice, neutral[name]) for name, choice in space.items()}
    points: list[Point] = []
    for point in _designs(space, start, designs):
        if point not in points:
            points.append(point)
    return points[:MOST]


def first_points(study: Study) -> list[Point]:
    """The points that a study begins with: planned ones first where there are any, every other one a uniform design.

    Points that break a limit on known costs are left out; of planned ones each has other criteria, schedules and the
    like, of which nothing is known yet.
    """
    return _foreseen(study)[0]


class FirstPoints:
    """The first points of a study, one after the other; none where its spec wants no warm start.

    They are planned before any trial. Those that break a limit, as far as trials have corrected what is known of costs
    by the time it is their turn, are passed over.

    Args:
        study: its trials correct the costs.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        points, self._known = _foreseen(study) if study.spec.search.warm_start else ([], None)
        self._points = deque(points)

    def pop(self) -> Point | None:
        """The next one; None where none is left."""
        self._learn()
        while self._points:
            point = self._points.popleft()
            if self._is_allowed(point):
                return point
        return None

    def drop(self, point: Mapping[str, Value]) -> None:
        """Leave out a point that was tried."""
        self._points = deque(other for other in self._points if other != point)

    def _is_allowed(self, point: Point) -> bool:
        if self._known is None:
            return True
        encoding, known = self._known
        return bool(known.allowed(encoding.row(point)[None])[0])

    def _learn(self) -> None:
        if self._known is None or not self._points:
            return
        encoding, known = self._known
        timed = [trial for trial in self._study.trials if LATENCY in trial.metrics and not trial.is_unstable]
        if known.may_learn(len(timed)):
            rows = np.array([encoding.row(trial.choices) for trial in timed])
            known.learn(rows, [trial.metrics for trial in timed])


def _foreseen(study: Study) -> tuple[list[Point], tuple[Encoding, Known] | None]:
    """The first points, and what they were planned by, where costs are known."""
    space, neutral = study.space, study.space.neutral()
    uniform = anchors(space, neutral, study.profile.get("designs", ()))
    known = foreknown(study.spec, study.profile)
    if known.prices is None:
        return uniform, None
    from autoprune.search.samplers.encoding import Encoding
    from autoprune.search.samplers.known import Known

    encoding = Encoding(space.distributions())
    told = Known(encoding, known.prices, known.prior, known.limits, errors=known.errors)
    planned = _planned(space, neutral, told, encoding, known.weights)
    kept = told.allowed(np.stack([encoding.row(point) for point in uniform]))
    uniform = [point for point, is_kept in zip(uniform, kept, strict=True) if is_kept]
    mixed = [point for pair in zip_longest(planned, uniform) for point in pair if point is not None]
    found: list[Point] = []
    for point in mixed:
        if point not in found:
            found.append(point)
    return found[:MOST], (encoding, told)


def _planned(
    space: Space, neutral: Mapping[str, Value], told: Known, encoding: Encoding, weights: Mapping[str, float]
) -> list[Point]:
    """Points along the way from the whole network to the smallest, the best first of those at a limit."""
    from autoprune.search.samplers.proposals import frugal

    start = {name: _nearest(choice, neutral[name]) for name, choice in space.items()}
    start = _with(space, start, CODING, lambda choice: choice.at(1.0))
    points: list[Point] = []
    for power, margin in PLANS:
        aimed = told.aiming(margin)
        path = frugal(encoding, aimed, encoding.row(start), weights, power)
        rows = path[aimed.allowed(path)] if len(path) else path
        if len(rows):
            burden = aimed.prior(rows)
            wanted = np.linspace(burden.min(), burden.max(), PLANNED) if weights else burden[:2]
            chosen = dict.fromkeys(int(np.abs(burden - value).argmin()) for value in wanted)
            points += [encoding.point(rows[i]) for i in sorted(chosen, key=lambda i: burden[i])]
        if weights:
            break  # one way crosses the whole range
    return [_varied(space, point, number) for number, point in enumerate(points)]


def _varied(space: Space, point: Point, number: int) -> Point:
    """A point with other options of what no cost or damage tells; the first keeps its own."""
    free = {
        name: choice
        for name, choice in space.items()
        if isinstance(choice, Options) and name.endswith(UNTOLD) and len(choice.values) > 1
    }
    turned = {
        name: choice.values[(choice.values.index(point[name]) + number) % len(choice.values)]
        for name, choice in free.items()
    }
    return {**point, **turned}


def _designs(space: Space, start: Point, of_target: Sequence[Mapping[str, Value]]) -> Iterator[Point]:
    yield start
    start = _with(space, start, "store.coding", lambda choice: choice.at(1.0))  # coded files are never larger
    integer = _with(space, start, "_bits", _integer_bits)
    for made in of_target:
        yield {**integer, **{name: value for name, value in made.items() if name in space}}
    for ratio in RATIOS:
        yield _with(space, integer, ".ratio", partial(_nearest, value=ratio))
    small = {name: _opposite(space[name], start[name]) for name in space if name.startswith(ARCHITECTURE)}
    yield {**integer, **small}
    for name in small:
        for value in _others(space[name], start[name]):
            yield {**integer, name: value}
    yield _with(space, integer, ".drop", lambda choice: choice.at(DROPPED))
    for sparsity in SPARSITIES:
        yield _with(space, integer, ".sparsity", partial(_nearest, value=sparsity))
    yield _with(space, integer, ".rank", partial(_nearest, value=RANK))
    for ratio in RATIOS[1:]:
        yield _with(space, start, ".ratio", partial(_nearest, value=ratio))
    for name, value in small.items():
        yield {**_with(space, integer, ".ratio", partial(_nearest, value=RATIOS[1])), name: value}


def _with(space: Space, point: Point, suffix: str, value: Callable[[Choice], Value]) -> Point:
    """`point` with every choice whose name ends in `suffix` set by `value`."""
    return {**point, **{name: value(choice) for name, choice in space.items() if name.endswith(suffix)}}


def _integer_bits(choice: Choice) -> Value:
    """8 bits, or the option nearest to it below 32; the most there is when all are float."""
    narrow = [v for v in choice.values if int(v) < 32] if isinstance(choice, Options) else []
    return min(narrow, key=lambda v: abs(int(v) - INTEGER_BITS)) if narrow else _nearest(choice, 32)


def _opposite(choice: Choice, value: Value) -> Value:
    """The end of a choice that is farther from `value`: the smallest, where the baseline is the largest."""
    if isinstance(choice, Options):
        place = choice.values.index(value) if value in choice else len(choice.values) - 1
        return choice.at(0.0 if 2 * place >= len(choice.values) - 1 else 1.0)
    return choice.at(0.0 if float(value) - choice.low >= choice.high - float(value) else 1.0)


def _others(choice: Choice, value: Value) -> list[Value]:
    """Every other option; of a range, the end that is farther away."""
    return (
        [v for v in choice.values if v != value]
        if isinstance(choice, Options)
        else [_opposite(choice, value)]
    )


def _nearest(choice: Choice, value: Value) -> Value:
    """The value of a choice that is nearest to `value`; where that is no number, the first option."""
    if isinstance(choice, Options):
        numbers = [v for v in choice.values if isinstance(v, int | float)]
        if value in choice or len(numbers) < len(choice.values) or isinstance(value, str):
            return value if value in choice else choice.values[0]
        return min(numbers, key=lambda v: abs(v - value))
    inside = min(max(float(value), choice.low), choice.high)
    share = (inside - choice.low) / (choice.high - choice.low) if choice.high > choice.low else 0.0
    return choice.at(share) if choice.step else inside
