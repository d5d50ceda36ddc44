"""The parity gate: is the artifact the candidate that the search measured?

Two readers of the artifact are held against the outputs of the measured candidate on the same examples: its
ONNX file, run by a fresh process that knows neither torch nor autoprune, and the module that `load` returns.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.errors import ParityError
from autoprune.export import run_onnx
from autoprune.export.artifact import Factory, load
from autoprune.export.readme import ONNX

Array = np.ndarray[Any, Any]
Metrics = Callable[[Array], Mapping[str, float]]

LEAST_AGREEMENT = 99.5
"""Percent of examples on which the predicted class must be the same."""
MOST_ACCURACY_LOST = 0.1
"""Points by which the accuracy may differ."""
MOST_RELATIVE_ERROR = 0.01
"""Root mean square of the difference over that of the outputs, for tasks without classes."""
TIME_LIMIT = 1800.0
_BATCH = 128


def check_parity(
    folder: Path, inputs: Array, measured: Array, metrics: Metrics, model: Factory | None = None
) -> dict[str, Any]:
    """Hold an artifact against the candidate that was measured; the report goes into its `metrics.json`.

    Args:
        folder: the artifact.
        inputs: examples (N, ...), as the model takes them.
        measured: outputs of the measured candidate for them, (N, classes, ...) or (N, ...).
        metrics: the task's metrics of an array of outputs; with `accuracy` among them, classes are compared.
        model: makes the uncompressed network, where `load` needs it.

    Returns:
        `examples`, `limits`, and for `onnx` and `module` each: `agreement` in percent or `relative_error`,
        and `metrics` with their `difference` to those of the measured candidate.

    Raises:
        ParityError: one of the two is another model; the message has the figures.
    """
    expected = {name: float(value) for name, value in metrics(measured).items()}
    report: dict[str, Any] = {
        "examples": len(inputs),
        "measured": expected,
        "limits": {
            "agreement": LEAST_AGREEMENT,
            "accuracy": MOST_ACCURACY_LOST,
            "relative_error": MOST_RELATIVE_ERROR,
        },
    }
    report["onnx"] = compare(measured, run_isolated(folder / ONNX, inputs), metrics, expected)
    _refuse("ONNX file", report["onnx"], spare=0.0)
    report["module"] = compare(measured, run_module(load(folder, model), inputs), metrics, expected)
    # It rounds in another order than the runtime: of few examples, a single one is more than the limit.
    _refuse("module", report["module"], spare=1 / len(inputs))
    return report


def compare(
    measured: Array, outputs: Array, metrics: Metrics, expected: Mapping[str, float]
) -> dict[str, Any]:
    """How far `outputs` are from the `measured` ones, and their metrics from the `expected` ones.

    Raises:
        ParityError: the outputs have another shape, or hold NaN where the measured ones do not.
    """
    if outputs.shape != measured.shape:
        raise ParityError(f"the exported model gives outputs of shape {outputs.shape}, not {measured.shape}")
    if not np.isfinite(outputs).all() and np.isfinite(measured).all():
        raise ParityError("the exported model gives NaN or infinity where the measured one gives numbers")
    found = {name: float(value) for name, value in metrics(outputs).items()}
    result: dict[str, Any] = {
        "metrics": found,
        "difference": {name: found[name] - expected[name] for name in expected},
        "relative_error": _relative_error(measured, outputs),
    }
    if "accuracy" in expected and measured.ndim > 1:
        same = np.argmax(outputs, axis=1) == np.argmax(measured, axis=1)
        result["agreement"] = 100.0 * float(same.mean())
    return result


def _relative_error(measured: Array, outputs: Array) -> float:
    size = float(np.sqrt(np.square(measured, dtype=np.float64).mean()))
    difference = np.subtract(outputs, measured, dtype=np.float64)
    return float(np.sqrt(np.square(difference).mean())) / max(size, 1e-12)


def _refuse(what: str, found: Mapping[str, Any], spare: float) -> None:
    if reason := _refusal(found, spare):
        raise ParityError(f"the exported {what} is not the model that was measured: {reason}")


def _refusal(found: Mapping[str, Any], spare: float) -> str:
    """Why a comparison is refused, empty when it is good; `spare`: share of examples that may differ."""
    reasons = []
    if "agreement" not in found:
        if found["relative_error"] > MOST_RELATIVE_ERROR:
            reasons.append(
                f"outputs differ by {found['relative_error']:.2%}, at most {MOST_RELATIVE_ERROR:.0%}"
            )
        return "".join(reasons)
    lost = abs(found["difference"]["accuracy"])
    if found["agreement"] < min(LEAST_AGREEMENT, 100 * (1 - spare)):
        reasons.append(f"predictions agree on {found['agreement']:.2f} %, at least {LEAST_AGREEMENT} %")
    if lost > max(MOST_ACCURACY_LOST, 100 * spare) + 1e-9:
        reasons.append(f"accuracy differs by {lost:.2f} points, at most {MOST_ACCURACY_LOST}")
    return " and ".join(reasons)


def run_isolated(model: Path, inputs: Array) -> Array:
    """Outputs of an ONNX file, from a process that has neither torch nor autoprune.

    Raises:
        ParityError: the file does not run there.
    """
    with tempfile.TemporaryDirectory(prefix="autoprune-parity-") as scratch:
        given, made = Path(scratch, "inputs.npy"), Path(scratch, "outputs.npy")
        np.save(given, inputs)
        # -I: no environment, no working directory, no user packages.
        command = [sys.executable, "-I", run_onnx.__file__, str(model), str(given), str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
        except subprocess.TimeoutExpired:
            raise ParityError(f"{model} did not finish {len(inputs)} examples in {TIME_LIMIT:g} s") from None
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ParityError(f"{model} does not run in a process of its own: {last}")
        return np.asarray(np.load(made, allow_pickle=False))


def run_module(model: nn.Module, inputs: Array) -> Array:
    """Outputs of a module, as an array."""
    with torch.no_grad():
        parts = [
            model(torch.from_numpy(np.array(inputs[start : start + _BATCH]))).numpy()
            for start in range(0, len(inputs), _BATCH)
        ]
    return np.concatenate(parts)
