"""The events of a search as JSON, one line each: in the log of its run folder, and on standard output where asked.

    {"time": "2026-11-28T18:40:02.113+00:00", "event": "evaluated", "message": "trial 17 evaluated", "busy": 2,
     "trial": {"trial": 17, "rung": 1, "state": "finished", "metrics": {...}, "seconds": 4.2, "reason": ""}}

The log is for people and their tools; a resumed search appends to it, and nothing is ever read back from it. Records
also go to the logger `autoprune` of the standard library, for whoever wants them elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from autoprune.report.live import NOTED, SECONDS_BETWEEN_LINES, note_of

if TYPE_CHECKING:
    from autoprune.study import Trial

LOG = "log.jsonl"
TROUBLE = ("warning", "failed", "changed", "interrupted")
Payload = Mapping[str, Any]


def event_of(kind: str, payload: Payload) -> dict[str, Any]:
    """An event of a search as plain data, without the status that comes with it."""
    event: dict[str, Any] = {"event": kind, "message": note_of(kind, payload)}
    if "busy" in payload:
        event["busy"] = payload["busy"]
    if "trial" in payload:
        event["trial"] = _trial(payload["trial"])
    return event


def _trial(trial: Trial) -> dict[str, Any]:
    latest = trial.evaluations[max(trial.evaluations)] if trial.evaluations else None
    return {
        "trial": trial.number,
        "rung": 0 if latest is None else latest.rung,
        "state": trial.state,
        "metrics": {} if latest is None else latest.metrics,
        "seconds": 0.0 if latest is None else latest.seconds.get("total", 0.0),
        "reason": trial.reason,
    }


class JsonLines(logging.Formatter):
    """A record as a line of JSON: its time, its level where something is wrong, and its event."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        at = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        event = getattr(record, "event", None) or {"event": record.name, "message": record.getMessage()}
        level = {"level": record.levelname.lower()} if record.levelno > logging.INFO else {}
        return json.dumps({"time": at, **level, **event})


class _Quiet(logging.FileHandler):
    """A full disk is the study's to report; a log that cannot be written says nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line where that can be done."""
        with contextlib.suppress(OSError):
            super().emit(record)

    def handleError(self, _: logging.LogRecord) -> None:  # noqa: N802
        return None


class RunLog:
    """Passes the events of a search on, and writes them to the log of its run folder once there is one.

        with RunLog(on_event) as log:
            log("preparing", {...})
            log.open(folder)

    Args:
        on_event: who else is told.
    """

    def __init__(self, on_event: Callable[[str, dict[str, Any]], None] | None) -> None:
        self._listeners = [] if on_event is None else [on_event]
        self._ends: list[Callable[[], None]] = []
        self._early: list[logging.LogRecord] = []
        # Not in the tree of loggers: two searches of one process share no file.
        self._logger = logging.Logger("autoprune.search", logging.INFO)
        self._logger.parent = logging.getLogger("autoprune")
        self._file: logging.Handler | None = None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in self._ends:
            end()
        if self._file is not None:
            self._file.close()

    def also(
        self, listener: Callable[[str, dict[str, Any]], None], end: Callable[[], None] | None = None
    ) -> None:
        """Tell one more, who is let go of at the end."""
        self._listeners.append(listener)
        self._ends += [] if end is None else [end]

    def open(self, folder: Path) -> None:
        """Begin, or go on with, the log of a run folder."""
        self._file = _Quiet(folder / LOG, encoding="utf-8", delay=True)
        self._file.setFormatter(JsonLines())
        for record in self._early:
            self._file.handle(record)
        self._early.clear()

    def __call__(self, kind: str, payload: dict[str, Any]) -> None:
        """Take an event."""
        level = logging.WARNING if kind in TROUBLE else logging.INFO
        event = event_of(kind, payload)
        record = self._logger.makeRecord(
            self._logger.name, level, "", 0, event["message"], (), None, extra={"event": event}
        )
        if self._logger.hasHandlers():  # else the standard library would print warnings itself
            self._logger.handle(record)
        if self._file is not None:
            self._file.handle(record)
        else:
            self._early.append(record)
        for listener in self._listeners:
            listener(kind, payload)


class JsonView:
    """A view that prints each event as a line of JSON, now and then with where the search stands."""

    def __init__(self, say: Callable[[str], object], every: float = SECONDS_BETWEEN_LINES) -> None:
        self._say, self._every = say, every
        self._last = -float("inf")

    def __enter__(self) -> JsonView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, kind: str, payload: dict[str, Any]) -> None:
        """Print an event."""
        event = event_of(kind, payload)
        is_time = kind in NOTED or time.monotonic() - self._last >= self._every
        if "status" in payload and is_time:
            self._last = time.monotonic()
            event["status"] = dict(payload["status"])
        self._say(json.dumps(event))


def replay(line: str, view: Callable[[str, dict[str, Any]], None]) -> bool:
    """Show a line that `JsonView` printed elsewhere; whether it was one."""
    try:
        event = json.loads(line)
        kind, message = event.pop("event"), event.pop("message")
    except (ValueError, TypeError, KeyError, AttributeError):
        return False
    status = {"status": event["status"]} if isinstance(event.get("status"), dict) else {}
    view(str(kind), {"message": str(message), **status})
    return True
