"""Counting: one forward pass for the multiplications, the deployed form for the bytes.

MACs are multiply-accumulates of one inference (half of what is called FLOPs), in whatever operation they
happen. BOPs weigh each with the bits of its two factors (Baskin et al., "UNIQ", 2021): 32 x 32 where nothing
is quantized.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.deployed import QuantizedLayer, deploy, layer_kind, stored_bytes
from autoprune.deployed.packing import stored_layer_bytes
from autoprune.deployed.quantizers import FLOAT_BITS

Bits = Mapping[str, tuple[int, int]]
_FLOAT = (FLOAT_BITS, FLOAT_BITS)


def count(model: nn.Module, example: Any, bits: Bits | None = None) -> dict[str, float]:
    """The costs of a float network once it is deployed with `bits`.

    Args:
        model: the network before quantization; not changed.
        example: inputs of batch size 1.
        bits: layer -> (weight bits, activation bits); layers that are not in it stay float.

    Returns:
        `params` and `macs` (numbers), `bops`, and `size_bytes`: the exact size of the artifact's
        `model.safetensors`.
    """
    bits = bits or {}
    total, by_layer = _macs(model, example)
    widths = [(macs, *bits.get(name, _FLOAT)) for name, macs in by_layer.items()]
    elsewhere = total - sum(by_layer.values())
    return {
        "params": float(sum(parameter.numel() for parameter in model.parameters())),
        "macs": float(total),
        "bops": float(sum(macs * w * a for macs, w, a in widths) + elsewhere * FLOAT_BITS**2),
        "size_bytes": float(stored_bytes(deploy(model, bits, example))),
    }


def layer_table(model: nn.Module, example: Any) -> list[dict[str, Any]]:
    """Every convolution and linear layer of a deployed (or float) network, in the order of its modules.

    Returns:
        for each layer `name`, `kind`, `channels` (outputs), `weight_bits`, `activation_bits`, `params`,
        `macs`, `bops` and `bytes` (weight, scale and bias as stored).
    """
    _, by_layer = _macs(model, example)
    return [_row(name, module, by_layer.get(name, 0)) for name, module in _layers(model)]


def _row(name: str, module: nn.Module, macs: int) -> dict[str, Any]:
    bias = module.bias
    if isinstance(module, QuantizedLayer):
        kind, weight_bits, activation_bits = module.kind, module.weight_bits, module.activation_bits
        weight = module.codes if module.has_codes else module.weight
        channels = module.channels
    else:
        kind, (weight_bits, activation_bits) = layer_kind(module), _FLOAT
        weight = module.get_parameter("weight")
        channels = int(getattr(module, "out_channels", 0) or getattr(module, "out_features", 0))
    return {
        "name": name,
        "kind": kind,
        "channels": channels,
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "params": weight.numel() + (bias.numel() if isinstance(bias, torch.Tensor) else 0),
        "macs": macs,
        "bops": macs * weight_bits * activation_bits,
        "bytes": stored_layer_bytes(module),
    }


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if layer_kind(module) or isinstance(module, QuantizedLayer):
            yield name, module


@torch.no_grad()
def _macs(model: nn.Module, example: Any) -> tuple[int, dict[str, int]]:
    """Of one inference: in all, and of each layer."""
    was_training = model.training
    model.eval()
    try:
        with FlopCounterMode(display=False) as counter:
            model(example)
    finally:
        model.train(was_training)
    root = type(model).__name__
    counts = counter.get_flop_counts()
    by_layer = {
        name: sum(counts.get(f"{root}.{name}" if name else root, {}).values()) // 2
        for name, _ in _layers(model)
    }
    return counter.get_total_flops() // 2, by_layer
