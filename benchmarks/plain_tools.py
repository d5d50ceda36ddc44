"""The chain as an engineer would write it without autoprune: torch-pruning, `torch.onnx.export`, static int8.

Each step is used as its own documentation shows, without hints about the model: half of all channels, the last layer
left alone; the exporter with `dynamo=True`; ONNX Runtime's pre-processing and `quantize_static`. What goes on to the
next step is what the step before gave.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.tensors import call, named, tensors_in

PARITY = 1e-3
"""Largest difference of ONNX Runtime's outputs from torch's, relative to torch's largest."""


def prune(model: nn.Module, example: Any, ratio: float = 0.5) -> nn.Module:
    """Half of the channels by magnitude, on a copy; raises whatever torch-pruning raises."""
    import torch_pruning as tp

    pruned = copy.deepcopy(model)
    layers = [m for m in pruned.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    pruner = tp.pruner.MetaPruner(
        pruned,
        example,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=layers[-1:],
        output_transform=tensors_in,
    )
    pruner.step()
    return pruned


def export(model: nn.Module, example: Any, file: Path) -> None:
    """Write the ONNX file, and beside it the example (`.npz`), and compare its outputs with torch's.

    Raises:
        ValueError: its outputs are not torch's.
    """
    positional = () if isinstance(example, dict) else example if isinstance(example, tuple) else (example,)
    keywords = example if isinstance(example, dict) else None
    torch.onnx.export(model, positional, str(file), kwargs=keywords, dynamo=True, verbose=False)
    values = [tensor.numpy() for tensor in named(example, "input").values()]
    np.savez(file.with_suffix(".npz"), *values)
    outputs, _ = _run(file, values)
    with torch.no_grad():
        expected = [tensor.numpy() for tensor in tensors_in(call(model, example))]
    if len(expected) != len(outputs):
        raise ValueError(f"the file has {len(outputs)} outputs, the model {len(expected)}")
    apart = max(_apart(one, other) for one, other in zip(expected, outputs, strict=True))
    if not apart <= PARITY:
        raise ValueError(f"its outputs differ from torch's by {apart:.2g}")


def quantize(file: Path) -> None:
    """Eight bits, calibrated on the example that `export` wrote; it counts when the file gives finite outputs.

    Raises:
        ValueError: the outputs are no numbers any more.
    """
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    values = list(np.load(file.with_suffix(".npz")).values())
    _, feed = _run(file, values)

    class Example(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter([feed])

        def get_next(self) -> Any:
            return next(self.left, None)

    ready, integer = file.with_suffix(".ready.onnx"), file.with_suffix(".int8.onnx")
    quant_pre_process(str(file), str(ready))
    quantize_static(str(ready), str(integer), Example())
    outputs, _ = _run(integer, values)
    if not all(np.isfinite(output).all() for output in outputs):
        raise ValueError("its outputs are no numbers any more")


def _run(file: Path, values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Outputs, and what was fed: inputs in order."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    feed = {put.name: value for put, value in zip(session.get_inputs(), values, strict=False)}
    return session.run(None, feed), feed


def _apart(expected: Any, found: Any) -> float:
    finite = np.isfinite(expected)
    scale = max(float(np.abs(expected[finite]).max(initial=0.0)), 1e-6)
    return float(np.abs(np.where(finite, expected - found, 0.0)).max(initial=0.0)) / scale


def attempt(step: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """What a step gives, and in one line why it gave nothing."""
    try:
        return step(*arguments), ""
    except Exception as error:  # the finding, whatever it is
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
