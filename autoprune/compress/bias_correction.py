"""Bias correction: what rounding shifts the mean of a layer's outputs by is taken out of its bias.

Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019,
https://arxiv.org/abs/1906.04721, section 4.2, with the means taken on inputs instead of derived from BatchNorm: layer
by layer in the order in which they run, so that each sees inputs that are corrected already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from autoprune.deployed import QuantizedLayer
from autoprune.tensors import Inputs, call, concatenate


@torch.no_grad()
def correct_biases(deployed: nn.Module, reference: nn.Module, batches: Sequence[Inputs]) -> None:
    """Shift the biases of `deployed`, in place, so that each layer's mean outputs are those of `reference`.

    A layer without a bias, or one that is called several times, stays as it is.

    Args:
        deployed: with ranges, and with biases that are not on the integer grid yet.
        reference: the same network deployed without rounding: layers of the same names, at 32 bits.
        batches: inputs; all of them go through the network at once.
    """
    inputs = concatenate(batches)
    means: dict[str, torch.Tensor] = {}
    calls: Counter[str] = Counter()

    def remember(name: str, mean: torch.Tensor) -> None:
        means[name] = mean
        calls[name] += 1

    _watch(reference, inputs, lambda name, layer, y: remember(name, _mean(layer, y)))

    def correct(name: str, layer: QuantizedLayer, y: torch.Tensor) -> torch.Tensor | None:
        if layer.bias is None or calls[name] != 1:
            return None
        error = _mean(layer, y) - means[name]
        layer.bias -= error
        return y - error.view([-1 if axis == _channel_axis(layer, y) else 1 for axis in range(y.dim())])

    _watch(deployed, inputs, correct)


def _watch(model: nn.Module, inputs: Inputs, see: Callable[[str, QuantizedLayer, torch.Tensor], Any]) -> None:
    """Run a network once and show `see` each layer's outputs; what it returns takes their place."""

    def hook(name: str) -> Callable[..., Any]:
        return lambda layer, _inputs, y: see(name, layer, y)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, QuantizedLayer):
                hooks.callback(module.register_forward_hook(hook(name)).remove)
        call(model, inputs)


def _channel_axis(layer: QuantizedLayer, y: torch.Tensor) -> int:
    return y.dim() - 1 - len(layer.shape[2:])


def _mean(layer: QuantizedLayer, y: torch.Tensor) -> torch.Tensor:
    """The mean output of each channel, shape (channels)."""
    others = [axis for axis in range(y.dim()) if axis != _channel_axis(layer, y)]
    return y.mean(others) if others else y
