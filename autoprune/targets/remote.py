"""The target `remote`: a device that a command of the user's measures on: ssh to a board, adb, a device farm.

The command gets the path of a file and prints a JSON object on the last line of its output:

    {"latency_ms": 3.2}                            or {"times_ms": [3.3, 3.2, ...]}, of which the minimum counts
    {"latency_ms": 3.2, "spread": 0.02, "energy_uj": 5400, ...}     further numbers become metrics

It is run without a shell, one at a time for each device on this machine (others wait in a queue), ended with all that
it started when its time is over, and tried again when it fails or prints something else. A spread above 5 % is
measured again; what stays above is marked as unstable: a clock that throttles, a board that does something else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shlex
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import ModelError, TargetError
from autoprune.space import Value
from autoprune.targets.modelled import host
from autoprune.targets.stopwatch import check_count
from autoprune.targets.target import Measurement, Runnable, unsupported_bits

if TYPE_CHECKING:
    from torch import nn

    from autoprune.tensors import Inputs

FILE = "{file}"
STEADY, ATTEMPTS = 0.05, 3
PAUSE = 1.0  # seconds before the first retry; twice as many before each further one
SHOWN = 200


class Remote:
    """A device behind a command.

    Args:
        command: its words; `{file}` stands for the file (without it, the file is the last word).
        runs: what the file is for and computes accuracies here: `onnxruntime`, `openvino`, `torch`.
        time_limit: seconds of one run of the command.
        queue_limit: seconds to wait for the device while others measure.
        retries: how often the command is run again when it fails.
        memory_bytes: what the device can hold of a file; 0 for no limit.
        weight_bits, activation_bits: that are legal there; by default those of `runs`.

    Raises:
        TargetError: an argument that makes no sense.
    """

    channel_multiple = 1

    def __init__(
        self,
        command: str | list[str],
        runs: str = "onnxruntime",
        time_limit: float = 120.0,
        queue_limit: float = 3600.0,
        retries: int = 2,
        memory_bytes: int = 0,
        weight_bits: list[int] | None = None,
        activation_bits: list[int] | None = None,
    ) -> None:
        words = shlex.split(command) if isinstance(command, str) else command
        if not words or not all(isinstance(word, str) for word in words):
            raise TargetError(
                f"target.command: got {command!r}, expected a command such as 'ssh board run {FILE}'"
            )
        for name, seconds in (("time_limit", time_limit), ("queue_limit", queue_limit)):
            if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
                raise TargetError(f"target.{name}: got {seconds!r}, expected a number of seconds above 0")
        check_count("retries", retries + 1 if isinstance(retries, int) else retries)
        check_count("memory_bytes", memory_bytes + 1 if isinstance(memory_bytes, int) else memory_bytes)
        self._host = host(runs)
        self._words = words if any(FILE in word for word in words) else [*words, FILE]
        self._limits, self._retries, self._memory = (time_limit, queue_limit), retries, memory_bytes
        self.weight_bits = tuple(weight_bits or self._host.weight_bits)
        self.activation_bits = tuple(activation_bits or self._host.activation_bits)
        self.measures: tuple[str, ...] = ("energy_uj",)

    def supports(self, choices: dict[str, Value]) -> str | None:
        """Why some bit width cannot run there, None when all can."""
        return unsupported_bits("the device", choices, self.weight_bits, self.activation_bits)

    def build(self, model: nn.Module, example: Inputs) -> Runnable:
        """The candidate as the file that the command gets.

        Raises:
            ModelError: it cannot be written, or is larger than the device's memory.
        """
        made = self._host.build(model, example)
        size = sum(len(content) for content in made.files.values())
        if self._memory and size > self._memory:
            raise ModelError(f"the file has {size} bytes, the device holds {self._memory}")
        return made

    def measure(self, runnable: Runnable, example: Inputs) -> Measurement:  # noqa: ARG002
        """What the command says, of the steadiest of at most three runs.

        Raises:
            TargetError: it fails, hangs or prints something else, each time.
        """
        found: list[Measurement] = []
        with self._queue(), tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
            for name, content in runnable.files.items():
                Path(folder, name).write_bytes(content)
            file = str(Path(folder, next(iter(runnable.files))))
            while len(found) < ATTEMPTS and not any(not one.unstable for one in found):
                found.append(self._answer([word.replace(FILE, file) for word in self._words]))
        return min(found, key=lambda one: one.spread)

    def machine_key(self) -> str:
        """The command, in a few letters."""
        return hashlib.sha256(json.dumps(self._words).encode()).hexdigest()[:16]

    @contextlib.contextmanager
    def _queue(self) -> Any:
        """Wait until nobody else on this machine measures on the device."""
        from filelock import FileLock, Timeout

        lock = FileLock(Path(tempfile.gettempdir()) / f"autoprune-device-{self.machine_key()}.lock")
        try:
            lock.acquire(timeout=self._limits[1])
        except Timeout:
            seconds = self._limits[1]
            raise TargetError(f"the device was busy for {seconds:g} s (target.queue_limit)") from None
        try:
            yield
        finally:
            lock.release()

    def _answer(self, words: list[str]) -> Measurement:
        problem = ""
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                return read_answer(run_command(words, self._limits[0]))
            except ValueError as error:
                problem = str(error)
        times = f"{self._retries + 1} times" if self._retries else "once"
        raise TargetError(f"the device cannot be measured on ({words[0]}, tried {times}): {problem}")


def run_command(words: list[str], time_limit: float) -> str:
    """What a command prints.

    Raises:
        ValueError: it cannot be started, fails, or is not done in time; what it started is ended.
    """
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"the command cannot be started: {error}") from None
    try:
        printed, complaints = process.communicate(timeout=time_limit)
    except subprocess.TimeoutExpired:
        raise ValueError(f"no answer in {time_limit:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    if process.returncode != 0:
        last = (complaints.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"it ended with code {process.returncode}: {last[:SHOWN]}")
    return printed


def read_answer(printed: str) -> Measurement:
    """The measurement in the last line of what a command printed.

    Raises:
        ValueError: it is no JSON object with a latency, or one of its numbers cannot be.
    """
    last = (printed.strip().splitlines() or [""])[-1]
    try:
        answer = json.loads(last)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ValueError(f"it printed {last[:SHOWN]!r}, expected a JSON object with latency_ms or times_ms")
    times = answer.pop("times_ms", None)
    if times is not None:
        if not isinstance(times, list) or not times or not all(_is_positive(one) for one in times):
            raise ValueError("times_ms: expected a list of numbers above 0")
        halves = [min(times[start::2]) for start in (0, 1) if times[start::2]]
        answer = {"latency_ms": min(times), "spread": max(halves) / min(halves) - 1, **answer}
    wrong = [name for name, value in answer.items() if not _is_number(value) or value < 0]
    if wrong or not _is_positive(answer.get("latency_ms")):
        name = wrong[0] if wrong else "latency_ms"
        raise ValueError(
            f"{name}: got {str(answer.get(name))[:SHOWN]}, expected a finite number, the latency above 0"
        )
    latency, spread = float(answer.pop("latency_ms")), float(answer.pop("spread", 0.0))
    figures = {name: float(value) for name, value in answer.items() if name.isidentifier()}
    return Measurement(
        latency,
        median_ms=latency if times is None else statistics.median(times),
        spread=spread,
        rounds=1 if times is None else len(times),
        unstable=spread > STEADY,
        figures=figures,
        sources=dict.fromkeys(("latency_ms", *figures), "measured by the device's command"),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0
