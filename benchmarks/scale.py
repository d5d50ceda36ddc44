"""The real loop, study and sampler with thousands of simulated workers, on a simulated clock.

    .venv/bin/python benchmarks/scale.py [--workers 1000] [--trials 20000] [--seconds 60] [--sampler random]
        [--own-core]

A simulated worker takes as long as a candidate would, by a clock that jumps to the next answer, so that what passes
meanwhile on the real clock is what the driver itself costs: asking, logging, committing, telling, ranking. Printed are
how busy the driver is (its seconds for each simulated second: below 1.0 one core keeps up), how busy the workers are
beside a driver that is as slow as this one was on this machine, what it holds in memory, and what `status` and
`resume` take afterwards. With `--own-core` the driver holds workers up for its CPU seconds, as on a machine where
nothing else runs and the disk is at once there; without, for what passed on the clock.
"""

from __future__ import annotations

import argparse
import heapq
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from autoprune.record import Evaluation, Request
from autoprune.report.events import RunLog
from autoprune.report.live import LineView
from autoprune.search.loop import run_search
from autoprune.search.samplers import make_sampler
from autoprune.space import Options, Range, Space
from autoprune.spec import load_spec
from autoprune.study import Study

GROUPS = tuple("abcdefgh")
LAYERS = 20  # of a candidate
BASELINE = {"accuracy": 90.0, "latency_ms": 2.0, "size_bytes": 1000.0}
SPACE = Space(
    {
        **{f"prune.{name}.ratio": Range(0.0, 0.75, 0.0) for name in GROUPS},
        **{f"quantize.{name}.weight_bits": Options((4, 8, 32), 32) for name in GROUPS},
    }
)


