"""The parity gate: is the artifact the candidate that the search measured?

Its readers are held against the outputs of the measured candidate on the same examples: each file of a runtime, run
by a fresh process that knows no autoprune, and no torch where the runtime has none, and the module that `load` returns.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from autoprune.errors import ParityError
from autoprune.export import run_file
from autoprune.export.comparison import Comparison, Run, in_form
from autoprune.export.generation import generation_agreement
from autoprune.stored.reading import Factory, load
from autoprune.targets.formats import Format, formats_in
from autoprune.targets.interface import Interface, arrays
from autoprune.task import Batch, Split, Task, evaluate_metrics
from autoprune.tensors import Inputs, call

LEAST_AGREEMENT = 99.5
"""Percent of examples, tokens, pixels or labels on which the decision must be the same."""
MOST_ACCURACY_LOST = 0.1
"""Points by which the accuracy may differ."""
MOST_RELATIVE_ERROR = 0.01
"""Root mean square of the difference over that of the outputs, where no class is chosen."""
MOST_ERROR_ELSEWHERE = 0.1
"""The same of outputs beside the one that counts."""
LEAST_GENERATED = 95.0
"""Percent of greedily written tokens that must be the same."""
TIME_LIMIT = 1800.0
_BATCH = 128


def check_parity(
    folder: Path, measured: Run, task: Task, split: Split, model: Factory | None = None
) -> dict[str, Any]:
    """Hold an artifact against the candidate that was measured; the report goes into its `metrics.json`.

    Args:
        folder: the artifact.
        measured: runs the measured candidate on inputs as the network takes them.
        task: its metrics are compared, and what its outputs are says how these are.
        split: examples.
        model: makes the uncompressed network, where `load` needs it.

    Returns:
        `examples`, `limits`, and for each format of which there is a file (`onnx`, ...) and `module`: `relative_error`,
        of all outputs by name in `outputs`; `agreement` in percent where classes are chosen; `generation` where
        texts are continued; and `metrics` with their `difference` to those of the measured candidate.

    Raises:
        ParityError: one of the two is another model; the message has the figures.
    """
    expected = evaluate_metrics(measured, task, split, batch_size=_BATCH)
    report: dict[str, Any] = {"examples": len(split), "measured": expected, "limits": _limits()}
    for name, found in formats_in(folder).items():
        with IsolatedModel(folder, found, measured) as isolated:
            report[name] = compare(measured, isolated.run, task, split, expected)
        _refuse(f"{name} file", report[name])
    module = load(folder, model)
    report["module"] = compare(measured, lambda inputs: call(module, inputs), task, split, expected)
    # It rounds in another order than the runtime: of few examples, a single one is more than the limit.
    _refuse("module", report["module"], spare=1 / len(split))
    return report


def _limits() -> dict[str, float]:
    return {
        "agreement": LEAST_AGREEMENT,
        "accuracy": MOST_ACCURACY_LOST,
        "relative_error": MOST_RELATIVE_ERROR,
        "relative_error_elsewhere": MOST_ERROR_ELSEWHERE,
        "generation": LEAST_GENERATED,
    }


class _Watched:
    """A split that remembers the batch that it gave last: a reader is given the inputs only."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.batch: Batch | None = None

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, batch_size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        for batch in self.split.batches(batch_size, shuffle=shuffle):
            self.batch = batch
            yield batch


@torch.no_grad()
def compare(
    measured: Run, other: Run, task: Task, split: Split, expected: Mapping[str, float]
) -> dict[str, Any]:
    """How far another reader's outputs are from the `measured` ones, and its metrics from the `expected` ones.

    Raises:
        ParityError: the outputs have another shape, or hold NaN where the measured ones do not.
    """
    watched = _Watched(split)
    comparison = Comparison(task, "logits" if "accuracy" in expected else "values")
    generation: list[float | None] = []

    def run(inputs: Inputs) -> Any:
        batch = watched.batch or Batch(inputs, torch.empty(0))
        outputs = measured(inputs)
        found = in_form(outputs, other(inputs))
        comparison.add(outputs, found, batch)
        if not generation:
            generation.append(generation_agreement(task, batch, measured, other))
        return found

    metrics = evaluate_metrics(run, task, watched, batch_size=_BATCH)
    difference = {name: metrics[name] - value for name, value in expected.items()}
    written = {} if generation[0] is None else {"generation": generation[0]}
    return {"metrics": metrics, "difference": difference, **comparison.result(), **written}


