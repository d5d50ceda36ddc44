"""What targets on this machine have in common: arguments of a measurement, in full and in brief, the energy, and the
precision of what is not rounded."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.errors import MissingExtra, TargetError
from autoprune.space import Choice, Choices, Options
from autoprune.space.precision import FLOAT32
from autoprune.targets.energy import energy_counter
from autoprune.targets.measure import MeasuringProcess, machine_key
from autoprune.targets.target import OWN_CHOICES

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Self

    from autoprune.targets.target import Measurement, Runnable
    from autoprune.tensors import Inputs

PRECISION = f"{OWN_CHOICES}precision"
BRIEF_ROUNDS, BRIEF_BLOCK_MS = 8, 2.0


class Stopwatch:
    """Measures the files of a runnable in a process of its own.

    Args:
        runtime: of `runtimes.RUNTIMES`.
        threads: of one inference. More than one makes measurements depend on what else runs here.
        rounds: of a measurement. Fewer are faster and less certain.
        block_ms: how long the candidate, and then the reference, runs in each round.
        provider: where it runs, of `runtimes.PROVIDERS`.

    Attributes:
        settings: the arguments, to make the same one somewhere else.

    Raises:
        TargetError: an argument that is no number, or too small.
    """

    def __init__(
        self, runtime: str, threads: int, rounds: int, block_ms: float, provider: str = "cpu"
    ) -> None:
        check_count("threads", threads)
        check_count("rounds", rounds)
        if not isinstance(block_ms, int | float) or not 0 < block_ms < math.inf:
            raise TargetError(f"target.block_ms: got {block_ms!r}, expected a number of milliseconds above 0")
        self.runtime, self.threads, self.provider = runtime, threads, provider
        self.settings = {
            "runtime": runtime,
            "threads": threads,
            "rounds": rounds,
            "block_ms": block_ms,
            "provider": provider,
        }
        self._process = self._made(rounds, block_ms)
        self._brief: MeasuringProcess | None = None

    @property
    def measures(self) -> tuple[str, ...]:
        """Metrics beside the latency that are measured here, not modelled."""
        return () if energy_counter(self.provider) is None else ("energy_uj",)

    def measure(self, runnable: Runnable, example: Inputs) -> Measurement:
        """Latency of one inference on `example`.

        Raises:
            TargetError: the measuring process fails, twice.
        """
        from autoprune.targets.interface import arrays

        return self.time(runnable.files, arrays(example))

    def measure_briefly(self, runnable: Runnable, example: Inputs) -> Measurement:
        """The same in a quarter of the time, for tables of layers of which many are added up."""
        from autoprune.targets.interface import arrays

        return self.time(runnable.files, arrays(example), brief=True)

    def time(
        self, files: Mapping[str, bytes], inputs: Mapping[str, np.ndarray[Any, Any]], *, brief: bool = False
    ) -> Measurement:
        """Latency of files as they are; needs no torch.

        Args:
            files: name -> content, the first one to be opened.
            inputs: by name.
            brief: in a quarter of the time.

        Raises:
            TargetError: the measuring process fails, twice.
        """
        if not brief:
            return self._process.measure(files, inputs)
        self._brief = self._brief or self._made(BRIEF_ROUNDS, BRIEF_BLOCK_MS)
        return self._brief.measure(files, inputs)

    def machine_key(self) -> str:
        """Processor, runtime and threads in a few letters: what is measured holds for all that agree in it."""
        key = machine_key(self.threads, self.provider)
        return key if self.runtime == "onnxruntime" else f"{key}-{self.runtime}"

    def _made(self, rounds: int, block_ms: float) -> MeasuringProcess:
        return MeasuringProcess(
            runtime=self.runtime,
            threads=self.threads,
            rounds=rounds,
            block_ms=block_ms,
            provider=self.provider,
        )


class Timed:
    """The half of a target on this machine that measures: what `build` gives, in a process of its own.

    Attributes:
        stopwatch: measures.
        precision: in which `build` has everything computed that is not rounded to fewer bits.

    Args:
        stopwatch: of its runtime.
        channel_multiple: prune to multiples of so many channels only.
        precision: the one, or options of the choice `target.precision`.
        known: precisions that the runtime has.

    Raises:
        TargetError: an argument that is no number, or too small, or a precision that is not known.
    """

    def __init__(
        self,
        stopwatch: Stopwatch,
        channel_multiple: int,
        precision: str | Sequence[str] = FLOAT32,
        known: Sequence[str] = (FLOAT32,),
    ) -> None:
        check_count("channel_multiple", channel_multiple)
        self.channel_multiple, self.stopwatch = channel_multiple, stopwatch
        self.measures = stopwatch.measures
        asked = precision if isinstance(precision, list | tuple) and precision else (precision,)
        if wrong := [one for one in asked if one not in known]:
            raise TargetError(f"target.precision: got {wrong[0]!r}, accepted are {', '.join(known)}")
        self.precisions = tuple(one for one in known if one in asked)
        self.precision = self.precisions[0]

    def choices(self, model: nn.Module, example: Inputs) -> dict[str, Choice]:  # noqa: ARG002
        """The precision, unless there is one only."""
        several = len(self.precisions) > 1
        return {PRECISION: Options(self.precisions, neutral=self.precision)} if several else {}

    def configured(self, choices: Choices) -> Self:
        """This target in the precision that was chosen; both measure by the same process."""
        if PRECISION not in choices:
            return self
        made = copy.copy(self)
        made.precision = str(choices[PRECISION])
        return made

    def problems(self, model: nn.Module, example: Inputs) -> list[str]:
        """A line for each precision in which the network has no finite outputs, or none at all."""
        from autoprune.deployed.lowered import why_not_in

        reasons = {one: why_not_in(one, model, example) for one in self.precisions if one != FLOAT32}
        return [f"precision {one}: {reason}" for one, reason in reasons.items() if reason]

    def measure(self, runnable: Runnable, example: Inputs) -> Measurement:
        """Latency of one inference on `example`, measured in a process of its own.

        Raises:
            TargetError: the measuring process fails, twice.
        """
        return self.stopwatch.measure(runnable, example)

    def measure_briefly(self, runnable: Runnable, example: Inputs) -> Measurement:
        """The same in a quarter of the time, for tables of layers of which many are added up."""
        return self.stopwatch.measure_briefly(runnable, example)

    def machine_key(self) -> str:
        """Processor, runtime, threads and precision in a few letters: what is measured holds for all that agree."""
        key = self.stopwatch.machine_key()
        return key if self.precision == FLOAT32 else f"{key}-{self.precision}"


def check_count(name: str, value: object) -> None:
    """Refuse what is no whole number of 1 or more.

    Raises:
        TargetError: with the name of the argument.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TargetError(f"target.{name}: got {value!r}, expected a whole number of 1 or more")


def require(what: str, *packages: str, extra: str = "") -> None:
    """Refuse to make a target or a format whose runtime is not installed.

    Raises:
        MissingExtra: with the pip command.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            wanted = f"'autoprune[{extra}]'" if extra else package
            raise MissingExtra(f"{what} needs {package}: pip install {wanted}")
