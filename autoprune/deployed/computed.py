"""Weights that a forward computes from parameters alone, put in the place of these parameters.

Standardised weights (Qiao et al. 2019), weights with a scale of their own, low-rank updates and the like are computed
anew in each pass, whatever the inputs. In a lifted network they are computed once: the layer is a plain one then, whose
input channels can go without a change of the others' values, and which can be quantized.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

_aten = torch.ops.aten
_TAKE_WEIGHTS = (
    _aten.linear.default,
    _aten.conv1d.default,
    _aten.conv2d.default,
    _aten.conv3d.default,
    _aten.conv2d.padding,
    _aten.conv1d.padding,
    _aten.conv_transpose1d.default,
    _aten.conv_transpose2d.input,
    _aten.conv_transpose3d.input,
)


def settle_weights(graph: fx.Graph, root: dict[str, Any]) -> None:
    """Replace each weight that is computed from parameters alone by its value, under the name of the parameter.

    A parameter is left alone if anything else reads it, or if the weight has another shape.

    Args:
        graph: of ATen operations, changed in place.
        root: what the graph reads and calls, by path; the values are put there.
    """
    constant = _constants(graph)
    for node in list(graph.nodes):
        weight = node.args[1] if node.target in _TAKE_WEIGHTS and len(node.args) > 1 else None
        if not isinstance(weight, fx.Node) or weight.op == "get_attr" or weight not in constant:
            continue
        value = _value(weight, root, {})
        path = _origin(weight, value, root)
        if path:
            root[path] = nn.Parameter(value.clone(), requires_grad=root[path].requires_grad)
            with graph.inserting_before(weight):
                settled = graph.get_attr(path)
            settled.meta = dict(weight.meta)
            weight.replace_all_uses_with(settled)


def _constants(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that depend on nothing but what the graph reads from its modules."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        made = node.op == "call_function" and all(given in found for given in node.all_input_nodes)
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if node.op == "get_attr" or (made and not random):
            found.add(node)
    return found


def _value(node: fx.Node, root: Mapping[str, Any], known: dict[fx.Node, Any]) -> Any:
    if node not in known:
        if node.op == "get_attr":
            known[node] = root[str(node.target)]
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda part: _value(part, root, known))
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return known[node]


def _origin(weight: fx.Node, value: Any, root: Mapping[str, Any]) -> str:
    """The path of the one parameter of the weight's shape from which it is computed; empty where there is none."""
    inside = _computed_from(weight)
    read = [node for node in inside if node.op == "get_attr"]
    paths = {str(node.target) for node in read if root[str(node.target)].shape == value.shape}
    if len(paths) != 1 or not isinstance(parameter := root[path := paths.pop()], nn.Parameter):
        return ""
    # Parametrizations stay what they are: who wants to be rid of them folds them.
    is_free = ".parametrizations." not in path and not _read_elsewhere(parameter, inside, weight.graph, root)
    return path if is_free else ""


def _read_elsewhere(
    parameter: nn.Parameter, inside: set[fx.Node], graph: fx.Graph, root: Mapping[str, Any]
) -> bool:
    """Whether a layer has this parameter, too, or anything but these nodes reads it, under whatever name."""
    called = (root[str(node.target)] for node in graph.find_nodes(op="call_module"))
    if any(parameter is own for layer in called for own in layer.parameters()):
        return True
    readers = (n for n in graph.find_nodes(op="get_attr") if root[str(n.target)] is parameter)
    return any(user not in inside for node in readers for user in node.users)


def _computed_from(node: fx.Node) -> set[fx.Node]:
    found, waiting = {node}, [node]
    while waiting:
        new = set(waiting.pop().all_input_nodes) - found
        found |= new
        waiting += new
    return found
