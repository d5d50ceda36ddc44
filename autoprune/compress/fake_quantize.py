"""Training with rounded numbers: the network as it will be deployed, but with gradients.

Rounding passes gradients straight through (Bengio et al., "Estimating or propagating gradients through
stochastic neurons", 2013; Jacob et al., "Quantization and training of neural networks", 2018). Weights are
rounded afresh in each step; activation ranges follow a moving average. BatchNorm stays apart: where scales are per
channel and symmetric, rounding before it and rounding after folding are the same, and where one scale serves the
whole weight, it is that of the folded weight.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from autoprune.deployed import ActivationQuantizer, trace
from autoprune.deployed.deploy import calls_every, insert_quantizers, quantizer_name, replace, unshare_weights
from autoprune.deployed.fold import folded_norms, module_of, norm_factor
from autoprune.deployed.kinds import (
    FUNCTIONS,
    channel_axis,
    float_weight,
    function_options,
    layer_kind,
    transposed_padding,
)
from autoprune.deployed.placement import Bits, place
from autoprune.deployed.quantizers import (
    FLOAT_BITS,
    along,
    form_of,
    has_one_scale,
    highest_code,
    holds_codes,
    weight_scale,
)

Fit = Callable[[ActivationQuantizer, float, float], None]
"""Gives a quantizer its grid for a range from low to high."""
MOMENTUM = 0.1
SMALLEST_FACTOR = 1e-12


class FakeQuantizedLayer(nn.Module):
    """A layer that computes with its rounded weight and learns the unrounded one.

    Args:
        layer: the float layer, whose parameters are trained.
        rounding: the rounded weight from the weight, with gradients.
        rounds_input: rounds the input, where nothing before the layer does.
    """

    def __init__(self, layer: nn.Module, rounding: nn.Module, rounds_input: nn.Module | None = None) -> None:
        super().__init__()
        self.layer, self.rounding, self.input = layer, rounding, rounds_input
        self.kind, self.options = layer_kind(layer), function_options(layer)

    def __getattr__(self, name: str) -> Any:
        """What other parts of a network may ask the layer for: its sizes, its options."""
        modules = vars(self).get("_modules", {})
        if name in modules or "layer" not in modules:
            return super().__getattr__(name)
        return getattr(modules["layer"], name)

    @property
    def weight(self) -> torch.Tensor:
        """The rounded weight, for parts of a network that read it past the layer."""
        rounded: torch.Tensor = self.rounding(float_weight(self.layer))
        return rounded

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


def round_weight(weight: torch.Tensor, widths: tuple[int, int], axis: int) -> torch.Tensor:
    """The weight as it will be stored, with the gradient of the weight itself."""
    bits, form = widths[0], form_of(widths)
    if bits >= FLOAT_BITS:
        return weight
    if not holds_codes(bits, form):
        return weight + (weight.half().float() - weight).detach()
    top = highest_code(bits)
    scale = weight_scale(weight, bits, axis, form)
    if has_one_scale(form):
        return torch.fake_quantize_per_tensor_affine(weight, float(scale), 0, -top, top)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -top, top)


class FoldedFactor(nn.Module):
    """By what the BatchNorm behind a layer multiplies each channel of its weight once it is folded in.

    Args:
        norm: that BatchNorm; without one there is nothing to multiply with.
        axis: of the weight, which counts output channels.
    """

    def __init__(self, norm: nn.Module | None, axis: int) -> None:
        super().__init__()
        self.norm, self.axis = norm, axis

    def forward(self, weight: torch.Tensor) -> torch.Tensor | None:
        """The factors, shaped as they multiply `weight`; None where there are none. Signs do not matter here."""
        if self.norm is None:
            return None
        return along(norm_factor(self.norm).abs().clamp(min=SMALLEST_FACTOR), self.axis, weight.dim())


class RoundedWeight(nn.Module):
    """Rounds a weight on the scale that suits it now.

    Args:
        layer: whose weight it is.
        widths: its bits and form.
        norm: the BatchNorm that will be folded into it, if there is one.
    """

    def __init__(self, layer: nn.Module, widths: tuple[int, int], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.widths, self.axis = widths, channel_axis(layer_kind(layer))
        self.factor = FoldedFactor(norm if has_one_scale(form_of(widths)) else None, self.axis)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        factor: torch.Tensor | None = self.factor(weight)
        if factor is None:
            return round_weight(weight, self.widths, self.axis)
        return round_weight(weight * factor, self.widths, self.axis) / factor


class MovingQuantizer(nn.Module):
    """An activation quantizer whose range follows what it sees in training.

    Args:
        bits: of the rounded numbers.
        fit: gives a quantizer its grid for a range.
    """

    range: torch.Tensor

    def __init__(self, bits: int, fit: Fit = ActivationQuantizer.set_range) -> None:
        super().__init__()
        self.rounding, self._fit = ActivationQuantizer(bits), fit
        self.register_buffer("range", torch.zeros(2))

    @torch.no_grad()
    def _follow(self, x: torch.Tensor) -> None:
        seen = torch.stack(torch.aminmax(x.detach().float()))
        is_new = float(self.rounding.scale) <= 0
        self.range.copy_(seen if is_new else torch.lerp(self.range, seen, MOMENTUM))
        self._fit(self.rounding, *self.range.tolist())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self._follow(x)
        rounded: torch.Tensor = self.rounding(x.float())
        return rounded


class Rounding:
    """How weights and activations are rounded in one stretch of training: here, on scales that follow the values.

    What it learns is kept on the float layers and in `learned`, so that a checkpoint has it.

    Args:
        fit: gives a quantizer of activations its grid for a range.
    """

    def __init__(self, fit: Fit = ActivationQuantizer.set_range) -> None:
        self._fit = fit

    def weight(
        self,
        name: str,  # noqa: ARG002
        layer: nn.Module,
        widths: tuple[int, int],
        norm: nn.Module | None,
    ) -> nn.Module:
        """What rounds the weight of a layer; `norm` is the BatchNorm that will be folded into it."""
        return RoundedWeight(layer, widths, norm)

    def activation(self, path: str, bits: int) -> nn.Module:  # noqa: ARG002
        """What rounds a tensor; `path` is that of its quantizer in the deployed network."""
        return MovingQuantizer(bits, self._fit)

    def on_step(self, share: float) -> None:
        """Keep what was learned, after an optimizer step; `share` of the stretch is over."""

    @property
    def learned(self) -> Mapping[str, Any]:
        """What a checkpoint keeps of it beside the tensors on the layers, as plain data; here nothing."""
        return {}


def share(model: nn.Module, made: dict[nn.Module, nn.Module] | None = None) -> nn.Module:
    """A network of the same parameters and buffers, whose modules can be replaced and `model` stays."""
    made = {} if made is None else made
    if model not in made:
        made[model] = twin = copy.copy(model)
        twin._modules = {
            name: share(child, made) if child is not None else None for name, child in model._modules.items()
        }
    return made[model]


def wrap_for_training(
    model: nn.Module, bits: Bits, example: Any, rounding: Rounding | None = None
) -> nn.Module:
    """The network with fake-quantizers in place; parameters and BatchNorm statistics are those of `model`.

    `model` itself has no other modules than before, so that its state is the same with and without, but for what
    `rounding` keeps on its layers.
    """
    rounding = rounding or Rounding()
    was_training = model.training
    graph = trace(model.train(), example)
    model.train(was_training)
    if graph is None or not calls_every(graph, bits):
        return _wrap_layers(model, bits, rounding)
    norms = folded_norms(graph.eval(), example)
    layer_of = {norm: layer for layer, norm in norms.items()}
    placements = place(graph, bits, norms)
    insert_quantizers(graph, placements)
    for placement in placements:
        deployed = layer_of.get(placement.tensor, placement.tensor)  # its BatchNorm is folded there
        quantizer = rounding.activation(quantizer_name(deployed.name, placement.bits), placement.bits)
        graph.set_submodule(quantizer_name(placement.tensor.name, placement.bits), quantizer)
    norm_of = {module_of(graph, layer): module_of(graph, norm) for layer, norm in norms.items()}
    layers = {name: module for name, module in graph.named_modules() if name in bits}
    unshare_weights(graph, bits)
    for name, layer in layers.items():
        rounded = rounding.weight(name, layer, bits[name], norm_of.get(layer))
        replace(graph, layer, FakeQuantizedLayer(layer, rounded))
    graph.recompile()
    return graph.train(was_training)


def _wrap_layers(model: nn.Module, bits: Bits, rounding: Rounding) -> nn.Module:
    """The same for a network that is not a graph: each layer rounds its own input."""
    twin = share(model)
    layers = {name: module for name, module in twin.named_modules() if name in bits}
    for name, layer in layers.items():
        width = bits[name][1]
        rounds = rounding.activation(f"{name}.input", width) if width < FLOAT_BITS else None
        replace(
            twin, layer, FakeQuantizedLayer(layer, rounding.weight(name, layer, bits[name], None), rounds)
        )
    return twin
