"""From a float network and the bits of its layers to its deployed form, not yet calibrated.

The form depends on structure and bits alone: `cost` builds it to know a size before anything is trained, and
`compress.quantize` builds it after training and then gives the quantizers their ranges.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import fx, nn

from autoprune.deployed.fold import fold_batch_norm, module_of
from autoprune.deployed.placement import Bits, Placement, moves_values, place
from autoprune.deployed.quantizers import FLOAT_BITS, ActivationQuantizer, QuantizedLayer

QUANTIZERS = "activations"


def trace(model: nn.Module) -> fx.GraphModule | None:
    """The network as a graph that shares its modules, None when its `forward` cannot be traced."""
    try:
        return fx.symbolic_trace(model)
    except Exception:
        # Whatever a user's forward raises on symbolic values, the answer is the same.
        return None


def deploy(model: nn.Module, bits: Bits, example: Any) -> nn.Module:
    """A copy of `model` with BatchNorm folded, quantizers in place and quantized weights.

    A network that cannot be traced keeps its BatchNorm, and every quantized layer rounds its own input:
    right, but without integers between the layers. It is the one case in which the result is not an
    `fx.GraphModule`.

    Args:
        model: the float network.
        bits: layer -> (weight bits, activation bits); without any the network stays as it is.
        example: inputs of batch size 1.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    if not bits:
        return model
    graph = trace(model)
    if graph is None:
        return _deploy_layers(model, bits)
    fold_batch_norm(graph, example)
    # The placement looks at float layers, so they are replaced after it.
    insert_quantizers(graph, place(graph, bits))
    for name, (weight_bits, activation_bits) in _present(graph, bits).items():
        layer = graph.get_submodule(name)
        graph.set_submodule(name, QuantizedLayer.of(layer, weight_bits, activation_bits))
    graph.recompile()
    return graph.eval()


def _deploy_layers(model: nn.Module, bits: Bits) -> nn.Module:
    for name, (weight_bits, activation_bits) in _present(model, bits).items():
        rounds = activation_bits < FLOAT_BITS
        model.set_submodule(
            name,
            QuantizedLayer.of(model.get_submodule(name), weight_bits, activation_bits, rounds_input=rounds),
        )
    return model.eval()


def _present(model: nn.Module, bits: Bits) -> dict[str, tuple[int, int]]:
    names = {name for name, _ in model.named_modules()}
    return {name: widths for name, widths in bits.items() if name in names}


def insert_quantizers(graph: fx.GraphModule, placements: list[Placement]) -> None:
    """Put a quantizer behind each placement's tensor, in place, and let its readers read that."""
    for placement in placements:
        suffix = f"_{placement.bits}" if placement.bits != 8 else ""
        name = f"{QUANTIZERS}.{placement.tensor.name}{suffix}"
        graph.add_submodule(name, ActivationQuantizer(placement.bits))
        with graph.graph.inserting_after(placement.tensor):
            node = graph.graph.call_module(name, (placement.tensor,))
        for reader in placement.readers:
            reader.replace_input_with(placement.tensor, node)
    graph.recompile()


def input_quantizers(model: nn.Module) -> dict[str, list[ActivationQuantizer | None]]:
    """Quantized layer -> the quantizer of its input, one entry for each time that the layer is called."""
    if not isinstance(model, fx.GraphModule):
        own = {n: m.input for n, m in model.named_modules() if isinstance(m, QuantizedLayer)}
        return {name: [quantizer] for name, quantizer in own.items()}
    found: dict[str, list[ActivationQuantizer | None]] = {}
    for node in model.graph.nodes:
        if isinstance(module_of(model, node), QuantizedLayer):
            found.setdefault(str(node.target), []).append(_quantizer_before(model, node))
    return found


def _quantizer_before(graph: fx.GraphModule, node: fx.Node) -> ActivationQuantizer | None:
    """The quantizer from which nothing but moves of values lead to a node."""
    source = node.args[0]
    while isinstance(source, fx.Node) and moves_values(graph, source):
        source = source.args[0]
    module = module_of(graph, source)
    return module if isinstance(module, ActivationQuantizer) else None
