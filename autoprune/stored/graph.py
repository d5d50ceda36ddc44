"""A deployed network as JSON: the operations of its graph, its layers, and no code.

Values lie in the artifact's weights, under the names that the network has for them; only what a network does not save
(positions, masks, constants in its forward) is part of the JSON.

Reading it back executes nothing but a list of known operations and makes nothing but known layers. `torch.fx`
turns a graph into Python source, so every text that ends up in it is checked to be a plain name first.
"""

from __future__ import annotations

import base64
import keyword
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn

import autoprune.stored.literals as literals
import autoprune.stored.modules as modules
from autoprune.deployed import ActivationQuantizer, QuantizedLayer, lift, unpack_state
from autoprune.deployed.deploy import gives_every_argument
from autoprune.deployed.packing import first_names
from autoprune.errors import ArtifactError, ModelError
from autoprune.stored.operations import check_attribute, check_method, function_of, name_of
from autoprune.tensors import Inputs

PARTS = ("nodes", "layers", "tensors", "values", "aliases")
MOST_NODES = 100_000
LARGEST_VALUE = 2**25
# What the names of layers may hold beside letters and digits; fx quotes names that are no identifiers.
_JOINTS = str.maketrans("_-", "aa")
OPERATIONS = ("placeholder", "get_attr", "call_function", "call_method", "call_module", "output")


class _Tracer(fx.Tracer):
    """Looks into a user's modules, not into layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one step of the graph."""
        return isinstance(m, ActivationQuantizer | QuantizedLayer) or super().is_leaf_module(
            m, module_qualified_name
        )


def store(model: nn.Module, example: Inputs) -> dict[str, Any]:
    """A deployed network as plain data, as a graph that can be stored: traced if that is possible, lifted otherwise.

    Args:
        model: whose packed state the artifact holds.
        example: inputs of batch size 1.

    Raises:
        ArtifactError: the network is no graph, or holds what cannot be stored without code.
    """
    try:
        return to_json(_traced(model, example), model)
    except ArtifactError as error:
        reason = error
    try:
        return to_json(lift(model, example, settle=False), model)
    except ModelError as error:
        raise ArtifactError(f"{error}; {reason}") from None


def _traced(model: nn.Module, example: Inputs) -> fx.GraphModule:
    if isinstance(model, fx.GraphModule):
        return model
    if not gives_every_argument(model, example):
        raise ArtifactError("the model cannot be traced: arguments of its forward are left to their defaults")
    try:
        return fx.GraphModule(model, _Tracer().trace(model)).eval()
    except Exception as error:  # whatever a user's forward raises on symbolic values
        raise ArtifactError(f"the model cannot be traced: {type(error).__name__}: {error}") from None


def to_json(graph: fx.GraphModule, model: nn.Module) -> dict[str, Any]:
    """The graph as plain data.

    Args:
        graph: shares its tensors with `model`.
        model: whose packed state the artifact holds.

    Returns:
        `nodes` in order, `layers` by path, `tensors` that nodes read by path, `values` of those of them that the state
        of `model` lacks, and `aliases`: other names for what is in that state.

    Raises:
        ArtifactError: it holds an operation, layer or constant that cannot be stored without code.
    """
    nodes = [_node_to_json(node) for node in graph.graph.nodes]
    called = {n["target"] for n in nodes if n["op"] == "call_module"}
    read = {n["target"] for n in nodes if n["op"] == "get_attr"}
    stored = first_names(model)
    state = graph.state_dict(keep_vars=True)
    return {
        "nodes": nodes,
        "layers": {path: _described(path, graph.get_submodule(path)) for path in sorted(called)},
        "tensors": {path: _tensor_to_json(graph, path) for path in sorted(read)},
        "values": {name: value_to_json(t) for name, t in state.items() if id(t) not in stored},
        "aliases": {name: stored[id(t)] for name, t in state.items() if stored.get(id(t), name) != name},
    }


