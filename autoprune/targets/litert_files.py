"""From an exported program to a LiteRT file or a TensorFlow SavedModel: `python -I litert_files.py`, JSON in and out.

Runs in the environment that has litert-torch and TensorFlow and sees our torch, and must not import anything of
autoprune. Input: `program` (a file of `torch.export`, for one example), and where to write `litert` (a file) or
`savedmodel` (an archive of the folder). Output, on the last line: an empty object, or `error`.
"""

import contextlib
import json
import logging
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any


def write_litert(program: Any, file: str) -> None:
    """The program as a flat buffer."""
    import litert_torch

    litert_torch.convert(
        program.module(), tuple(program.example_inputs[0]), quant_config=rounded_as_given(program)
    ).export(file)


def rounded_as_given(program: Any) -> Any:
    """What tells the converter to make integers of numbers that are rounded already; None where none are."""
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    if not any("quantized_decomposed" in str(node.target) for node in program.graph.nodes):
        return None
    static = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    return QuantConfig(pt2e_quantizer=PT2EQuantizer().set_global(static))


def write_savedmodel(program: Any, file: str) -> None:
    """The program as a folder that TensorFlow loads: one function with its weights, by StableHLO."""
    import tensorflow
    from litert_torch.backend import tf_integration
    from litert_torch.backend.export import exported_program_to_mlir

    lowered = exported_program_to_mlir(program.run_decompositions())
    module = tensorflow.Module()
    module.weights = tf_integration._build_tf_state_dict(lowered)
    module.run = tensorflow.function(
        tf_integration._wrap_as_tf_func(lowered, module.weights),
        input_signature=tf_integration._make_input_signatures(lowered),
    )
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        tensorflow.saved_model.save(
            module, f"{folder}/saved_model", signatures=module.run.get_concrete_function()
        )
        with tarfile.open(file, "w:gz") as archive:
            archive.add(f"{folder}/saved_model", "saved_model", filter=_anonymous)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """An entry of an archive without whose it was, and when."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


WRITERS = {"litert": write_litert, "savedmodel": write_savedmodel}


def main(request: dict[str, Any]) -> dict[str, str]:
    """Write what is asked for."""
    import torch
    import torch.ao.quantization.fx._decomposed  # the operations of rounded numbers

    try:
        with torch.no_grad():
            program = torch.export.load(request["program"])
            for name, write in WRITERS.items():
                if name in request:
                    write(program, request[name])
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]}
    return {}


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    given = json.load(sys.stdin)
    logging.disable(logging.CRITICAL)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        answer = main(given)
    print(json.dumps(answer))
