"""Waiting for a disk that is full or gone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

from autoprune.errors import RunFolderError

PATIENCE_SECONDS = 120.0


def patiently(write: Callable[[], None], warn: Callable[[str], None], advice: str) -> None:
    """Write to a run folder, again and again for a while where that fails.

    Args:
        write: may be called any number of times.
        warn: told once of what is waited for.
        advice: what to do where it stays so.

    Raises:
        RunFolderError: it stays so.
    """
    end, is_told = time.monotonic() + PATIENCE_SECONDS, False
    while True:
        try:
            return write()
        except RunFolderError as error:
            if time.monotonic() >= end:
                raise RunFolderError(f"{error}; {advice}") from None
            if not is_told:
                warn(f"{error}; trying again for {PATIENCE_SECONDS:g} s")
                is_told = True
            time.sleep(min(1.0, PATIENCE_SECONDS / 10))
