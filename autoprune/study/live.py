"""What a driver knows of its workers, left in the run folder for whoever looks on while it searches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

LIVE = "live.json"


class Live:
    """The file with it, replaced in one step. Trouble with it is passed over: it is worth no search.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LIVE
        self._seen: dict[str, Any] | None = None  # by the driver in this process

    def show(self, seen: Mapping[str, Any], *, write: bool) -> None:
        """Remember what is known now, and leave it for others."""
        self._seen = dict(seen)
        if write:
            with suppress(OSError):
                unfinished = self._path.with_name(f"{LIVE}.tmp")
                unfinished.write_text(json.dumps(self._seen), encoding="utf-8")
                unfinished.replace(self._path)

    def read(self) -> dict[str, Any] | None:
        """What was last left; None where there is nothing that can be read."""
        if self._seen is not None:
            return self._seen
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def clear(self) -> None:
        """Nobody searches any more."""
        self._seen = None
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
