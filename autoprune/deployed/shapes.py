"""What every layer of a network multiplies with what: the shapes and bits from which targets model their costs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn

from autoprune.deployed.kinds import channel_axis, float_weight, function_options, layer_kind
from autoprune.deployed.quantizers import FLOAT_BITS, QuantizedLayer
from autoprune.tensors import Inputs, call, tensors_in


class LayerShape(NamedTuple):
    """One call of a layer, of batch size 1.

    Attributes:
        name, kind: path and kind (`Conv2d`, `Linear`, ...).
        inputs, outputs: channels or features.
        kernel, stride: one number an axis; empty of a linear layer.
        groups: of a convolution.
        given, gives: sizes of input and output without channels: (height, width), (tokens) or nothing.
        weight_bits, activation_bits: of the weight and of the input; 32 where they are floats.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int
    given: tuple[int, ...]
    gives: tuple[int, ...]
    weight_bits: int
    activation_bits: int

    @property
    def weights(self) -> int:
        """Entries of the weight."""
        return self.inputs // self.groups * self.outputs * math.prod(self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the call."""
        places = self.given if self.kind.startswith("ConvTranspose") else self.gives
        return self.weights * math.prod(places)

    @property
    def reads(self) -> int:
        """Numbers that go in."""
        return self.inputs * math.prod(self.given)

    @property
    def writes(self) -> int:
        """Numbers that come out."""
        return self.outputs * math.prod(self.gives)


@torch.no_grad()
def layer_shapes(model: nn.Module, example: Inputs) -> list[LayerShape]:
    """Every call of a layer that can be quantized, in order.

    Args:
        model: float or deployed, in eval mode.
        example: inputs of batch size 1.
    """
    found: list[LayerShape] = []
    names = {module: name for name, module in model.named_modules() if _is_layer(module)}
    hooks = [
        module.register_forward_hook(
            lambda layer, given, out: found.append(_shape(names[layer], layer, tensors_in(given)[0], out))
        )
        for module in names
    ]
    try:
        call(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, QuantizedLayer) or bool(layer_kind(module))


def _shape(name: str, layer: nn.Module, given: torch.Tensor, out: torch.Tensor) -> LayerShape:
    if isinstance(layer, QuantizedLayer):
        kind, shape, options = layer.kind, tuple(layer.shape), layer.options
        bits = layer.weight_bits, layer.activation_bits
    else:
        kind, shape, options = layer_kind(layer), tuple(float_weight(layer).shape), function_options(layer)
        bits = FLOAT_BITS, FLOAT_BITS
    groups = int(options.get("groups", 1))
    swapped = channel_axis(kind) == 1
    inputs = shape[0] if swapped else shape[1] * groups
    outputs = shape[1] * groups if swapped else shape[0]
    is_linear = kind == "Linear"
    return LayerShape(
        name,
        kind,
        inputs,
        outputs,
        shape[2:],
        _numbers(options.get("stride", ()), len(shape) - 2),
        groups,
        tuple(given.shape[1:-1] if is_linear else given.shape[2:]),
        tuple(out.shape[1:-1] if is_linear else out.shape[2:]),
        *bits,
    )


def _numbers(given: Any, count: int) -> tuple[int, ...]:
    return (given,) * count if isinstance(given, int) else tuple(given)
