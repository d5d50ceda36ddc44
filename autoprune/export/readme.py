"""The README of an artifact: what it is, what goes in, and ten lines that run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.targets.onnx_graph import EXAMPLE
from autoprune.tensors import Inputs

ONNX = "model.onnx"
SHOWN = ("accuracy", "latency_ms", "size_bytes", "params", "macs")

_ANY_NUMBER = "N is any number of examples"
_BYTES = "8-bit images (0 to 255) are divided by 255"

_PAGE = """\
# {name}

{sentence}

{table}

{sources}
All figures, and the check that this is the model that was measured, are in `metrics.json`; what it is made of
in `structure.json`; how it was found in `config.yaml`.

## What goes in

{inputs} {preparation}

## Run it
{onnx}
With autoprune installed, as a PyTorch module whose files are checked against their hashes:

```text
import autoprune
model = autoprune.load("path/of/this/folder")  # called as {called}
```
"""

_ONNX = """
Needs `onnxruntime` and `numpy`, nothing else:

```python
from pathlib import Path

import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
processor = Path("/proc/cpuinfo")
if not processor.exists() or "vnni" not in processor.read_text():  # elsewhere the faster integer kernels saturate
    options.add_session_config_entry("session.x64quantprecision", "1")
session = onnxruntime.InferenceSession("{file}", options, providers=["CPUExecutionProvider"])
inputs = {{
{arrays}
}}  # your examples, prepared as said above
outputs = session.run(None, {{value.name: inputs[value.name] for value in session.get_inputs()}})
for output, value in zip(session.get_outputs(), outputs):
    print(output.name, value)
```
"""


def form_of(example: Inputs) -> str:
    """How a network takes its inputs: `tensor`, `positions`, `keywords`, or `nested` where tensors lie deeper."""
    if not isinstance(example, Mapping | tuple | list):
        return "tensor"
    parts = list(example.values() if isinstance(example, Mapping) else example)
    if any(isinstance(part, Mapping | tuple | list) for part in parts):
        return "nested"
    return "keywords" if isinstance(example, Mapping) else "positions"


def text(
    structure: Mapping[str, Any], metrics: Mapping[str, Any], config: Mapping[str, Any], files: Sequence[str]
) -> str:
    """The README as Markdown.

    Args:
        structure: `inputs` in it are name, dtype and shape of each, `takes` is how the network takes them.
        metrics: `export` and `baseline` in it are compared.
        config: `name` names the artifact; `input` may hold `scale`, `mean` and `std` of an `InputFormat`.
        files: names of the runtime's files.
    """
    inputs = structure["inputs"]
    return _PAGE.format(
        name=config.get("name", "A model compressed by autoprune"),
        sentence=_sentence(metrics),
        table=_table(metrics),
        sources=_sources(metrics),
        inputs=_inputs(inputs, dict(structure.get("structure") or {}).get("runtime") or {}),
        called=_called(inputs, structure["takes"]),
        preparation=_preparation(config.get("input")),
        onnx=_ONNX.format(file=ONNX, arrays=_arrays(inputs)) if ONNX in files else "",
    )


def _inputs(inputs: Sequence[Mapping[str, Any]], runtime: Mapping[str, Any]) -> str:
    """What goes in, in words; `runtime` says what the exported file takes."""
    number = (
        "N is 1: the file takes one example at a time" if runtime.get("takes") == EXAMPLE else _ANY_NUMBER
    )
    if len(inputs) == 1:
        return f"An array of shape `({_shape(inputs[0])})`, dtype `{inputs[0]['dtype']}`; {number}."
    listed = [f"- `{port['name']}`: shape `({_shape(port)})`, dtype `{port['dtype']}`" for port in inputs]
    return "\n".join([f"Arrays by name; {number}.", "", *listed, ""])


def _shape(port: Mapping[str, Any]) -> str:
    first, *others = port["shape"] or [""]
    return ", ".join(str(size) for size in ("N" if first == 1 else first, *others))


def _arrays(inputs: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(
        f'    "{port["name"]}": np.ones({tuple(port["shape"])}, dtype=np.{_numpy(port["dtype"])}),'
        for port in inputs
    )


def _numpy(dtype: str) -> str:
    return "bool_" if dtype == "bool" else dtype


def _called(inputs: Sequence[Mapping[str, Any]], takes: str) -> str:
    if takes == "nested":
        return "the network was, with torch tensors"
    names = [port["name"] for port in inputs]
    given = ", ".join(f"{name}={name}" for name in names) if takes == "keywords" else ", ".join(names)
    return f"model({given}), with torch tensors"


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


def _sources(metrics: Mapping[str, Any]) -> str:
    """Where the figures are from."""
    told = [f"`{name}` is {source}" for name, source in metrics.get("sources", {}).items()]
    unsteady = ["that time kept changing while it was measured"] if metrics.get("unstable") else []
    return "; ".join(["Accuracy is on the test split, costs are of one example", *told, *unsteady]) + "."


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
