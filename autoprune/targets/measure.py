"""Latency, measured so that it can be an objective.

A process of its own, without torch, holds a lock that is one per machine while it measures. The candidate and a fixed
reference network run in short blocks, in turn. The value is the ratio of their minima, times what the reference takes
on the quiet machine: that is calibrated once per machine and runtime, and kept in the cache folder (`AUTOPRUNE_CACHE`,
else `~/.cache/autoprune`). A ratio alone does not undo what a neighbour on the same processor does: a network of
integers takes 1.4 times as long where the reference takes 1.2 times as long, for some milliseconds or for seconds. So
only those blocks count before and after which the reference is as fast as on the quiet machine, and a measurement goes
on until there are enough, mostly within a second, or is unstable. A machine that is slower for good (on battery, say)
is held to the best of its latest measurements.

`python -m autoprune.targets.measure` is the process; it answers JSON lines on its standard input with JSON
lines on its standard output and ends when its input does. `MeasuringProcess` is the other side.
"""

from __future__ import annotations

import atexit
import contextlib
import getpass
import hashlib
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from autoprune.errors import TargetError
from autoprune.targets.cache import cache_folder, write_cache
from autoprune.targets.energy import Counter, energy_counter
from autoprune.targets.processor import processor_name
from autoprune.targets.runtimes import RUNTIMES, Run, open_session
from autoprune.targets.target import Measurement

WARM_UP_CALLS = 10
WARM_UP_SECONDS = 0.3
# How far the halves of a measurement may differ, and the reference exceed what it takes on the quiet machine.
STEADY, QUIET = 0.05, 1.07
LATELY = 20  # measurements without a quiet moment, after which the machine is taken to be slower than it was
ATTEMPTS, PATIENCE = 3, 30  # at least so many, and for as long as so many of them should take
CALIBRATION_SECONDS, CALIBRATION_BLOCK_MS, FASTEST = 4.0, 20.0, 0.1  # the last one: a share of the blocks
ENERGY_MS = 500.0  # that a run is repeated for, long beside the counter's own step of about a millisecond
# Part of the key of all times that are kept: raise it whenever the reference network or the way of measuring changes.
MEASURING_VERSION = 3


