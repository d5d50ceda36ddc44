"""Re-validation of the front: its best trials are trained in full again, from the start, over several seeds.

A front is made of what came out best of hundreds of noisy evaluations, so its figures flatter it (the winner's curse).
The means over fresh seeds do not, whatever the noise: re-validations are never selected among. Nothing of them is told
to the sampler. Where a trial falls, others come back that it had dominated, and take part while there is room.

What was asked for is on record before anything is dispatched, and each re-validation is an evaluation of its own: a
driver that is killed costs what was in flight, and the next one does what is left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.pareto import contributions, knee, reference_point
from autoprune.record import Request
from autoprune.search.checked import checked
from autoprune.study import Study, Trial
from autoprune.study.ranking import losses_of
from autoprune.study.standing import Standing

if TYPE_CHECKING:
    from autoprune.search.loop import Workers

OnEvent = Callable[[str, dict[str, Any]], None]

TICK = 1.0  # seconds after which the budget is looked at again while no result comes


def run_revalidation(
    study: Study,
    workers: Workers,
    *,
    best: int,
    seeds: int,
    may_begin: Callable[[int], bool] = lambda _: True,
    on_event: OnEvent | None = None,
) -> int:
    """Train the best trials of the front again, and rank by the means from then on.

    One that was broken off is taken up where it was. Called on a study of which it was completed, it takes those of the
    best that are not re-validated yet: what moved up for what fell.

    Args:
        study: open for writing.
        workers: they answer requests.
        best: how many trials at most; see `chosen`.
        seeds: how often each is trained.
        may_begin: asked before each one, given how many are under way. What it leaves out is no longer asked for;
            means are then over fewer.
        on_event: called with (`revalidated` or `failed`, payload) as by `search.loop.run_search`.

    Returns:
        How many re-validations were left out.
    """
    taken = study.repeating
    left_out = _run(study, workers, may_begin, on_event)
    while not left_out and (fresh := _fresh(study, best, seeds, taken)):
        taken += fresh
        study.plan_repeats(taken, seeds)
        left_out = _run(study, workers, may_begin, on_event)
    study.end_repeats()
    study.drop_checkpoints(())
    return left_out


def _fresh(study: Study, best: int, seeds: int, taken: Sequence[int]) -> list[int]:
    """Which trials come next: of the best those that lack a seed, as far as there is room for more."""
    lack = [
        trial.number for trial in chosen(study, best) if any(n + 1 not in trial.repeats for n in range(seeds))
    ]
    return [number for number in lack if number not in taken][: max(0, best - len(taken))]


def _run(study: Study, workers: Workers, may_begin: Callable[[int], bool], on_event: OnEvent | None) -> int:
    """Do all re-validations that are asked for; how many there was no time for."""
    waiting, last_rung = deque(study.repeats_left), len(study.spec.rung_epochs) - 1
    while True:
        begun: list[Request] = []
        while waiting and len(begun) < workers.room(last_rung) and may_begin(len(begun) + workers.running):
            begun.append(_request(study, *waiting.popleft()))
        study.commit()
        for request in begun:
            workers.submit(request)
        if not workers.running:
            return len(waiting)
        _collect(study, workers, on_event)


def chosen(study: Study, best: int) -> list[Trial]:
    """The best trials of the front: the best compromise, then those that cover most hypervolume.

    Trials that were trained beyond the last rung are left out: they are not what the search would train again.

    """
    front = [trial for trial in study.front if not trial.is_trained_on]
    if not front:
        return []
    losses = losses_of([trial.metrics for trial in front], study.spec.objectives)
    covers = contributions(losses, reference_point(losses))
    covers[knee(losses)] = np.inf
    return [front[place] for place in np.argsort(-covers, kind="stable")[:best]]


def _request(study: Study, number: int, repeat: int) -> Request:
    """A re-validation, on record."""
    trial = study.trial(number)
    request = Request(number, trial.last_rung, trial.choices, repeat=repeat)
    if not study.is_requested(request):
        study.log_request(request)
    return request


def _collect(study: Study, workers: Workers, on_event: OnEvent | None) -> None:
    """Put what came back on record, durably."""
    objectives = [o.metric for o in study.spec.objectives]
    evaluations = [checked(evaluation, objectives) for _, evaluation in workers.wait(TICK)]
    for evaluation in evaluations:
        study.save_checkpoint(evaluation)
        study.log_evaluation(evaluation)
    study.commit()
    if on_event is None:
        return
    for evaluation in evaluations:
        kind = "revalidated" if evaluation.state == "finished" else evaluation.state
        trial = study.trial(evaluation.trial)
        on_event(kind, {"status": Standing(study), "busy": workers.running, "trial": trial})
