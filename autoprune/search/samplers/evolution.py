"""Evolution from the front: take a good trial, change a little, see whether the front moves.

Steady-state, in the spirit of regularized evolution (Real et al. 2019) with the parents of a multi-objective
search (the front of the feasible, as in SMS-EMOA, Beume et al. 2007). There are no generations, so no
worker waits for one, and a proposal costs milliseconds at thousands of trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autoprune.pareto import Floats, ranks
from autoprune.search.samplers.own import OwnSampler
from autoprune.space import kind_of

if TYPE_CHECKING:
    from optuna.study import Study

SECOND_RANK = 0.2  # how often a parent may also come from just behind the front
CROSSOVER = 0.9  # how often a second parent takes part
IN_UNISON = 0.5  # how often all choices of a kind move together
STEPS = (0.1, 1.1)  # standard deviations of a move, in ranges of the number; bounds hold what goes beyond
LEAST_PARENTS = 5  # infeasible ones make up the number, those that violate least first


class EvolutionSampler(OwnSampler):
    """Crosses trials of the front and mutates the child.

    How much a mutation changes is drawn anew each time, from one choice to a third of them and from small
    steps to large ones, so that no step size need be tuned. Every other time all choices of a kind
    (`prune.*.ratio`) move together: with dozens of layers, changes one by one would take hundreds of trials
    to shrink a network.

    Args:
        seed: of every draw; None takes one from the system.
        startup: trials with a result before there are parents; random points until then.
    """

    def __init__(self, seed: int | None = None, startup: int = 4) -> None:
        super().__init__(seed)
        self._startup = startup

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """A child of the front; nothing while there are too few results."""
        if not search_space:
            return {}
        trials = [
            t
            for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if all(name in t.params for name in search_space)
        ]
        if len(trials) < self._startup:
            return {}
        parents = _parents(trials, study.directions, second_rank=self._chance(SECOND_RANK))
        first, second = self._pick(parents).params, self._pick(parents).params
        cross = self._chance(CROSSOVER)
        child = {name: (second if cross and self._chance(0.5) else first)[name] for name in search_space}
        if self._chance(IN_UNISON):
            return self._mutate_kind(child, search_space)
        return self._mutate(child, search_space)

    def _mutate(self, child: dict[str, Any], space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        """Change each choice with a probability between one choice in all and a third of them."""
        names = list(space)
        lowest = 1.0 / len(names)
        rate = math.exp(self._generator.uniform(math.log(lowest), math.log(max(lowest, 1 / 3))))
        chosen = [name for name in names if self._chance(rate)] or [self._pick(names)]
        scale = self._scale()
        return {**child, **{n: self._moved(child[n], space[n], self._normal(scale)) for n in chosen}}

    def _mutate_kind(self, child: dict[str, Any], space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        """Move all choices whose names end alike, by the same step."""
        kinds: dict[str, list[str]] = {}
        for name in space:
            kinds.setdefault(kind_of(name), []).append(name)
        step = self._normal(self._scale())
        chosen = kinds[self._pick(list(kinds))]
        return {**child, **{name: self._moved(child[name], space[name], step) for name in chosen}}

    def _moved(self, value: Any, distribution: BaseDistribution, step: float) -> Any:
        """A value that lies `step` of the range away; of options a neighbour, or any other."""
        if isinstance(distribution, FloatDistribution | IntDistribution):
            return _number_moved(value, distribution, step)
        return self._another(value, cast(CategoricalDistribution, distribution).choices, step)

    def _another(self, value: Any, options: Sequence[Any], step: float) -> Any:
        """Another option: the next one in the direction of `step` where options are numbers in order."""
        place = options.index(value)
        numbers = [v for v in options if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) == len(options) and sorted(numbers) == numbers and self._chance(0.7):
            neighbour = place + (1 if step > 0 else -1)
            return options[neighbour] if 0 <= neighbour < len(options) else value
        return self._pick([option for i, option in enumerate(options) if i != place])

    def _scale(self) -> float:
        return float(self._generator.uniform(*STEPS))

    def _normal(self, scale: float) -> float:
        return float(self._generator.normal(0.0, scale))

    def _chance(self, probability: float) -> bool:
        return bool(self._generator.uniform() < probability)

    def _pick(self, items: Sequence[Any]) -> Any:
        return items[int(self._generator.integers(len(items)))]


def _number_moved(value: float, distribution: FloatDistribution | IntDistribution, step: float) -> float:
    """A number `step` of its range away, within its bounds and on its grid; never less than one grid step."""
    low, high, grid = distribution.low, distribution.high, distribution.step
    moved = value * (high / low) ** step if distribution.log else value + step * (high - low)
    if grid is not None:
        far = math.ceil(abs(moved - value) / grid - 0.5)
        moved = low + (round((value - low) / grid) + math.copysign(max(1, far), step)) * grid
    moved = min(max(moved, low), high)
    return round(moved) if isinstance(distribution, IntDistribution) else float(moved)


def _parents(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], *, second_rank: bool
) -> list[FrozenTrial]:
    """The front of the feasible trials, filled up with the least infeasible where there are few of them."""
    violations: Floats = np.array(
        [sum(max(0.0, v) for v in t.constraints.values()) for t in trials], dtype=float
    )
    feasible = np.flatnonzero(violations <= 0)
    signs = np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in directions])
    losses: Floats = np.array([trials[int(i)].values or () for i in feasible], dtype=float)
    losses = losses.reshape(len(feasible), len(directions))
    front = feasible[ranks(losses * signs) <= int(second_rank)] if len(feasible) else feasible
    missing = max(0, LEAST_PARENTS - len(feasible))
    nearest = [i for i in np.argsort(violations, kind="stable") if violations[i] > 0][:missing]
    return [trials[int(i)] for i in (*front, *nearest)]
