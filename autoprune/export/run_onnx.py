"""Run an ONNX file with onnxruntime and NumPy alone: `python -I run_onnx.py MODEL INPUTS OUTPUTS`.

The parity gate starts this in a fresh process, as someone would run the artifact who has never heard of
autoprune. It must not import anything of autoprune.
"""

import sys

import numpy as np
import onnxruntime

BATCH = 128
STRANGERS = ("torch", "autoprune")


def main(model: str, inputs: str, outputs: str) -> None:
    """Write the model's outputs for the array in file `inputs` to file `outputs` (both .npy)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    array = np.load(inputs, mmap_mode="r", allow_pickle=False)
    parts = [
        session.run(None, {name: np.ascontiguousarray(array[start : start + BATCH])})[0]
        for start in range(0, len(array), BATCH)
    ]
    np.save(outputs, np.concatenate(parts))


if __name__ == "__main__":
    main(*sys.argv[1:4])
    loaded = [name for name in STRANGERS if name in sys.modules]
    if loaded:
        sys.exit(f"{' and '.join(loaded)} got loaded: this run proves nothing")
