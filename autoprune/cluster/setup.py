"""What every worker of a pool is sent before it can work, in order: each new one is sent all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.cluster.seat import Seat
from autoprune.spec import Shape


class Setup:
    """The steps, as they were given, and their arguments in Ray's object store, where each node holds them once.

    Args:
        shapes: of the workers, by name.
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes = shapes
        self._steps: list[tuple[str, Sequence[Any]]] = []
        self._stored: list[Sequence[Any] | None] = []  # None: to be stored anew

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: str, given: Sequence[Any]) -> int:
        """A further step; returns its place.

        Args:
            step: `hold` (factory, arguments), `run` (method, arguments...) or `share` (source, sink).
            given: what belongs to it.
        """
        self._steps.append((step, given))
        self._stored.append(None)
        return len(self._steps) - 1

    def send(self, seat: Seat, place: int) -> Any:
        """Have one worker do one step; returns its future, nothing is waited for."""
        import ray

        step, given = self._steps[place]
        if step == "hold":
            shape = self._shapes[seat.shape]
            threads, has_gpu = max(1, int(shape.cpus_per_worker)), shape.gpus_per_worker > 0
            return seat.actor.hold.remote(*given, threads, has_gpu)
        stored = self._stored[place]
        if stored is None:
            if step == "share":
                source, sink = given
                stored = (sink, seat.actor.run.remote(source))
            else:
                stored = (given[0], *map(ray.put, given[1:]))
            self._stored[place] = stored
        return seat.actor.run.remote(*stored)

    def share_anew(self) -> None:
        """What a lost node had in store for others is made anew, by the next worker itself."""
        self._stored = [
            None if step == "share" else stored
            for (step, _), stored in zip(self._steps, self._stored, strict=True)
        ]

    def store_anew(self) -> None:
        """Nothing is in store any more."""
        self._stored = [None] * len(self._steps)
