"""The guided sampler: learns what every choice does, and tries what should add most to the front.

After a few first points each proposal takes three steps. What is believed of points is brought up to date (`belief`).
Candidates are made: children of the front, and points from everywhere (`proposals`). The one with the highest
expected gain of hypervolume (`acquisition`), times the probability that it is feasible, is proposed; the neighbourhood
of the best few is searched as well.

What can be known without a trial is used: costs, and how sensitive the network is to each value (`known`).
Proposals under way count as if they had come out as expected, so that hundreds at a time do not crowd.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr
from threadpoolctl import ThreadpoolController

from autoprune.pareto import Floats, front_mask
from autoprune.search.samplers import BESIDE, COSTS, REJECTED
from autoprune.search.samplers.acquisition import expected_gain
from autoprune.search.samplers.belief import Belief, Beside, Results
from autoprune.search.samplers.encoding import Encoding
from autoprune.search.samplers.known import Costs, Known, Limits, Prior, Proxies
from autoprune.search.samplers.own import OwnSampler
from autoprune.search.samplers.proposals import anywhere, children, frugal, neighbours
from autoprune.search.samplers.surrogate import Surrogate

if TYPE_CHECKING:
    from optuna.study import Study

RETUNE = 0.05  # growth of the trials after which kernels are learned again
CANDIDATES = 400
ROUNDS = 2  # of local search around the best candidates
FAMILIAR = 2 / 3  # share of the first points that have the familiar values
STARTS, NEIGHBOURS = 3, 120  # so many of them, and neighbours of all in a round
POPULATION = 100  # points from everywhere that say what is an ordinary loss
HIGHEST = 0.95  # share of them that is better than where hypervolume ends; where it is a quality, half
LEAST_LIKELY = 10  # points from everywhere that count as feasible, whatever is believed
LEAST_PARENTS = 5
NEAREST = 0.05  # of points that are all beyond a limit so many are looked at, those that are least
SATURATED = 50.0  # what an infinite violation counts as


_ONE_AT_A_TIME = threading.Lock()


@cache
def _threads() -> ThreadpoolController:
    """The BLAS libraries of this process; looking for them takes longer than a suggestion."""
    return ThreadpoolController()


class GuidedSampler(OwnSampler):
    """Proposes what adds most to the front, by a model of all objectives and constraints.

    Of several objectives those that are to be large are taken for qualities, as accuracy is one: where no constraint
    says how good is good enough, what is worse than an ordinary point is not looked for, however cheap.

    Works with any number of objectives, with constraints (`trial.set_constraint`), with failed and running trials,
    and for options, whole and real numbers. Choices that not all trials had are drawn at random. Losses of
    trials with the system attribute "rejected" are not believed, their violations are.

    Args:
        seed: of every draw; None takes one from the system.
        costs: computes costs of a point that need no trial (params, macs, size_bytes), by name; called some hundred
            times a proposal. An objective or a constraint that equals one of them, up to a factor and an offset,
            is computed instead of learned. The user attribute "costs" of the trials corrects it where it has a method
            `corrected` (see `Known`); without it costs are predicted from that attribute.
        prior: choice -> value -> loss to expect, in any unit: how far it is right is learned.
        limits: cost -> (lowest, highest) that is allowed: points beyond are proposed only where no others are found.
        startup: trials with a result before anything is believed.
        proxies: what training-free proxies say of points, as figures of them: what they are worth is learned.
        errors: cost -> how far off it may be, relative: so far beyond its limits points are proposed.
        familiar: values of choices without which a trial costs much more, such as the architecture of which there
            are trained weights: two of three first points have them.
    """

    def __init__(
        self,
        seed: int | None = None,
        costs: Costs | None = None,
        prior: Prior | None = None,
        startup: int = 12,
        limits: Limits | None = None,
        proxies: Proxies | None = None,
        errors: Mapping[str, float] | None = None,
        familiar: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(seed)
        self._known = partial(Known, costs=costs, prior=prior, limits=limits, proxies=proxies, errors=errors)
        self._familiar = familiar or {}
        self._startup = startup
        self._memory: _Memory | None = None

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The most promising point that no trial has tried."""
        if not search_space:
            return {}
        # Matrices are small: threads that wait for each other in two copies of BLAS made it ten times slower. That
        # setting is the whole process's, and so is what is remembered: one suggestion at a time.
        with _ONE_AT_A_TIME, _threads().limit(limits=1, user_api="blas"):
            return self._sample(study, trial, search_space)

    def _sample(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        memory = self._memory
        if memory is None or not _are_equal(memory.space, search_space):
            memory = self._memory = _Memory(search_space, self._known)
        others = [t for t in study.get_trials(deepcopy=False) if t._trial_id != trial._trial_id]
        memory.recall(others)
        complete = [t for t in others if t.state == TrialState.COMPLETE and t._trial_id in memory.rows]
        if len(complete) < max(2, self._startup):
            return memory.encoding.point(self._first(memory, len(study.directions)))
        results = memory.results(complete, study.directions)
        running = [memory.rows[t._trial_id] for t in others if t.state == TrialState.RUNNING and t.params]
        qualities = np.array([direction == StudyDirection.MAXIMIZE for direction in study.directions])
        return memory.encoding.point(self._next(memory, results, np.array(running), qualities))

    def _first(self, memory: _Memory, objectives: int) -> Floats:
        """A point to learn from: where the prior says that it pays, or where costs have not been yet.

        Of several objectives one is mostly a cost, and any point on the way to the smallest may be on the front. A
        single one wants what loses least within the limits, and there the prior, doubted anew each time, says more.
        """
        generator, encoding, known = self._generator, memory.encoding, memory.known
        tried = np.array(list(memory.rows.values())).reshape(-1, len(encoding.names))
        trusted = len(tried) % 3 < 2 if objectives == 1 else len(tried) < self._startup // 2
        if known.has_prior and known.is_exact and trusted:
            believed = known.doubted(generator) if objectives == 1 else known
            start = known.harmless(self._mostly_familiar(encoding, anywhere(encoding, 1, generator))[0])
            planned = frugal(encoding, believed, start)
            planned = planned[believed.allowed(planned)]
            planned = planned[memory.promising(planned)]
            if len(planned):
                best = (
                    believed.prior(planned).argmin() if objectives == 1 else generator.integers(len(planned))
                )
                return np.asarray(planned[int(best)])
        rows = self._mostly_familiar(encoding, anywhere(encoding, CANDIDATES, generator))
        rows = rows[memory.promising(rows)]
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

    def _mostly_familiar(self, encoding: Encoding, rows: Floats) -> Floats:
        """Points (N, d), most of them moved to the familiar values."""
        entries = {
            j: encoding.entry(j, self._familiar[name])
            for j, name in enumerate(encoding.names)
            if name in self._familiar and encoding.offers(j, self._familiar[name])
        }
        if entries:
            moved = self._generator.uniform(size=len(rows)) < FAMILIAR
            for j, entry in entries.items():
                rows[moved, j] = entry
        return rows

    def _next(
        self, memory: _Memory, results: Results, running: Floats, qualities: NDArray[np.bool_]
    ) -> Floats:
        """The candidate with the highest expected gain.

        Args:
            memory: of this space.
            results: of finished trials.
            running: points under way, (K, d).
            qualities: which objectives are, (M,).
        """
        generator, encoding = self._generator, memory.encoding
        tune = len(results.rows) >= memory.tuned * (1 + RETUNE) + 1
        surrogates = memory.surrogates(results.losses.shape[1] + results.violations.shape[1])
        belief = Belief(encoding, memory.known, results, surrogates, tune=tune, generator=generator)
        memory.tuned = len(results.rows) if tune else memory.tuned
        feasible = results.feasible
        found = belief.losses[feasible]
        if len(running):
            found = np.vstack([found, belief.assume(running)])
        pool = np.vstack(
            [
                anywhere(encoding, CANDIDATES // 2, generator),
                children(encoding, _parents(results), CANDIDATES // 2, generator),
            ]
        )
        means, deviations = belief.predict(pool)
        seed = int(generator.integers(2**31))
        reference = _reference(means[:POPULATION], deviations[:POPULATION], qualities & np.isinf(belief.ends))
        if feasible.any():
            reference = np.minimum(reference, belief.ends)

        def worth_of(means: Floats, deviations: Floats) -> Floats:
            return _worth(means, deviations, found, reference, seed)

        kept = memory.promising(pool)
        if not len(kept):
            return np.asarray(anywhere(encoding, 1, generator)[0])
        pool, worth = pool[kept], worth_of(means[kept], deviations[kept])
        for _ in range(ROUNDS):
            best = pool[np.argsort(-worth, kind="stable")[:STARTS]]
            fresh = neighbours(encoding, best, NEIGHBOURS // STARTS, generator)
            fresh = fresh[memory.promising(fresh)]
            if not len(fresh):
                break
            pool = np.vstack([pool, fresh])
            worth = np.concatenate([worth, worth_of(*belief.predict(fresh))])
        return np.asarray(pool[int(np.argmax(worth))])


class _Told(NamedTuple):
    """What a finished trial tells."""

    trial: FrozenTrial
    values: Floats
    violations: Mapping[str, float]
    is_measured: bool


class _Memory:
    """What need not be worked out again for each proposal, as long as the space stays the same."""

    def __init__(self, space: dict[str, BaseDistribution], known: Callable[[Encoding], Known]) -> None:
        self.space = space
        self.encoding = Encoding(space)
        self.known = known(self.encoding)
        self.rows: dict[int, Floats] = {}
        self.tuned = 0
        self._told: dict[int, _Told] = {}
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
        self.known.look_at_proxies()
        # Of thousands of trials it takes long to say which have told their costs.
        if not self.known.may_learn(len(trials)):
            return
        told = [t for t in trials if t._trial_id in self.rows and COSTS in t.user_attrs]
        if self.known.may_learn(len(told)):
            rows = np.array([self.rows[t._trial_id] for t in told])
            self.known.learn(rows, [t.user_attrs[COSTS] for t in told])

    def results(self, trials: list[FrozenTrial], directions: list[StudyDirection]) -> Results:
        """What finished trials found, as arrays without infinities."""
        read = [self._read(trial) for trial in trials]
        signs = np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in directions])
        losses = np.array([one.values for one in read]) * signs
        finite = np.isfinite(losses)
        worst = np.where(finite, losses, -np.inf).max(axis=0)
        names = sorted({name for one in read for name in one.violations})
        violations = np.array([[one.violations.get(name, 0.0) for name in names] for one in read])
        return Results(
            np.array([self.rows[t._trial_id] for t in trials]),
            np.where(finite, losses, np.where(np.isfinite(worst), worst, 0.0)),
            np.nan_to_num(
                violations.reshape(len(trials), -1), nan=SATURATED, posinf=SATURATED, neginf=-SATURATED
            ),
            finite.all(axis=1) & np.array([one.is_measured for one in read]),
            self._beside([one.trial for one in read], signs, names),
        )

    def _beside(self, trials: list[FrozenTrial], signs: Floats, constraints: list[str]) -> Beside | None:
        """What finished trials tell of other points; constraints are called by their places, as Optuna has them."""
        told = [t.system_attrs[BESIDE] for t in trials if BESIDE in t.system_attrs]
        if not told:
            return None
        outputs = [
            [*one["values"], *(dict(enumerate(one["violations"])).get(int(name)) for name in constraints)]
            for one in told
        ]
        return Beside(
            np.array([self.encoding.row(one["point"]) for one in told]),
            np.array(outputs, dtype=float) * np.concatenate([signs, np.ones(len(constraints))]),
        )

    def _read(self, trial: FrozenTrial) -> _Told:
        """What a finished trial tells; Optuna works it out anew whenever it is asked."""
        known = self._told.get(trial._trial_id)
        if known is None or known.trial is not trial:  # a trial that went on is shown with other values
            measured = not trial.system_attrs.get(REJECTED, False)
            known = _Told(trial, np.array(trial.values, dtype=float), trial.constraints, measured)
            self._told[trial._trial_id] = known
        return known

    def promising(self, rows: Floats) -> NDArray[np.int64]:
        """Which rows no trial had, each once, and keep the limits on costs; where none does, those nearest to it."""
        first = {row.tobytes(): i for i, row in reversed(list(enumerate(rows)))}
        unseen = np.array(sorted(i for key, i in first.items() if key not in self._seen), dtype=np.int64)
        kept = self.known.allowed(rows[unseen])
        if kept.any() or not len(unseen):
            return unseen[kept]
        excess = self.known.excess(rows[unseen])
        return unseen[excess <= np.quantile(excess, NEAREST)]

    def surrogates(self, count: int) -> list[Surrogate]:
        """One for each objective and constraint; new ones when these or the figures change."""
        figures = self.known.figures(np.zeros((1, len(self.encoding.names)))).shape[1]
        if len(self._surrogates) != count or self._described != figures:
            self._surrogates = [Surrogate(self.encoding.blocks, figures) for _ in range(count)]
            self._described, self.tuned = figures, 0
        return self._surrogates


def _are_equal(space: Mapping[str, BaseDistribution], other: Mapping[str, BaseDistribution]) -> bool:
    """Whether two spaces are the same; Optuna's own comparison takes a tenth of a suggestion."""
    return space.keys() == other.keys() and all(
        type(d) is type(other[name]) and vars(d) == vars(other[name]) for name, d in space.items()
    )


def _parents(results: Results) -> Floats:
    """The front of the feasible trials; while there are none those that violate least."""
    feasible = results.feasible
    if feasible.any():
        return results.rows[feasible][front_mask(results.losses[feasible])]
    total = results.violations.clip(min=0.0).sum(axis=1)
    return results.rows[np.argsort(total, kind="stable")[:LEAST_PARENTS]]


def _reference(means: Floats, deviations: Floats, qualities: NDArray[np.bool_]) -> Floats:
    """Where hypervolume ends, (M,): beyond it nothing is of use, however good it is otherwise.

    Args:
        means: of losses and violations of ordinary points, (N, M + C).
        deviations: their standard deviations, (N, M + C).
        qualities: which objectives have to be better than those of ordinary points that may be feasible, (M,).
    """
    split = len(qualities)
    chance = _feasibility(means[:, split:], deviations[:, split:])
    likely = np.argsort(-chance, kind="stable")[: max(LEAST_LIKELY, int((chance >= 0.5).sum()))]
    half = np.median(means[likely, :split], axis=0)
    return np.asarray(np.where(qualities, half, np.quantile(means[:, :split], HIGHEST, axis=0)))


def _feasibility(means: Floats, deviations: Floats) -> Floats:
    """The probability that points meet all constraints, (N,), by what is believed of violations (N, C)."""
    return np.asarray(ndtr(-means / deviations).prod(axis=1))


def _worth(means: Floats, deviations: Floats, found: Floats, reference: Floats, seed: int) -> Floats:
    """Expected gain of hypervolume, times the probability of being feasible."""
    split = len(reference)
    gain = expected_gain(means[:, :split], deviations[:, :split], found, reference, seed)
    return np.asarray((gain + 1e-12) * _feasibility(means[:, split:], deviations[:, split:]))
