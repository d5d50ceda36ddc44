"""What is seen of a search while it runs: its workers, and how busy they have been.

The driver alone knows its workers. Every few seconds it leaves what it knows in the run folder, for `status` to show to
whoever asks from another process.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from autoprune.study import Study

if TYPE_CHECKING:
    from autoprune.search.loop import Workers

EVERY_SECONDS = 5.0


class Watch:
    """Looks at the workers of a search in each of its turns.

    Args:
        study: is told every few seconds.
        workers: are looked at.
    """

    def __init__(self, study: Study, workers: Workers) -> None:
        self._study, self._workers = study, workers
        self._busy = self._there = 0.0  # worker-seconds since this driver began
        self._before = (0, 0)  # busy workers, and all of them, at the last look
        self._looked = time.monotonic()
        self._told = -EVERY_SECONDS

    def look(self) -> None:
        """Count the time since the last look, and tell the study when it is due."""
        now = time.monotonic()
        busy, there = self._before
        self._busy += busy * (now - self._looked)
        self._there += there * (now - self._looked)
        size = self._workers.size
        self._before, self._looked = (min(self._workers.running, size), size), now
        if now - self._told >= EVERY_SECONDS:
            self._told = now
            self._study.show_live(self.seen())

    def seen(self) -> dict[str, Any]:
        """Workers by shape and state, requests that wait for one, and the share of their time that they were busy."""
        shapes: dict[str, Counter[str]] = {}
        for one in self._workers.workers():
            shapes.setdefault(one["shape"], Counter(busy=0, idle=0, starting=0))[one["state"]] += 1
        return {
            "workers": {name: dict(states) for name, states in shapes.items()},
            "queue": max(0, self._workers.running - self._before[0]),
            "utilisation": self._busy / self._there if self._there else 0.0,
        }
