"""Seconds from the death of a worker until its trial runs again.

    .venv/bin/python benchmarks/worker_killed.py [--kills 5] [--task digits]

Two workers are at work, so that the trial has to wait for a new one: a process, torch, the data and the reference. The
first of them is killed by SIGKILL; the worker that gets its trial notes when it begins.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

WANTED = 5.0
WORKING = 15.0  # seconds that an evaluation takes: longer than a worker needs to start


class Noting:
    """A worker of a search that notes when it begins with a request, and answers it after a while."""

    def __init__(self, spec: Any, notes: str) -> None:
        from autoprune.evaluate import Evaluator

        self._inner, self._notes = Evaluator(spec), Path(notes)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def evaluate(self, request: Any) -> Any:
        """Note the time and this process, and wait."""
        from autoprune.record import Evaluation

        with self._notes.open("a") as notes:
            notes.write(f"{os.getpid()} {time.time()}\n")
        time.sleep(WORKING)
        return Evaluation(request.trial, request.rung, "finished", request.choices, {"accuracy": 1.0})


def main() -> int:
    """Kill, and print."""
    from autoprune.cluster import Pool
    from autoprune.record import Request
    from autoprune.spec import load_spec

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--task", default="digits")
    options = parser.parse_args()
    spec, here, took = (
        load_spec({"task": options.task, "budget": {"trials": 1}}),
        str(Path(__file__).resolve()),
        [],
    )
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes"
        with Pool(f"{here}:Noting", {"spec": spec, "notes": str(notes)}, workers=2) as pool:
            pool.share("shareable_data", "attach_data")
            pool.broadcast("attach_reference", pool.call("train_reference"))
            for number in range(options.kills):
                notes.write_text("")
                for trial in (0, 1):
                    pool.submit(Request(trial, 0, {}))
                _until_begun(pool, notes, 2)
                killed = time.time()
                os.kill(_read(notes)[0][0], signal.SIGKILL)
                answered = _until_begun(pool, notes, 3)
                took.append(_read(notes)[-1][1] - killed)
                print(f"kill {number + 1}: its trial ran again after {took[-1]:.1f} s", flush=True)
                while pool.running:
                    answered += len(pool.wait(1.0))
                if answered != 2:
                    raise RuntimeError(f"{answered} of 2 trials were answered")
    print(f"median {statistics.median(took):.1f} s, longest {max(took):.1f} s (wanted {WANTED:g})")
    return 0 if max(took) <= WANTED else 1


def _read(notes: Path) -> list[tuple[int, float]]:
    """(process, time) of each beginning."""
    rows = [line.split() for line in notes.read_text().splitlines()]
    return [(int(process), float(at)) for process, at in rows]


def _until_begun(pool: Any, notes: Path, count: int) -> int:
    """Keep the pool going until so many evaluations have begun; how many answers came meanwhile."""
    answered = 0
    while len(_read(notes)) < count:
        answered += len(pool.wait(0.05))
    return answered


if __name__ == "__main__":
    raise SystemExit(main())
