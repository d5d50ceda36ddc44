"""What the driver knows of one worker, and of one request that it was given."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from autoprune.cluster.worker import Pulse
from autoprune.record import Request


@dataclass(eq=False)
class Task:
    """A request under way.

    Attributes:
        attempt: which try this is, from 1; tries that ended through no fault of the request are not counted.
        nodes: where it was tried before.
        lost: seconds that these tries took.
        started: when the worker began with it, by the monotonic clock.
        returned: when it last came back without an answer.
    """

    request: Request
    attempt: int = 1
    nodes: set[str] = field(default_factory=set)
    lost: float = 0.0
    started: float = field(default_factory=time.monotonic)
    returned: float = 0.0


@dataclass(eq=False)
class Seat:
    """One worker.

    Attributes:
        actor: Ray's handle.
        shape: the name of its shape.
        warming: the future of the last step of its setup, None once it is ready to work.
        tasks: future -> what it was given, oldest first.
        pulse: the last thing it said of itself, None while it has said nothing.
        asked: the future of a pulse that is still to come.
        heard: when the last pulse came, or it was given its first step.
        idle_since: when it last had something to do.
    """

    actor: Any
    shape: str
    warming: Any = None
    tasks: dict[Any, Task] = field(default_factory=dict)
    pulse: Pulse | None = None
    asked: Any = None
    heard: float = field(default_factory=time.monotonic)
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def is_ready(self) -> bool:
        """Whether it can work now."""
        return self.warming is None

    @property
    def node(self) -> str:
        """Where it runs, empty while that is not known."""
        return self.pulse.node if self.pulse else ""

    def put(self, future: Any, task: Task) -> None:
        """It was given something to do."""
        if not self.tasks:
            task.started = time.monotonic()
        self.tasks[future] = task

    def take(self, future: Any) -> Task:
        """It answered; what waits behind begins now."""
        task = self.tasks.pop(future)
        self.idle_since = time.monotonic()
        for following in list(self.tasks.values())[:1]:
            following.started = self.idle_since
        return task
