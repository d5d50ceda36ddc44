"""What goes into an exported network and what comes out: names for its tensors, and the forms that hold them.

A file knows named arrays only. A network takes a tensor, a tuple or a dict and returns anything nested; this is
the place where the one becomes the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from autoprune.tensors import Inputs, named, rebuild

INPUT, OUTPUT = "input", "output"
Arrays = dict[str, np.ndarray[Any, Any]]


class Port(NamedTuple):
    """One tensor that goes in or comes out, as the example has it."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Interface:
    """Names and forms of a network's inputs and outputs.

    Args:
        example: inputs.
        outputs: what the network gives for them; what is no tensor in it is given back as it is.
    """

    def __init__(self, example: Inputs, outputs: Any) -> None:
        self.example, self.outputs = example, outputs
        self.inputs_by_name = named(example, INPUT)
        taken = set(self.inputs_by_name)
        # A file has no two values of one name: outputs that are called as an input get a suffix.
        self.outputs_by_name = {
            f"{name}_out" if name in taken else name: tensor
            for name, tensor in named(outputs, OUTPUT).items()
        }

    def rebuilt(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
        """Outputs in the network's own form, from arrays by name."""
        return rebuild(self.outputs, [torch.from_numpy(arrays[name]) for name in self.outputs_by_name])

    def describe(self) -> dict[str, list[dict[str, Any]]]:
        """Inputs and outputs as plain data: name, dtype and shape of each."""
        return {
            "inputs": [_described(port) for port in ports(self.inputs_by_name)],
            "outputs": [_described(port) for port in ports(self.outputs_by_name)],
        }


def ports(tensors: Mapping[str, torch.Tensor]) -> list[Port]:
    """What named tensors are, without their values."""
    return [Port(n, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in tensors.items()]


def _described(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype, "shape": list(port.shape)}


def arrays(inputs: Inputs, wanted: Collection[str] | None = None) -> Arrays:
    """Inputs by name, as a runtime takes them; only those `wanted`, for an exporter drops what has no effect."""
    return {
        name: np.ascontiguousarray(tensor.detach().cpu().numpy())
        for name, tensor in named(inputs, INPUT).items()
        if wanted is None or name in wanted
    }


def relative_error(expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    """Root mean square of the difference over that of the expected values; infinite where only one is a number."""
    one, other = np.asarray(expected, dtype=np.float64), np.asarray(found, dtype=np.float64)
    if one.shape != other.shape:
        return float("inf")
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    if bool(same.all()):
        return 0.0
    one, other = np.where(same, 0.0, one), np.where(same, 0.0, other)
    size = np.sqrt(np.square(np.nan_to_num(np.asarray(expected, dtype=np.float64))).mean())
    error = float(np.sqrt(np.square(other - one).mean()) / max(float(size), 1e-12))
    return error if np.isfinite(error) else float("inf")
