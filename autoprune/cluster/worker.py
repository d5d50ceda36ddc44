"""What lives in a worker process: one object, made once from its reference, its methods called by name.

Beside the thread that works there is one that answers `pulse` at any time, so that a worker which hangs, leaks, or has
been told to go is seen from outside.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from autoprune.references import resolve


class Pulse(NamedTuple):
    """How a worker is.

    Attributes:
        node: the node it runs on.
        process: its process.
        memory: bytes that it holds, its share of the object store not counted.
        is_leaving: it was told to end (SIGTERM), as a machine is that will be taken away.
    """

    node: str
    process: int
    memory: int
    is_leaving: bool


class Worker:
    """Holds one object for as long as the process lives."""

    def __init__(self) -> None:
        self._held: Any = None
        self._is_leaving = False
        # Ray's own way would end the process in the middle of a file. A driver that sees the pulse takes the work away.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._leave)

    def _leave(self, *_: Any) -> None:
        self._is_leaving = True

    def hold(self, factory: str, arguments: Mapping[str, Any], threads: int, has_gpu: bool = False) -> None:
        """Make the object to be held. Not in the constructor: what that raises only kills the process.

        Args:
            factory: reference of a class or function, `package.module:Name` or `/path/file.py:Name`.
            arguments: keyword arguments for it.
            threads: CPU threads that torch may use; it would otherwise take all cores in every worker.
            has_gpu: whether a GPU is reserved for this worker; those of others are hidden from it.
        """
        if not has_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        make = resolve(factory)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        self._held = make(**arguments)

    def run(self, method: str, *arguments: Any) -> Any:
        """The result of a method of the object."""
        return getattr(self._held, method)(*arguments)

    def pulse(self) -> Pulse:
        """How the process is; Ray has a thread call it that does nothing else."""
        import ray

        return Pulse(ray.get_runtime_context().get_node_id(), os.getpid(), resident_bytes(), self._is_leaving)


def resident_bytes() -> int:
    """Memory that this process holds alone: what it shares, such as Ray's object store, is nobody's leak."""
    try:
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text(encoding="ascii").split())
    except OSError:  # no Linux
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
