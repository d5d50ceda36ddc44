"""A deployed network as JSON: the operations of its traced graph, its layers, and no code.

Reading it back executes nothing but a list of known operations and makes nothing but known layers. `torch.fx`
turns a graph into Python source, so every text that ends up in it is checked to be a plain name first.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from autoprune.deployed import ActivationQuantizer, QuantizedLayer
from autoprune.errors import ArtifactError
from autoprune.export import literals, modules
from autoprune.export.operations import check_attribute, check_method, function_of, name_of

MOST_NODES = 100_000
OPERATIONS = ("placeholder", "get_attr", "call_function", "call_method", "call_module", "output")


class _Tracer(fx.Tracer):
    """Looks into a user's modules, not into layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one step of the graph."""
        return isinstance(m, ActivationQuantizer | QuantizedLayer) or super().is_leaf_module(
            m, module_qualified_name
        )


def trace(model: nn.Module) -> fx.GraphModule:
    """The network as a graph; one that is a graph already as it is.

    Raises:
        ArtifactError: its `forward` cannot be traced.
    """
    if isinstance(model, fx.GraphModule):
        return model
    try:
        return fx.GraphModule(model, _Tracer().trace(model)).eval()
    except Exception as error:  # whatever a user's forward raises on symbolic values
        raise ArtifactError(f"the model cannot be traced: {type(error).__name__}: {error}") from None


def to_json(model: fx.GraphModule) -> dict[str, Any]:
    """The graph as plain data: `nodes` in order, `layers` by path, `tensors` that it reads directly by path.

    Raises:
        ArtifactError: it holds an operation, layer or constant that cannot be stored without code.
    """
    nodes = [_node_to_json(node) for node in model.graph.nodes]
    called = {n["target"] for n in nodes if n["op"] == "call_module"}
    read = {n["target"] for n in nodes if n["op"] == "get_attr"}
    return {
        "nodes": nodes,
        "layers": {path: _described(path, model.get_submodule(path)) for path in sorted(called)},
        "tensors": {path: _tensor_to_json(model, path) for path in sorted(read)},
    }


def _described(path: str, layer: nn.Module) -> dict[str, Any]:
    try:
        return modules.describe(layer)
    except ArtifactError as error:
        raise ArtifactError(f"layer {path!r}: {error}") from None


def _node_to_json(node: fx.Node) -> dict[str, Any]:
    target = name_of(node.target) if callable(node.target) else node.target
    return {
        "op": node.op,
        "name": node.name,
        "target": target,
        "args": literals.to_json(node.args, _reference),
        "kwargs": literals.to_json(node.kwargs, _reference),
    }


def _reference(value: Any) -> dict[str, str]:
    if not isinstance(value, fx.Node):
        raise ArtifactError(f"a constant of type {type(value).__name__} cannot be stored")
    return {"node": value.name}


def _tensor_to_json(model: nn.Module, path: str) -> dict[str, Any]:
    owner, _, name = path.rpartition(".")
    tensor = getattr(model.get_submodule(owner), name)
    if not isinstance(tensor, torch.Tensor):
        raise ArtifactError(f"the model reads {path!r}, which is no tensor")
    dtype = literals.to_json(tensor.dtype)
    return {"shape": list(tensor.shape), "dtype": dtype, "parameter": isinstance(tensor, nn.Parameter)}


