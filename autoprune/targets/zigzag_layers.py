"""What single layers take on an accelerator, by ZigZag: `python -I zigzag_layers.py`, one JSON object in, one out.

Runs in the environment that has zigzag-dse, and must not import anything of autoprune. Input: `accelerator` and
`mapping` (names of ZigZag's own descriptions, or paths of YAML files) and `layers`, each with `outputs`, `inputs` (of
one group), `groups`, `given`, `gives`, `kernel` and `stride` (height, width each), `weight_bits`, `activation_bits`.
Output, on the last line: for each layer `cycles` and `energy_pj`, or `error`.
"""

import contextlib
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

EQUATION = "O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]"
FLOAT_BITS, NARROW = 16, 8


def described(layer: dict[str, Any]) -> dict[str, Any]:
    """A layer as ZigZag's workloads have it: a convolution, of which a linear layer is one of size 1."""
    height, width = layer["gives"]
    kernel_height, kernel_width = layer["kernel"]
    bits = [min(FLOAT_BITS, layer[name]) for name in ("weight_bits", "activation_bits")]
    sums = 16 if max(bits) <= NARROW else 32  # as ZigZag's own reader of ONNX files has it
    padding = [
        max(0, (out - 1) * step + window - size)
        for out, step, window, size in zip(
            layer["gives"], layer["stride"], layer["kernel"], layer["given"], strict=True
        )
    ]
    return {
        "id": 0,
        "name": "layer",
        "operator_type": "Conv",
        "equation": EQUATION,
        "dimension_relations": [
            f"ix={layer['stride'][1]}*ox+1*fx",
            f"iy={layer['stride'][0]}*oy+1*fy",
        ],
        "loop_dims": ["B", "K", "G", "OX", "C", "FX", "OY", "FY"],
        "loop_sizes": [
            *(1, layer["outputs"] // layer["groups"], layer["groups"], width),
            *(layer["inputs"], kernel_width, height, kernel_height),
        ],
        "operand_precision": {
            "W": bits[0],
            "I": bits[1],
            "O": sums,
            "O_final": bits[1],
        },
        "operand_source": {"I": 0, "W": 0},
        "pr_loop_dims": ["IX", "IY"],
        "pr_loop_sizes": [layer["given"][1], layer["given"][0]],
        "padding": [
            [padding[1] // 2, padding[1] - padding[1] // 2],
            [padding[0] // 2, padding[0] - padding[0] // 2],
        ],
    }


def found(given: str, kind: str) -> str:
    """The path of a description: a file of the user's, or one of ZigZag's."""
    import zigzag

    own = Path(zigzag.__file__).parent / "inputs" / kind / f"{given}.yaml"
    return str(own if own.is_file() else Path(given))


def cost(layer: dict[str, Any], accelerator: str, mapping: str) -> dict[str, Any]:
    """Cycles and picojoules of one layer, by the mapping with the least latency that is found."""
    from zigzag.api import get_hardware_performance_zigzag

    try:
        with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
            energy, cycles, _ = get_hardware_performance_zigzag(
                [described(layer)],
                found(accelerator, "hardware"),
                found(mapping, "mapping"),
                dump_folder=folder,
                loma_show_progress_bar=False,
            )
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    return {"cycles": float(cycles), "energy_pj": float(energy)}


if __name__ == "__main__":
    request = json.load(sys.stdin)
    logging.disable(logging.CRITICAL)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        answers = [cost(layer, request["accelerator"], request["mapping"]) for layer in request["layers"]]
    print(json.dumps(answers))
