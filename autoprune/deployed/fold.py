"""BatchNorm folded into the layer before it: exact at inference, and one operation less.

Only pairs that are certain are folded: the layer feeds nothing but its BatchNorm, and each of the two is used
once.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from autoprune.deployed.kinds import channel_axis, float_weight, layer_kind
from autoprune.deployed.quantizers import STEP
from autoprune.tensors import Inputs

_NORMS = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d}


def module_of(graph: fx.GraphModule, node: Any) -> nn.Module | None:
    """The module that a node calls, None if it calls none."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    return graph.get_submodule(str(node.target))


def input_of(node: fx.Node) -> Any:
    """The first argument of a call, by position or by name; None where there is none."""
    return node.args[0] if node.args else next(iter(node.kwargs.values()), None)


def arguments(graph: fx.GraphModule, inputs: Inputs) -> list[Any]:
    """Inputs as `graph` takes them one after the other."""
    if isinstance(inputs, Mapping):
        return [inputs[str(node.target)] for node in graph.graph.find_nodes(op="placeholder")]
    return list(inputs) if isinstance(inputs, tuple | list) else [inputs]


def folded_norms(graph: fx.GraphModule, example: Any) -> dict[fx.Node, fx.Node]:
    """Layer node -> the BatchNorm node that can be folded into it."""
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    pairs = {}
    for node in graph.graph.nodes:
        norm = module_of(graph, node)
        if norm is None or type(norm) not in _NORMS or norm.running_mean is None:
            continue
        layer_node = input_of(node)
        layer = module_of(graph, layer_node)
        if layer is None or not layer_kind(layer) or len(layer_node.users) > 1:
            continue
        if calls.count(str(node.target)) == calls.count(str(layer_node.target)) == 1:
            pairs[layer_node] = node
    return _without_sequences(graph, pairs, example)


def _without_sequences(
    graph: fx.GraphModule, pairs: dict[fx.Node, fx.Node], example: Any
) -> dict[fx.Node, fx.Node]:
    """Without linear layers on sequences, whose BatchNorm normalises another axis than their outputs."""
    linear = [node for node in pairs if isinstance(module_of(graph, node), nn.Linear)]
    if not linear:
        return pairs
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ShapeProp(graph).propagate(*arguments(graph, example))
    sequences = [node for node in linear if len(node.meta["tensor_meta"].shape) != 2]
    return {layer: norm for layer, norm in pairs.items() if layer not in sequences}


def fold_batch_norm(
    graph: fx.GraphModule, example: Any
) -> dict[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """Fold in place whatever `folded_norms` found, and drop the modules that are no longer called.

    A step that was learned for each channel of a weight is folded with it; one step for all of them was learned on the
    folded weight.

    Returns:
        layer as folded -> its weight before, and the factor of each output channel.
    """
    unfolded = {}
    for layer_node, norm_node in folded_norms(graph, example).items():
        layer: Any = module_of(graph, layer_node)
        norm: Any = module_of(graph, norm_node)
        if isinstance(layer, nn.Linear):
            fused: nn.Module = fuse_linear_bn_eval(layer, norm)
        else:
            fused = fuse_conv_bn_eval(layer, norm, transpose=layer_kind(layer).startswith("ConvTranspose"))
        factor = norm_factor(norm)
        unfolded[fused] = (float_weight(layer).detach(), factor)
        step = fused._buffers.get(STEP)
        if step is not None and len(step) == layer.weight.shape[channel_axis(layer_kind(layer))]:
            fused.register_buffer(STEP, step * factor.abs())
        graph.set_submodule(str(layer_node.target), fused)
        norm_node.replace_all_uses_with(layer_node)
        graph.graph.erase_node(norm_node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return unfolded


@torch.no_grad()
def norm_factor(norm: Any) -> torch.Tensor:
    """By what a BatchNorm multiplies each channel at inference, shape (channels)."""
    factor: torch.Tensor = torch.rsqrt(norm.running_var + norm.eps)
    return factor * norm.weight.detach() if norm.weight is not None else factor
