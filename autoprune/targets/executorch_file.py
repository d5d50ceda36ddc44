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
