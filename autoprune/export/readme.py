"""The README of an artifact: what it is, what goes in, and ten lines that run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

ONNX = "model.onnx"
SHOWN = ("accuracy", "latency_ms", "size_bytes", "params", "macs")

_BYTES = "8-bit images (0 to 255) are divided by 255"

_PAGE = """\
# {name}

{sentence}

{table}

Latency is of one example on one thread of the machine that searched; accuracy is on the test split.
All figures, and the check that this is the model that was measured, are in `metrics.json`; what it is made of
in `structure.json`; how it was found in `config.yaml`.

## What goes in

An array of shape `({shape})`, dtype `{dtype}`; N is any number of examples. {preparation}

## Run it
{onnx}
With autoprune installed, as a PyTorch module whose files are checked against their hashes:

```text
import autoprune
model = autoprune.load("path/of/this/folder")
```
"""

_ONNX = """
Needs `onnxruntime` and `numpy`, nothing else:

```python
import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession("{file}", options, providers=["CPUExecutionProvider"])
inputs = np.zeros(({ones}), dtype=np.{dtype})  # your examples, prepared as said above
(outputs,) = session.run(None, {{session.get_inputs()[0].name: inputs}})
print(outputs)
```
"""


def text(
    example: torch.Tensor, metrics: Mapping[str, Any], config: Mapping[str, Any], files: Sequence[str]
) -> str:
    """The README as Markdown.

    Args:
        example: inputs of batch size 1.
        metrics: `export` and `baseline` in it are compared.
        config: `name` names the artifact; `input` may hold `scale`, `mean` and `std` of an `InputFormat`.
        files: names of the runtime's files.
    """
    sizes, dtype = list(example.shape[1:]), str(example.dtype).removeprefix("torch.")
    ones = ", ".join(map(str, (1, *sizes))) + ("" if sizes else ",")
    return _PAGE.format(
        name=config.get("name", "A model compressed by autoprune"),
        sentence=_sentence(metrics),
        table=_table(metrics),
        shape=", ".join(map(str, ["N", *sizes])),
        dtype=dtype,
        preparation=_preparation(config.get("input")),
        onnx=_ONNX.format(file=ONNX, ones=ones, dtype=dtype) if ONNX in files else "",
    )


def _sentence(metrics: Mapping[str, Any]) -> str:
    baseline, export = metrics.get("baseline", {}), metrics.get("export", {})
    gains = [
        f"{baseline[name] / export[name]:.2f}× {word}"
        for name, word in (("latency_ms", "faster"), ("size_bytes", "smaller"))
        if export.get(name) and baseline.get(name)
    ]
    return f"Found by autoprune: {' and '.join(gains)} than the network it started from." if gains else ""


def _table(metrics: Mapping[str, Any]) -> str:
    baseline, export = metrics.get("baseline", {}), metrics.get("export", {})
    both = [name for name in SHOWN if name in export and name in baseline]
    rows = [f"| {name} | {baseline[name]:.6g} | {export[name]:.6g} |" for name in both]
    return "\n".join(["| | baseline | this model |", "|---|---|---|", *rows])


def _preparation(given: Any) -> str:
    steps = {name: value for name, value in dict(given or {}).items() if value is not None}
    formula = "x"
    if "scale" in steps:
        formula = f"x * {steps['scale']:.9g}"
    if "mean" in steps:
        formula += f" - {_vector(steps['mean'])}"
    if "std" in steps:
        formula = f"({formula}) / {_vector(steps['std'])}"
    if formula == "x":
        return f"The values are those that the task's batches hold{'; ' + _BYTES if given else ''}."
    # An InputFormat without a scale has one for 8-bit images all the same.
    first = "" if "scale" in steps else f" Before that, {_BYTES}."
    return f"Raw values `x` become `{formula}` (per channel, channels first).{first}"


def _vector(values: Any) -> str:
    listed = values if isinstance(values, list | tuple) else [values]
    return f"[{', '.join(f'{value:g}' for value in listed)}]"
