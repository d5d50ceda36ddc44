"""Operations that read all of their weights from one module, as the plain layer that they are.

Libraries subclass the layers of torch.nn (a BatchNorm with its activation inside, a convolution that pads itself), and
attention reads past the layers that hold its weights. Looked into, what remains is an ATen operation on a module's
parameters. As a layer of torch.nn that shares these parameters it can be trained, folded and quantized like any other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

_aten = torch.ops.aten
_CONVOLUTIONS: dict[Any, type[nn.Module]] = {
    _aten.conv1d.default: nn.Conv1d,
    _aten.conv2d.default: nn.Conv2d,
    _aten.conv3d.default: nn.Conv3d,
}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NORM_STATE = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def adopted(graph: fx.Graph, root: dict[str, Any], model: nn.Module) -> None:
    """Replace such operations by calls of plain layers, in place.

    Args:
        graph: of ATen operations.
        root: what the graph reads and calls, by path; the layers are added.
        model: whose modules own the parameters.
    """
    made: dict[str, nn.Module] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or (found := _layer(node, model)) is None:
            continue
        path, layer = found
        _take_settled(layer, path, root)
        if repr(made.setdefault(path, layer)) != repr(layer) or root.get(path, made[path]) is not made[path]:
            continue  # called with other options elsewhere
        root[path] = made[path]
        with graph.inserting_before(node):
            call = graph.call_module(path, (node.args[0],))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        graph.erase_node(node)


def _take_settled(layer: nn.Module, path: str, root: dict[str, Any]) -> None:
    """Give a layer the parameters that the graph reads, where these are others than its module's (`computed`)."""
    for name, own in list(layer.named_parameters()):
        read = root.get(f"{path}.{name}", own)
        if read is not own:
            setattr(layer, name, read)


def _layer(node: fx.Node, model: nn.Module) -> tuple[str, nn.Module] | None:
    """The path of the module that owns a node's weights, and the plain layer of these weights."""
    convolution = _CONVOLUTIONS.get(node.target)
    if node.target is _aten.batch_norm.default:
        owner = _owner(node.args[1:5], _NORM_STATE[:4])
    elif convolution is not None or node.target is _aten.linear.default:
        owner = _owner(node.args[1:3], ("weight", "bias"))
    else:
        return None
    if owner is None:
        return None
    module: Any = model.get_submodule(owner)
    if node.target is _aten.batch_norm.default:
        layer = _batch_norm(node, module)
    elif convolution is not None:
        layer = _convolution(node, module, convolution)
    else:
        layer = _linear(module, has_bias=len(node.args) > 2 and node.args[2] is not None)
    return (owner, layer) if layer is not None else None


def _owner(read: Any, names: tuple[str, ...]) -> str | None:
    """The module whose attributes of these names are what a node reads; None if it is not one, or not all."""
    owners = set()
    for value, name in zip(read, names, strict=False):
        if value is None and name == "bias":
            continue
        target = str(value.target) if isinstance(value, fx.Node) and value.op == "get_attr" else ""
        if not target.endswith(f".{name}"):
            return None
        owners.add(target.removesuffix(f".{name}"))
    return owners.pop() if len(owners) == 1 else None


def _batch_norm(node: fx.Node, module: Any) -> nn.Module | None:
    kind = next((kind for kind in _NORMS if isinstance(module, kind)), None)
    training, _momentum, eps = node.args[5:8]
    if kind is None or training or not module.affine or not module.track_running_stats:
        return None
    layer = kind(module.num_features, eps=float(eps), momentum=module.momentum, device="meta")  # type: ignore[arg-type]
    return _sharing(layer, module, _NORM_STATE)


def _convolution(node: fx.Node, module: Any, kind: Any) -> nn.Module | None:
    if not isinstance(module, kind):
        return None
    given = dict(zip(("stride", "padding", "dilation", "groups"), node.args[3:], strict=False)) | node.kwargs
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    if any(
        isinstance(part, fx.Node) for value in options.values() if isinstance(value, tuple) for part in value
    ):
        return None  # padding that depends on the batch
    groups = int(options.get("groups", 1))  # type: ignore[arg-type]
    outputs, inputs, *kernel = module.weight.shape
    has_bias = len(node.args) > 2 and node.args[2] is not None
    layer = kind(inputs * groups, outputs, tuple(kernel), bias=has_bias, device="meta", **options)
    return _sharing(layer, module, ("weight", "bias"))


def _linear(module: Any, has_bias: bool) -> nn.Module | None:
    if not isinstance(module, nn.Linear):
        return None
    layer = nn.Linear(module.in_features, module.out_features, bias=has_bias, device="meta")
    return _sharing(layer, module, ("weight", "bias"))


def _sharing(layer: nn.Module, module: Any, names: tuple[str, ...]) -> nn.Module | None:
    """The layer with the very tensors of a module; None where these are computed (parametrizations, hooks)."""
    for name in names:
        if getattr(layer, name) is None:
            continue
        own = {**module._parameters, **module._buffers}
        if own.get(name) is None:
            return None
        setattr(layer, name, own[name])
    return layer