class Simulated:
    """Workers that sleep on a simulated clock, and a driver that holds them up as long as it takes.

    Args:
        size: how many.
        seconds: what an evaluation takes on average; each takes from a half to one and a half times as long.
        clock: by which the driver's time passes.
    """

    def __init__(self, size: int, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.size, self._seconds = size, seconds
        self._random = random.Random(0)
        self._answers: list[tuple[float, int, Request, float]] = []
        self._count = 0
        self.now = self.busy = 0.0
        self.full: float | None = None  # when all were busy for the first time
        self.last = 0.0  # and for the last time
        self.spans: list[tuple[float, float]] = []
        self._clock = clock
        self._left = clock()
        self._cpu, self.began = time.process_time(), time.perf_counter()

    def room(self, rung: int) -> int:
        """How many workers are free."""
        return self.size - len(self._answers)

    @property
    def running(self) -> int:
        """How many are not."""
        return len(self._answers)

    def workers(self) -> list[dict[str, str]]:
        """Each of them, for the status."""
        busy = len(self._answers)
        return [{"shape": "worker", "state": "busy" if n < busy else "idle"} for n in range(self.size)]

    def submit(self, request: Request) -> None:
        """Begin at the simulated now, the driver's own time so far included."""
        self._tick()
        took = self._seconds * self._random.uniform(0.5, 1.5)
        self.busy += took
        self._count += 1
        heapq.heappush(self._answers, (self.now + took, self._count, request, took))
        self.spans.append((self.now, self.now + took))
        if not self.room(request.rung):
            self.full, self.last = self.now if self.full is None else self.full, self.now

    def wait(self, timeout: float | None = None) -> list[tuple[Request, Evaluation]]:
        """What is ready by now; if nothing is, the clock jumps to the next answer."""
        self._tick()
        self.now = max(self.now, self._answers[0][0])
        ready = []
        while self._answers and self._answers[0][0] <= self.now:
            _, _, request, took = heapq.heappop(self._answers)
            ready.append((request, self._evaluated(request, took)))
        self._left = self._clock()
        return ready

    @property
    def steady(self) -> float:
        """The share of their time that workers were busy between when all were for the first and the last time."""
        if self.full is None or self.last <= self.full:
            return 0.0
        busy = sum(max(0.0, min(end, self.last) - max(begin, self.full)) for begin, end in self.spans)
        return busy / (self.size * (self.last - self.full))

    @property
    def cpu(self) -> float:
        """CPU seconds of the driver since the beginning, what it takes to simulate included."""
        return time.process_time() - self._cpu

    def _tick(self) -> None:
        """The driver's own time passes for the workers, too."""
        now = self._clock()
        self.now += now - self._left
        self._left = now

    def _evaluated(self, request: Request, took: float) -> Evaluation:
        ratios = [float(request.choices[f"prune.{name}.ratio"]) for name in GROUPS]
        bits = [float(request.choices[f"quantize.{name}.weight_bits"]) for name in GROUPS]
        keep = 1.0 - sum(ratios) / len(ratios)
        damage = 30 * sum(r * r for r in ratios) / len(ratios) + 2 * bits.count(4.0)
        metrics = {
            "accuracy": 90.0 - damage / (1 + request.rung) + self._random.gauss(0, 0.1),
            "latency_ms": 2.0 * keep,
            "size_bytes": 1000.0 * keep * sum(bits) / 256,
        }
        return Evaluation(
            request.trial,
            request.rung,
            "finished",
            request.choices,
            metrics,
            dict(request.choices),
            structure={"architecture": {}, "layers": [_layer(n, keep) for n in range(LAYERS)]},
            seconds={"total": took},
        )


def _layer(number: int, keep: float) -> dict[str, object]:
    """A row as `cost.layer_table` has it: what an evaluation holds most of."""
    channels = max(1, round(64 * keep))
    figures = {"params": 576 * channels, "macs": 589_824 * channels, "bops": 1 << 25, "bytes": 600 * channels}
    row = {"name": f"layer.{number}.conv1", "kind": "Conv2d", "channels": channels}
    return {**row, "weight_bits": 8, "activation_bits": 8, **figures}


def megabytes() -> float:
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> int:
    """Simulate, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="of an evaluation")
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--own-core", action="store_true", help="count the driver's CPU seconds alone")
    options = parser.parse_args()
    spec = load_spec(
        {
            "task": "digits",
            "budget": {"trials": options.trials},
            "search": {"sampler": options.sampler, "rungs": [0, 1], "warm_start": False},
        }
    )
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        clock = time.process_time if options.own_core else time.perf_counter
        workers = Simulated(options.workers, options.seconds, clock)
        with Study.create(run, spec, SPACE, {}, BASELINE) as study, RunLog(LineView(lambda _: None)) as log:
            log.open(run)
            run_search(study, workers, make_sampler(options.sampler, 0), on_event=log)
            evaluations = sum(len(trial.evaluations) for trial in study.trials)
        print(
            f"{options.workers} workers, {evaluations} evaluations of {options.seconds:g} s, {options.sampler} sampler"
        )
        cpu, real = workers.cpu, time.perf_counter() - workers.began
        print(
            f"driver       {cpu / workers.now:8.3f} CPU s per simulated second ({real / workers.now:.3f} on the clock)"
        )
        print(
            f"             {1000 * cpu / evaluations:8.2f} CPU ms per evaluation ({1000 * real / evaluations:.2f})"
        )
        print(
            f"utilisation  {100 * workers.busy / (workers.now * options.workers):8.1f} % (start and end included), "
            f"{100 * workers.steady:.1f} % while there was work for all"
        )
        print(f"memory       {megabytes():8.0f} MB")
        start = time.perf_counter()
        found = Study.open(run)
        opened = time.perf_counter() - start
        found.status()
        del found
        print(f"open         {opened:8.1f} s")
        print(f"status       {time.perf_counter() - start - opened:8.1f} s more")
        start = time.perf_counter()
        with Study.open(run, write=True) as study:
            run_search(study, workers, make_sampler(options.sampler, 1))
        print(f"resume       {time.perf_counter() - start:8.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
