"""The two modules that a quantized network is made of, and the arithmetic behind them.

Weights: symmetric, one scale per output channel or one for the whole weight, codes in
[-(2^(b-1) - 1), 2^(b-1) - 1]. Where the scale is a power of two they are fixed-point numbers, as circuits multiply
them. Weights whose values are learned one by one are in `codebook`.
Activations: one scale and zero point per tensor, codes in [0, 2^b - 1]. The pair is what integer kernels want
(unsigned activations, signed weights) and what Krishnamoorthi, "Quantizing deep convolutional networks for
efficient inference" (2018), found to lose least.

Both modules compute in floating point exactly what the integer runtime computes, and carry an ONNX spelling
of themselves for the exporter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from autoprune.deployed.kinds import (
    FUNCTIONS,
    channel_axis,
    float_weight,
    function_options,
    layer_kind,
    transposed_padding,
)

FLOAT_BITS = 32
HALF_BITS = 16
INTEGER_BITS = 8
FIXED_POINT_BITS = 16
PER_CHANNEL, PER_TENSOR, CODEBOOK = "per_channel", "per_tensor", "codebook"
FIXED_POINT = "fixed_point"
FORMS = (PER_CHANNEL, PER_TENSOR, FIXED_POINT, CODEBOOK)
# How much of a range a power of two may cut off, in powers of two: an eighth.
CUT_OFF = 0.2
# The buffer in which a float layer carries the step of its weight that training learned.
STEP = "weight_step"
# Shares of a tensor's largest value at which its range is cut off, to find the one with the least error.
CLIPS = tuple(1.0 - step / 16 for step in range(13))
_SMALLEST_SCALE = 1e-12


class Widths(tuple[int, int]):
    """(weight bits, activation bits) of a layer, and the form in which a weight of 2 to 8 bits is stored.

    Args:
        weight_bits, activation_bits: the two entries of the tuple.
        form: `per_channel` or `per_tensor` (codes times a scale), `fixed_point` (codes times a power of two; of up to
            16 bits), or `codebook` (indices of a few values).
    """

    form: str

    def __new__(cls, weight_bits: int, activation_bits: int, form: str = PER_CHANNEL) -> Widths:
        made = super().__new__(cls, (weight_bits, activation_bits))
        made.form = form
        return made

    def __getnewargs__(self) -> tuple[int, int, str]:
        return (*self, self.form)


def form_of(widths: tuple[int, int]) -> str:
    """The form in which a weight of these bits is stored: codes with a scale for each channel unless it says more."""
    return widths.form if isinstance(widths, Widths) else PER_CHANNEL


class Codes(NamedTuple):
    """A weight as integers: `weight = codes * scale`, along the channel axis where there is a scale for each."""

    codes: torch.Tensor
    scale: torch.Tensor
    bits: int


def along(vector: torch.Tensor, axis: int, dimensions: int) -> torch.Tensor:
    """A vector shaped so that it broadcasts along one axis (a vector of one value: along all)."""
    return vector.view([-1 if i == axis else 1 for i in range(dimensions)])


def highest_code(bits: int) -> int:
    """The largest code of a weight; codes are symmetric around zero."""
    return int(2 ** (bits - 1)) - 1


def holds_codes(bits: int, form: str) -> bool:
    """Whether a weight of so many bits is integers times a scale; the others are floats."""
    return bits <= (FIXED_POINT_BITS if form == FIXED_POINT else INTEGER_BITS)


def has_one_scale(form: str) -> bool:
    """Whether one scale serves the whole weight."""
    return form in (PER_TENSOR, FIXED_POINT)


def power_of_two(step: float) -> float:
    """The power of two that is `step`, or a little less, or more."""
    return float(2.0 ** math.ceil(math.log2(step) - CUT_OFF))


def weight_scale(weight: torch.Tensor, bits: int, axis: int, form: str = PER_CHANNEL) -> torch.Tensor:
    """The scale with the least squared error: of each channel, shape (channels), or of all together, shape (1).

    With eight bits that is the largest value over the largest code. With fewer, cutting off the tails is
    worth more than it costs, so a few shares of the largest value are tried (as in Banner et al., "Post
    training 4-bit quantization of convolutional networks", 2019). The choice does not depend on how a channel
    is scaled: it is the same before and after BatchNorm is folded in.
    """
    top = highest_code(bits)
    rows = weight.detach().float().transpose(0, axis).flatten(1)
    if has_one_scale(form):
        rows = rows.reshape(1, -1)
    largest = rows.abs().amax(1)
    best = (largest / top).clamp(min=_SMALLEST_SCALE)
    if form == FIXED_POINT:
        best = torch.exp2(torch.ceil(torch.log2(best)))
        scales = [best, best / 2, best / 4]
    elif bits >= 8:
        return best
    else:
        scales = [(largest * clip / top).clamp(min=_SMALLEST_SCALE) for clip in CLIPS]
    least = torch.full_like(best, float("inf"))
    for scale in scales:
        codes = torch.round(rows / scale[:, None]).clamp(-top, top)
        error = (codes * scale[:, None] - rows).square().sum(1)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best


def encode(weight: torch.Tensor, scale: torch.Tensor, bits: int, axis: int) -> torch.Tensor:
    """The integer codes of a weight, as int8, or int16 where they have more bits."""
    top = highest_code(bits)
    return torch.round(weight / along(scale, axis, weight.dim())).clamp(-top, top).to(code_type(bits))


def code_type(bits: int) -> torch.dtype:
    """The smallest integers that hold codes of so many bits."""
    return torch.int8 if bits <= INTEGER_BITS else torch.int16


class _Dequantize(torch.autograd.Function):
    """Codes back to a weight; to the exporter a DequantizeLinear of an int8 constant."""

    @staticmethod
    def forward(_ctx: Any, codes: torch.Tensor, scale: torch.Tensor, axis: int) -> torch.Tensor:
        return codes.float() * along(scale, axis, codes.dim())

    @staticmethod
    def symbolic(g: Any, codes: Any, scale: Any, axis: int) -> Any:
        # One scale for all is a scalar there, as integer kernels want it.
        attributes = {"axis_i": axis} if scale.type().dim() else {}
        return g.op("DequantizeLinear", codes, scale, **attributes).setType(scale.type().with_sizes(None))


class _Requantize(torch.autograd.Function):
    """Round a tensor to its grid; to the exporter QuantizeLinear and DequantizeLinear."""

    @staticmethod
    def forward(
        _ctx: Any, x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int
    ) -> torch.Tensor:
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 2**bits - 1)

    @staticmethod
    def symbolic(g: Any, x: Any, scale: Any, zero: Any, _bits: int) -> Any:
        zero = g.op("Cast", zero, to_i=2)  # uint8
        codes = g.op("QuantizeLinear", x, scale, zero)
        return g.op("DequantizeLinear", codes, scale, zero).setType(x.type())


class ActivationQuantizer(nn.Module):
    """Rounds a tensor to `2 ** bits` evenly spaced values, zero among them.

    Passes everything through until it has a range. Its state is `grid`: scale and zero point.
    """

    grid: torch.Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("grid", torch.zeros(2))

    def arguments(self) -> dict[str, Any]:
        """What the constructor takes to make this module again, as plain data."""
        return {"bits": self.bits}

    @property
    def scale(self) -> torch.Tensor:
        """The distance between neighbouring values; 0 until the range is known."""
        return self.grid[0]

    def set_range(self, low: float, high: float) -> None:
        """Cover `low` to `high`, and zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        # Rounded to float32 first: the runtime has no more than that, and the zero point follows from it.
        scale = float(torch.tensor(max((high - low) / (2**self.bits - 1), 1e-8), dtype=torch.float32))
        self.set_grid(scale, round(-low / scale))

    def set_fixed_point(self, low: float, high: float) -> None:
        """Cover `low` to `high` by fixed-point numbers: unsigned ones where nothing is below zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        is_signed = low < 0
        most = 2 ** (self.bits - 1) - 1 if is_signed else 2**self.bits - 1
        scale = power_of_two(max(max(-low, high) / most, 1e-8))
        self.set_grid(scale, 2 ** (self.bits - 1) if is_signed else 0)

    def set_grid(self, scale: float, zero: int) -> None:
        """The distance between neighbouring values, and the code of zero."""
        self.grid.copy_(torch.tensor([scale, zero]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not float(self.grid[0]) > 0:
            return x
        zero = self.grid[1].to(torch.int32)
        if torch.onnx.is_in_onnx_export():
            return _Requantize.apply(x, self.grid[0], zero, self.bits)  # type: ignore[no-any-return,no-untyped-call]
        return torch.fake_quantize_per_tensor_affine(x, self.grid[0], zero, 0, 2**self.bits - 1)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class QuantizedLayer(nn.Module):
    """A convolution or linear layer whose weight is stored in few bits.

    Its state is `codes` and `scale` for 2 to 8 bits (to 16 of a fixed-point weight), or `weight` (float16 for 16
    bits, float32 for 32), and `bias` in float32, which `round_bias` puts on the grid of the integer accumulator, or
    `coarsen_bias` on one that suits the weights.

    Args:
        kind: `Conv2d`, `Linear`, ...
        shape: of the weight.
        options: keyword arguments of the functional form: stride, padding, dilation, groups.
        bias: whether there is one.
        weight_bits: 2 to 8, 16 or 32; 2 to 16 or 32 of a fixed-point weight.
        activation_bits: of the input, which a quantizer before this layer rounds; here for the record.
        rounds_input: this layer holds that quantizer itself (networks that cannot be traced).
        form: `per_channel`, `per_tensor` or `fixed_point`: how many scales the codes have, and which.
    """

    shares_values = False

    codes: torch.Tensor
    scale: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    input: ActivationQuantizer | None

    def __init__(
        self,
        kind: str,
        shape: Sequence[int],
        options: Mapping[str, Any],
        bias: bool,
        weight_bits: int,
        activation_bits: int,
        rounds_input: bool = False,
        form: str = PER_CHANNEL,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form: got {form!r}, expected one of {', '.join(FORMS)}")
        self.kind, self.shape, self.options, self.form = kind, tuple(shape), _tuples(options), form
        self.weight_bits, self.activation_bits = weight_bits, activation_bits
        if self.has_codes:
            self.register_buffer("codes", torch.zeros(self.shape, dtype=code_type(weight_bits)))
            self.register_buffer("scale", torch.ones(1 if has_one_scale(form) else self.shape[self.axis]))
        else:
            dtype = torch.float16 if weight_bits == HALF_BITS else torch.float32
            self.register_buffer("weight", torch.zeros(self.shape, dtype=dtype))
        self.register_buffer("bias", torch.zeros(self.channels) if bias else None)
        self.input = ActivationQuantizer(activation_bits) if rounds_input else None

    @classmethod
    def of(
        cls,
        layer: nn.Module,
        weight_bits: int,
        activation_bits: int,
        rounds_input: bool = False,
        form: str = PER_CHANNEL,
    ) -> QuantizedLayer:
        """The quantized form of a float layer, with the step of its weight that training learned if there is one."""
        weight, bias = float_weight(layer), layer.bias
        quantized = cls(
            layer_kind(layer),
            weight.shape,
            function_options(layer),
            bias is not None,
            weight_bits,
            activation_bits,
            rounds_input,
            form,
        )
        quantized.set_bias(bias)
        quantized.set_weight(weight, layer._buffers.get(STEP))
        return quantized.train(layer.training)

    def __getattr__(self, name: str) -> Any:
        """What other parts of a network may ask the float layer for: its weight, its sizes, its options."""
        if name == "weight" and "codes" in self._buffers:
            return self.dequantized()
        if name in vars(self).get("options", ()):
            return self.options[name]
        if name in ("out_features", "out_channels"):
            return self.channels
        if name in ("in_features", "in_channels"):
            return self.shape[0] if self.axis == 1 else self.shape[1] * int(self.options.get("groups", 1))
        return self.shape[2:] if name == "kernel_size" else super().__getattr__(name)

    @property
    def axis(self) -> int:
        """The axis of the weight that counts output channels."""
        return channel_axis(self.kind)

    @property
    def channels(self) -> int:
        """How many outputs the layer has."""
        # A transposed convolution counts those of one group only.
        groups = int(self.options.get("groups", 1)) if self.axis == 1 else 1
        return self.shape[self.axis] * groups

    @property
    def has_codes(self) -> bool:
        """Whether the weight is integers."""
        return holds_codes(self.weight_bits, self.form)

    def arguments(self) -> dict[str, Any]:
        """What the constructor takes to make this module again, as plain data."""
        return {
            "kind": self.kind,
            "shape": list(self.shape),
            "options": {k: list(v) if isinstance(v, tuple) else v for k, v in self.options.items()},
            "bias": self.bias is not None,
            "weight_bits": self.weight_bits,
            "activation_bits": self.activation_bits,
            "rounds_input": self.input is not None,
            "form": self.form,
        }

    @torch.no_grad()
    def set_bias(self, bias: Any) -> None:
        """Take over the bias of a float layer, which may have none."""
        if isinstance(bias, torch.Tensor) and self.bias is not None:
            self.bias.copy_(bias)

    @torch.no_grad()
    def set_weight(self, weight: torch.Tensor, scale: torch.Tensor | None = None) -> None:
        """Take over a float weight, on this scale or else on the one with the least error."""
        if not self.has_codes:
            self.weight.copy_(weight)
            return
        if scale is None:
            scale = weight_scale(weight, self.weight_bits, self.axis, self.form)
        self.scale.copy_(scale)
        self.codes.copy_(encode(weight.detach().float(), scale, self.weight_bits, self.axis))

    @torch.no_grad()
    def round_bias(self, source: ActivationQuantizer) -> None:
        """Put the bias where an integer layer has it: on multiples of input scale times weight scale.

        Does nothing to a layer that does not compute in integers on this input.
        """
        if self.bias is None or not self.computes_in_integers(source):
            return
        input_scale = float(source.scale)
        # A channel of (almost) zeros with a large bias would overflow the accumulator's 32 bits.
        smallest = self.bias.abs() / (input_scale * 2**30)
        if has_one_scale(self.form):
            smallest = smallest.amax().reshape(1)
        if self.form == FIXED_POINT:
            smallest = torch.exp2(torch.ceil(torch.log2(smallest.clamp(min=_SMALLEST_SCALE))))
        if bool((self.scale < smallest).any()):
            self.set_weight(self.dequantized(), torch.maximum(self.scale, smallest))
        step = (torch.tensor(input_scale, dtype=torch.float32) * self.scale).double()
        self.bias.copy_(torch.round(self.bias.double() / step) * step)

    def computes_in_integers(self, source: ActivationQuantizer | None) -> bool:
        """Whether an integer runtime multiplies integers here, given what rounds the input."""
        has_kernel = self.has_codes and not self.shares_values and self.axis == 0
        widest = FIXED_POINT_BITS if self.form == FIXED_POINT else INTEGER_BITS
        return has_kernel and source is not None and source.bits <= widest and float(source.scale) > 0

    @property
    def step(self) -> torch.Tensor:
        """The distance between neighbouring values of the weight, in each channel or of all."""
        return self.scale

    @torch.no_grad()
    def coarsen_bias(self) -> None:
        """Put the bias on multiples of a power of two that is at most a quarter of a step of the weights.

        A bias is the weight of an input of one. It so loses at most a quarter of what rounding costs a weight, and
        is stored in one or two bytes (see `packing`). One that is too large for that stays as it is.
        """
        step = float(self.step.median()) if self.has_codes else 0.0
        if self.bias is None or not 0 < step < math.inf:
            return
        unit = 2.0 ** math.floor(math.log2(step / 4))
        if float(self.bias.abs().max()) < unit * 2**14:
            self.bias.copy_(torch.round(self.bias / unit) * unit)

    def dequantized(self) -> torch.Tensor:
        """The weight as floats, shape as the float layer had it."""
        if not self.has_codes:
            return self.weight.float()
        if torch.onnx.is_in_onnx_export():
            scale = self.scale[0] if has_one_scale(self.form) else self.scale
            return _Dequantize.apply(self.codes, scale, self.axis)  # type: ignore[no-any-return,no-untyped-call]
        return self.codes.float() * along(self.scale, self.axis, self.codes.dim())

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """What the float layer computes; the arguments have the names that they have there."""
        x = self.input(input) if self.input is not None else input
        return self.multiply(x, self.dequantized(), output_size)

    def multiply(
        self, x: torch.Tensor, weight: torch.Tensor, output_size: list[int] | None = None
    ) -> torch.Tensor:
        """The layer with another weight of its shape; `output_size` as `nn.ConvTranspose2d` has it."""
        options = self.options
        if output_size is not None:
            options = {**options, "output_padding": transposed_padding(x, output_size, self.shape, options)}
        bias = self.bias
        if weight.dtype != x.dtype:  # the network computes in half precision
            weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        return FUNCTIONS[self.kind](x, weight, bias, **options)

    def extra_repr(self) -> str:
        return f"{self.kind}, shape={self.shape}, bits={self.weight_bits}/{self.activation_bits}"


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def weight_codes(model: nn.Module) -> dict[str, Codes]:
    """Layer -> codes, scale and bits, for every layer of a deployed model whose weight is integers times a scale."""
    return {
        name: Codes(module.codes, module.scale, module.weight_bits)
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLayer) and module.has_codes and not module.shares_values
    }
