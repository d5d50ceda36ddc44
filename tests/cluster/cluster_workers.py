"""What the workers of the cluster tests hold; named by file, because they run in processes of their own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray

from autoprune.errors import SpecError, TaskError
from autoprune.record import Evaluation, Request

HELD = f"{Path(__file__).resolve()}:Held"


class Held:
    """Doubles numbers, and breaks in all the ways in which a worker can."""

    def __init__(self, factor: float = 2.0, refuse: bool = False) -> None:
        if refuse:
            raise TaskError("the task has no data")
        self.factor = factor
        self.attached: list[Any] = []

    def times(self, number: float, factor: int) -> float:
        return self.factor * number * factor

    def where(self) -> int:
        time.sleep(0.05)
        return os.getpid()

    def evaluate(self, request: Request) -> Evaluation:
        how = str(request.choices.get("how", ""))
        if how == "raise":
            raise ValueError("an odd choice")
        if how == "sleep":
            time.sleep(float(request.choices.get("seconds", 60)))
        if how == "die":
            os._exit(1)
        if how.endswith("_once"):
            self.break_once(how, Path(str(request.choices["flag"])))
        if how == "leak":
            self.attached.append(bytearray(os.urandom(1) * 300_000_000))
        if how == "node":
            time.sleep(0.2)
        value = self.factor * float(request.choices.get("x", 0.0))
        found = Evaluation(request.trial, request.rung, "finished", request.choices, {"y": value})
        found.structure = {"node": ray.get_runtime_context().get_node_id(), "process": os.getpid()}
        return found

    def break_once(self, how: str, flag: Path) -> None:
        """Break in a way that the next worker is spared; the flag keeps where that was."""
        if flag.exists():
            return
        flag.write_text(ray.get_runtime_context().get_node_id())
        if how == "die_once":
            os._exit(1)
        os.kill(os.getpid(), {"hang_once": signal.SIGSTOP, "leave_once": signal.SIGTERM}[how])
        time.sleep(60)

    def attach(self, *values: Any) -> None:
        self.attached.append(values)

    def shareable(self) -> np.ndarray[Any, Any]:
        return np.arange(100_000)

    def seen(self) -> list[Any]:
        return self.attached

    def is_writable(self) -> bool:
        return bool(self.attached[-1][0].flags.writeable)

    def process(self) -> int:
        return os.getpid()

    def complain(self) -> None:
        raise SpecError(["first problem", "second problem"])

    def factor_twice(self) -> float:
        return 2 * self.factor

    def die_once(self, flag: str) -> None:
        """Die where the flag is not there yet."""
        self.break_once("die_once", Path(flag))

    def die(self) -> None:
        os._exit(1)
