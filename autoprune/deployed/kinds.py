"""The layers that can be quantized: which they are, and each as a function of input, weight and bias."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "Linear": F.linear,
    "Conv1d": F.conv1d,
    "Conv2d": F.conv2d,
    "Conv3d": F.conv3d,
    "ConvTranspose1d": F.conv_transpose1d,
    "ConvTranspose2d": F.conv_transpose2d,
    "ConvTranspose3d": F.conv_transpose3d,
}


def layer_kind(module: nn.Module) -> str:
    """`Conv2d`, `Linear`, ... for a layer that can be quantized, an empty string for any other module.

    Left alone is what does more than its kind: a forward or padding of its own, hooks, a computed weight.
    """
    if is_transposed_linear(module):
        return "Linear"
    kind = next((kind for kind in FUNCTIONS if computes_as(module, getattr(nn, kind))), "")
    is_plain = isinstance(module._parameters.get("weight"), nn.Parameter) and not module._forward_pre_hooks
    return kind if is_plain and getattr(module, "padding_mode", "zeros") == "zeros" else ""


def computes_as(module: nn.Module, kind: type[Any]) -> bool:
    """Whether a module is of a kind, or of a subclass that changes nothing of what is computed."""
    names = ("forward", "_conv_forward", "__call__")
    return isinstance(module, kind) and all(
        getattr(type(module), name, None) is getattr(kind, name, None) for name in names
    )


class TransposedLinear(nn.Module):
    """transformers' `Conv1D` without transformers: weights of shape (inputs, outputs), a bias of shape (outputs).

    Args:
        nx: inputs.
        nf: outputs.
    """

    def __init__(self, nx: int, nf: int) -> None:
        super().__init__()
        self.nx, self.nf = nx, nf
        self.weight = nn.Parameter(torch.zeros(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    @staticmethod
    def arguments_of(layer: nn.Module) -> dict[str, Any]:
        """What the constructor takes to make a layer of this kind again."""
        inputs, outputs = layer.get_parameter("weight").shape
        return {"nx": inputs, "nf": outputs}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return rows.reshape(*x.shape[:-1], self.nf)


def float_weight(layer: nn.Module) -> torch.Tensor:
    """The weight of a layer that can be quantized, as the functional form of its kind wants it."""
    weight = layer.get_parameter("weight")
    return weight.t() if is_transposed_linear(layer) else weight


def is_transposed_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer whose weight lies the other way round, as transformers' `Conv1D` (GPT-2)."""
    kind = type(module)
    return kind is TransposedLinear or (
        kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"
    )


def channel_axis(kind: str) -> int:
    """The axis of a weight that counts output channels."""
    return 1 if kind.startswith("ConvTranspose") else 0


def function_options(layer: nn.Module) -> dict[str, Any]:
    """What the functional form of a layer takes beside input, weight and bias."""
    if layer_kind(layer) == "Linear":
        return {}
    names = ["stride", "padding", "dilation", "groups"]
    if layer_kind(layer).startswith("ConvTranspose"):
        names.append("output_padding")
    return {name: getattr(layer, name) for name in names}


def transposed_padding(
    x: torch.Tensor, output_size: Sequence[int], shape: Sequence[int], options: Mapping[str, Any]
) -> list[int]:
    """The `output_padding` with which a transposed convolution gives an output of this size."""
    kernel, axes = shape[2:], len(shape) - 2
    least = [
        (size - 1) * stride - 2 * padding + dilation * (width - 1) + 1
        for size, stride, padding, dilation, width in zip(
            x.shape[-axes:], options["stride"], options["padding"], options["dilation"], kernel, strict=True
        )
    ]
    return [size - smallest for size, smallest in zip(output_size[-axes:], least, strict=True)]
