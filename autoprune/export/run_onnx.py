"""Run an ONNX file with onnxruntime and NumPy alone: `python -I run_onnx.py MODEL`.

The parity gate starts this in a fresh process, as someone would run the artifact who has never heard of
autoprune. It must not import anything of autoprune. Each line of its input names two .npz files, separated by a
tab: inputs by name, and where the outputs go. It answers each with a line.
"""

import sys
from typing import Any

import numpy as np
import onnxruntime

STRANGERS = ("torch", "autoprune")


def main(model: str) -> None:
    """Answer requests until the input ends."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # Without VNNI the faster integer kernels saturate; with it, this changes nothing.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for line in sys.stdin:
        given, made = line.rstrip("\n").split("\t")
        with np.load(given, allow_pickle=False) as file:
            inputs = {value.name: file[value.name] for value in session.get_inputs()}
        np.savez(made, **run(session, inputs))
        print("done", flush=True)


def run(session: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Outputs by name; a file that takes one example at a time is given one at a time."""
    names = [output.name for output in session.get_outputs()]
    fixed = {
        value.name
        for value in session.get_inputs()
        if value.shape and value.shape[0] == 1 and len(inputs[value.name]) > 1
    }
    if not fixed:
        return dict(zip(names, session.run(None, inputs), strict=True))
    count = len(inputs[next(iter(fixed))])
    parts = []
    for i in range(count):
        one = {name: array[i : i + 1] if name in fixed else array for name, array in inputs.items()}
        parts.append(session.run(None, one))
    return {name: np.concatenate(arrays) for name, *arrays in zip(names, *parts, strict=True)}


if __name__ == "__main__":
    main(sys.argv[1])
    loaded = [name for name in STRANGERS if name in sys.modules]
    if loaded:
        sys.exit(f"{' and '.join(loaded)} got loaded: this run proves nothing")
