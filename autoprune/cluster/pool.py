"""A pool of warm workers on Ray: each loads what it needs once, then answers requests until the pool closes.

    with Pool("autoprune.evaluate:Evaluator", {"spec": spec}, spec.cluster) as pool:
        pool.share("shareable_data", "attach_data")
        pool.submit(request)
        for request, evaluation in pool.wait():
            ...

Ray Core actors under one driver, without Ray Tune. Ray itself repeats nothing. A worker that dies, hangs, is told to
leave, or holds more memory than it was given is replaced; the new one is given the same broadcasts in the same order,
and what the old one was at work on goes back to the queue, from which another node takes it first. A request that
costs two workers their lives is a failed evaluation. Where the head of the cluster is lost, the pool waits for it to
come back, joins again, and goes on.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from autoprune.cluster.answers import answer_of, cause_of, failed, first_line, is_of_node, results_of
from autoprune.cluster.crew import Crew
from autoprune.cluster.seat import Seat, Task
from autoprune.errors import BadInput
from autoprune.record import LOST, Evaluation, Request
from autoprune.spec import Cluster

ATTEMPTS = 2
PULSE_SECONDS = 2.0
OTHER_NODE_SECONDS = 5.0  # for so long a request that was lost waits for a worker on another node

Ready = list[tuple[Request, Evaluation]]


class Pool:
    """Warm workers that hold one object each.

    Args:
        factory: reference of the class whose object a worker holds; it must have `evaluate(request)`.
        arguments: keyword arguments for it; they must pickle.
        cluster: where, how many and of which shapes; None makes one of `fields`.
        depth: requests at each worker, the one at work included. More than one hides the way there and back,
            which pays when an evaluation takes milliseconds, and makes proposals older than they need be.
        warn: told what the user should know, such as that anybody may use the cluster.
        devices: custom resources of nodes that measure, and that workers are kept off.
        fields: of `Cluster`, in place of one: `workers=2`.

    Raises:
        BadInput: the cluster cannot be reached, or lacks what was asked for.
        AutopruneError: whatever the factory raised.
    """

    def __init__(
        self,
        factory: str,
        arguments: Mapping[str, Any],
        cluster: Cluster | None = None,
        *,
        depth: int = 1,
        warn: Callable[[str], None] = lambda _: None,
        devices: Sequence[str] = (),
        **fields: Any,
    ) -> None:
        self.cluster = cluster or Cluster(**fields)
        self._depth = depth
        self._time_limit = 60 * (self.cluster.trial_minutes or math.inf)
        self._queue: deque[Task] = deque()
        self._gone: Ready = []
        self._looked = time.monotonic()
        self._crew = Crew(self.cluster, warn, devices, self._return)
        self.devices = self._crew.devices
        try:
            self._crew.prepare("hold", (factory, dict(arguments)))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, and Ray if this pool started or joined it. What is under way is lost."""
        self._crew.close()
        self._queue.clear()

    # -- how full it is --------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many workers there are, those that are starting included."""
        return len(self._crew.seats)

    @property
    def running(self) -> int:
        """How many requests are under way."""
        return sum(len(seat.tasks) for seat in self._crew.seats) + len(self._queue) + len(self._gone)

    def room(self, rung: int) -> int:
        """How many requests at a rung can be submitted now; rungs may share workers."""
        return max(0, self._room(self.cluster.shape_at(rung)))

    def _room(self, shape: str) -> int:
        """Places at workers of a shape, less what waits for one.

        The least number of workers counts as if it were there, also while some of them are being replaced.
        """
        seats = self._crew.of(shape)
        busy = sum(len(seat.tasks) for seat in seats) + sum(self._shape_of(t) == shape for t in self._queue)
        there = max(1, self.cluster.by_name[shape].workers.min, sum(seat.is_ready for seat in seats))
        return self._depth * there - busy

    def _shape_of(self, task: Task) -> str:
        return self.cluster.shape_at(task.request.rung)

    def workers(self) -> list[dict[str, Any]]:
        """What is known of each worker, as plain data: shape, node, process, memory, state, trials under way."""
        return [
            {
                "shape": seat.shape,
                "node": seat.node,
                "process": seat.pulse.process if seat.pulse else None,
                "memory_bytes": seat.pulse.memory if seat.pulse else None,
                "state": "busy" if seat.tasks else "idle" if seat.is_ready else "starting",
                "trials": [task.request.trial for task in seat.tasks.values()],
            }
            for seat in self._crew.seats
        ]

    # -- methods of the held object --------------------------------------------------------------------------

    def call(self, method: str, *arguments: Any) -> Any:
        """The result of a method on one worker, of the shape of the last rung where there is one. What it raises on
        purpose is raised here as it was."""
        return results_of([self._crew.first().run.remote(method, *arguments)])[0]

    def map(self, method: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """The results of a method for each tuple of arguments, in their order, spread over all workers.

        Every worker gets the next one when it is done. What one raises on purpose is raised here as it was.
        """
        import ray

        left = list(enumerate(calls))[::-1]
        under_way: dict[Any, tuple[int, Any]] = {}
        results: dict[int, Any] = {}
        idle = [seat.actor for seat in self._crew.seats if seat.is_ready] or [self._crew.first()]
        while left or under_way:
            while left and idle:
                place, arguments = left.pop()
                actor = idle.pop()
                under_way[actor.run.remote(method, *arguments)] = (place, actor)
            done, _ = ray.wait(list(under_way), num_returns=1)
            for future in done:
                place, actor = under_way.pop(future)
                results[place] = results_of([future])[0]
                idle.append(actor)
        return [results[place] for place in range(len(calls))]

    def broadcast(self, method: str, *arguments: Any) -> None:
        """Call a method on every worker, and on those that will replace one.

        Arguments are stored once per node; the arrays in them reach the workers without a copy and read-only.
        """
        self._crew.prepare("run", (method, *arguments))

    def share(self, source: str, sink: str) -> None:
        """Broadcast to `sink` what the method `source` returns on one worker, past this process."""
        self._crew.prepare("share", (source, sink))

    # -- requests --------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Send a request to a worker that has room; the best is the one with the least to do.

        Raises:
            BadInput: none has room.
        """
        if not self.room(request.rung):
            raise BadInput(f"submit: all {self.size} workers are busy; look at `room` first")
        self._queue.append(Task(request))
        self._assign()

    def wait(self, timeout: float | None = None) -> Ready:
        """All evaluations that are ready, after at most `timeout` seconds (None: when there is one).

        What broke at a worker is an evaluation with the state `failed` and its reason. The list is empty when
        nothing became ready in time, or when nothing is under way.

        Raises:
            SearchFailed: workers die before they can work, or the head of the cluster stays away.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            ready = self._collect(min(1.0, max(0.0, end - time.monotonic())))
            if ready or not self.running or time.monotonic() >= end:
                return ready

    def _collect(self, seconds: float) -> Ready:
        import ray

        futures = [future for seat in self._crew.seats for future in seat.tasks]
        warming = [seat.warming for seat in self._crew.seats if seat.warming is not None]
        if (futures or warming) and not self._gone:
            ray.wait([*futures, *warming], num_returns=1, timeout=seconds, fetch_local=False)
        elif not self._gone:
            time.sleep(min(seconds, 0.1))
        self._crew.welcome()
        done, _ = ray.wait(futures, num_returns=len(futures), timeout=0) if futures else ([], [])
        answers = {future: answer_of(future) for future in done}
        deaths = [a for a in answers.values() if isinstance(a, ray.exceptions.RayActorError)]
        if any(map(is_of_node, deaths)) and self._crew.has_lost_its_head():
            self._crew.rejoin()  # before anything is asked of a head that knows nothing of us
            answers = {}
        for seat in [seat for seat in self._crew.seats if seat.tasks]:
            self._settle(seat, answers)
        self._look_after()
        self._assign()
        ready, self._gone = self._gone, []
        return ready

    def _settle(self, seat: Seat, answers: Mapping[Any, Any]) -> None:
        """Take the answers of one worker, and replace it if it has died."""
        import ray

        for future in [future for future in seat.tasks if future in answers]:
            answer = answers[future]
            if isinstance(answer, ray.exceptions.RayActorError):
                self._crew.replace(
                    seat, f"the worker died: {first_line(answer)}", counts=not is_of_node(answer)
                )
                return
            task = seat.take(future)
            if isinstance(answer, Exception):
                error = cause_of(answer)
                answer = failed(task, f"{type(error).__name__}: {error}")
            elif task.lost:
                answer.seconds[LOST] = task.lost
            self._gone.append((task.request, answer))

    def _assign(self) -> None:
        """Give what waits to the workers with the least to do; what was lost, to another node first."""
        for task in list(self._queue):
            free = [seat for seat in self._crew.of(self._shape_of(task)) if self._is_open(seat)]
            elsewhere = [seat for seat in free if seat.node not in task.nodes]
            may_wait = time.monotonic() - task.returned < OTHER_NODE_SECONDS
            if task.nodes and not elsewhere and may_wait and self._has_other_node(task):
                continue
            if chosen := min(elsewhere or free, key=lambda seat: len(seat.tasks), default=None):
                self._queue.remove(task)
                chosen.put(chosen.actor.run.remote("evaluate", task.request), task)

    def _is_open(self, seat: Seat) -> bool:
        return seat.is_ready and len(seat.tasks) < self._depth and not self._crew.is_worn(seat)

    def _has_other_node(self, task: Task) -> bool:
        return any(seat.node and seat.node not in task.nodes for seat in self._crew.of(self._shape_of(task)))

    # -- what is not answered --------------------------------------------------------------------------------

    def _look_after(self) -> None:
        """End what takes too long, and have the crew looked after every now and then."""
        self._end_overdue()
        if time.monotonic() - self._looked < PULSE_SECONDS:
            return
        self._looked = time.monotonic()
        if self._crew.has_lost_its_head():
            self._crew.rejoin()
        else:
            self._crew.look_after(lambda shape: self._room(shape) <= 0)

    def _end_overdue(self) -> None:
        import ray

        for seat in [seat for seat in self._crew.seats if seat.tasks and self._time_limit < math.inf]:
            future, oldest = next(iter(seat.tasks.items()))
            is_late = time.monotonic() - oldest.started > self._time_limit
            # What was answered while this process was busy elsewhere is not late.
            if is_late and not ray.wait([future], timeout=0, fetch_local=False)[0]:
                oldest.attempt = ATTEMPTS
                self._crew.replace(seat, f"took longer than {self._time_limit:g} s")

    def _return(self, seat: Seat, reason: str, counts: bool) -> None:
        """Send back what waited at a worker that is gone.

        Workers take requests in order, so the oldest is the one that it died of: it alone loses an attempt.
        """
        oldest, *others = seat.tasks.values()
        self._queue.extendleft(reversed(others))
        self._lose(oldest, seat.node, reason, counts)

    def _lose(self, task: Task, node: str, reason: str, counts: bool) -> None:
        """A try came to nothing."""
        now = time.monotonic()
        if counts and task.attempt >= ATTEMPTS:
            self._gone.append((task.request, failed(task, reason, is_poison=True)))
            return
        task.lost += now - task.started
        task.attempt += counts
        task.returned = now
        task.nodes |= {node} if node else set()
        self._queue.appendleft(task)
