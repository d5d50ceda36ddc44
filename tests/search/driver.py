"""A driver to be killed: searches with a real pool, and prints the number of every trial that is on record.

python driver.py RUN_FOLDER [trials]
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from inline_workers import BASELINE, SPACE, landscape, search_spec

from autoprune.cluster import Pool
from autoprune.record import Evaluation, Request
from autoprune.search.loop import run_search
from autoprune.search.samplers import make_sampler
from autoprune.study import Study


class Slow:
    """Takes a moment for each answer."""

    def evaluate(self, request: Request) -> Evaluation:
        time.sleep(0.05)
        return landscape(request)


def show(kind: str, payload: dict[str, Any]) -> None:
    if kind == "evaluated":
        print(payload["trial"].number, payload["trial"].rung, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line does
    spec = search_spec(budget={"trials": int(sys.argv[2])})
    with (
        Study.create(sys.argv[1], spec, SPACE, {}, BASELINE) as study,
        Pool(f"{Path(__file__).resolve()}:Slow", {}, workers=2) as pool,
    ):
        run_search(study, pool, make_sampler("evolution", 0), on_event=show)
