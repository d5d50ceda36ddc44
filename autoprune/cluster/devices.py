"""Measuring on nodes that have a device: tasks of Ray's that take the device's custom resource while they run.

A node that was started with `--resources '{"pi4": 1}'` does one such task at a time, whichever search on the cluster
it comes from; nothing holds the device in between. Workers ask and wait. Their own pool keeps them off these nodes, so
that nothing that this search trains disturbs a measurement; a node with `--num-cpus 0` is left alone by everybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from autoprune.cluster.answers import cause_of, first_line
from autoprune.errors import TargetError
from autoprune.targets import Measurement
from autoprune.targets.elsewhere import Absent, Job, timed

ATTEMPTS = 2  # of one measurement; a node may be lost under it
POLL_SECONDS = 2.0
ABSENT_SECONDS = 60.0  # for so long a device that was there may be gone
NODE_ID = "ray.io/node-id"


class Devices:
    """Asks a device, from wherever in the cluster it is called; goes to every worker as it is.

    Args:
        absent: resources that no node has; they are not waited for, as those are not that were waited for in vain.
    """

    def __init__(self, absent: Iterable[str] = ()) -> None:
        self._absent = set(absent)

    def __call__(self, resource: str, job: Job) -> Measurement:
        """What a node with this resource measured; others may be before us in its queue.

        Raises:
            Absent: no node has the resource any more.
            TargetError: the device cannot measure this, or was lost twice under it.
        """
        import ray

        if resource in self._absent:
            self._check(resource, ray.nodes())
        sent = ray.put(job)
        remote = ray.remote(num_cpus=0, resources={resource: 1}, max_retries=0)(timed)
        problem = ""
        for _ in range(ATTEMPTS):
            future = remote.remote(sent)
            self._wait(future, resource)
            try:
                found: Measurement = ray.get(future)
            except ray.exceptions.RayTaskError as error:  # raised by the task itself: it would be again
                raise TargetError(f"the device {resource}: {first_line(cause_of(error))}") from None
            except ray.exceptions.RayError as error:
                problem = first_line(error)
            else:
                return found
        raise TargetError(
            f"the device {resource} was lost {ATTEMPTS} times under this measurement: {problem}"
        )

    def _wait(self, future: Any, resource: str) -> None:
        """Wait until there is an answer, as long as a node has the resource, or had it a moment ago."""
        import ray

        seen = time.monotonic()
        while not ray.wait([future], timeout=POLL_SECONDS)[0]:
            if nodes_with(resource, ray.nodes()):
                seen = time.monotonic()
            elif time.monotonic() - seen > ABSENT_SECONDS:
                ray.cancel(future, force=True)
                self._absent.add(resource)
                self._check(resource, ())

    def _check(self, resource: str, nodes: Iterable[Mapping[str, Any]]) -> None:
        """Refuse to wait again for what was waited for in vain, unless it is back."""
        if not nodes_with(resource, nodes):
            raise Absent(f"no node has {resource} any more; `autoprune resume` goes on when one has")
        self._absent.discard(resource)


class Presence:
    """Whether there are nodes with the devices of a search, and who is told when that changes.

    Args:
        resources: of the devices.
        nodes: as `ray.nodes()` lists them.
        warn: is told.
    """

    def __init__(
        self, resources: Iterable[str], nodes: Iterable[Mapping[str, Any]], warn: Callable[[str], None]
    ) -> None:
        there, self._warn = list(nodes), warn
        self.there = {resource: bool(nodes_with(resource, there)) for resource in resources}
        for resource in self.absent:
            warn(f"no node has {resource}: latency there is modelled, not measured")

    @property
    def absent(self) -> list[str]:
        """Devices that no node has."""
        return [resource for resource, is_there in self.there.items() if not is_there]

    def look(self, nodes: Iterable[Mapping[str, Any]]) -> None:
        """See what has changed."""
        there = list(nodes)
        for resource, before in self.there.items():
            self.there[resource] = bool(nodes_with(resource, there))
            if before and not self.there[resource]:
                self._warn(
                    f"no node has {resource} any more: measurements wait for {ABSENT_SECONDS:g} s, after which latency "
                    "there is modelled from what was measured, or fails where that is too little"
                )
            elif self.there[resource] and not before:
                self._warn(f"a node has {resource} again")


def nodes_with(resource: str, nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Identifiers of the living nodes that have a custom resource.

    Args:
        resource: its name.
        nodes: as `ray.nodes()` lists them.
    """
    return [
        str(node["NodeID"]) for node in nodes if node["Alive"] and node["Resources"].get(resource, 0.0) >= 1.0
    ]


def off(resources: Iterable[str], nodes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The label selector that keeps a worker off all nodes with any of these resources; empty where there are none."""
    there = list(nodes)
    kept = sorted({one for resource in resources for one in nodes_with(resource, there)})
    return {NODE_ID: f"!in({','.join(kept)})"} if kept else {}