def _described(path: str, layer: nn.Module) -> dict[str, Any]:
    try:
        return modules.describe(layer)
    except ArtifactError as error:
        raise ArtifactError(f"layer {path!r}: {error}") from None


def _node_to_json(node: fx.Node) -> dict[str, Any]:
    target = name_of(node.target) if callable(node.target) else node.target
    if node.target is getattr:
        check_attribute(node.args)
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


def value_to_json(tensor: torch.Tensor) -> dict[str, Any]:
    """A tensor that no state holds, as plain data.

    Raises:
        ArtifactError: it is too large for that.
    """
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if len(content) > LARGEST_VALUE:
        raise ArtifactError(
            f"the model makes a constant of {len(content)} bytes, which its state does not hold"
        )
    return {
        "shape": list(tensor.shape),
        "dtype": literals.to_json(tensor.dtype),
        "zlib": base64.b64encode(zlib.compress(content)).decode(),
    }


def restore(data: Any, packed: Mapping[str, torch.Tensor]) -> fx.GraphModule:
    """The network that `store` stored, with its values.

    Args:
        data: what JSON gave.
        packed: the artifact's weights, as `pack_state` packed them.

    Raises:
        ArtifactError: the structure is malformed (see `from_json`), or a value is.
        RuntimeError: the weights do not fit the structure.
    """
    made = from_json(data)
    state = unpack_state(packed, made)
    for name, other in data.get("aliases", {}).items():
        if other not in state:
            raise ArtifactError(
                f"the structure takes {str(name)[:80]!r} from {str(other)[:80]!r}, which is not stored"
            )
        state[name] = state[other]
    state |= {name: value_from_json(value) for name, value in data.get("values", {}).items()}
    wanted = made.state_dict()
    made.load_state_dict({name: state[name] for name in wanted if name in state}, assign=True)
    return made


def value_from_json(data: Any) -> torch.Tensor:
    """The tensor that `value_to_json` wrote.

    Raises:
        ArtifactError: it is malformed, or too large.
    """
    if (
        not isinstance(data, dict)
        or set(data) != {"shape", "dtype", "zlib"}
        or not isinstance(data["zlib"], str)
    ):
        raise ArtifactError("the structure holds a constant that is not shape, dtype and content")
    shaped = _tensor_from_json({"shape": data["shape"], "dtype": data["dtype"], "parameter": False})
    size = shaped.numel() * shaped.element_size()
    try:
        unzip = zlib.decompressobj()
        content = unzip.decompress(base64.b64decode(data["zlib"], validate=True), size + 1)
    except (ValueError, zlib.error) as error:
        raise ArtifactError(f"the structure holds a constant that cannot be read: {error}") from None
    if size > LARGEST_VALUE or len(content) != size:
        raise ArtifactError(f"the structure holds a constant of {len(content)} bytes where {size} belong")
    values = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
    return values.view(shaped.dtype).reshape(shaped.shape)


def from_json(data: Any) -> fx.GraphModule:
    """The graph that `to_json` wrote, in eval mode, without values: `restore` has them.

    Raises:
        ArtifactError: anything in it is unknown, malformed or out of bounds; nothing of it has been run.
    """
    if not isinstance(data, dict) or not {"nodes", "layers", "tensors"} <= set(data) <= set(PARTS):
        raise ArtifactError(f"the structure has no graph of {', '.join(PARTS)}")
    data = {"values": {}, "aliases": {}, **data}
    nodes, layers, tensors = data["nodes"], data["layers"], data["tensors"]
    if not isinstance(nodes, list) or not all(isinstance(data[part], dict) for part in PARTS[1:]):
        raise ArtifactError(f"the structure's {', '.join(PARTS)} are not listed as such")
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
    if not all(part.isascii() and part.translate(_JOINTS).isalnum() for part in parts):
        raise ArtifactError(f"the structure holds the layer name {str(text)[:80]!r}, which is not accepted")
    return ".".join(parts)
