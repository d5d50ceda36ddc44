"""Counting: one forward pass for the multiplications, the deployed form for the bytes.

MACs are multiply-accumulates of one inference (half of what is called FLOPs), in whatever operation they
happen. BOPs weigh each with the bits of its two factors (Baskin et al., "UNIQ", 2021): 32 x 32 where nothing
is quantized.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from autoprune.cost.energy import energy_uj
from autoprune.cost.memory import peak_memory_bytes
from autoprune.cost.multiplications import multiplications
from autoprune.deployed import QuantizedLayer, deploy, layer_kind, stored_bytes
from autoprune.deployed.packing import stored_layer_bytes
from autoprune.deployed.quantizers import FLOAT_BITS
from autoprune.tensors import Inputs

Bits = Mapping[str, tuple[int, int]]
_FLOAT = (FLOAT_BITS, FLOAT_BITS)
# What the layers of torch.nn and transformers call the number of their outputs.
_OUTPUTS = ("out_channels", "out_features", "embedding_dim", "hidden_size", "embed_dim", "nf")


def count(model: nn.Module, example: Inputs, bits: Bits | None = None) -> dict[str, float]:
    """The costs of a float network once it is deployed with `bits`.

    Args:
        model: the network before quantization; not changed.
        example: inputs of batch size 1.
        bits: layer -> (weight bits, activation bits); layers that are not in it stay float.

    Returns:
        `params` and `macs` (numbers), `bops`, `size_bytes`: the exact size of the artifact's `model.safetensors`,
        `peak_memory_bytes`: of the activations that are alive at once (see `memory`), and `energy_uj`: modelled (see
        `energy`).
    """
    bits = bits or {}
    total, by_module = multiplications(model, example)
    # Layers that are quantized hold no others, so that nothing is counted twice.
    widths = [(by_module.get(name, 0), weight, activation) for name, (weight, activation) in bits.items()]
    deployed = deploy(model, bits, example)
    elsewhere = total - sum(macs for macs, _, _ in widths)
    return {
        "params": float(sum(parameter.numel() for parameter in model.parameters())),
        "macs": float(total),
        "bops": float(sum(macs * w * a for macs, w, a in widths) + elsewhere * FLOAT_BITS**2),
        "size_bytes": float(stored_bytes(deployed)),
        "peak_memory_bytes": float(peak_memory_bytes(deployed, example)),
        "energy_uj": energy_uj(deployed, example),
    }


def layer_table(model: nn.Module, example: Inputs) -> list[dict[str, Any]]:
    """Every layer of a deployed (or float) network that holds a matrix of weights, in the order of its modules.

    Returns:
        for each layer `name`, `kind`, `channels` (outputs), `weight_bits`, `activation_bits`, `params`,
        `macs`, `bops` and `bytes` (weight, scale and bias as stored).
    """
    _, by_module = multiplications(model, example)
    layers = {name: module for name, module in model.named_modules() if name and _holds_weights(module)}
    return [_row(name, module, _own_macs(name, layers, by_module)) for name, module in layers.items()]


def _holds_weights(module: nn.Module) -> bool:
    """Whether a module itself multiplies with a matrix, or looks rows of one up."""
    return isinstance(module, QuantizedLayer) or any(p.dim() > 1 for p in module.parameters(recurse=False))


def _own_macs(name: str, layers: Mapping[str, nn.Module], by_module: Mapping[str, int]) -> int:
    """The MACs of a layer without those of layers inside of it."""
    inside = [other for other in layers if other.startswith(f"{name}.")]
    outermost = [other for other in inside if not any(other.startswith(f"{one}.") for one in inside)]
    return by_module.get(name, 0) - sum(by_module.get(other, 0) for other in outermost)


def _row(name: str, module: nn.Module, macs: int) -> dict[str, Any]:
    if isinstance(module, QuantizedLayer):
        kind, weight_bits, activation_bits = module.kind, module.weight_bits, module.activation_bits
        weight = module.codes if module.has_codes else module.weight
        params = weight.numel() + (module.bias.numel() if module.bias is not None else 0)
        channels, stored = module.channels, stored_layer_bytes(module)
    else:
        kind, (weight_bits, activation_bits) = layer_kind(module) or type(module).__name__, _FLOAT
        own = list(module.parameters(recurse=False))
        params = sum(parameter.numel() for parameter in own)
        channels, stored = _channels(module), sum(p.numel() * p.element_size() for p in own)
    return {
        "name": name,
        "kind": kind,
        "channels": channels,
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "params": params,
        "macs": macs,
        "bops": macs * weight_bits * activation_bits,
        "bytes": stored,
    }


def _channels(module: nn.Module) -> int:
    """How many values a float layer gives at each place, as far as it says so."""
    given = (getattr(module, name, None) for name in _OUTPUTS)
    return next((size for size in given if isinstance(size, int)), 0)