class MeasuringProcess:
    """The measuring process of this worker: started when first needed, restarted once if it dies or hangs.

    Args:
        runtime: what runs the file, one of `runtimes.RUNTIMES`.
        threads, provider: of a session.
        rounds, block_ms: of a measurement.
        time_limit: seconds until the answer to a request; others may hold the machine's lock meanwhile.
    """

    def __init__(
        self,
        *,
        runtime: str = "onnxruntime",
        threads: int = 1,
        rounds: int = 20,
        block_ms: float = 3.0,
        provider: str = "cpu",
        time_limit: float = 600.0,
    ) -> None:
        self.threads, self.rounds, self.block_ms = threads, rounds, block_ms
        self.runtime, self.provider, self.time_limit = runtime, provider, time_limit
        self._process: subprocess.Popen[str] | None = None

    def measure(self, files: Mapping[str, bytes], inputs: Mapping[str, np.ndarray[Any, Any]]) -> Measurement:
        """Latency of one run of a model on `inputs`, by name; those that it does not have are left out.

        Args:
            files: name -> content; the first is opened, the others lie beside it.
            inputs: of the model.

        Raises:
            TargetError: the process refuses the model, or dies or hangs twice.
        """
        with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
            input_file = Path(folder, "inputs.npz")
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            np.savez(input_file, **inputs)  # type: ignore[arg-type]  # its stubs take `allow_pickle` for one
            request = {
                "model": str(Path(folder, next(iter(files)))),
                "runtime": self.runtime,
                "inputs": str(input_file),
                "threads": self.threads,
                "rounds": self.rounds,
                "block_ms": self.block_ms,
                "provider": self.provider,
            }
            answer = self._ask(request) or self._ask(request)
        if answer is None:
            raise TargetError(
                f"the measuring process died twice, or gave no answer in {self.time_limit:g} s; is there enough "
                "memory for the model, and does nothing else hold the machine's measuring lock?"
            )
        if "error" in answer:
            raise TargetError(f"the latency cannot be measured: {answer['error']}")
        return Measurement(**answer)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The answer of the process, None when it is dead or hung (the next call starts another)."""
        process = self._process or self._start()
        requests, answers = process.stdin, process.stdout
        alarm = threading.Timer(self.time_limit, process.kill)
        alarm.daemon = True
        alarm.start()
        try:
            if requests is None or answers is None:
                return None
            requests.write(json.dumps(request) + "\n")
            requests.flush()
            line = answers.readline()
        except OSError:
            line = ""
        finally:
            alarm.cancel()
        if not line:
            self.close()
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _start(self) -> subprocess.Popen[str]:
        package = Path(__file__).resolve().parents[2]
        paths = [str(package), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "autoprune.targets.measure"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            text=True,
            start_new_session=True,  # Ctrl-C is for the driver; this process ends when its input closes
        )
        atexit.register(self.close)
        return self._process

    def close(self) -> None:
        """End the process; the next measurement starts another."""
        process, self._process = self._process, None
        if process is None:
            return
        atexit.unregister(self.close)
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what was not written yet cannot be, if it is dead
                if stream is not None:
                    stream.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# -- the process ---------------------------------------------------------------------------------------------


def answer_requests(requests: IO[str], answers: IO[str]) -> None:
    """Answer one request a line until the input ends."""
    for line in requests:
        try:
            answer = measure_file(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def measure_file(request: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `Measurement` for a request as `MeasuringProcess` writes it."""
    from filelock import FileLock

    threads, provider = request["threads"], request["provider"]
    with np.load(request["inputs"], allow_pickle=False) as inputs:
        candidate = RUNTIMES[request["runtime"]](Path(request["model"]), dict(inputs), threads, provider)
    reference = _reference_runner(threads, provider)
    with FileLock(_lock_file()):
        calibrated = calibrated_ms(reference, threads, provider)
        lately = _lately.setdefault((threads, provider), deque(maxlen=LATELY))
        how = {"rounds": request["rounds"], "block_ms": request["block_ms"]}
        found = measure_runs(
            candidate, reference, calibrated, quiet_ms=undisturbed_ms(calibrated, lately), **how
        )
        if found["reference_ms"] * QUIET < calibrated:  # the machine was never quiet when that was measured
            calibrated = found["reference_ms"]
            write_cache(_calibration_file(threads, provider), {"milliseconds": calibrated})
            found = measure_runs(candidate, reference, calibrated, quiet_ms=calibrated, **how)
        lately.append(found["reference_ms"])
        return {**found, **measured_energy(candidate, energy_counter(provider), found["median_ms"])}


def undisturbed_ms(calibrated: float, lately: Sequence[float]) -> float:
    """What the reference takes while nothing disturbs it, by its calibration and its latest measurements."""
    return calibrated if len(lately) < LATELY else max(calibrated, min(lately))


