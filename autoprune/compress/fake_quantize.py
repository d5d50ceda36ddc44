"""Quantization-aware training: the network as it will be deployed, but with gradients.

Rounding passes gradients straight through (Bengio et al., "Estimating or propagating gradients through
stochastic neurons", 2013; Jacob et al., "Quantization and training of neural networks", 2018). Weights are
rounded afresh in each step; activation ranges follow a moving average. BatchNorm stays apart: scales are per
channel and symmetric, so rounding before it and rounding after folding are the same.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from autoprune.deployed import ActivationQuantizer, trace
from autoprune.deployed.deploy import insert_quantizers
from autoprune.deployed.fold import folded_norms
from autoprune.deployed.placement import Bits, place
from autoprune.deployed.quantizers import (
    FLOAT_BITS,
    FUNCTIONS,
    HALF_BITS,
    channel_axis,
    function_options,
    highest_code,
    layer_kind,
    weight_scale,
)

MOMENTUM = 0.1


class FakeQuantizedLayer(nn.Module):
    """A layer that computes with its rounded weight and learns the unrounded one."""

    def __init__(self, layer: nn.Module, weight_bits: int, rounds_input: int = FLOAT_BITS) -> None:
        super().__init__()
        self.layer, self.weight_bits = layer, weight_bits
        self.kind, self.options = layer_kind(layer), function_options(layer)
        self.input = MovingQuantizer(rounds_input) if rounds_input < FLOAT_BITS else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.input is not None:
            x = self.input(x)
        weight = round_weight(self.layer.get_parameter("weight"), self.weight_bits, channel_axis(self.kind))
        return FUNCTIONS[self.kind](x, weight, self.layer.bias, **self.options)


def round_weight(weight: torch.Tensor, bits: int, axis: int) -> torch.Tensor:
    """The weight as it will be stored, with the gradient of the weight itself."""
    if bits >= FLOAT_BITS:
        return weight
    if bits == HALF_BITS:
        return weight + (weight.half().float() - weight).detach()
    top = highest_code(bits)
    scale = weight_scale(weight, bits, axis)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -top, top)


class MovingQuantizer(nn.Module):
    """An activation quantizer whose range follows what it sees in training."""

    range: torch.Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.rounding = ActivationQuantizer(bits)
        self.register_buffer("range", torch.zeros(2))

    @torch.no_grad()
    def _follow(self, x: torch.Tensor) -> None:
        seen = torch.stack(torch.aminmax(x.detach().float()))
        is_new = float(self.rounding.scale) <= 0
        self.range.copy_(seen if is_new else torch.lerp(self.range, seen, MOMENTUM))
        self.rounding.set_range(*self.range.tolist())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self._follow(x)
        rounded: torch.Tensor = self.rounding(x.float())
        return rounded


def share(model: nn.Module) -> nn.Module:
    """A network of the same parameters and buffers, whose modules can be replaced and `model` stays."""
    twin = copy.copy(model)
    twin._modules = {
        name: share(child) if child is not None else None for name, child in model._modules.items()
    }
    return twin


def wrap_for_training(model: nn.Module, bits: Bits, example: Any) -> nn.Module:
    """The network with fake-quantizers in place; parameters and BatchNorm statistics are those of `model`.

    `model` itself is not changed, so that its state is the same with and without.
    """
    was_training = model.training
    graph = trace(model.train())
    model.train(was_training)
    if graph is None:
        twin = share(model)
        for name, (weight_bits, activation_bits) in bits.items():
            twin.set_submodule(
                name, FakeQuantizedLayer(twin.get_submodule(name), weight_bits, activation_bits)
            )
        return twin
    insert_quantizers(graph, place(graph, bits, folded_norms(graph.eval(), example)))
    for name, module in list(graph.named_modules()):
        if isinstance(module, ActivationQuantizer):
            graph.set_submodule(name, MovingQuantizer(module.bits))
    for name, (weight_bits, _) in bits.items():
        graph.set_submodule(name, FakeQuantizedLayer(graph.get_submodule(name), weight_bits))
    graph.recompile()
    return graph.train(was_training)
