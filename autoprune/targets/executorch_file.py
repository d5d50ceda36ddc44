"""From an exported program to an ExecuTorch file: `python -I executorch_file.py`, JSON in and out.

Runs in the environment that has executorch and sees our torch, and must not import anything of autoprune. Input:
`program` (a file of `torch.export`, for one example), and `executorch`, the file to write. XNNPACK takes what it can,
the rest runs on ExecuTorch's portable kernels. Output, on the last line: an empty object, or `error`.
"""

import contextlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any


def read_apart(program: Any) -> None:
    """Give everything that reads a rounded number a reading of its own, in place.

    XNNPACK takes the reading into the operation behind it. Where one operation keeps integers and another does not,
    a reading that they share makes a program that does not load.
    """
    graph = program.graph_module.graph
    for node in [node for node in graph.nodes if "dequantize" in str(node.target)]:
        for reader in list(node.users)[1:]:
            with graph.inserting_before(reader):
                reader.replace_input_with(node, graph.node_copy(node))
    program.graph_module.recompile()


def main(request: dict[str, str]) -> dict[str, str]:
    """Write what is asked for."""
    import executorch.kernels.quantized  # noqa: F401  (registers operations that XNNPACK leaves)
    import torch
    import torch.ao.quantization.fx._decomposed
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    try:
        with torch.no_grad():
            program = torch.export.load(request["program"])
            read_apart(program)
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            with Path(request["executorch"]).open("wb") as file:
                lowered.to_executorch().write_to_file(file)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]}
    return {}


if __name__ == "__main__":
    given = json.load(sys.stdin)
    logging.disable(logging.CRITICAL)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        answer = main(given)
    print(json.dumps(answer))
