"""How fast and how repeatable the measurement of a candidate is, on a quiet and on a busy machine.

    python benchmarks/measure_latency.py

Prints, for ResNet-20 in float32 and in int8: seconds to build the runtime model, seconds to measure it, the
latency, and by how much repeated measurements of the same model differ.
"""

from __future__ import annotations

import multiprocessing
import os
import time

import numpy as np
import torch

from autoprune.compress.calibrate import calibrate
from autoprune.deployed import deploy, layer_kind
from autoprune.references import resolve
from autoprune.targets.onnxruntime import OnnxRuntime
from autoprune.targets.target import Measurement

REPEATS = 6


def main() -> None:
    """Measure both models, alone and beside a busy process on each core."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, example = resolve("resnet.py:resnet")().eval(), torch.randn(1, 3, 32, 32)
    layers = [name for name, module in model.named_modules() if layer_kind(module)]
    integer = deploy(model, dict.fromkeys(layers, (8, 8)), example)
    calibrate(integer, [torch.randn(64, 3, 32, 32)])
    target = OnnxRuntime()
    target.measure(target.build(model, example), example)  # starts the process, calibrates the reference
    quiet = {
        name: report(target, name, network, example) for name, network in (("fp32", model), ("int8", integer))
    }
    print(f"int8 is {quiet['fp32'] / quiet['int8']:.2f} times faster than fp32")
    busy = [multiprocessing.Process(target=spin, daemon=True) for _ in range(os.cpu_count() or 1)]
    for process in busy:
        process.start()
    for name, network in (("fp32", model), ("int8", integer)):
        latency = report(target, f"{name}, busy machine", network, example)
        print(f"{'':24} moved by {latency / quiet[name] - 1:+.1%}")
    for process in busy:
        process.kill()


def report(target: OnnxRuntime, name: str, model: torch.nn.Module, example: torch.Tensor) -> float:
    """Print one line; the median latency of several measurements."""
    start = time.perf_counter()
    runnable = target.build(model, example)
    built = time.perf_counter() - start
    found: list[Measurement] = [target.measure(runnable, example) for _ in range(REPEATS)]
    seconds = (time.perf_counter() - start - built) / REPEATS
    latencies = np.array([measurement.latency_ms for measurement in found])
    apart = latencies.max() / latencies.min() - 1
    print(
        f"{name:24} build {built:.2f} s, measure {seconds:.2f} s, latency {np.median(latencies):.4f} ms, "
        f"largest difference of {REPEATS}: {apart:.1%}",
        flush=True,
    )
    return float(np.median(latencies))


def spin() -> None:
    """Keep a core busy."""
    while True:
        sum(range(10_000))


if __name__ == "__main__":
    main()
