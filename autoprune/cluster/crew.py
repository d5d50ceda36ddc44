"""The workers of a pool, from their start until they are dropped: set up, watched over, replaced, given back.

Who is no good any more hands back what it was given. What becomes of that is the pool's affair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import autoprune.cluster.session as session
from autoprune.cluster.answers import answer_of, cause_of, first_line, is_of_node, results_of
from autoprune.cluster.devices import Presence, off
from autoprune.cluster.seat import Seat
from autoprune.cluster.setup import Setup
from autoprune.errors import SearchFailed
from autoprune.spec import Cluster

IDLE_SECONDS = 60.0  # after which a worker above the least number is given back
MOST_STARTS = 10  # workers in a row that die before they can work
HEAD_SECONDS = 600.0  # for so long a head that was lost may stay away
LEAVING = "its machine is being taken away"


class Crew:
    """Workers of several shapes on one cluster, between the least and the most of each.

    Args:
        cluster: where, how many and of which shapes.
        warn: told what the user should know.
        devices: custom resources of nodes that measure, and that workers are kept off.
        lost: told of a worker that was dropped with something under way: the worker, what was wrong with it, and
            whether that may be the fault of what it was at work on.

    Attributes:
        seats: the workers there are, those that are starting included.
        devices: which nodes that measure are there.

    Raises:
        BadInput: the cluster cannot be reached, or lacks what was asked for.
    """

    def __init__(
        self,
        cluster: Cluster,
        warn: Callable[[str], None],
        devices: Sequence[str],
        lost: Callable[[Seat, str, bool], None],
    ) -> None:
        self._cluster, self._shapes, self._warn, self._lost = cluster, cluster.by_name, warn, lost
        self._setup = Setup(self._shapes)
        self.seats: list[Seat] = []
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
                    self._add(name)
            if not self.seats:
                self._add(cluster.shape_at(0))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all workers, and Ray if it was started or joined here."""
        import ray

        for seat in self.seats:
            ray.kill(seat.actor)
        self.seats = []
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False

    def of(self, shape: str) -> list[Seat]:
        """The workers of a shape."""
        return [seat for seat in self.seats if seat.shape == shape]

    def first(self) -> Any:
        """The worker that is asked when one will do."""
        last = self._cluster.rungs[-1] if self._cluster.rungs else self.seats[0].shape
        return min(self.seats, key=lambda seat: (not seat.is_ready, seat.shape != last)).actor

    def is_worn(self, seat: Seat) -> bool:
        """Whether a worker holds more than it was given: it is replaced before it is given anything else to do."""
        limit = self._shapes[seat.shape].memory
        return limit is not None and seat.is_ready and seat.pulse is not None and seat.pulse.memory > limit

    # -- setting up ------------------------------------------------------------------------------------------

    def prepare(self, step: str, given: Sequence[Any]) -> None:
        """Have every worker, and whoever replaces one, do a step of the setup (`Setup.add`).

        Those that are just being started are not waited for.
        """
        place = self._setup.add(step, given)
        futures = {seat: self._setup.send(seat, place) for seat in self.seats}
        waited = [seat for seat in self.seats if seat.is_ready] or list(self.seats)
        for seat, future in futures.items():
            seat.warming = future
        for seat in waited:
            self._await(seat)

    def _await(self, seat: Seat) -> None:
        """Wait until a worker is set up; one that dies of that, with its node perhaps, is replaced once."""
        import ray

        if isinstance(answer_of(seat.warming), ray.exceptions.RayActorError):
            self._start_anew(seat)
            seat = self.seats[-1]
            if seat.is_ready:  # there are enough without it
                return
        results_of([seat.warming])
        seat.warming = None

    def welcome(self) -> None:
        """Note which new workers are ready, and replace those that did not come so far.

        Raises:
            SearchFailed: too many in a row did not.
        """
        for seat in [seat for seat in self.seats if seat.warming is not None]:
            self._welcome(seat)

    def _welcome(self, seat: Seat) -> None:
        import ray

        if not ray.wait([seat.warming], timeout=0, fetch_local=False)[0]:
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
        self.replace(seat, "the worker did not start")

    def _add(self, shape: str) -> None:
        """Start a worker and send it the whole setup; nothing is waited for."""
        import ray

        from autoprune.cluster.worker import Worker

        demands = dict(self._shapes[shape].demands)
        options: dict[str, Any] = {"num_cpus": demands.pop("CPU"), "num_gpus": demands.pop("GPU")}
        if "memory" in demands:
            options["memory"] = int(demands.pop("memory"))
        if self.devices.there and (kept_off := off(self.devices.there, session.nodes())):
            options["label_selector"] = kept_off
        # Ray would otherwise repeat a request, or restart a worker without its broadcasts, and say nothing.
        remote = ray.remote(
            max_restarts=0, max_task_retries=0, concurrency_groups={"pulse": 1}, resources=demands, **options
        )(Worker)
        seat = Seat(remote.remote(), shape)
        self.seats.append(seat)
        for place in range(len(self._setup)):
            seat.warming = self._setup.send(seat, place)
        self._ask(seat)

    # -- watching over ---------------------------------------------------------------------------------------

    def look_after(self, is_full: Callable[[str], bool]) -> None:
        """Replace workers that hang, leave or leak; give back what idles, and ask for what is needed.

        Args:
            is_full: whether all workers of a shape have as much to do as they take.
        """
        for seat in list(self.seats):
            self._feel(seat)
        if self.devices.there:
            self.devices.look(session.nodes())
        for name in self._shapes:
            self._fit(name, is_full(name))

    def _ask(self, seat: Seat) -> None:
        seat.asked = seat.actor.pulse.options(concurrency_group="pulse").remote()

    def _feel(self, seat: Seat) -> None:
        """Take the pulse of a worker."""
        import ray

        if seat.asked is not None and ray.wait([seat.asked], timeout=0)[0]:
            found = answer_of(seat.asked)
            seat.asked = None
            if isinstance(found, Exception):
                if isinstance(found, ray.exceptions.RayActorError):
                    reason = f"the worker died: {first_line(found)}"
                    self.replace(seat, reason, counts=not is_of_node(found))
                    return
            else:
                seat.pulse, seat.heard = found, time.monotonic()
        if seat.asked is None:
            self._ask(seat)
        silence = time.monotonic() - seat.heard
        if seat.is_ready and silence > self._cluster.heartbeat_seconds:
            self.replace(seat, f"the worker hung: no sign of life for {silence:.0f} s")
        elif seat.pulse and seat.pulse.is_leaving:
            self.replace(seat, LEAVING, counts=False)
        elif self.is_worn(seat) and not seat.tasks:
            self.replace(seat, "the worker held too much memory")

    def _fit(self, name: str, is_full: bool) -> None:
        """Have as many workers of a shape as there is work for, between the least and the most."""
        seats, wanted, now = self.of(name), self._shapes[name].workers, time.monotonic()
        if is_full:
            for _ in range(wanted.max - len(seats)):
                self._add(name)
            return
        idle = [seat for seat in seats if not seat.tasks and now - seat.idle_since > IDLE_SECONDS]
        idle.sort(key=lambda seat: seat.is_ready)  # who has not come yet goes first
        for seat in idle[: max(0, len(seats) - wanted.min)]:
            if len(self.seats) > 1:
                self._drop(seat)

    def replace(self, seat: Seat, reason: str, *, counts: bool = True) -> None:
        """Put a new worker in the place of one that is no good any more.

        Args:
            seat: the worker.
            reason: what is wrong with it.
            counts: whether that may be the fault of what it was at work on.
        """
        self._drop(seat)
        if len(self.of(seat.shape)) < max(1, self._shapes[seat.shape].workers.min):
            self._add(seat.shape)
        if seat.tasks:
            self._lost(seat, reason, counts)

    def _drop(self, seat: Seat) -> None:
        import ray

        self.seats.remove(seat)
        ray.kill(seat.actor)

    # -- the cluster itself ----------------------------------------------------------------------------------

    def _enter(self) -> None:
        """Start Ray here, or join it where it runs."""
        if self._cluster.address == "local":
            session.start(sum(s.workers.max * s.cpus_per_worker for s in self._shapes.values()))
        else:
            self._head = session.join(self._cluster.address, self._warn)
            self._identity = session.identity(self._head)

    def has_lost_its_head(self) -> bool:
        """Whether the head is gone, or is another one by now at the same address."""
        return bool(self._head) and session.identity(self._head) != self._identity

    def rejoin(self) -> None:
        """Wait for a head that was lost, join it when it is back, and start all workers anew.

        Ray would end this process a minute after it lost the head.

        Raises:
            SearchFailed: the head stays away.
        """
        import ray

        self._warn(f"the head of the cluster at {self._head} is gone; waiting for it to come back")
        before, self.seats = self.seats, []
        ray.shutdown()
        if not session.join_again(self._head, HEAD_SECONDS):
            self._owns_ray = False
            raise SearchFailed(
                f"the head of the cluster at {self._head} has been gone for {HEAD_SECONDS / 60:g} minutes; "
                f"`autoprune resume` goes on once there is one"
            )
        self._identity = session.identity(self._head)
        self._setup.store_anew()
        for seat in before:
            self._add(seat.shape)
        self._warn(
            f"the head of the cluster at {self._head} is back; "
            f"{sum(len(seat.tasks) for seat in before)} evaluations begin anew"
        )
        for seat in reversed(before):
            self._lost(seat, "the head of the cluster was lost", False)
