"""A candidate as a project of hls4ml: C++ that a vendor's tool turns into a circuit, and g++ into its simulation.

hls4ml (Duarte et al. 2018) lives in an environment of its own and reads the QONNX file. What it promises for
fixed-point numbers is every bit: the parity gate compiles the project's C++ and holds it against the candidate.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import autoprune.targets.hls4ml_project as hls4ml_project
from autoprune.deployed.quantizers import FIXED_POINT, ActivationQuantizer, QuantizedLayer
from autoprune.deployed.shapes import layer_shapes
from autoprune.errors import ModelError
from autoprune.targets.environment import ask
from autoprune.targets.fpga import CIRCUIT_FILE, Fpga
from autoprune.targets.qonnx import MODEL_FILE as QONNX_FILE
from autoprune.targets.qonnx import to_qonnx

if TYPE_CHECKING:
    from torch import nn

    from autoprune.tensors import Inputs

PROJECT_FILE = "hls4ml_project.tar.gz"
ENVIRONMENT = "hls4ml"
TIME_LIMIT = 1200.0


def to_hls4ml(model: nn.Module, example: Inputs, own: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """The project as an archive, and the description of the circuit that it follows.

    Args:
        model: deployed for the target `fpga`.
        example: inputs of batch size 1.
        own: files of the target's runnable; of the target `fpga` they say how each layer is built.

    Raises:
        MissingExtra: the environment with hls4ml was not made yet.
        ModelError: layers that do not compute in fixed point, or something that hls4ml cannot build.
    """
    check_fixed_point(model, example)
    described = own.get(CIRCUIT_FILE) or Fpga(reuse=1).build(model, example).files[CIRCUIT_FILE]
    circuit = json.loads(described)
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        file, project = Path(folder, QONNX_FILE), Path(folder, PROJECT_FILE)
        file.write_bytes(to_qonnx(model, example))
        request = {
            "qonnx": str(file),
            "project": str(project),
            "reuse": [layer["reuse"] for layer in circuit["layers"]],
            "nanoseconds": 1e3 / circuit["megahertz"],
            "part": circuit["part"],
            "io": circuit["io"],
        }
        answer: dict[str, Any] = ask(ENVIRONMENT, Path(hls4ml_project.__file__), request, TIME_LIMIT)
        if "error" in answer:
            raise ModelError(f"hls4ml cannot build the model: {answer['error']}")
        return {PROJECT_FILE: project.read_bytes(), CIRCUIT_FILE: described}


def check_fixed_point(model: nn.Module, example: Inputs) -> None:
    """Refuse a network whose numbers have other scales than powers of two.

    Raises:
        ModelError: the layers and tensors, by name.
    """
    modules = dict(model.named_modules())
    rounded = {name: module for name, module in modules.items() if isinstance(module, QuantizedLayer)}
    wrong = [name for name, module in rounded.items() if module.form != FIXED_POINT]
    wrong += [
        name
        for name, module in modules.items()
        if isinstance(module, ActivationQuantizer) and not _is_power_of_two(float(module.scale))
    ]
    floats = [shape.name for shape in layer_shapes(model, example) if shape.name not in rounded]
    if wrong or floats:
        listed = ", ".join((floats or wrong)[:5])
        raise ModelError(
            f"hls4ml needs fixed-point numbers in every layer, and {listed} "
            f"{'stay float' if floats else 'have other scales'}: search with `target: fpga`"
        )


def _is_power_of_two(scale: float) -> bool:
    return scale > 0 and math.frexp(scale)[0] == 0.5
