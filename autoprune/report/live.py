"""The live view of a search: a bar and a few figures that stay in place on a terminal, plain lines elsewhere.

    with live_view() as view:
        autoprune.search("spec.yaml", on_event=view)

It only shows what it is told; nothing of the search depends on it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autoprune.constraint import is_cost
from autoprune.report.readable import budget_left, figure, share_spent

Payload = dict[str, Any]

SECONDS_BETWEEN_LINES = 5.0
DRAWINGS, MOST_DRAWING = 4, 20
"""Drawings in a second; what one takes is at most one in so many of the driver's seconds."""
MOST_NOTES = 4
# Of the best trial; of a task without accuracy its first few metrics of its own.
SHOWN = ("accuracy", "latency_ms", "size_bytes")
MOST_OWN = 2
# These are said at once, however little time has passed since the last line.
NOTED = ("preparing", "warning", "changed", "failed", "finished", "interrupted")


class View(Protocol):
    """Something to enter for the time of a search, and to call with each of its events."""

    def __enter__(self) -> View: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __call__(self, kind: str, payload: Payload) -> None:
        """Show an event of `search.loop.run_search`."""
        ...


def live_view(console: Console | None = None, *, stderr: bool = False) -> View:
    """The view that fits `console`; by default that of standard output, or of standard error."""
    console = console or Console(highlight=False, stderr=stderr)
    if console.is_terminal:
        return TerminalView(console)
    return LineView(functools.partial(console.print, markup=False, soft_wrap=True))


class TerminalView:
    """A view that redraws itself in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(Text("starting"), console=console, refresh_per_second=DRAWINGS, transient=False)
        self._start, self._due = time.monotonic(), 0.0
        self._notes: list[str] = []
        self._payload: Payload = {}

    def __enter__(self) -> TerminalView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, kind: str, payload: Payload) -> None:
        """Redraw with an event's news."""
        if kind in NOTED:
            self._notes = [*self._notes, note_of(kind, payload)][-MOST_NOTES:]
        if "status" in payload:
            self._payload = payload
        now = time.monotonic()
        if kind in NOTED or now >= self._due:
            self._live.update(self._drawn())
            self._due = now + max(1 / DRAWINGS, MOST_DRAWING * (time.monotonic() - now))

    def _drawn(self) -> RenderableType:
        notes = [Text(note, style="dim", no_wrap=True, overflow="ellipsis") for note in self._notes]
        if not self._payload:
            return Group(*notes)
        status = self._payload["status"]
        bar = Table.grid(padding=(0, 2))
        spent = share_spent(status["budget"])
        elapsed = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - self._start))
        bar.add_row(ProgressBar(total=1.0, completed=spent, width=40), f"{spent:.0%}", elapsed)
        table = Table.grid(padding=(0, 2))
        for name, value in figures_of(status).items():
            table.add_row(Text(name, style="dim"), Text(value))
        return Group(bar, table, *notes)


class LineView:
    """A view that prints a line now and then, for logs and pipes."""

    def __init__(self, say: Callable[[str], object], every: float = SECONDS_BETWEEN_LINES) -> None:
        self._say, self._every = say, every
        self._last = -float("inf")

    def __enter__(self) -> LineView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, kind: str, payload: Payload) -> None:
        """Print an event worth a line, or where the search stands when it is time to."""
        if kind in NOTED:
            self._say(note_of(kind, payload))
        is_time = kind == "finished" or time.monotonic() - self._last >= self._every
        if "status" in payload and is_time:
            self._last = time.monotonic()
            shown = figures_of(payload["status"])
            self._say("; ".join(f"{name} {value}" for name, value in shown.items()))


def figures_of(status: Mapping[str, Any]) -> dict[str, str]:
    """What is shown of `study.status()`, by its title."""
    trials, best, live = status["trials"], status["best"], status.get("live")
    at_work = {} if live is None else {"workers": f"{live['utilisation']:.0%} of their time at work"}
    return {
        "trials": f"{trials['finished']} ({trials['stopped']} stopped early), {trials['failed']} failed",
        "front": f"{status['front_size']}, hypervolume {status['hypervolume']:.4f}",
        "best": "none yet" if best is None else f"trial {best['trial']}: {_listed(best['metrics'])}",
        "left": budget_left(status["budget"]),
        **at_work,
    }


def _listed(metrics: Mapping[str, float]) -> str:
    names = [name for name in SHOWN if name in metrics]
    if "accuracy" not in metrics:
        names = [name for name in metrics if not is_cost(name)][:MOST_OWN] + names
    return ", ".join(f"{name} {figure(name, metrics[name])}" for name in names)


def note_of(kind: str, payload: Mapping[str, Any]) -> str:
    """An event in one line."""
    if "message" in payload:  # of a search elsewhere
        return str(payload["message"])
    if kind == "preparing":
        return f"preparing {payload.get('what', 'the search')}"
    if kind in ("changed", "warning"):
        return str(payload.get("what", kind))
    trial = payload.get("trial")
    if trial is None:
        return kind
    return f"trial {trial.number} {kind}{f': {trial.reason}' if trial.reason else ''}".splitlines()[0]
