"""Ranges for the quantizers of a deployed network, from what flows through it on training inputs.

Of each tensor a sample is kept, and the range with the least squared rounding error on it is taken. For eight
bits that is close to minimum and maximum; for fewer, the tails are cut off.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from autoprune.deployed import ActivationQuantizer, QuantizedLayer, input_quantizers
from autoprune.tensors import Inputs, call

# Values kept of a tensor per batch: enough for its distribution, little enough to try every cut-off on.
SAMPLE = 1 << 14
CUTS = tuple(1.0 - step / 20 for step in range(17))


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Inputs]) -> None:
    """Give every quantizer its range and put the biases on the integer grid, in place.

    Args:
        model: deployed and uncalibrated, so that what is observed has no rounding in it yet.
        batches: inputs.
    """
    seen: dict[ActivationQuantizer, list[torch.Tensor]] = {
        module: [] for module in model.modules() if isinstance(module, ActivationQuantizer)
    }
    hooks = [quantizer.register_forward_pre_hook(_keep(samples)) for quantizer, samples in seen.items()]
    try:
        for inputs in batches:
            call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for quantizer, samples in seen.items():
        if samples:
            quantizer.set_range(*best_range(torch.cat(samples), quantizer.bits))
    round_biases(model)


def _keep(samples: list[torch.Tensor]) -> Any:
    def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].detach().float().flatten()
        # A stride without small factors does not stay on one column of an image.
        stride = max(1, values.numel() // SAMPLE) | 1
        low, high = torch.aminmax(values)
        samples.append(torch.cat([values[::stride], low[None], high[None]]))

    return hook


def best_range(values: torch.Tensor, bits: int) -> tuple[float, float]:
    """The range, zero included, on which rounding to `bits` bits has the least squared error."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    errors = [(_rounding_error(values, low * cut, high * cut, bits), -cut) for cut in CUTS]
    cut = -min(errors)[1]
    return low * cut, high * cut


def _rounding_error(values: torch.Tensor, low: float, high: float, bits: int) -> float:
    scale = max((high - low) / (2**bits - 1), 1e-8)
    rounded = torch.fake_quantize_per_tensor_affine(values, scale, round(-low / scale), 0, 2**bits - 1)
    return float((rounded - values).square().mean())


def round_biases(model: nn.Module) -> None:
    """Put the biases of integer layers where the accumulator has them: on input scale times weight scale.

    A layer that is called several times, on inputs of different scales, keeps its bias as it is.
    """
    for name, quantizers in input_quantizers(model).items():
        layer = model.get_submodule(name)
        # As the integer runtime sees it: what counts is the tensor that arrives, not the bits that were asked
        # for.
        if len(quantizers) == 1 and quantizers[0] is not None and isinstance(layer, QuantizedLayer):
            layer.round_bias(quantizers[0])