def _refuse(what: str, found: Mapping[str, Any], spare: float = 0.0) -> None:
    if reasons := _reasons(found, spare):
        raise ParityError(f"the exported {what} is not the model that was measured: {' and '.join(reasons)}")


def _reasons(found: Mapping[str, Any], spare: float) -> list[str]:
    """Why a comparison is refused, none when it is good; `spare`: share of examples that may differ."""
    reasons = []
    error, agreement = found["relative_error"], found.get("agreement")
    if agreement is None:
        if error > MOST_RELATIVE_ERROR:
            reasons.append(f"outputs differ by {error:.2%}, at most {MOST_RELATIVE_ERROR:.0%}")
    else:
        if agreement < min(LEAST_AGREEMENT, 100 * (1 - spare)):
            reasons.append(f"predictions agree on {agreement:.2f} %, at least {LEAST_AGREEMENT} %")
        lost = abs(found["difference"].get("accuracy", 0.0))
        if lost > max(MOST_ACCURACY_LOST, 100 * spare) + 1e-9:
            reasons.append(f"accuracy differs by {lost:.2f} points, at most {MOST_ACCURACY_LOST}")
    if found.get("generation", 100.0) < LEAST_GENERATED:
        reasons.append(
            f"{found['generation']:.1f} % of the tokens that they write agree, at least {LEAST_GENERATED:g} %"
        )
    for name, error in found["outputs"].items():
        if name != found["output"] and error > MOST_ERROR_ELSEWHERE:
            reasons.append(f"{name} differs by {error:.2%}, at most {MOST_ERROR_ELSEWHERE:.0%}")
    return reasons


class IsolatedModel:
    """A file in a process that has only its runtime.

    Args:
        folder: where it lies.
        found: its format.
        measured: gives the form of outputs, which a file does not know.

    Use it in a `with` statement; it raises ParityError where the file does not run there.
    """

    def __init__(self, folder: Path, found: Format, measured: Run) -> None:
        self.model, self.measured = folder / found.file, measured
        self._scratch = tempfile.TemporaryDirectory(prefix="autoprune-parity-")
        self._errors = Path(self._scratch.name, "errors")
        # -I: no environment, no working directory, no user packages.
        command = [found.python, "-I", run_file.__file__, found.runtime, str(self.model)]
        pipe = subprocess.PIPE
        with self._errors.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True)
        self._alarm = threading.Timer(TIME_LIMIT, self._process.kill)
        self._alarm.daemon = True
        self._alarm.start()

    def __enter__(self) -> IsolatedModel:
        return self

    def run(self, inputs: Inputs) -> Any:
        """Outputs in the network's own form.

        Raises:
            ParityError: the process failed, or takes too long.
        """
        given, made = Path(self._scratch.name, "inputs.npz"), Path(self._scratch.name, "outputs.npz")
        np.savez(given, **arrays(inputs))  # type: ignore[arg-type]  # its stubs take `allow_pickle` for one
        if not self._answers(f"{given}\t{made}\n"):
            raise ParityError(self._failure())
        with np.load(made, allow_pickle=False) as found:
            interface, outputs = Interface(inputs, self.measured(inputs)), dict(found)
            if any(name not in outputs for name in interface.outputs_by_name):  # numbered, in their order
                outputs = dict(zip(interface.outputs_by_name, outputs.values(), strict=True))
            return interface.rebuilt(outputs)

    def _answers(self, request: str) -> bool:
        try:
            if self._process.stdin is None or self._process.stdout is None:
                return False
            self._process.stdin.write(request)
            self._process.stdin.flush()
            return bool(self._process.stdout.readline())
        except OSError:
            return False

    def _failure(self) -> str:
        in_time = self._alarm.is_alive()
        self._process.kill()
        self._process.wait()
        if not in_time:
            return f"{self.model} did not finish in {TIME_LIMIT:g} s"
        said = self._errors.read_text(encoding="utf-8", errors="replace").strip()
        last = (said.splitlines() or ["no message"])[-1]
        return f"{self.model} does not run in a process of its own: {last}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()  # its input ends, and with it the process
        self._process.wait()
        failure = self._failure() if kind is None and self._process.returncode != 0 else ""
        self._alarm.cancel()
        self._scratch.cleanup()
        if failure:
            raise ParityError(failure)
