"""The loop of a search: ask → dispatch → collect → tell → store.

The only place that knows sampler, pool and study. In each turn everything that is ready is collected and
committed at once; then requests are made for the workers that became free, committed, and sent off. So
whatever a worker is doing is on record, and killing the driver at any moment loses nothing that came back:
what was under way is repeated when the search is resumed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from autoprune.constraint import is_cost
from autoprune.errors import SearchFailed
from autoprune.record import Evaluation, Request
from autoprune.search.anchors import FirstPoints
from autoprune.search.assessors import Assessed
from autoprune.search.beside import beside
from autoprune.search.budgets import Budgets
from autoprune.search.checked import checked
from autoprune.search.growth import Growth
from autoprune.search.revalidation import OnEvent, run_revalidation
from autoprune.search.rungs import Orders, Result, next_promotion
from autoprune.search.starts import Starts
from autoprune.search.watch import Watch
from autoprune.space import Value
from autoprune.study import Study, Trial
from autoprune.study.standing import Standing

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

Point = tuple[tuple[str, Value], ...]

MOST_BARREN = 200  # proposals in a row that are rejected or known already: the space is exhausted
MOST_FAILURES = 20  # evaluations in a row that fail: so will the next one
CLEAN_UP_EVERY, CLEAN_UP_SHARE = 10, 20
"""Results, and of those so far one in so many, after which checkpoints that nobody will ask for are deleted."""
TICK = 1.0  # seconds after which budgets are looked at again while no result comes


class Workers(Protocol):
    """A pool of workers, as far as the loop needs one."""

    @property
    def size(self) -> int:
        """How many workers there are."""
        ...

    def room(self, rung: int) -> int:
        """How many requests at a rung can be submitted now; rungs may share workers."""
        ...

    @property
    def running(self) -> int:
        """How many requests are under way."""
        ...

    def workers(self) -> list[dict[str, Any]]:
        """What is known of each worker: at least its `shape`, and its `state`, busy, idle or starting."""
        ...

    def submit(self, request: Request) -> None:
        """Send a request off."""
        ...

    def wait(self, timeout: float | None = None) -> list[tuple[Request, Evaluation]]:
        """All evaluations that are ready."""
        ...


def run_search(
    study: Study, workers: Workers, sampler: BaseSampler, *, on_event: OnEvent | None = None
) -> None:
    """Search until the budget is spent; the study holds everything that comes of it.

    Where the spec asks for it, the front is re-validated at the end, for which part of the budget is kept.

    Args:
        study: open for writing; a study that was interrupted is continued.
        workers: they answer requests.
        sampler: proposes points.
        on_event: called with a kind (`started`, `evaluated`, `promoted`, `rejected`, `failed`, `duplicate`,
            `revalidated`, `finished`, `interrupted`) and a payload: `status` (what `study.status()` says, worked out
            when it is first looked at), `busy` (requests under way), and `trial` where there is one.

    Raises:
        SearchFailed: no candidate could be evaluated.
        KeyboardInterrupt: after everything was committed; the study can be resumed.
    """
    loop = _Loop(study, workers, sampler, on_event)
    if on_event is not None:
        study.warn = lambda what: on_event("warning", {"what": what})
    with study.clock():
        try:
            loop.run()
            loop.revalidate()
        except KeyboardInterrupt:
            study.set_state("interrupted", "by the user")
            loop.announce("interrupted")
            raise
        if not study.results:
            study.set_state("failed", loop.reason)
            raise SearchFailed(f"no candidate could be evaluated: {loop.reason}")
        study.drop_checkpoints(())
        study.set_state("finished", loop.reason)
        loop.announce("finished")


class _Loop:
    """The state of a running search beyond what the study holds."""

    def __init__(
        self, study: Study, workers: Workers, sampler: BaseSampler, on_event: OnEvent | None
    ) -> None:
        from autoprune.search.sampling import Sampling

        self.study, self.workers, self._on_event = study, workers, on_event
        self._given_up = ""  # why nothing that is still to come would be any better
        self._budgets, self._watch = Budgets(study), Watch(study, workers)
        spec = study.spec
        self._sampling = Sampling(study.space, spec.objectives, sampler, study.baseline)
        self._numbers: dict[int, int] = {}  # trial -> its number with the sampler
        self._last_rung = len(spec.rung_epochs) - 1
        self._rungs: list[dict[int, Result]] = [{} for _ in range(self._last_rung)]
        self._promoted: list[set[int]] = [set() for _ in range(self._last_rung)]
        self._assessed = None if spec.search.stop == "halving" else Assessed(study)
        self._orders = Orders([not is_cost(goal.metric) for goal in study.goals])
        named = {o.metric for o in spec.objectives} | {c.metric for c in spec.constraints}
        self._growth = Growth([m for m in sorted(named) if not is_cost(m)], self._last_rung)
        self._has_grown = False  # since the sampler was told of all results
        self._barren = self._failures = self._results = 0
        self._clean_up_at = CLEAN_UP_EVERY
        self._left_out = 0  # re-validations that there was no time for
        self._under_way: dict[int, Request] = {}
        self._begun: set[Point] = set()  # of these
        self._again = study.pending
        self._shape_at = spec.cluster.shape_at
        self._starts = Starts(study, in_order=self._assessed is not None)
        # Trials that go on unranked from rung 0, the only one without training.
        self._entitled: list[int] = []
        self._taken: Counter[str] = Counter()  # shapes of the requests that are about to be sent
        self._first_points = FirstPoints(study)
        for trial in study.trials:
            self._recall(trial)
        self._tell_again()

    def run(self) -> None:
        """Turn after turn until nothing is under way and nothing may be begun."""
        self.study.set_state("running")
        self.announce("started")
        while True:
            requests = self._requests()
            self.study.commit()
            for request in requests:
                self.workers.submit(request)
            self._watch.look()
            if not self.workers.running:
                return
            self._collect(self.workers.wait(TICK))

    def revalidate(self) -> None:
        """Re-validate the front if the spec asks for it and it was not done yet, as far as the budget allows."""
        asked, study = self.study.spec.search.revalidate, self.study
        if asked is None or study.is_revalidated:
            return
        left_out = run_revalidation(
            study,
            self.workers,
            best=asked.best,
            seeds=asked.seeds,
            may_begin=self._budgets.allow_a_repeat,
            on_event=self._on_event,
        )
        self._left_out = left_out

    @property
    def reason(self) -> str:
        """Why the search ends."""
        left_out = f"; it left no room for {self._left_out} re-validations" if self._left_out else ""
        return (self._given_up or self._budgets.reason) + left_out

    def announce(self, kind: str, trial: Trial | None = None) -> None:
        """Tell whoever looks on."""
        if self._on_event is not None:
            payload = {"status": Standing(self.study), "busy": self.workers.running}
            self._on_event(kind, payload if trial is None else {**payload, "trial": trial})

    # -- what comes back -------------------------------------------------------------------------------------

    def _collect(self, ready: Sequence[tuple[Request, Evaluation]]) -> None:
        """Put evaluations on record, durably, then learn from them."""
        objectives = [o.metric for o in self.study.spec.objectives]
        evaluations = [checked(evaluation, objectives) for _, evaluation in ready]
        for evaluation in evaluations:
            self.study.save_checkpoint(evaluation)
            self.study.log_evaluation(evaluation)
        self.study.commit()
        for evaluation in evaluations:
            trial = self.study.trial(evaluation.trial)
            request = self._under_way.pop(trial.number)
            self._begun.discard(_key(request.choices))
            self._budgets.returned(request)
            self._learn(trial, evaluation)
            self._tell_again()
            self.announce("evaluated" if evaluation.state == "finished" else evaluation.state, trial)
            self._results += 1
            if self._results >= self._clean_up_at:
                self._clean_up()

    def _learn(self, trial: Trial, evaluation: Evaluation) -> None:
        """Tell the sampler and the rungs."""
        number = self._numbers[trial.number]
        violations = self.study.shortfalls(evaluation.metrics)
        if evaluation.state == "finished":
            self._barren = self._failures = 0
            self._rank(evaluation, violations)
            self._starts.note(evaluation)
            self._has_grown |= self._growth.note(trial.number, evaluation.rung, evaluation.metrics)
            self._tell(evaluation)
        elif evaluation.state == "rejected":
            self._barren += 1
            self._failures = 0
            self._sampling.tell_rejected(number, violations)
        else:
            self._failures += 1
            if not trial.has_result:
                self._sampling.tell_failed(number)
        if self._failures >= MOST_FAILURES:
            self._given_up = (
                f"{self._failures} evaluations in a row failed, the last one: {evaluation.reason}"
            )
        elif self._barren >= MOST_BARREN:
            self._given_up = (
                f"{self._barren} proposals in a row brought nothing new {evaluation.reason}".strip()
            )

    def _tell_again(self) -> None:
        """Show the sampler all results anew where more became known of what training does to them."""
        if self._has_grown:
            self._has_grown = False
            for trial in self.study.trials:
                if trial.searched is not None and trial.has_result and trial.number in self._numbers:
                    self._tell(trial.searched)

    def _tell(self, evaluation: Evaluation) -> None:
        """Show the sampler a result, as it should be at the last rung."""
        metrics = self._growth.expected(evaluation.rung, evaluation.metrics)
        violations, other = self.study.shortfalls(metrics), beside(self.study, evaluation, metrics)
        steady = not evaluation.measurement.get("unstable", False)
        self._sampling.tell(self._numbers[evaluation.trial], metrics, violations, other, steady=steady)

    def _rank(self, evaluation: Evaluation, violations: Sequence[float]) -> None:
        """Enter a result at its rung."""
        self._budgets.took(evaluation.rung, evaluation.seconds.get("total", 0.0))
        if evaluation.rung < self._last_rung:
            losses = [o.loss(evaluation.metrics[o.metric]) for o in self.study.spec.objectives]
            self._rungs[evaluation.rung][evaluation.trial] = Result(losses, violations)
            if self._starts.is_entitled(evaluation, violations):
                self._entitled.append(evaluation.trial)

    def _recall(self, trial: Trial) -> None:
        """Learn of a trial from before this driver was started."""
        self._numbers[trial.number] = self._sampling.insert(trial.choices)
        for rung in sorted(trial.evaluations):
            if trial.evaluations[rung].state == "finished" or not trial.has_result:
                self._learn(trial, trial.evaluations[rung])
        for rung in (*trial.evaluations, *(() if trial.pending is None else (trial.pending,))):
            if 1 <= rung <= self._last_rung:
                self._promoted[rung - 1].add(trial.number)
        self._entitled = [one for one in self._entitled if one not in self._promoted[0]]
        self._first_points.drop(trial.choices)
        self._barren = self._failures = 0  # what was tried before says nothing about what will be
        self._given_up = ""

    def _clean_up(self) -> None:
        """Delete the checkpoints of trials that are neither good nor likely to go on."""
        self._clean_up_at = self._results + max(CLEAN_UP_EVERY, self._results // CLEAN_UP_SHARE)
        share = 2.0 / self.study.spec.search.reduction
        keep = {
            trial
            for rung, results in enumerate(self._rungs)
            for trial in self._orders.best_first(rung, results, anew=True)[: math.ceil(share * len(results))]
        }
        if self._assessed is not None:
            keep |= self._assessed.alive(trial for results in self._rungs for trial in results)
        self.study.drop_checkpoints(keep)

    # -- what goes out ---------------------------------------------------------------------------------------

    def _requests(self) -> list[Request]:
        """Requests for all workers that have room, on record but not yet sent."""
        requests: list[Request] = []
        self._taken = Counter()
        while request := self._repeated() or self._next():
            self._under_way[request.trial] = request
            self._begun.add(_key(request.choices))
            self._budgets.dispatched(request)
            self._taken[self._shape_at(request.rung)] += 1
            requests.append(request)
        return requests

    def _has_room(self, rung: int) -> bool:
        """Whether a worker for a rung is free, beside those for which there is a request already."""
        return self.workers.room(rung) > self._taken[self._shape_at(rung)]

    def _repeated(self) -> Request | None:
        """The oldest request of a driver before this one that a worker has room for."""
        request = next((request for request in self._again if self._has_room(request.rung)), None)
        if request is not None:
            self._again.remove(request)
        return request

    def _next(self) -> Request | None:
        """The next thing to do: let a trial go on, or begin a new one; None when neither may be."""
        open_rungs = [rung for rung in range(self._last_rung + 1) if self._has_room(rung)]
        if not open_rungs or self._is_over():
            return None
        found = self._promotion(open_rungs)
        if found is None and 0 in open_rungs and self._may_begin():
            request = self._begin()
            if request is not None:
                return request
            found = self._promotion(open_rungs)  # the space is exhausted, and the best may go on, however few
        return None if found is None else self._go_on(*found)

    def _is_over(self) -> bool:
        """Whether nothing may be dispatched any more."""
        return self._failures >= MOST_FAILURES or self._budgets.are_spent(self.workers.size)

    def _may_begin(self) -> bool:
        """Whether a new trial may be begun."""
        return self._barren < MOST_BARREN and self._budgets.allow_a_trial(self.workers.size)

    def _promotion(self, open_rungs: Sequence[int]) -> tuple[int, int] | None:
        """The trial to go on, and the rung to evaluate it at, one of the open ones."""
        size = self.workers.size
        allowed = [rung - 1 for rung in open_rungs if rung and self._budgets.allow(rung, size)]
        if not allowed:
            return None
        if self._entitled and 0 in allowed:
            return self._entitled.pop(0), 1
        if self._assessed is not None:
            results = [self._rungs[rung] if rung in allowed else {} for rung in range(self._last_rung)]
            return self._assessed.next_promotion(results, self._promoted)
        return next_promotion(
            [self._rungs[rung] if rung in allowed else {} for rung in range(self._last_rung)],
            self._promoted,
            self.study.spec.search.reduction,
            orders=self._orders,
            at_least=0 if self._may_begin() or self._under_way else 1,
        )

    def _go_on(self, number: int, rung: int) -> Request:
        trial = self.study.trial(number)
        self._promoted[rung - 1].add(number)
        weights, donor = self.study.load_checkpoint(number, rung - 1), self._starts.donor_again(trial, rung)
        request = Request(number, rung, trial.choices, weights, donor=donor)
        self.study.log_request(request)
        self.announce("promoted", trial)
        return request

    def _begin(self) -> Request | None:
        """A trial that is not known yet; None when the sampler finds none."""
        while self._barren < MOST_BARREN:
            number, point = self._propose()
            if self._is_new(number, point):
                request = self._starts.request(point, self._may_be_at)
                self._numbers[request.trial] = number
                self.study.log_request(request)
                return request
            self._barren += 1
        self._given_up = (
            f"{self._barren} proposals in a row brought nothing new; the space seems to be exhausted"
        )
        return None

    def _may_be_at(self, rung: int) -> bool:
        """Whether there is a worker and a budget for an evaluation at a rung."""
        return self._has_room(rung) and self._budgets.allow(rung, self.workers.size)

    def _propose(self) -> tuple[int, dict[str, Value]]:
        point = self._first_points.pop()
        if point is not None:
            return self._sampling.insert(point), point
        return self._sampling.ask()

    def _is_new(self, number: int, point: dict[str, Value]) -> bool:
        """Whether a point has to be evaluated; if not, the sampler is given the answer that is known."""
        known = self.study.find_duplicate(point)
        if known is not None:
            violations = self.study.shortfalls(known.metrics)
            if known.has_result:
                self._sampling.tell(number, known.metrics, violations, steady=not known.is_unstable)
            else:
                self._sampling.tell_rejected(number, violations)
            self.announce("duplicate", known)
            return False
        if _key(point) in self._begun:
            self._sampling.tell_failed(number)
            return False
        return True


def _key(point: Mapping[str, Value]) -> Point:
    """A point as what tells it from others."""
    return tuple(sorted(point.items(), key=lambda item: item[0]))
