"""Where a search stands as metrics of Ray's, which Prometheus reads from each node of a cluster (`ray[default]`).

autoprune_trials{run="fashion", state="finished"} 41      autoprune_hypervolume, autoprune_front_size,
autoprune_workers{run="fashion", state="busy"} 8          autoprune_utilisation, autoprune_spent{budget="minutes"}
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

SECONDS = 5.0  # between two looks at where the search stands; Prometheus looks no more often
LAST = ("finished", "interrupted")
FIGURES = {
    "trials": ("Trials by state", "state"),
    "workers": ("Workers by state", "state"),
    "spent": ("What is spent of each kind of budget", "budget"),
    "front_size": ("Trials on the front", ""),
    "hypervolume": ("Hypervolume of the front, in shares of the baseline", ""),
    "utilisation": ("Share of their time that workers were busy", ""),
}


class Gauges:
    """The gauges of one search.

    Args:
        run: their label.
    """

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Gauge

        self._run, self._told = run, -math.inf
        self._gauges = {
            name: Gauge(f"autoprune_{name}", words, tag_keys=("run", *filter(None, [label])))
            for name, (words, label) in FIGURES.items()
        }

    def __call__(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Take an event of the search."""
        if "status" not in payload or (time.monotonic() - self._told < SECONDS and kind not in LAST):
            return
        self._told = time.monotonic()
        for name, label, value in figures_of(payload["status"]):
            key = FIGURES[name][1]
            self._gauges[name].set(value, tags={"run": self._run, **({key: label} if key else {})})


def figures_of(status: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """(gauge, label, value) of everything that `study.status()` knows; the label is empty where there is none."""
    found = [("trials", state, float(count)) for state, count in status["trials"].items()]
    found += [("spent", name, float(one["spent"])) for name, one in status["budget"].items()]
    found += [(name, "", float(status[name])) for name in ("front_size", "hypervolume")]
    if live := status["live"]:
        states: Counter[str] = Counter()
        for shape in live["workers"].values():
            states.update(shape)
        found += [("workers", state, float(count)) for state, count in states.items()]
        found.append(("utilisation", "", float(live["utilisation"])))
    return found
