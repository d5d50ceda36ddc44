"""What the workers of the cluster tests hold; named by file, because they run in processes of their own."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

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
        how = request.choices.get("how", "")
        if how == "raise":
            raise ValueError("an odd choice")
        if how == "sleep":
            time.sleep(60)
        if how == "die":
            os._exit(1)
        if how == "die_once":
            flag = Path(str(request.choices["flag"]))
            if not flag.exists():
                flag.touch()
                os._exit(1)
        value = self.factor * float(request.choices.get("x", 0.0))
        return Evaluation(request.trial, request.rung, "finished", request.choices, {"y": value})

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

    def die(self) -> None:
        os._exit(1)
