"""What lives in a worker process: one object, made once from its reference, its methods called by name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from autoprune.references import resolve


class Worker:
    """Holds one object for as long as the process lives."""

    def __init__(self) -> None:
        self._held: Any = None

    def hold(self, factory: str, arguments: Mapping[str, Any], threads: int) -> None:
        """Make the object to be held. Not in the constructor: what that raises only kills the process.

        Args:
            factory: reference of a class or function, `package.module:Name` or `/path/file.py:Name`.
            arguments: keyword arguments for it.
            threads: CPU threads that torch may use; it would otherwise take all cores in every worker.
        """
        make = resolve(factory)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        self._held = make(**arguments)

    def run(self, method: str, *arguments: Any) -> Any:
        """The result of a method of the object."""
        return getattr(self._held, method)(*arguments)
