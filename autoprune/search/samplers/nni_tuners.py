"""Four tuners of NNI as samplers: TPE, Evolution, Random and Grid.

A tuner of NNI knows one number a trial, no constraints, and only results of what it proposed itself. So for each
proposal a fresh one is made and told all that the study holds, whoever proposed it and in whatever order it came back:
a search that is resumed goes on as if it had never stopped. Several objectives become one number by weights that are
drawn anew each time, in the augmented Chebyshev form (ParEGO, Knowles 2006), so that the whole front is aimed at; what
breaks a constraint counts as worse than anything that does not, by how much it breaks it. Trials under way are taken by
TPE to be as good as the best (its own constant liar), by Grid as tried.

Spaces go over as NNI knows them: options by their place, numbers with steps as a `quniform` of the step's number.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autoprune.nni_imports import nni_module
from autoprune.pareto import Floats
from autoprune.search.samplers.own import OwnSampler

if TYPE_CHECKING:
    from optuna.study import Study

TUNERS = ("evolution", "grid", "random", "tpe")
POPULATION = 20  # of Evolution: searches here have hundreds of trials rather than thousands
TRIES_OF_TUNER, TRIES = 3, 20  # to propose what was not tried yet: by the tuner, and in all
AUGMENTED = 0.05  # of the weighted sum that is added to the largest weighted loss (Knowles 2006)
HPO = "nni.algorithms.hpo."

Parameters = dict[str, Any]
Number = FloatDistribution | IntDistribution
Distribution = CategoricalDistribution | Number
Space = Mapping[str, Distribution]


class NniSampler(OwnSampler):
    """One of NNI's tuners, told of the whole study for each proposal.

    Args:
        tuner: `tpe`, `evolution`, `random` or `grid`.
        seed: of every draw; None takes one from the system. Grid draws nothing.

    Raises:
        MissingExtra: NNI is not installed.
    """

    def __init__(self, tuner: str, seed: int | None = None) -> None:
        super().__init__(seed)
        self._name = tuner
        nni_module("nni", f"search.sampler: nni-{tuner}")
        self._walk: _Walk | None = None

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What the tuner proposes, a random point where that was tried before; nothing for the first trial."""
        if not search_space:
            return {}
        space = _known(search_space)
        trials = [
            t
            for t in study.get_trials(deepcopy=False)
            if t.number != trial.number and all(name in t.params for name in search_space)
        ]
        tried = {tuple(t.params[name] for name in search_space) for t in trials}
        for attempt in range(TRIES):
            tuner = self._name if attempt < TRIES_OF_TUNER else "random"
            point = self._proposed(tuner, study, space, trials)
            if tuple(point.values()) not in tried:
                break
        return point

    def _proposed(
        self, tuner: str, study: Study, space: Space, trials: Sequence[FrozenTrial]
    ) -> dict[str, Any]:
        done = [t for t in trials if t.state == TrialState.COMPLETE]
        losses = self._scalarized(done, study.directions)
        try:
            found: Parameters = getattr(self, f"_by_{tuner}")(space, trials, done, losses)
        except nni_module("nni", self._name).NoMoreTrialError:
            found = self._by_random(space, trials, done, losses)
        return {name: _value(found[name], distribution) for name, distribution in space.items()}

    def _scalarized(self, done: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> Floats:
        """One loss for each finished trial, 0 to about 1 for what is feasible, above for what is not; (N,)."""
        signs = np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in directions])
        values: Floats = np.array([t.values or () for t in done], dtype=float).reshape(
            len(done), len(directions)
        )
        weights = self._generator.dirichlet(np.ones(len(directions)))
        weighted = weights * _unit(np.nan_to_num(values * signs, posinf=1e300, neginf=-1e300))
        losses: Floats = weighted.max(axis=1, initial=0.0) + AUGMENTED * weighted.sum(axis=1)
        broken: Floats = np.array(
            [sum(max(0.0, v) for v in t.constraints.values()) for t in done], dtype=float
        )
        worst = max(broken.max(initial=0.0), 1e-12)
        return np.where(broken > 0, 1.0 + AUGMENTED + broken / worst, losses)

    def _seed(self) -> int:
        return int(self._generator.integers(2**31))

    def _by_tpe(
        self, space: Space, trials: Sequence[FrozenTrial], done: Sequence[FrozenTrial], losses: Floats
    ) -> Parameters:
        """Parzen estimators of good and of other values, each choice on its own."""
        tuner = nni_module(f"{HPO}tpe_tuner", "nni-tpe").TpeTuner("minimize", seed=self._seed())
        tuner.update_search_space(_in_words_of_nni(space))
        tuner.dedup = _Repeating()
        lie = float(losses.min(initial=0.0))
        told = [(t, float(loss)) for t, loss in zip(done, losses, strict=True)]
        told += [(t, lie) for t in trials if t.state == TrialState.RUNNING]
        tuner.import_data([{"parameter": _parameters(t, space), "value": loss} for t, loss in told])
        proposed: Parameters = tuner.generate_parameters(len(trials))
        return proposed

    def _by_random(
        self, space: Space, trials: Sequence[FrozenTrial], done: Sequence[FrozenTrial], losses: Floats
    ) -> Parameters:
        """Every point alike."""
        del done, losses
        tuner = nni_module(f"{HPO}random_tuner", "nni-random").RandomTuner(seed=self._seed())
        tuner.update_search_space(_in_words_of_nni(space))
        proposed: Parameters = tuner.generate_parameters(len(trials))
        return proposed

    def _by_evolution(
        self, space: Space, trials: Sequence[FrozenTrial], done: Sequence[FrozenTrial], losses: Floats
    ) -> Parameters:
        """The better of two of the best so far, with one choice changed; random points until there are enough."""
        if len(done) < POPULATION:
            return self._by_random(space, trials, done, losses)
        module = nni_module(f"{HPO}evolution_tuner", "nni-evolution")
        tuner = module.EvolutionTuner("minimize", population_size=0)  # its own first generation has no seed
        tuner.update_search_space(_in_words_of_nni(space))
        tuner.population_size, tuner.random_state = POPULATION, np.random.RandomState(self._seed())
        best = np.argsort(losses, kind="stable")[:POPULATION]
        tuner.population = [
            module.Individual(_indexed(_parameters(done[int(i)], space), space), result=-float(losses[i]))
            for i in best
        ]
        with _seeded(self._seed()):
            proposed: Parameters = tuner.generate_parameters(len(trials))
        return proposed

    def _by_grid(
        self, space: Space, trials: Sequence[FrozenTrial], done: Sequence[FrozenTrial], losses: Floats
    ) -> Parameters:
        """The next point of a grid that is refined whenever it is used up; what anybody tried is left out."""
        del done, losses
        words = _in_words_of_nni(space)
        if self._walk is None or self._walk.space != words:
            self._walk = _Walk(words)
        return self._walk.next_point({t.number: _parameters(t, space) for t in trials})


