"""The way back from a deployed network to one that trains: its layers as floats, without quantizers.

What the deployed form has lost stays lost: BatchNorm is part of the layers before it, and a weight has the value that
its integers stand for.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from autoprune.deployed.deploy import replace
from autoprune.deployed.fold import input_of, module_of
from autoprune.deployed.quantizers import ActivationQuantizer, QuantizedLayer


def unquantize(model: nn.Module) -> nn.Module:
    """Make every quantized layer of a deployed network a layer of torch.nn, in place, and let all weights train.

    Args:
        model: a deployed network, a graph or not.

    Returns:
        the network itself, in eval mode; outputs are those of `model` but for the rounding of its activations.
    """
    if isinstance(model, fx.GraphModule):
        _remove_quantizers(model)
    for module in list(model.modules()):
        if isinstance(module, QuantizedLayer):
            replace(model, module, _float_layer(module))
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return model.eval()


def _remove_quantizers(graph: fx.GraphModule) -> None:
    for node in list(graph.graph.nodes):
        if isinstance(module_of(graph, node), ActivationQuantizer):
            node.replace_all_uses_with(input_of(node))
            graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()


def _float_layer(layer: QuantizedLayer) -> nn.Module:
    """The layer of torch.nn with the weight that the integers stand for."""
    kind = getattr(nn, layer.kind)
    has_bias = layer.bias is not None
    if layer.kind == "Linear":
        made: nn.Module = kind(layer.in_features, layer.out_features, bias=has_bias)
    else:
        kernel = tuple(layer.shape[2:])
        made = kind(layer.in_channels, layer.out_channels, kernel, bias=has_bias, **layer.options)
    with torch.no_grad():
        made.get_parameter("weight").copy_(layer.dequantized())
        if layer.bias is not None:
            made.get_parameter("bias").copy_(layer.bias)
    return made
