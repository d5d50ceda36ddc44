"""How long single layers take on a machine, kept on its disk: measured once, known to every later search.

One JSON file for each machine and runtime in the cache folder (`AUTOPRUNE_CACHE`, else `~/.cache/autoprune`). Several
processes may add to it at once: each reads it again under a file lock and replaces it in one step.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from autoprune.targets.cache import cache_folder, write_cache

if TYPE_CHECKING:
    from autoprune.targets.target import Target


class LatencyTable:
    """Milliseconds by what was measured.

    Args:
        target: on what. One without a `machine_key()` is remembered by this process only.
        what: was measured.

    Attributes:
        known: milliseconds by signature.
    """

    def __init__(self, target: Target, what: str = "layers") -> None:
        key = getattr(target, "machine_key", None)
        self._path = None if key is None else cache_folder() / f"{what}-{key()}.json"
        self.known = self._read()
        self._passing: dict[str, float] = {}  # for this process

    def get(self, signature: str) -> float | None:
        """What is known of a signature."""
        return self.known.get(signature, self._passing.get(signature))

    def put(self, signature: str, milliseconds: float, *, lasting: bool = True) -> None:
        """Remember a measurement; a folder that cannot be written is no reason to fail.

        Args:
            signature: of what was measured.
            milliseconds: it took.
            lasting: for later searches, too.
        """
        if not lasting:
            self._passing[signature] = milliseconds
            return
        self.known[signature] = milliseconds
        if self._path is None:
            return
        from filelock import FileLock

        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._path.with_suffix(".lock")):
                self.known = {**self._read(), **self.known}
                write_cache(self._path, self.known)
        except OSError:
            self._path = None

    def _read(self) -> dict[str, float]:
        """What the file holds; nothing where it is absent or damaged."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8")) if self._path is not None else {}
            return {str(name): float(value) for name, value in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}