def measure_runs(
    candidate: Run, reference: Run, calibrated: float, *, quiet_ms: float, rounds: int, block_ms: float
) -> dict[str, Any]:
    """Measure until half of as many rounds as were asked for were quiet, and their two halves agree, or patience ends.

    Args:
        candidate, reference: run once for each call.
        calibrated: milliseconds of the reference that latencies are told by.
        quiet_ms: what it takes now when nothing disturbs it.
        rounds: at least so many, a block of each in it.
        block_ms: of a block.

    Returns:
        The fields of a `Measurement` but for energy; the latency is that of the quiet rounds, of all where there are
        not even two.
    """
    for run in (candidate, reference):
        _warm_up(run)
    patience = time.perf_counter() + PATIENCE * 2 * rounds * block_ms / 1e3
    found, going_on = list[Round](), _rounds(candidate, reference, block_ms)
    for attempt in itertools.count(1):
        found += itertools.islice(going_on, rounds)
        quiet = [one for one in found if max(one.before, one.after) <= QUIET * quiet_ms]
        counted = quiet if len(quiet) > 1 else found
        spread = abs(_ratio(counted[::2]) / _ratio(counted[1::2]) - 1)
        is_steady = len(quiet) >= max(2, rounds // 2) and spread <= STEADY
        if is_steady or (attempt >= ATTEMPTS and time.perf_counter() > patience):
            break
    return {
        "latency_ms": _ratio(counted) * calibrated,
        "median_ms": statistics.median(milliseconds for one in found for milliseconds in one.mine),
        "spread": spread,
        "unstable": not is_steady,
        "reference_ms": _reference_ms(found),
        "rounds": len(found),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
    }


def measured_energy(run: Run, counter: Counter | None, milliseconds: float) -> dict[str, Any]:
    """Energy of one run, all of what the package or board draws meanwhile; nothing where there is no counter."""
    if counter is None:
        return {}
    runs = max(10, round(ENERGY_MS / max(milliseconds, 1e-3)))
    before = counter.read()
    for _ in range(runs):
        run()
    microjoules = counter.since(before) / runs
    return {"figures": {"energy_uj": microjoules}, "sources": {"energy_uj": f"measured by {counter.name}"}}


class Round(NamedTuple):
    """A block of the candidate between two of the reference.

    Attributes:
        mine: milliseconds of each run of the candidate.
        before, after: milliseconds of the fastest run of the reference.
    """

    mine: list[float]
    before: float
    after: float


def _rounds(candidate: Run, reference: Run, block_ms: float) -> Iterator[Round]:
    """Block after block of the candidate, each with those of the reference around it."""
    before = min(_block(reference, block_ms))
    while True:
        mine, after = _block(candidate, block_ms), min(_block(reference, block_ms))
        yield Round(mine, before, after)
        before = after


def _ratio(rounds: Sequence[Round]) -> float:
    """Candidate to reference, each by its fastest runs."""
    return min(min(one.mine) for one in rounds) / _reference_ms(rounds)


def _reference_ms(rounds: Sequence[Round]) -> float:
    """The fastest run of the reference."""
    return min(min(one.before, one.after) for one in rounds)


def _block(run: Run, block_ms: float) -> list[float]:
    """Milliseconds of each run in a block, at least one; the first, on cold caches, is not counted."""
    run()
    times: list[float] = []
    end = time.perf_counter() + block_ms / 1e3
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _warm_up(run: Run) -> None:
    end = time.perf_counter() + WARM_UP_SECONDS
    for _ in range(WARM_UP_CALLS):
        run()
        if time.perf_counter() > end:
            return


def _reference_runner(threads: int, provider: str) -> Run:
    if (threads, provider) not in _references:
        inputs = {"input": np.random.default_rng(0).standard_normal((1, 16, 32, 32), dtype=np.float32)}
        session = open_session(reference_model(), threads, provider)
        _references[threads, provider] = lambda: session.run(None, inputs)
    return _references[threads, provider]


_references: dict[tuple[int, str], Run] = {}
_lately: dict[tuple[int, str], deque[float]] = {}  # milliseconds of a reference in the latest measurements


def reference_model() -> bytes:
    """A fixed network of three convolutions, always the same bytes: the yardstick of every measurement."""
    from onnx import TensorProto, helper, numpy_helper

    values = np.random.default_rng(0)
    nodes, weights, source = [], [], "input"
    for index in range(3):
        weight = values.standard_normal((16, 16, 3, 3), dtype=np.float32) / 12
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(helper.make_node("Conv", [source, f"w{index}"], [f"c{index}"], pads=[1, 1, 1, 1]))
        source = "output" if index == 2 else f"r{index}"
        nodes.append(helper.make_node("Relu", [f"c{index}"], [source]))
    shape = [1, 16, 32, 32]
    graph = helper.make_graph(
        nodes,
        "reference",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def calibrated_ms(reference: Run, threads: int, provider: str = "cpu") -> float:
    """What the reference takes on this machine when it is quiet, measured once and cached."""
    cached = _calibration_file(threads, provider)
    try:
        known = float(json.loads(cached.read_text())["milliseconds"])
        if 0.0 < known < math.inf:
            return known
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent or damaged: measured now
    _warm_up(reference)
    end, fastest = time.perf_counter() + CALIBRATION_SECONDS, list[float]()
    while time.perf_counter() < end:
        fastest.append(min(_block(reference, CALIBRATION_BLOCK_MS)))
    quiet = float(np.quantile(fastest, FASTEST))
    write_cache(cached, {"milliseconds": quiet})
    return quiet


def _calibration_file(threads: int, provider: str) -> Path:
    return cache_folder() / f"reference-{machine_key(threads, provider)}.json"


def machine_key(threads: int, provider: str) -> str:
    """Machine, processor, runtime and how it is used, in a few letters."""
    import onnxruntime

    parts: tuple[Any, ...] = (
        platform.node(), processor_name(), onnxruntime.__version__, threads, MEASURING_VERSION
    )  # fmt: skip
    parts += () if provider == "cpu" else (provider,)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _lock_file() -> Path:
    return Path(tempfile.gettempdir()) / f"autoprune-measure-{getpass.getuser()}.lock"


if __name__ == "__main__":
    answer_requests(sys.stdin, sys.stdout)
