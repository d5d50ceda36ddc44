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
from autoprune.deployed.deploy import calls_every, insert_quantizers, replace, unshare_weights
from autoprune.deployed.fold import folded_norms
from autoprune.deployed.kinds import (
    FUNCTIONS,
    channel_axis,
    float_weight,
    function_options,
    layer_kind,
    transposed_padding,
)
from autoprune.deployed.placement import Bits, place
from autoprune.deployed.quantizers import FLOAT_BITS, HALF_BITS, highest_code, weight_scale

MOMENTUM = 0.1


class FakeQuantizedLayer(nn.Module):
    """A layer that computes with its rounded weight and learns the unrounded one."""

    def __init__(self, layer: nn.Module, weight_bits: int, rounds_input: int = FLOAT_BITS) -> None:
        super().__init__()
        self.layer, self.weight_bits = layer, weight_bits
        self.kind, self.options = layer_kind(layer), function_options(layer)
        self.input = MovingQuantizer(rounds_input) if rounds_input < FLOAT_BITS else None

    def __getattr__(self, name: str) -> Any:
        """What other parts of a network may ask the layer for: its sizes, its options."""
        modules = vars(self).get("_modules", {})
        if name in modules or "layer" not in modules:
            return super().__getattr__(name)
        return getattr(modules["layer"], name)

    @property
    def weight(self) -> torch.Tensor:
        """The rounded weight, for parts of a network that read it past the layer."""
        return round_weight(float_weight(self.layer), self.weight_bits, channel_axis(self.kind))

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias of the layer."""
        return self.layer.bias  # type: ignore[return-value]

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """What the layer computes; the arguments have the names that they have there."""
        x = self.input(input) if self.input is not None else input
        weight, options = self.weight, self.options
        if output_size is not None:
            options = {**options, "output_padding": transposed_padding(x, output_size, weight.shape, options)}
        return FUNCTIONS[self.kind](x, weight, self.bias, **options)


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


def share(model: nn.Module, made: dict[nn.Module, nn.Module] | None = None) -> nn.Module:
    """A network of the same parameters and buffers, whose modules can be replaced and `model` stays."""
    made = {} if made is None else made
    if model not in made:
        made[model] = twin = copy.copy(model)
        twin._modules = {
            name: share(child, made) if child is not None else None for name, child in model._modules.items()
        }
    return made[model]


def wrap_for_training(model: nn.Module, bits: Bits, example: Any) -> nn.Module:
    """The network with fake-quantizers in place; parameters and BatchNorm statistics are those of `model`.

    `model` itself is not changed, so that its state is the same with and without.
    """
    was_training = model.training
    graph = trace(model.train(), example)
    model.train(was_training)
    if graph is None or not calls_every(graph, bits):
        twin = share(model)
        layers = {name: module for name, module in twin.named_modules() if name in bits}
        for name, layer in layers.items():
            replace(twin, layer, FakeQuantizedLayer(layer, *bits[name]))
        return twin
    insert_quantizers(graph, place(graph, bits, folded_norms(graph.eval(), example)))
    for name, module in list(graph.named_modules()):
        if isinstance(module, ActivationQuantizer):
            graph.set_submodule(name, MovingQuantizer(module.bits))
    layers = {name: module for name, module in graph.named_modules() if name in bits}
    unshare_weights(graph, bits)
    for name, layer in layers.items():
        replace(graph, layer, FakeQuantizedLayer(layer, bits[name][0]))
    graph.recompile()
    return graph.train(was_training)
