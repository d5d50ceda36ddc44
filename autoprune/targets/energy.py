"""Counters of energy that a machine may have: RAPL of its processor, NVML of its graphics card.

What is read is all that the package or board draws, by whatever runs on it: a figure to compare candidates by on a
machine that does nothing else. Many machines show no counter, or to the administrator only: `cost.energy` models
what these take.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

POWERCAP = Path("/sys/class/powercap")


class Counter(NamedTuple):
    """A counter of microjoules.

    Attributes:
        name: of the interface.
        read: its value now.
        wraps: the value at which it starts from 0 again.
    """

    name: str
    read: Callable[[], float]
    wraps: float

    def since(self, before: float) -> float:
        """Microjoules that were drawn since it stood at `before`."""
        return (self.read() - before) % self.wraps


def energy_counter(provider: str = "cpu") -> Counter | None:
    """The counter of what a session of ONNX Runtime runs on, None where there is none that can be read."""
    return rapl() if provider == "cpu" else nvml()


def rapl(folder: Path = POWERCAP) -> Counter | None:
    """Intel's and AMD's running average power limit: the sum of the processor packages."""
    packages = sorted(folder.glob("intel-rapl:[0-9]"))
    try:
        wraps = sum(float((package / "max_energy_range_uj").read_text()) for package in packages)
        sum(float((package / "energy_uj").read_text()) for package in packages)
    except (OSError, ValueError):
        return None

    def read() -> float:
        return sum(float((package / "energy_uj").read_text()) for package in packages)

    return Counter("RAPL", read, wraps) if packages else None


def nvml() -> Counter | None:
    """The first NVIDIA card's total energy since the driver was loaded."""
    if importlib.util.find_spec("pynvml") is None:
        return None
    library: Any = importlib.import_module("pynvml")
    try:
        library.nvmlInit()
        card = library.nvmlDeviceGetHandleByIndex(0)
        library.nvmlDeviceGetTotalEnergyConsumption(card)
    except library.NVMLError:
        return None
    return Counter("NVML", lambda: 1e3 * library.nvmlDeviceGetTotalEnergyConsumption(card), float("inf"))
