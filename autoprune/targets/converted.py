"""A candidate for other frameworks, by converters that read a program of `torch.export`, each in its environment.

    model.tflite          LiteRT (TensorFlow Lite): a flat buffer for one example at a time
    saved_model.tar.gz    a folder that TensorFlow loads, packed
    model.pte             ExecuTorch, with XNNPACK

In LiteRT and ExecuTorch, weights of up to eight bits are bytes and activations of eight bits integers; activations of
other widths are rounded in floating point, as all numbers are in TensorFlow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import autoprune.targets.executorch_file as executorch_file
import autoprune.targets.litert_files as litert_files
from autoprune.deployed.kinds import FUNCTIONS
from autoprune.deployed.quantizers import INTEGER_BITS, ActivationQuantizer, QuantizedLayer
from autoprune.errors import ModelError
from autoprune.targets.environment import ask
from autoprune.targets.torch_export import EXAMPLE, Rounded, settled, to_program
from autoprune.targets.torch_export import MODEL_FILE as PROGRAM_FILE

if TYPE_CHECKING:
    from autoprune.tensors import Inputs

LITERT_FILE, SAVED_MODEL_FILE = "model.tflite", "saved_model.tar.gz"
EXECUTORCH_FILE = "model.pte"
LITERT, EXECUTORCH = "litert", "executorch"
TIME_LIMIT = 900.0
LOWEST, HIGHEST = -128, 127


class _Steps(Rounded):
    """A quantizer in plain arithmetic."""

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """See `Rounded`."""
        codes = torch.clamp(torch.round(x * (1 / self.scale)) + self.zero, 0, self.most)
        return (codes - self.zero) * self.scale


class _Bytes(nn.Module):
    """A quantizer of eight bits as signed bytes, and back."""

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        scale, zero = quantizer.grid.tolist()
        self.scale, self.zero = float(scale), int(zero) + LOWEST

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        operations = torch.ops.quantized_decomposed
        grid = (self.scale, self.zero, LOWEST, HIGHEST, torch.int8)
        codes = operations.quantize_per_tensor.default(x, *grid)
        made: torch.Tensor = operations.dequantize_per_tensor.default(codes, *grid)
        return made


class _ByteWeights(nn.Module):
    """A layer whose weight is stored as bytes, with a scale for each channel."""

    stored: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__()
        self.kind, self.options, self.axis, self.input = layer.kind, layer.options, layer.axis, layer.input
        self.register_buffer("stored", layer.codes)
        self.register_buffer("scale", layer.scale.expand(layer.shape[layer.axis]).contiguous())
        self.register_buffer("zero", torch.zeros(len(self.scale), dtype=torch.int64))
        self.register_buffer("bias", layer.bias)

    @property
    def grid(self) -> tuple[Any, ...]:
        """Of the codes, as operations on rounded numbers take it."""
        return self.scale, self.zero, self.axis, -HIGHEST, HIGHEST, torch.int8

    def codes(self) -> torch.Tensor:
        """The weight as bytes."""
        return self.stored

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.input is not None:
            x = self.input(x)
        dequantize = torch.ops.quantized_decomposed.dequantize_per_channel.default
        return FUNCTIONS[self.kind](x, dequantize(self.codes(), *self.grid), self.bias, **self.options)


class _RoundedWeights(_ByteWeights):
    """The same from floats: LiteRT's converter makes the bytes."""

    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__(layer)
        self.stored = layer.dequantized()

    def codes(self) -> torch.Tensor:
        made: torch.Tensor = torch.ops.quantized_decomposed.quantize_per_channel.default(
            self.stored, *self.grid
        )
        return made


def with_bytes(model: nn.Module, weights: type[_ByteWeights] = _ByteWeights) -> nn.Module:
    """A copy of a deployed network whose eight-bit numbers are bytes.

    Args:
        model: deployed.
        weights: what takes the place of a layer whose weight is integers.
    """
    import torch.ao.quantization.fx._decomposed  # the operations of rounded numbers

    made = settled(model, _Steps, INTEGER_BITS)
    for name, module in list(made.named_modules()):
        has_codes = isinstance(module, QuantizedLayer) and module.has_codes and not module.shares_values
        if has_codes and module.codes.dtype == torch.int8:
            made.set_submodule(name, weights(module))
    for name, module in list(made.named_modules()):
        if isinstance(module, ActivationQuantizer):
            made.set_submodule(name, _Bytes(module) if float(module.scale) > 0 else nn.Identity())
    return made


def to_litert(model: nn.Module, example: Inputs, _own: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """A deployed network as a LiteRT file.

    Raises:
        MissingExtra: the environment with litert-torch was not made yet.
        ModelError: torch.export cannot follow the model, or litert-torch not convert it.
    """
    return {
        LITERT_FILE: _written("litert", with_bytes(model, _RoundedWeights), example, (LITERT, litert_files))
    }


def to_savedmodel(model: nn.Module, example: Inputs, _own: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """A deployed network as a SavedModel, in which rounded numbers are computed as floats.

    Raises:
        MissingExtra: the environment with TensorFlow was not made yet.
        ModelError: torch.export cannot follow the model, or TensorFlow not carry it.
    """
    return {SAVED_MODEL_FILE: _written("savedmodel", settled(model, _Steps), example, (LITERT, litert_files))}


def to_executorch(model: nn.Module, example: Inputs, _own: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """A deployed network as an ExecuTorch program.

    Raises:
        MissingExtra: the environment with executorch was not made yet.
        ModelError: torch.export cannot follow the model, or ExecuTorch not carry it.
    """
    made = _written("executorch", with_bytes(model), example, (EXECUTORCH, executorch_file))
    return {EXECUTORCH_FILE: made}


def _written(form: str, model: nn.Module, example: Inputs, by: tuple[str, ModuleType]) -> bytes:
    """What the script of an environment makes of a network."""
    environment, script = by
    program = to_program(model, example, (EXAMPLE,))
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        given, made = Path(folder, PROGRAM_FILE), Path(folder, form)
        given.write_bytes(program.files[PROGRAM_FILE])
        request = {"program": str(given), form: str(made)}
        answer: dict[str, Any] = ask(environment, Path(str(script.__file__)), request, TIME_LIMIT)
        if "error" in answer:
            raise ModelError(f"{form} cannot carry the model: {answer['error']}")
        return made.read_bytes()
