"""From a float network and the bits of its layers to its deployed form, not yet calibrated.

The form depends on structure and bits alone: `cost` builds it to know a size before anything is trained, and
`compress.quantize` builds it after training and then gives the quantizers their ranges.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx, nn

from autoprune.deployed.codebook import quantized_layer
from autoprune.deployed.fold import fold_batch_norm, input_of, module_of
from autoprune.deployed.kinds import layer_kind
from autoprune.deployed.placement import Bits, Placement, moves_values, place, summands
from autoprune.deployed.quantizers import FLOAT_BITS, ActivationQuantizer, QuantizedLayer
from autoprune.tensors import Inputs

QUANTIZERS = "activations"
UNSHARED = "unshared"


def trace(model: nn.Module, example: Inputs) -> fx.GraphModule | None:
    """The network as a graph that shares its modules, None when its `forward` cannot be traced symbolically.

    That is quick enough for every candidate. `lift` takes almost any network, but seconds; a network that it
    returned is a graph already, and is taken as it is.
    """
    if isinstance(model, fx.GraphModule):
        graph = fx.GraphModule(model, copy.deepcopy(model.graph))
        graph.meta.update(model.meta)
        return graph
    if not gives_every_argument(model, example):
        return None
    try:
        return fx.symbolic_trace(model)
    except Exception:
        # Whatever a user's forward raises on symbolic values, the answer is the same.
        return None


def gives_every_argument(model: nn.Module, example: Inputs) -> bool:
    """Whether nothing is left to defaults: a symbol would stand for them, which is neither None nor a number."""
    try:
        parameters = inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return True
    if isinstance(example, Mapping):
        return list(parameters) == list(example)
    given = len(example) if isinstance(example, tuple | list) else 1
    return given == len(parameters) or any(p.kind is p.VAR_POSITIONAL for p in parameters.values())


def deploy(model: nn.Module, bits: Bits, example: Inputs) -> nn.Module:
    """A copy of `model` with BatchNorm folded, quantizers in place and quantized weights.

    A network that cannot be traced, or hides its layers inside of others as nn.TransformerEncoderLayer does, keeps
    its BatchNorm, and every quantized layer rounds its own input: right, but without integers between the
    layers. It is the one case in which the result is not an `fx.GraphModule`.

    Args:
        model: the float network.
        bits: layer -> (weight bits, activation bits), `Widths` where the form of the weight is not the usual one;
            without any the network stays as it is.
        example: inputs of batch size 1.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    if not bits:
        return model
    graph = trace(model, example)
    if graph is None or not calls_every(graph, _present(model, bits)):
        return _deploy_layers(model, bits)
    unfolded = fold_batch_norm(graph, example)
    # The placement looks at float layers, so they are replaced after it.
    insert_quantizers(graph, place(graph, bits))
    unshare_weights(graph, bits)
    for name, widths in _present(graph, bits).items():
        layer = graph.get_submodule(name)
        replace(graph, layer, quantized_layer(layer, widths, unfolded=unfolded.get(layer)))
    graph.recompile()
    return graph.eval()


def calls_every(graph: fx.GraphModule, layers: Iterable[str]) -> bool:
    """Whether each layer is a step of the graph, not hidden inside of another one."""
    called = {graph.get_submodule(str(n.target)) for n in graph.graph.find_nodes(op="call_module")}
    return all(graph.get_submodule(name) in called for name in layers)


def unshare_weights(graph: fx.GraphModule, layers: Iterable[str]) -> None:
    """Give what reads the weight of a layer past it that weight as a parameter of its own, before it is replaced."""
    read = {f"{name}.weight": name for name in layers}
    for node in list(graph.graph.find_nodes(op="get_attr")):
        if (name := read.get(str(node.target))) is not None:
            path = f"{UNSHARED}_{name.replace('.', '_')}"
            graph.register_parameter(path, graph.get_submodule(name)._parameters["weight"])
            node.target = path
    graph.recompile()


def _deploy_layers(model: nn.Module, bits: Bits) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            # Its fused kernel reads the weights past the layers.
            module.activation_relu_or_gelu = 0
    for name, widths in _present(model, bits).items():
        layer, rounds = model.get_submodule(name), widths[1] < FLOAT_BITS
        replace(model, layer, quantized_layer(layer, widths, rounds_input=rounds))
    return model.eval()


def replace(model: nn.Module, layer: nn.Module, by: nn.Module) -> None:
    """Put another module in the place of a layer, wherever the network holds it."""
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is layer:
            model.set_submodule(name, by)


def _present(model: nn.Module, bits: Bits) -> dict[str, tuple[int, int]]:
    layers = {name for name, module in model.named_modules() if layer_kind(module)}
    return {name: widths for name, widths in bits.items() if name in layers}


def insert_quantizers(graph: fx.GraphModule, placements: list[Placement]) -> None:
    """Put a quantizer behind each placement's tensor, in place, and let its readers read that."""
    for placement in placements:
        name = quantizer_name(placement.tensor.name, placement.bits)
        graph.add_submodule(name, ActivationQuantizer(placement.bits))
        with graph.graph.inserting_after(placement.tensor):
            node = graph.graph.call_module(name, (placement.tensor,))
        for reader in placement.readers:
            reader.replace_input_with(placement.tensor, node)
    graph.recompile()


def quantizer_name(tensor: str, bits: int) -> str:
    """The path of the quantizer behind a tensor, given the name of its node."""
    if bits != 8:
        return f"{QUANTIZERS}.{tensor}_{bits}"
    # `to` is a method of the module that holds the quantizers.
    return f"{QUANTIZERS}.{tensor}_" if hasattr(nn.Module, tensor) else f"{QUANTIZERS}.{tensor}"


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


def quantized_sums(model: nn.Module) -> list[tuple[str, str, str]]:
    """Of each sum of two quantized tensors that is quantized itself the paths of these three quantizers, in order."""
    if not isinstance(model, fx.GraphModule):
        return []
    found = []
    for node in model.graph.nodes:
        if isinstance(module_of(model, node), ActivationQuantizer):
            origins = [_origin(model, one) for one in summands(model, input_of(node))]
            if origins and all(isinstance(module_of(model, one), ActivationQuantizer) for one in origins):
                first, second = (str(one.target) for one in origins)
                found.append((first, second, str(node.target)))
    return found


def _quantizer_before(graph: fx.GraphModule, node: fx.Node) -> ActivationQuantizer | None:
    """The quantizer from which nothing but moves of values lead to a node."""
    module = module_of(graph, _origin(graph, input_of(node)))
    return module if isinstance(module, ActivationQuantizer) else None


def _origin(graph: fx.GraphModule, tensor: Any) -> Any:
    """Where the values of a tensor come from that were only moved since."""
    while isinstance(tensor, fx.Node) and moves_values(graph, tensor):
        tensor = input_of(tensor)
    return tensor
