"""QONNX files: an ONNX graph in which `Quant` nodes say how wide each number is.

What the frontends of FPGA tools read (hls4ml, FINN; Pappalardo et al., "QONNX: representing arbitrary-precision
quantized neural networks", 2022). Weights are floats behind a `Quant` node of their own, biases too where they lie on
the grid of the accumulator; the standard's own library computes the file as we do.
"""

from __future__ import annotations

import copy
import io
import math
from typing import Any, NamedTuple

import torch
from torch import nn

from autoprune.deployed import input_quantizers
from autoprune.deployed.kinds import FUNCTIONS
from autoprune.deployed.quantizers import ActivationQuantizer, QuantizedLayer, along, has_one_scale
from autoprune.errors import ModelError, raised
from autoprune.targets.interface import Interface
from autoprune.targets.onnx_exporters import Flat, plain_forward, silence
from autoprune.tensors import Inputs, call

MODEL_FILE = "model.qonnx.onnx"
DOMAIN = "qonnx.custom_op.general"
OPSET = 13  # of the plain operators: what hls4ml reads
WIDEST_BIAS = 32


class _Grid(NamedTuple):
    """Whole numbers of so many bits, as QONNX has them.

    Attributes:
        bits: of one.
        is_signed, is_narrow: whether there are negative ones, and whether the lowest is left out.
        zero: the code of zero.
    """

    bits: int
    is_signed: bool
    is_narrow: bool = False
    zero: int = 0


class _Quant(torch.autograd.Function):
    """Rounds a tensor to a grid; to the exporter a node `Quant`."""

    @staticmethod
    def forward(_ctx: Any, x: torch.Tensor, scale: torch.Tensor, *grid: int) -> torch.Tensor:
        bits, is_signed, is_narrow, zero = grid
        lowest = -(2 ** (bits - 1)) + is_narrow if is_signed else 0
        highest = 2 ** (bits - 1) - 1 if is_signed else 2**bits - 1
        return (torch.clamp(torch.round(x / scale) + zero, lowest, highest) - zero) * scale

    @staticmethod
    def symbolic(g: Any, x: Any, scale: Any, *grid: int) -> Any:
        bits, is_signed, is_narrow, zero = grid
        constants = [g.op("Constant", value_t=torch.tensor(float(value))) for value in (zero, bits)]
        attributes = {"signed_i": is_signed, "narrow_i": is_narrow, "rounding_mode_s": "ROUND"}
        return g.op(f"{DOMAIN}::Quant", x, scale, *constants, **attributes).setType(x.type())


def _quantized(x: torch.Tensor, scale: torch.Tensor, grid: _Grid) -> torch.Tensor:
    rounded: torch.Tensor = _Quant.apply(x, scale, *map(int, grid))  # type: ignore[no-untyped-call]
    return rounded


class _Activation(nn.Module):
    """A quantizer of activations as a `Quant` node: signed where the code of zero is that in the middle."""

    scale: torch.Tensor

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        scale, zero = quantizer.grid.tolist()
        is_signed = int(zero) == 2 ** (quantizer.bits - 1)
        self.has_range = scale > 0
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.grid = _Grid(quantizer.bits, is_signed, zero=0 if is_signed else int(zero))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _quantized(x, self.scale, self.grid) if self.has_range else x


class _Layer(nn.Module):
    """A layer with `Quant` nodes behind its weight and its bias.

    Args:
        layer: as deployed.
        source: what rounds its input, if that is one quantizer.
    """

    step: torch.Tensor
    bias_step: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, layer: QuantizedLayer, source: ActivationQuantizer | None) -> None:
        super().__init__()
        self.kind, self.options, self.input = layer.kind, layer.options, layer.input
        is_linear = layer.kind == "Linear"  # as a product with a matrix that stands as it is multiplied
        weight = layer.dequantized()
        self.register_buffer("weight", weight.t().contiguous() if is_linear else weight)
        self.register_buffer("bias", layer.bias)
        self.grid: _Grid | None = None
        if layer.has_codes and not layer.shares_values:
            axis = weight.dim() - 1 - layer.axis if is_linear else layer.axis
            step = layer.scale[0] if has_one_scale(layer.form) else along(layer.scale, axis, weight.dim())
            self.grid = _Grid(layer.weight_bits, is_signed=True, is_narrow=True)
            self.register_buffer("step", step)
        self.bias_grid = self._grid_of_bias(layer, source)

    def _grid_of_bias(self, layer: QuantizedLayer, source: ActivationQuantizer | None) -> _Grid | None:
        """Where the bias lies on the grid of the accumulator: as few bits as hold it."""
        if layer.bias is None or source is None or not layer.computes_in_integers(source):
            return None
        self.register_buffer("bias_step", source.scale * layer.scale.squeeze())
        most = float((layer.bias / self.bias_step).abs().max())
        bits = max(2, math.ceil(math.log2(most + 1)) + 1)
        return _Grid(bits, is_signed=True) if bits <= WIDEST_BIAS else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.input is not None:
            x = self.input(x)
        weight, bias = self.weight, self.bias
        if self.grid is not None:
            weight = _quantized(weight, self.step, self.grid)
        if self.bias_grid is not None and bias is not None:
            bias = _quantized(bias, self.bias_step, self.bias_grid)
        if self.kind != "Linear":
            return FUNCTIONS[self.kind](x, weight, bias, **self.options)
        return x @ weight if bias is None else x @ weight + bias


def with_quant_nodes(model: nn.Module) -> nn.Module:
    """A copy of a deployed network that computes the same, and that an exporter writes with `Quant` nodes."""
    sources = {name: found for name, found in input_quantizers(model).items() if len(found) == 1}
    made = copy.deepcopy(model).eval()
    for name, module in list(made.named_modules()):
        if isinstance(module, QuantizedLayer):
            made.set_submodule(name, _Layer(module, sources.get(name, [None])[0]))
    for name, module in list(made.named_modules()):
        if isinstance(module, ActivationQuantizer):
            made.set_submodule(name, _Activation(module))
    return made


def to_qonnx(model: nn.Module, example: Inputs) -> bytes:
    """A deployed network as a QONNX file for inputs of batch size 1.

    Raises:
        ModelError: an operation that ONNX does not have.
    """
    made = with_quant_nodes(model)
    buffer = io.BytesIO()
    export: Any = torch.onnx.export  # its stubs know of file names only
    with torch.no_grad(), plain_forward(made), silence():
        interface = Interface(example, call(made, example))
        try:
            export(
                Flat(made, example),
                tuple(interface.inputs_by_name.values()),
                buffer,
                dynamo=False,
                opset_version=OPSET,
                input_names=list(interface.inputs_by_name),
                output_names=list(interface.outputs_by_name),
                custom_opsets={DOMAIN: 1},
                do_constant_folding=False,
                autograd_inlining=False,
            )
        except Exception as error:
            raise ModelError(f"the model cannot be written as QONNX: it {raised(error)}") from error
    return buffer.getvalue()