class _Repeating:
    """In place of TPE's memory of what it proposed, which takes seconds to fill; the study knows what was tried."""

    def __call__(self, parameters: Parameters) -> Parameters:
        return parameters

    def add_history(self, parameters: Parameters) -> None:
        """Nothing is kept."""


class _Walk:
    """NNI's grid search over one space; its place in the grid is kept, since finding it anew takes ever longer.

    Args:
        space: in NNI's words.
    """

    def __init__(self, space: dict[str, Any]) -> None:
        self.space, self._seen = space, set[int]()
        self._tuner = nni_module(f"{HPO}gridsearch_tuner", "nni-grid").GridSearchTuner()
        self._tuner.update_search_space(space)

    def next_point(self, tried: Mapping[int, Parameters]) -> Parameters:
        """The next point that is not among those tried, by number of the trial."""
        new = [number for number in tried if number not in self._seen]
        self._seen.update(new)
        self._tuner.import_data([{"parameter": tried[number]} for number in new])
        proposed: Parameters = self._tuner.generate_parameters(len(tried))
        return proposed


def _unit(values: Floats) -> Floats:
    """Columns scaled to what they range over, (N, M)."""
    if not len(values):
        return values
    low, high = values.min(axis=0), values.max(axis=0)
    scaled: Floats = (values / 2 - low / 2) / np.maximum(high / 2 - low / 2, 1e-300)
    return scaled


def _known(space: Mapping[str, BaseDistribution]) -> Space:
    """The space, each choice of a kind that NNI has a word for.

    Raises:
        ValueError: a distribution that Optuna does not have today.
    """
    known = {name: d for name, d in space.items() if isinstance(d, CategoricalDistribution | Number)}
    for name, distribution in space.items():
        if name not in known:
            raise ValueError(
                f"{name}: got a {type(distribution).__name__}, expected a categorical, float or int distribution"
            )
    return known


def _steps(distribution: Number) -> int | None:
    """How many steps a number has; None for a continuum and for whole numbers on a logarithmic scale."""
    if distribution.step is None or distribution.log:
        return None
    return round((distribution.high - distribution.low) / distribution.step)


def _in_words_of_nni(space: Space) -> dict[str, Any]:
    """The space as NNI's JSON has it."""
    return {name: _described(distribution) for name, distribution in space.items()}


def _described(distribution: Distribution) -> dict[str, Any]:
    if isinstance(distribution, CategoricalDistribution):
        return {"_type": "choice", "_value": list(range(len(distribution.choices)))}
    steps = _steps(distribution)
    if steps is not None:
        return {"_type": "quniform", "_value": [0, steps, 1]}
    kind = "loguniform" if distribution.log else "uniform"
    if isinstance(distribution, IntDistribution):
        return {"_type": f"q{kind}", "_value": [distribution.low, distribution.high, 1]}
    return {"_type": kind, "_value": [distribution.low, distribution.high]}


def _parameters(trial: FrozenTrial, space: Space) -> Parameters:
    """What a trial chose, in NNI's terms."""
    return {name: _told(trial.params[name], distribution) for name, distribution in space.items()}


def _told(value: Any, distribution: Distribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return int(distribution.to_internal_repr(value))
    if _steps(distribution) is not None:
        return float(round((value - distribution.low) / (distribution.step or 1)))
    return float(value)


def _value(given: Any, distribution: Distribution) -> Any:
    """What NNI proposes, in the terms of the space."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(given)]
    if _steps(distribution) is not None:
        given = distribution.low + round(given) * (distribution.step or 1)
    given = min(max(given, distribution.low), distribution.high)
    return round(given) if isinstance(distribution, IntDistribution) else float(given)


def _indexed(parameters: Parameters, space: Space) -> Parameters:
    """As Evolution keeps them: options with their place beside the value."""
    return {
        name: {"_index": value, "_value": value}
        if isinstance(space[name], CategoricalDistribution)
        else value
        for name, value in parameters.items()
    }


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Evolution draws from Python's own generator, which is put back as it was."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
