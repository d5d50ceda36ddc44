"""The guided sampler: learns what every choice does, and tries what should add most to the front.

After a few first points each proposal takes three steps. What is believed of points is brought up to date (`belief`).
Candidates are made: children of the front, and points from everywhere (`proposals`). The one with the highest
expected gain of hypervolume (`acquisition`), times the probability that it is feasible, is proposed; the neighbourhood
of the best few is searched as well.

What can be known without a trial is used: costs, and how sensitive the network is to each value (`known`).
Proposals under way count as if they had come out as expected, so that hundreds at a time do not crowd.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr

from autoprune.pareto import Floats, front_mask
from autoprune.search.samplers import REJECTED
from autoprune.search.samplers.acquisition import expected_gain
from autoprune.search.samplers.belief import Belief, Results
from autoprune.search.samplers.encoding import Encoding
from autoprune.search.samplers.known import Costs, Known, Limits, Prior
from autoprune.search.samplers.own import OwnSampler
from autoprune.search.samplers.proposals import anywhere, children, frugal, neighbours
from autoprune.search.samplers.surrogate import Surrogate

if TYPE_CHECKING:
    from optuna.study import Study

RETUNE = 0.02  # growth of the trials after which kernels are learned again
CANDIDATES = 400
ROUNDS = 2  # of local search around the best candidates
STARTS, NEIGHBOURS = 3, 120  # so many of them, and neighbours of all in a round
POPULATION = 100  # points from everywhere that say what is an ordinary loss
ORDINARY = 0.95  # hypervolume counts from what is worse than this share of them
LEAST_PARENTS = 5
SATURATED = 50.0  # what an infinite violation counts as


class GuidedSampler(OwnSampler):
    """Proposes what adds most to the front, by a model of all objectives and constraints.

    Works with any number of objectives, with constraints (`trial.set_constraint`), with failed and running trials,
    and for options, whole and real numbers. Choices that not all trials had are drawn at random. Losses of
    trials with the system attribute "rejected" are not believed, their violations are.

    Args:
        seed: of every draw; None takes one from the system.
        costs: computes costs of a point that need no trial (params, macs, size_bytes), by name; called some hundred
            times a proposal. An objective or a constraint that equals one of them, up to a factor and an offset,
            is computed instead of learned. Without it costs are predicted from the user attribute "costs" of the
            trials, where they have it.
        prior: choice -> value -> loss to expect, in any unit: how far it is right is learned.
        limits: cost -> (lowest, highest) that is allowed: points beyond are proposed only where no others are found.
        startup: trials with a result before anything is believed.
    """

    def __init__(
        self,
        seed: int | None = None,
        costs: Costs | None = None,
        prior: Prior | None = None,
        startup: int = 12,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(seed)
        self._costs, self._prior, self._limits, self._startup = costs, prior, limits, startup
        self._memory: _Memory | None = None

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The most promising point that no trial has tried."""
        if not search_space:
            return {}
        memory = self._memory
        if memory is None or memory.space != search_space:
            memory = self._memory = _Memory(search_space, self._costs, self._prior, self._limits)
        others = [t for t in study.get_trials(deepcopy=False) if t._trial_id != trial._trial_id]
        memory.recall(others)
        complete = [t for t in others if t.state == TrialState.COMPLETE and t._trial_id in memory.rows]
        if len(complete) < max(2, self._startup):
            return memory.encoding.point(self._first(memory))
        results = _results(memory, complete, study.directions)
        running = [memory.rows[t._trial_id] for t in others if t.state == TrialState.RUNNING and t.params]
        return memory.encoding.point(self._next(memory, results, np.array(running)))

    def _first(self, memory: _Memory) -> Floats:
        """A point to learn from: where the prior says that it pays, or where costs have not been yet."""
        generator, encoding, known = self._generator, memory.encoding, memory.known
        tried = np.array(list(memory.rows.values())).reshape(-1, len(encoding.names))
        if known.has_prior and known.is_exact and len(tried) < self._startup // 2:
            planned = memory.promising(frugal(encoding, known, np.zeros(len(encoding.names))))
            if len(planned):
                return np.asarray(planned[int(generator.integers(len(planned)))])
        rows = memory.promising(anywhere(encoding, CANDIDATES, generator))
        if not len(rows):
            return np.asarray(anywhere(encoding, 1, generator)[0])
        costs = known.costs(rows)
        if not costs.shape[1]:
            return np.asarray(rows[0])
        edges = np.quantile(costs[:, 0], np.linspace(0.0, 1.0, self._startup + 1))
        counts = np.histogram(known.costs(tried)[:, 0] if len(tried) else [], edges)[0]
        part = int(generator.choice(np.flatnonzero(counts == counts.min())))
        inside = np.flatnonzero((costs[:, 0] >= edges[part]) & (costs[:, 0] <= edges[part + 1]))
        return np.asarray(rows[int(generator.choice(inside))])

    def _next(self, memory: _Memory, results: Results, running: Floats) -> Floats:
        """The candidate with the highest expected gain."""
        generator, encoding = self._generator, memory.encoding
        tune = len(results.rows) >= memory.tuned * (1 + RETUNE) + 1
        surrogates = memory.surrogates(results.losses.shape[1] + results.violations.shape[1])
        belief = Belief(encoding, memory.known, results, surrogates, tune=tune, generator=generator)
        memory.tuned = len(results.rows) if tune else memory.tuned
        feasible = results.feasible
        found = belief.losses[feasible]
        if len(running):
            found = np.vstack([found, belief.assume(running)])
        ordinary = belief.predict(anywhere(encoding, POPULATION, generator))[0][:, : belief.objectives]
        reference = np.quantile(ordinary, ORDINARY, axis=0)
        seed = int(generator.integers(2**31))
        pool = np.vstack(
            [
                children(encoding, _parents(results), CANDIDATES // 2, generator),
                anywhere(encoding, CANDIDATES // 2, generator),
            ]
        )
        pool = memory.promising(pool)
        if not len(pool):
            return np.asarray(anywhere(encoding, 1, generator)[0])
        worth = _worth(belief, pool, found, reference, seed)
        for _ in range(ROUNDS):
            best = pool[np.argsort(-worth, kind="stable")[:STARTS]]
            fresh = memory.promising(neighbours(encoding, best, NEIGHBOURS // STARTS, generator))
            if not len(fresh):
                break
            pool = np.vstack([pool, fresh])
            worth = np.concatenate([worth, _worth(belief, fresh, found, reference, seed)])
        return np.asarray(pool[int(np.argmax(worth))])


class _Memory:
    """What need not be worked out again for each proposal, as long as the space stays the same."""

    def __init__(
        self,
        space: dict[str, BaseDistribution],
        costs: Costs | None,
        prior: Prior | None,
        limits: Limits | None,
    ) -> None:
        self.space = space
        self.encoding = Encoding(space)
        self.known = Known(self.encoding, costs, prior, limits)
        self.rows: dict[int, Floats] = {}
        self.tuned = 0
        self._seen: set[bytes] = set()
        self._surrogates: list[Surrogate] = []
        self._described = -1

    def recall(self, trials: list[FrozenTrial]) -> None:
        """Translate trials that are new."""
        for trial in trials:
            if trial._trial_id not in self.rows and all(name in trial.params for name in self.space):
                row = self.encoding.row(trial.params)
                self.rows[trial._trial_id] = row
                self._seen.add(row.tobytes())
        told = [t for t in trials if t._trial_id in self.rows and "costs" in t.user_attrs]
        if told:
            rows = np.array([self.rows[t._trial_id] for t in told])
            self.known.learn(rows, [t.user_attrs["costs"] for t in told])

    def unseen(self, rows: Floats) -> Floats:
        """The rows that no trial had, each once."""
        first = {row.tobytes(): i for i, row in reversed(list(enumerate(rows)))}
        return rows[sorted(i for key, i in first.items() if key not in self._seen)]

    def promising(self, rows: Floats) -> Floats:
        """The rows that no trial had and that keep the limits on costs; all unseen ones where none keeps them."""
        rows = self.unseen(rows)
        kept = self.known.allowed(rows)
        return rows[kept] if kept.any() else rows

    def surrogates(self, count: int) -> list[Surrogate]:
        """One for each objective and constraint; new ones when these or the figures change."""
        figures = self.known.figures(np.zeros((1, len(self.encoding.names)))).shape[1]
        if len(self._surrogates) != count or self._described != figures:
            self._surrogates = [Surrogate(self.encoding.blocks, figures) for _ in range(count)]
            self._described, self.tuned = figures, 0
        return self._surrogates


def _results(memory: _Memory, trials: list[FrozenTrial], directions: list[StudyDirection]) -> Results:
    """What finished trials found, as arrays without infinities."""
    signs = np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in directions])
    losses = np.array([t.values for t in trials], dtype=float) * signs
    finite = np.isfinite(losses)
    worst = np.where(finite, losses, -np.inf).max(axis=0)
    constraints: list[Mapping[str, float]] = [t.constraints for t in trials]
    names = sorted({name for given in constraints for name in given})
    violations = np.array([[given.get(name, 0.0) for name in names] for given in constraints], dtype=float)
    return Results(
        np.array([memory.rows[t._trial_id] for t in trials]),
        np.where(finite, losses, np.where(np.isfinite(worst), worst, 0.0)),
        np.nan_to_num(
            violations.reshape(len(trials), -1), nan=SATURATED, posinf=SATURATED, neginf=-SATURATED
        ),
        finite.all(axis=1) & np.array([not t.system_attrs.get(REJECTED, False) for t in trials]),
    )


def _parents(results: Results) -> Floats:
    """The front of the feasible trials; while there are none those that violate least."""
    feasible = results.feasible
    if feasible.any():
        return results.rows[feasible][front_mask(results.losses[feasible])]
    total = results.violations.clip(min=0.0).sum(axis=1)
    return results.rows[np.argsort(total, kind="stable")[:LEAST_PARENTS]]


def _worth(belief: Belief, rows: Floats, found: Floats, reference: Floats, seed: int) -> Floats:
    """Expected gain of hypervolume, times the probability of being feasible."""
    means, deviations = belief.predict(rows)
    split = belief.objectives
    gain = expected_gain(means[:, :split], deviations[:, :split], found, reference, seed)
    chance = ndtr(-means[:, split:] / deviations[:, split:]).prod(axis=1)
    return np.asarray((gain + 1e-12) * chance)
