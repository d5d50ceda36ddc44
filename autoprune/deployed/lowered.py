"""A deployed network that computes in half precision, as graphics cards are fastest at it.

Its weights and everything between its layers are floats of 16 bits; what goes in and comes out stays a float of 32.
Codes of quantized layers, their scales and grids stay what they are: numbers that are rounded to a grid are rounded to
half precision after that.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from autoprune.deployed.quantizers import ActivationQuantizer, QuantizedLayer
from autoprune.errors import raised
from autoprune.space.precision import FLOAT32, HALF_PRECISIONS
from autoprune.tensors import Inputs, call, map_tensors, tensors_in

_TYPES = {name: getattr(torch, name) for name in HALF_PRECISIONS}
_EXACT = ("codes", "scale", "grid", "centroids")


class Lowered(nn.Module):
    """A copy of a network in half precision.

    Args:
        network: deployed, in eval mode.
        precision: one of `HALF_PRECISIONS`.
    """

    def __init__(self, network: nn.Module, precision: str) -> None:
        super().__init__()
        self.precision, self._type = precision, _TYPES[precision]
        self.network = copy.deepcopy(network)
        for module in self.network.modules():
            exact = _EXACT if isinstance(module, ActivationQuantizer | QuantizedLayer) else ()
            for parameter in module.parameters(recurse=False):
                if parameter.is_floating_point():
                    parameter.data = parameter.data.to(self._type)
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_floating_point() and name not in exact:
                    module._buffers[name] = buffer.to(self._type)
        self.eval().requires_grad_(False)

    def forward(self, *positional: Any, **named: Any) -> Any:
        """What the network gives, as floats of 32 bits."""
        outputs = self.network(*map_tensors(self._lowered, positional), **map_tensors(self._lowered, named))
        return map_tensors(_widened, outputs)

    def _lowered(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._type) if tensor.is_floating_point() else tensor


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def lowered(network: nn.Module, precision: str) -> nn.Module:
    """A network in one of `PRECISIONS`; itself in `float32`."""
    return network if precision == FLOAT32 else Lowered(network, precision)


def why_not_in(precision: str, network: nn.Module, example: Inputs) -> str:
    """Why a network cannot be computed in a half precision, empty where it can.

    Args:
        precision: one of `HALF_PRECISIONS`.
        network: in eval mode.
        example: inputs of batch size 1.
    """
    try:
        with torch.no_grad():
            outputs = tensors_in(call(Lowered(network, precision), example))
    except Exception as error:  # whatever a network does with numbers of another type
        return f"the network {raised(error)}"
    is_finite = all(bool(t.isfinite().all()) for t in outputs if t.is_floating_point())
    return "" if is_finite else "outputs of the network are not finite"


def rounds_anything(network: nn.Module) -> bool:
    """Whether a deployed network has weights or values of fewer than 16 bits."""
    return any(
        isinstance(module, ActivationQuantizer) or (isinstance(module, QuantizedLayer) and module.has_codes)
        for module in network.modules()
    )
