"""A pool of warm workers on Ray: each loads what it needs once, then answers requests until the pool closes.

    with Pool("autoprune.evaluate:Evaluator", {"spec": spec}, workers=2) as pool:
        pool.share("shareable_data", "attach_data")
        pool.submit(request)
        for request, evaluation in pool.wait():
            ...

Ray Core actors under one driver, without Ray Tune. Ray itself repeats nothing: a worker that dies (out of
memory, `os._exit`, `kill -9`) is replaced, the new one is given the same broadcasts in the same order, and
the request that it died of is tried once more before it becomes a failed evaluation.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from autoprune.errors import BadInput, SearchFailed
from autoprune.record import Evaluation, Request

ATTEMPTS = 2
RELEASE_SECONDS = 5.0  # what a pool before this one used comes free a moment after it was closed


@dataclass(eq=False)
class _Task:
    """A request under way."""

    request: Request
    attempt: int = 1
    started: float = field(default_factory=time.monotonic)


class Pool:
    """Warm workers that hold one object each.

    Args:
        factory: reference of the class whose object a worker holds; it must have `evaluate(request)`.
        arguments: keyword arguments for it; they must pickle.
        workers: how many processes.
        cpus_per_worker: CPUs that Ray reserves, and threads that torch may use, for each.
        gpus_per_worker: GPUs that Ray reserves for each; a fraction shares one.
        address: `local` starts a Ray that ends with the pool; `auto` or `HOST:PORT` joins a running one.
        depth: requests at each worker, the one at work included. More than one hides the way there and back,
            which pays when an evaluation takes milliseconds, and makes proposals older than they need be.
        time_limit: seconds after which an evaluation is given up and its worker replaced; None: never.

    Raises:
        BadInput: the cluster cannot be reached, or lacks the CPUs or GPUs that were asked for.
        AutopruneError: whatever the factory raised.
    """

    def __init__(
        self,
        factory: str,
        arguments: Mapping[str, Any],
        workers: int = 1,
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float = 0.0,
        address: str = "local",
        depth: int = 1,
        time_limit: float | None = None,
    ) -> None:
        self._resources = {"num_cpus": cpus_per_worker, "num_gpus": gpus_per_worker}
        self._depth, self._time_limit = depth, time_limit
        self._setup: list[tuple[str, Sequence[Any]]] = []  # what every worker was sent, in order
        self._actors: list[Any] = []
        self._tasks: dict[Any, dict[Any, _Task]] = {}  # worker -> future -> request, oldest first
        self._warming: dict[
            Any, Any
        ] = {}  # new worker -> future of the last broadcast that it is given again
        self._gone: list[tuple[Request, Evaluation]] = []
        self._owns_ray = _start_ray(address, workers * cpus_per_worker)
        try:
            _check_resources(workers, self._resources)
            for _ in range(workers):
                self._add_worker()
            self._on_all("hold", (factory, dict(arguments), max(1, int(cpus_per_worker))))
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
        """End all workers, and Ray if this pool started it. What is under way is lost."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors, self._tasks = [], {}
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False

    @property
    def size(self) -> int:
        """How many workers there are."""
        return len(self._actors)

    @property
    def free(self) -> int:
        """How many requests can be submitted now."""
        return sum(max(0, self._depth - len(tasks)) for tasks in self._tasks.values())

    @property
    def running(self) -> int:
        """How many requests are under way."""
        return sum(len(tasks) for tasks in self._tasks.values()) + len(self._gone)

    # -- methods of the held object ----------------------------------------------------------------------

    def call(self, method: str, *arguments: Any) -> Any:
        """The result of a method on one worker. What it raises on purpose is raised here as it was."""
        return self._all([self._actors[0].run.remote(method, *arguments)])[0]

    def map(self, method: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """The results of a method for each tuple of arguments, in their order, spread over all workers.

        Every worker gets the next one when it is done. What one raises on purpose is raised here as it was.
        """
        import ray

        left = list(enumerate(calls))[::-1]
        under_way: dict[Any, tuple[int, Any]] = {}
        results: dict[int, Any] = {}
        idle = list(self._actors)
        while left or under_way:
            while left and idle:
                place, arguments = left.pop()
                actor = idle.pop()
                under_way[actor.run.remote(method, *arguments)] = (place, actor)
            done, _ = ray.wait(list(under_way), num_returns=1)
            for future in done:
                place, actor = under_way.pop(future)
                results[place] = self._all([future])[0]
                idle.append(actor)
        return [results[place] for place in range(len(calls))]

    def broadcast(self, method: str, *arguments: Any) -> None:
        """Call a method on every worker, and on those that will replace one.

        Arguments are stored once per node; the arrays in them reach the workers without a copy and read-only.
        """
        import ray

        self._on_all("run", [method, *map(ray.put, arguments)])

    def share(self, source: str, sink: str) -> None:
        """Broadcast to `sink` what the method `source` returns on one worker, past this process."""
        self._on_all("run", [sink, self._actors[0].run.remote(source)])

    def _on_all(self, step: str, stored: Sequence[Any]) -> None:
        self._all([getattr(actor, step).remote(*stored) for actor in self._actors])
        self._setup.append((step, stored))

    def _all(self, futures: Sequence[Any]) -> list[Any]:
        """The results of what runs at workers; errors of ours come back as themselves."""
        import ray

        try:
            return list(ray.get(list(futures)))
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except ray.exceptions.RayActorError as error:
            raise SearchFailed(
                f"a worker died: {_first_line(error)} Is there enough memory, or does the task's code end the process?"
            ) from None

    # -- requests ---------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Send a request to the worker with the least to do.

        Raises:
            BadInput: no worker is free.
        """
        if self.free < 1:
            raise BadInput(f"submit: all {self.size} workers are busy; look at `free` first")
        self._send(_Task(request))

    def wait(self, timeout: float | None = None) -> list[tuple[Request, Evaluation]]:
        """All evaluations that are ready, after at most `timeout` seconds (None: when there is one).

        What broke at a worker is an evaluation with the state `failed` and its reason. The list is empty when
        nothing became ready in time, or when nothing is under way.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            ready = self._collect(min(1.0, max(0.0, end - time.monotonic())))
            if ready or not self.running or time.monotonic() >= end:
                return ready

    def _collect(self, seconds: float) -> list[tuple[Request, Evaluation]]:
        import ray

        futures = [future for tasks in self._tasks.values() for future in tasks]
        if futures and not self._gone:
            ray.wait(futures, num_returns=1, timeout=seconds, fetch_local=False)
            self._end_overdue()
        done, _ = ray.wait(futures, num_returns=len(futures), timeout=0) if futures else ([], [])
        answers = {future: self._answer(future) for future in done}
        for actor in list(self._tasks):
            self._settle(actor, answers)
        ready, self._gone = self._gone, []
        return ready

    def _answer(self, future: Any) -> Any:
        """The evaluation, or the exception in place of it."""
        import ray

        try:
            return ray.get(future)
        except (
            ray.exceptions.RayTaskError,
            ray.exceptions.RayActorError,
            ray.exceptions.RaySystemError,
        ) as error:
            return error

    def _settle(self, actor: Any, answers: Mapping[Any, Any]) -> None:
        """Take the answers of one worker, and replace it if it has died."""
        import ray

        for future in [future for future in self._tasks[actor] if future in answers]:
            answer = answers[future]
            if isinstance(answer, ray.exceptions.RayActorError):
                self._replace(actor, f"the worker died: {_first_line(answer)}")
                return
            task = self._tasks[actor].pop(future)
            if isinstance(answer, Exception):
                error = _cause(answer)
                answer = _failed(task, f"{type(error).__name__}: {error}")
            self._gone.append((task.request, answer))
            for following in list(self._tasks[actor].values())[:1]:
                following.started = time.monotonic()

    def _end_overdue(self) -> None:
        if self._time_limit is None:
            return
        import ray

        for actor, tasks in list(self._tasks.items()):
            if not tasks:
                continue
            future, oldest = next(iter(tasks.items()))
            if actor in self._warming:  # the time that a new worker takes to start is not the request's
                oldest.started = time.monotonic()
                if ray.wait([self._warming[actor]], timeout=0)[0]:
                    del self._warming[actor]
            is_late = time.monotonic() - oldest.started > self._time_limit
            # What was answered while this process was busy elsewhere is not late.
            if is_late and not ray.wait([future], timeout=0, fetch_local=False)[0]:
                oldest.attempt = ATTEMPTS
                ray.kill(actor)
                self._replace(actor, f"took longer than {self._time_limit:g} s")

    def _replace(self, actor: Any, reason: str) -> None:
        """Put a new worker in the place of a dead one and send it what waited there.

        Workers take requests in order, so the oldest is the one that it died of: it alone loses an attempt.
        """
        waiting = list(self._tasks.pop(actor).values())
        self._warming.pop(actor, None)
        self._actors.remove(actor)
        self._add_worker()
        suspect, *others = waiting
        if suspect.attempt < ATTEMPTS:
            others.insert(0, _Task(suspect.request, suspect.attempt + 1))
        else:
            self._gone.append((suspect.request, _failed(suspect, reason)))
        for task in others:
            self._send(_Task(task.request, task.attempt))

    def _send(self, task: _Task) -> None:
        actor = min(self._actors, key=lambda actor: len(self._tasks[actor]))
        if not self._tasks[actor]:
            task.started = time.monotonic()
        self._tasks[actor][actor.run.remote("evaluate", task.request)] = task

    def _add_worker(self) -> None:
        """Start a worker and send it all broadcasts so far; nothing is waited for."""
        import ray

        from autoprune.cluster.worker import Worker

        # Ray would otherwise repeat a request, or restart a worker without its broadcasts, and say nothing.
        remote = ray.remote(max_restarts=0, max_task_retries=0, **self._resources)(Worker)
        actor = remote.remote()
        self._actors.append(actor)
        self._tasks[actor] = {}
        for step, stored in self._setup:
            self._warming[actor] = getattr(actor, step).remote(*stored)


def _start_ray(address: str, cpus: float) -> bool:
    """Start or join Ray unless this process already has; whether it is ours to end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if address == "local":
        # A bare ray.init() would join whatever a stale address file points at.
        ray.init(address="local", num_cpus=max(1, math.ceil(cpus)), include_dashboard=False, **quiet)
        return True
    try:
        _knock(address)
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise BadInput(f"cluster.address: got {address!r}, no Ray cluster answers there: {error}") from None
    return True


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT; Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=RELEASE_SECONDS).close()


def _check_resources(workers: int, resources: Mapping[str, float]) -> None:
    """Refuse what Ray would wait for in silence."""
    import ray

    for kind, each in (("CPU", resources["num_cpus"]), ("GPU", resources["num_gpus"])):
        end = time.monotonic() + RELEASE_SECONDS
        while workers * each > (found := ray.available_resources().get(kind, 0.0)):
            if time.monotonic() > end or workers * each > ray.cluster_resources().get(kind, 0.0):
                raise BadInput(
                    f"cluster: {workers} workers of {each:g} {kind}s each need {workers * each:g}, "
                    f"{found:g} are free; set fewer workers or {kind.lower()}s_per_worker"
                )
            time.sleep(0.1)


def _failed(task: _Task, reason: str) -> Evaluation:
    request, seconds = task.request, {"total": time.monotonic() - task.started}
    result = Evaluation(request.trial, request.rung, "failed", request.choices, repeat=request.repeat)
    result.seconds, result.reason = seconds, reason[:2000]
    return result


def _cause(error: BaseException) -> BaseException:
    """What was raised in the worker, where it can be told, and the error itself where not."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error


def _first_line(error: BaseException) -> str:
    """What Ray says before it lists identifiers."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
