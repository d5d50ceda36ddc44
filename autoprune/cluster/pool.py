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

import autoprune.cluster.session as session
from autoprune.cluster.answers import answer_of, cause_of, failed, first_line, is_of_node, results_of
from autoprune.cluster.devices import Presence, off
from autoprune.cluster.seat import Seat, Task
from autoprune.cluster.setup import Setup
from autoprune.errors import BadInput, SearchFailed
from autoprune.record import LOST, Evaluation, Request
from autoprune.spec import Cluster

ATTEMPTS = 2
PULSE_SECONDS = 2.0
OTHER_NODE_SECONDS = 5.0  # for so long a request that was lost waits for a worker on another node
IDLE_SECONDS = 60.0  # after which a worker above the least number is given back
MOST_STARTS = 10  # workers in a row that die before they can work
HEAD_SECONDS = 600.0  # for so long a head that was lost may stay away
LEAVING = "its machine is being taken away"

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
        self._shapes, self._depth, self._warn = self.cluster.by_name, depth, warn
        self._time_limit = 60 * (self.cluster.trial_minutes or math.inf)
        self._setup = Setup(self._shapes)
        self._seats: list[Seat] = []
        self._queue: deque[Task] = deque()
        self._gone: Ready = []
        self._looked = time.monotonic()
        self._failed_starts = 0
        self._head, self._identity = "", ""  # of a cluster that was joined here
        self._owns_ray = not session.is_running()
        if self._owns_ray:
            self._enter()
        try:
            self.devices = Presence(devices, session.nodes(), warn)
            session.check_room(self._shapes, without=devices)
            for name, shape in self._shapes.items():
                for _ in range(shape.workers.min):
                    self._add_seat(name)
            if not self._seats:
                self._add_seat(self.cluster.shape_at(0))
            self._on_all("hold", (factory, dict(arguments)))
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
        import ray

        for seat in self._seats:
            ray.kill(seat.actor)
        self._seats = []
        self._queue.clear()
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False

    # -- how full it is --------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many workers there are, those that are starting included."""
        return len(self._seats)

    @property
    def running(self) -> int:
        """How many requests are under way."""
        return sum(len(seat.tasks) for seat in self._seats) + len(self._queue) + len(self._gone)

    def room(self, rung: int) -> int:
        """How many requests at a rung can be submitted now; rungs may share workers."""
        return max(0, self._room(self.cluster.shape_at(rung)))

    def _room(self, shape: str) -> int:
        """Places at workers of a shape, less what waits for one.

        The least number of workers counts as if it were there, also while some of them are being replaced.
        """
        seats = self._of(shape)
        busy = sum(len(seat.tasks) for seat in seats) + sum(self._shape_of(t) == shape for t in self._queue)
        there = max(1, self._shapes[shape].workers.min, sum(seat.is_ready for seat in seats))
        return self._depth * there - busy

    def _of(self, shape: str) -> list[Seat]:
        return [seat for seat in self._seats if seat.shape == shape]

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
            for seat in self._seats
        ]

    # -- methods of the held object --------------------------------------------------------------------------

    def call(self, method: str, *arguments: Any) -> Any:
        """The result of a method on one worker, of the shape of the last rung where there is one. What it raises on
        purpose is raised here as it was."""
        return results_of([self._first().run.remote(method, *arguments)])[0]

    def _first(self) -> Any:
        """The worker that is asked when one will do."""
        last = self.cluster.rungs[-1] if self.cluster.rungs else self._seats[0].shape
        return min(self._seats, key=lambda seat: (not seat.is_ready, seat.shape != last)).actor

    def map(self, method: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """The results of a method for each tuple of arguments, in their order, spread over all workers.

        Every worker gets the next one when it is done. What one raises on purpose is raised here as it was.
        """
        import ray

        left = list(enumerate(calls))[::-1]
        under_way: dict[Any, tuple[int, Any]] = {}
        results: dict[int, Any] = {}
        idle = [seat.actor for seat in self._seats if seat.is_ready] or [self._first()]
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
        self._on_all("run", (method, *arguments))

    def share(self, source: str, sink: str) -> None:
        """Broadcast to `sink` what the method `source` returns on one worker, past this process."""
        self._on_all("share", (source, sink))

    def _on_all(self, step: str, given: Sequence[Any]) -> None:
        """Have every worker do a step of the setup, and wait for those that are not just being started."""
        place = self._setup.add(step, given)
        futures = {seat: self._setup.send(seat, place) for seat in self._seats}
        waited = [seat for seat in self._seats if seat.is_ready] or list(self._seats)
        for seat, future in futures.items():
            seat.warming = future
        for seat in waited:
            self._await(seat)

    def _await(self, seat: Seat) -> None:
        """Wait until a worker is set up; one that dies of that, with its node perhaps, is replaced once."""
        import ray

        if isinstance(answer_of(seat.warming), ray.exceptions.RayActorError):
            self._start_anew(seat)
            seat = self._seats[-1]
            if seat.is_ready:  # there are enough without it
                return
        results_of([seat.warming])
        seat.warming = None

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

        futures = [future for seat in self._seats for future in seat.tasks]
        warming = [seat.warming for seat in self._seats if seat.warming is not None]
        if (futures or warming) and not self._gone:
            ray.wait([*futures, *warming], num_returns=1, timeout=seconds, fetch_local=False)
        elif not self._gone:
            time.sleep(min(seconds, 0.1))
        for seat in list(self._seats):
            self._warm(seat)
        done, _ = ray.wait(futures, num_returns=len(futures), timeout=0) if futures else ([], [])
        answers = {future: answer_of(future) for future in done}
        deaths = [a for a in answers.values() if isinstance(a, ray.exceptions.RayActorError)]
        if any(map(is_of_node, deaths)) and self._has_lost_its_head():
            self._rejoin()  # before anything is asked of a head that knows nothing of us
            answers = {}
        for seat in [seat for seat in self._seats if seat.tasks]:
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
                self._replace(seat, f"the worker died: {first_line(answer)}", counts=not is_of_node(answer))
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
            free = [seat for seat in self._of(self._shape_of(task)) if self._is_open(seat)]
            elsewhere = [seat for seat in free if seat.node not in task.nodes]
            may_wait = time.monotonic() - task.returned < OTHER_NODE_SECONDS
            if task.nodes and not elsewhere and may_wait and self._has_other_node(task):
                continue
            if chosen := min(elsewhere or free, key=lambda seat: len(seat.tasks), default=None):
                self._queue.remove(task)
                chosen.put(chosen.actor.run.remote("evaluate", task.request), task)

    def _is_open(self, seat: Seat) -> bool:
        return seat.is_ready and len(seat.tasks) < self._depth and not self._is_worn(seat)

    def _has_other_node(self, task: Task) -> bool:
        return any(seat.node and seat.node not in task.nodes for seat in self._of(self._shape_of(task)))

    # -- workers that come and go ----------------------------------------------------------------------------

    def _add_seat(self, shape: str) -> None:
        """Start a worker and send it the whole setup; nothing is waited for."""
        import ray

        from autoprune.cluster.worker import Worker

        demands = dict(self._shapes[shape].demands)
        options: dict[str, Any] = {"num_cpus": demands.pop("CPU"), "num_gpus": demands.pop("GPU")}
        if "memory" in demands:
            options["memory"] = int(demands.pop("memory"))
        # Ray would otherwise repeat a request, or restart a worker without its broadcasts, and say nothing.
        if self.devices.there and (kept_off := off(self.devices.there, session.nodes())):
            options["label_selector"] = kept_off
        remote = ray.remote(
            max_restarts=0, max_task_retries=0, concurrency_groups={"pulse": 1}, resources=demands, **options
        )(Worker)
        seat = Seat(remote.remote(), shape)
        self._seats.append(seat)
        for place in range(len(self._setup)):
            seat.warming = self._setup.send(seat, place)
        self._ask(seat)

    def _ask(self, seat: Seat) -> None:
        seat.asked = seat.actor.pulse.options(concurrency_group="pulse").remote()

    def _warm(self, seat: Seat) -> None:
        """Note that a new worker is ready, or replace it when it did not come so far."""
        import ray

        if seat.warming is None or not ray.wait([seat.warming], timeout=0, fetch_local=False)[0]:
            return
        error = answer_of(seat.warming)
        if isinstance(error, Exception):
            self._failed_starts += 1
            if self._failed_starts >= MOST_STARTS:
                raise SearchFailed(
                    f"{MOST_STARTS} workers in a row could not be started, the last one: {first_line(cause_of(error))}"
                )
            self._start_anew(seat)
            return
        seat.warming, self._failed_starts = None, 0
        seat.heard = seat.idle_since = time.monotonic()

    def _start_anew(self, seat: Seat) -> None:
        """Put another worker in the place of one that did not start, which may have lost what others share."""
        self._setup.share_anew()
        self._replace(seat, "the worker did not start")

    def _look_after(self) -> None:
        """Replace workers that hang, are late, leave or leak; give back what idles, and ask for what is needed."""
        self._end_overdue()
        if time.monotonic() - self._looked < PULSE_SECONDS:
            return
        self._looked = time.monotonic()
        if self._has_lost_its_head():
            self._rejoin()
            return
        for seat in list(self._seats):
            self._feel(seat)
        if self.devices.there:
            self.devices.look(session.nodes())
        for name in self._shapes:
            self._fit(name)

    def _feel(self, seat: Seat) -> None:
        """Take the pulse of a worker."""
        import ray

        if seat.asked is not None and ray.wait([seat.asked], timeout=0)[0]:
            found = answer_of(seat.asked)
            seat.asked = None
            if isinstance(found, Exception):
                if isinstance(found, ray.exceptions.RayActorError):
                    reason = f"the worker died: {first_line(found)}"
                    self._replace(seat, reason, counts=not is_of_node(found))
                    return
            else:
                seat.pulse, seat.heard = found, time.monotonic()
        if seat.asked is None:
            self._ask(seat)
        silence = time.monotonic() - seat.heard
        if seat.is_ready and silence > self.cluster.heartbeat_seconds:
            self._replace(seat, f"the worker hung: no sign of life for {silence:.0f} s")
        elif seat.pulse and seat.pulse.is_leaving:
            self._replace(seat, LEAVING, counts=False)
        elif self._is_worn(seat) and not seat.tasks:
            self._replace(seat, "the worker held too much memory")

    def _is_worn(self, seat: Seat) -> bool:
        """Whether a worker holds more than it was given: it is replaced before it is given anything else to do."""
        limit = self._shapes[seat.shape].memory
        return limit is not None and seat.is_ready and seat.pulse is not None and seat.pulse.memory > limit

    def _fit(self, name: str) -> None:
        """Have as many workers of a shape as there is work for, between the least and the most."""
        seats, wanted, now = self._of(name), self._shapes[name].workers, time.monotonic()
        if self._room(name) <= 0:
            for _ in range(wanted.max - len(seats)):
                self._add_seat(name)
            return
        idle = [seat for seat in seats if not seat.tasks and now - seat.idle_since > IDLE_SECONDS]
        idle.sort(key=lambda seat: seat.is_ready)  # who has not come yet goes first
        for seat in idle[: max(0, len(seats) - wanted.min)]:
            if len(self._seats) > 1:
                self._drop(seat)

    def _end_overdue(self) -> None:
        import ray

        for seat in [seat for seat in self._seats if seat.tasks and self._time_limit < math.inf]:
            future, oldest = next(iter(seat.tasks.items()))
            is_late = time.monotonic() - oldest.started > self._time_limit
            # What was answered while this process was busy elsewhere is not late.
            if is_late and not ray.wait([future], timeout=0, fetch_local=False)[0]:
                oldest.attempt = ATTEMPTS
                self._replace(seat, f"took longer than {self._time_limit:g} s")

    def _drop(self, seat: Seat) -> None:
        import ray

        self._seats.remove(seat)
        ray.kill(seat.actor)

    def _replace(self, seat: Seat, reason: str, *, counts: bool = True) -> None:
        """Put a new worker in the place of one that is no good any more, and send back what waited there.

        Workers take requests in order, so the oldest is the one that it died of: it alone loses an attempt.

        Args:
            seat: the worker.
            reason: what is wrong with it.
            counts: whether that may be the fault of what it was at work on.
        """
        self._drop(seat)
        if len(self._of(seat.shape)) < max(1, self._shapes[seat.shape].workers.min):
            self._add_seat(seat.shape)
        for place, task in reversed(list(enumerate(seat.tasks.values()))):
            if place == 0:
                self._lose(task, seat.node, reason, counts)
            else:
                self._queue.appendleft(task)

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

    # -- the cluster itself ----------------------------------------------------------------------------------

    def _enter(self) -> None:
        """Start Ray here, or join it where it runs."""
        if self.cluster.address == "local":
            session.start(sum(s.workers.max * s.cpus_per_worker for s in self._shapes.values()))
        else:
            self._head = session.join(self.cluster.address, self._warn)
            self._identity = session.identity(self._head)

    def _has_lost_its_head(self) -> bool:
        """Whether the head is gone, or is another one by now at the same address."""
        return bool(self._head) and session.identity(self._head) != self._identity

    def _rejoin(self) -> None:
        """Wait for a head that was lost, join it when it is back, and begin anew what was under way.

        Ray would end this process a minute after it lost the head.
        """
        import ray

        self._warn(f"the head of the cluster at {self._head} is gone; waiting for it to come back")
        under_way = [task for seat in self._seats for task in seat.tasks.values()]
        shapes = [seat.shape for seat in self._seats]
        self._seats = []
        ray.shutdown()
        if not session.join_again(self._head, HEAD_SECONDS):
            self._owns_ray = False
            raise SearchFailed(
                f"the head of the cluster at {self._head} has been gone for {HEAD_SECONDS / 60:g} minutes; "
                f"`autoprune resume` goes on once there is one"
            )
        self._identity = session.identity(self._head)
        self._setup.store_anew()
        for task in reversed(under_way):
            self._lose(task, "", "the head of the cluster was lost", counts=False)
        for shape in shapes:
            self._add_seat(shape)
        self._warn(
            f"the head of the cluster at {self._head} is back; {len(under_way)} evaluations begin anew"
        )