def from_json(data: Any) -> fx.GraphModule:
    """The graph that `to_json` wrote, in eval mode, without values: load a state with `assign=True`.

    Raises:
        ArtifactError: anything in it is unknown, malformed or out of bounds; nothing of it has been run.
    """
    if not isinstance(data, dict) or set(data) != {"nodes", "layers", "tensors"}:
        raise ArtifactError("the structure has no graph of nodes, layers and tensors")
    nodes, layers, tensors = data["nodes"], data["layers"], data["tensors"]
    if not isinstance(nodes, list) or not isinstance(layers, dict) or not isinstance(tensors, dict):
        raise ArtifactError("the structure's nodes, layers or tensors are not listed as such")
    if len(nodes) > MOST_NODES:
        raise ArtifactError(f"the structure has {len(nodes)} nodes; at most {MOST_NODES} are accepted")
    root: dict[str, Any] = {_path(path): modules.build(layer) for path, layer in layers.items()}
    root |= {_path(path): _tensor_from_json(tensor) for path, tensor in tensors.items()}
    graph = fx.Graph()
    known: dict[str, fx.Node] = {}
    for item in nodes:
        _add_node(graph, item, known, root)
    try:
        graph.lint()
        return fx.GraphModule(root, graph).eval()
    except Exception as error:  # torch's own checks of a graph
        raise ArtifactError(f"the structure is no graph: {type(error).__name__}: {error}") from None


def _tensor_from_json(data: Any) -> torch.Tensor:
    if not isinstance(data, dict) or set(data) != {"shape", "dtype", "parameter"}:
        raise ArtifactError("the structure holds a tensor without shape and dtype")
    shape, dtype = data["shape"], literals.from_json(data["dtype"])
    sizes_fit = isinstance(shape, list) and all(isinstance(n, int) and 0 <= n < 2**40 for n in shape)
    if not sizes_fit or not isinstance(dtype, torch.dtype):
        raise ArtifactError(f"the structure holds a tensor of shape {str(shape)[:80]}, dtype {dtype}")
    tensor = torch.empty(shape, dtype=dtype, device="meta")
    return nn.Parameter(tensor, requires_grad=False) if data["parameter"] is True else tensor


def _add_node(graph: fx.Graph, item: Any, known: dict[str, fx.Node], root: Mapping[str, Any]) -> None:
    if not isinstance(item, dict) or set(item) != {"op", "name", "target", "args", "kwargs"}:
        raise ArtifactError("the structure holds a node that is not op, name, target, args and kwargs")
    name = _identifier(item["name"])

    def named(other: str) -> fx.Node:
        if other not in known:
            raise ArtifactError(f"node {name!r} reads {other[:80]!r}, which is not computed before it")
        return known[other]

    args, kwargs = (literals.from_json(item[part], named) for part in ("args", "kwargs"))
    if not isinstance(args, tuple) or not isinstance(kwargs, dict) or name in known:
        raise ArtifactError(f"node {name!r} is malformed, or there twice")
    for key in kwargs:
        _identifier(key)
    target = _target(item["op"], item["target"], args, root)
    known[name] = graph.create_node(item["op"], target, args, kwargs, name)


def _target(op: Any, target: Any, args: tuple[Any, ...], root: Mapping[str, Any]) -> Any:
    if op == "call_function":
        function = function_of(target)
        if function is getattr:
            check_attribute(args)
        return function
    if op == "call_method":
        return check_method(target)
    if op in ("call_module", "get_attr"):
        path = _path(target)
        if path not in root or isinstance(root[path], nn.Module) != (op == "call_module"):
            raise ArtifactError(f"the structure uses {path!r}, which is not among its layers and tensors")
        return path
    if op in ("placeholder", "output"):
        return _identifier(target)
    raise ArtifactError(
        f"the structure holds a node of kind {str(op)[:80]!r}; known are {', '.join(OPERATIONS)}"
    )


def _identifier(text: Any) -> str:
    """`text`, if it is nothing but a name: fx writes it into source code as it is."""
    if not isinstance(text, str) or not text.isidentifier() or not text.isascii() or keyword.iskeyword(text):
        raise ArtifactError(f"the structure holds the name {str(text)[:80]!r}, which is not accepted")
    return text


def _path(text: Any) -> str:
    parts = text.split(".") if isinstance(text, str) else [""]
    if not all(part.isascii() and part.replace("_", "a").isalnum() for part in parts):
        raise ArtifactError(f"the structure holds the layer name {str(text)[:80]!r}, which is not accepted")
    return ".".join(parts)
