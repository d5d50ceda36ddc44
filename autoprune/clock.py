"""How long each stage of an evaluation took, and which one is under way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Wall seconds of an evaluation by stage; `stage` is the one under way, for the message when it fails."""

    def __init__(self) -> None:
        self.stage = "start"
        self._spent: dict[str, float] = {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        self.stage, start = stage, time.perf_counter()
        try:
            yield
        finally:
            self._spent[stage] = time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        """By stage, and `total`."""
        return {**self._spent, "total": sum(self._spent.values())}
