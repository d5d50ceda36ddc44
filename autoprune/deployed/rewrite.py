"""From an exported program to a graph that calls layers: the second half of `lift`.

What disappears on the way: checks (they hold for the example only), regions without gradients or of another precision
(inlined), changes in place (replaced by what they compute), and results that nobody reads.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from autoprune.deployed.adopt import adopted
from autoprune.deployed.computed import settle_weights
from autoprune.deployed.lifting import Lifting, filled
from autoprune.errors import ModelError
from autoprune.tensors import Inputs, rebuild, tensors_in

CONSTANTS = "constants"
"""Where tensors lie that a forward makes from nothing (`torch.tensor(0.5)`)."""

# Operations that check and compute nothing.
_CHECKS = re.compile(r"_assert|sym_constrain|_guards|_check|set_grad_enabled|_(enter|exit)_autocast")
_aten = torch.ops.aten
# What returns its input: in evaluation that is dropout, too.
_UNCHANGED = tuple(
    getattr(_aten, name).default
    for name in ("lift_fresh_copy", "alias", "detach", "dropout", "feature_dropout", "alpha_dropout")
)
# Where a tensor was made says nothing about where the graph will run.
_DROPPED = ("pin_memory", "layout")


def rewritten(lifting: Lifting, program: torch.export.ExportedProgram, single: Inputs) -> fx.GraphModule:
    """The program with its layers back in place, and a signature as the network has it.

    Raises:
        ModelError: it holds an operation with branches or loops inside.
    """
    rewriter = _Rewriter(lifting, program)
    user = rewriter.inputs(single)
    placeholders = program.graph.find_nodes(op="placeholder")
    for spec, node in zip(program.graph_signature.input_specs, placeholders, strict=True):
        rewriter.nodes[node] = next(user) if spec.kind is InputKind.USER_INPUT else rewriter.read(spec, node)
    results = rewriter.copy(program.graph_module)
    # A functional program returns changed buffers first.
    own = results[len(results) - len(tensors_in(lifting.returned)) :]
    rewriter.graph.output(_plain(rebuild(lifting.returned, own)))
    return rewriter.finished()


def mutates(node: fx.Node) -> bool:
    """Whether a node changes a tensor in place."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def can_replace_mutations(graph: fx.Graph) -> bool:
    """Whether every change in place is one of a whole tensor that no view looks at."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    aliases: dict[fx.Node, list[fx.Node]] = {}
    root_of: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if not mutates(node):
            continue
        base = node.args[0]
        if not isinstance(base, fx.Node) or _functional(node) is None:
            return False
        root = root_of.get(base, base)
        group = aliases.setdefault(root, [root])
        views = [
            user for alias in group for user in alias.users if _is_view(user) and order[user] < order[node]
        ]
        if root.op != "call_function" or _is_view(root) or views:
            return False
        group.append(node)
        root_of[node] = root
    return True


def _functional(node: fx.Node) -> Any:
    """The operation that computes what a node would write, None where there is none."""
    target: Any = node.target
    packet = getattr(_aten, target._schema.name.removeprefix("aten::").removesuffix("_"), None)
    found = getattr(packet, target._overloadname, None)
    return found if found is not None and not found._schema.is_mutable else None


def _is_view(node: fx.Node) -> bool:
    """Whether a node's result may share memory with its input."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.target._schema.is_mutable:
        return False
    return node.target is _aten.dropout.default or any(r.alias_info for r in node.target._schema.returns)


class _Rewriter:
    """The graph in the making; `nodes` leads from the program's nodes to what stands for them."""

    def __init__(self, lifting: Lifting, program: torch.export.ExportedProgram) -> None:
        self.lifting, self.program = lifting, program
        self.graph = fx.Graph()
        self.root: dict[str, Any] = {}
        self.nodes: dict[fx.Node, Any] = {}
        self.root_of: dict[fx.Node, fx.Node] = {}

    def inputs(self, single: Inputs) -> Iterator[Any]:
        """Placeholders in the form of the inputs; their tensors in order."""
        if isinstance(single, Mapping):
            named = [(self.graph.placeholder(name), value) for name, value in single.items()]
        elif isinstance(single, tuple | list):
            named = [(self.graph.placeholder(f"input_{i}"), value) for i, value in enumerate(single)]
        else:
            named = [(self.graph.placeholder("x"), single)]
        return (part for node, value in named for part in self.parts(node, value))

    def parts(self, node: fx.Node, value: Any) -> Iterator[fx.Node]:
        """The tensors in what a node gives, which has the form of `value`."""
        if isinstance(value, torch.Tensor):
            yield node
        elif isinstance(value, Mapping):
            for key, part in value.items():
                yield from self.parts(self.graph.call_function(operator.getitem, (node, key)), part)
        elif isinstance(value, tuple | list):
            for index, part in enumerate(value):
                yield from self.parts(self.graph.call_function(operator.getitem, (node, index)), part)

    def read(self, spec: Any, placeholder: fx.Node) -> fx.Node:
        """A parameter, buffer or constant as something that the graph reads from its modules."""
        if spec.kind is InputKind.CONSTANT_TENSOR:
            return self._constant(self.program.constants[spec.target], placeholder.meta)
        path = spec.target.removeprefix("model.")
        owner, _, attribute = path.rpartition(".")
        self.root[path] = getattr(self.lifting.model.get_submodule(owner), attribute)
        return self._attribute(path, placeholder.meta)

    def _constant(self, value: torch.Tensor, meta: Mapping[str, Any]) -> fx.Node:
        path = f"{CONSTANTS}.c{sum(name.startswith(CONSTANTS) for name in self.root)}"
        self.root[path] = value.detach()
        return self._attribute(path, meta)

    def _attribute(self, path: str, meta: Mapping[str, Any]) -> fx.Node:
        node = self.graph.create_node("get_attr", path)
        node.meta["val"] = meta.get("val")
        return node

    def copy(self, module: fx.GraphModule) -> list[Any]:
        """Copy a graph whose placeholders are known; what it returns, flat."""
        for node in module.graph.nodes:
            if node.op == "output":
                return list(pytree.tree_leaves(self._mapped(node.args[0])))
            if node.op == "get_attr":
                value = functools.reduce(getattr, str(node.target).split("."), module)
                self.nodes[node] = (
                    self._constant(value, node.meta) if isinstance(value, torch.Tensor) else value
                )
            elif node.op != "placeholder" and not _CHECKS.search(str(node.target)):
                self.nodes[node] = self._made(node)
        return []

    def _made(self, node: fx.Node) -> Any:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return self._inlined(node)
        if node.target is torch.ops.autoprune.layer.default:
            return self._layer(node)
        if mutates(node):
            return self._replaced(node, _functional(node))
        args = self._mapped(node.args)
        if node.target is operator.getitem and isinstance(args[0], list | tuple):
            return args[0][args[1]]
        if node.target in _UNCHANGED:
            return args[0]
        kwargs = {name: value for name, value in self._mapped(node.kwargs).items() if name not in _DROPPED}
        if node.target is _aten.scaled_dot_product_attention.default and kwargs.get("scale") is None:
            # Pruned heads keep their scale.
            kwargs["scale"] = 1.0 / math.sqrt(int(node.args[0].meta["val"].shape[-1]))  # type: ignore[union-attr]
        return self._node(node, node.target, args, kwargs)

    def _node(self, node: fx.Node, target: Any, args: Any, kwargs: Any) -> fx.Node:
        made = self.graph.create_node("call_function", target, args, kwargs, node.name)
        made.meta.update({key: node.meta[key] for key in ("val", "stack_trace") if key in node.meta})
        return made

    def _replaced(self, node: fx.Node, target: Any) -> Any:
        """What a change in place computes; whoever reads the changed tensor from here on reads that."""
        args = self._mapped(node.args)
        if target in _UNCHANGED:
            return args[0]
        made = self._node(node, target, args, self._mapped(node.kwargs))
        base: Any = node.args[0]
        root = self.root_of.setdefault(node, self.root_of.get(base, base))
        for alias in (root, *(other for other, its in self.root_of.items() if its is root)):
            self.nodes[alias] = made
        return made

    def _inlined(self, node: fx.Node) -> list[Any]:
        """A region without gradients or with another precision, as what is in it."""
        places = [i for i, arg in enumerate(node.args) if isinstance(self._known(arg), fx.GraphModule)]
        if len(places) != 1 or not str(node.target).startswith("wrap"):
            raise ModelError(
                f"the forward pass cannot be written as a graph: it holds the operation {node.target}, whose branches "
                "or loops depend on values"
            )
        body: fx.GraphModule = self._known(node.args[places[0]])
        given = [self._known(arg) for arg in node.args[places[0] + 1 :]]
        self.nodes.update(zip(body.graph.find_nodes(op="placeholder"), given, strict=True))
        return self.copy(body)

    def _known(self, value: Any) -> Any:
        return self.nodes[value] if isinstance(value, fx.Node) else value

    def _layer(self, node: fx.Node) -> list[Any]:
        """A call of a layer in place of its stand-in; its tensors in order."""
        inputs, number = node.args
        path, args, kwargs = self.lifting.calls[int(number)]  # type: ignore[arg-type]
        self.root[path] = self.lifting.layers[path]
        made = self.graph.call_module(path, *filled(args, kwargs, self._mapped(inputs)))
        results = self.lifting.results[int(number)]  # type: ignore[arg-type]
        values = node.meta.get("val") or [None]
        if isinstance(results, torch.Tensor):
            made.meta["val"] = values[0]
            return [made]
        parts = list(self.parts(made, results))
        for part, value in zip(parts, values, strict=False):
            part.meta["val"] = value
        return parts

    def _mapped(self, value: Any) -> Any:
        return pytree.tree_map(self._known, value, is_leaf=lambda part: isinstance(part, fx.Node))

    def finished(self) -> fx.GraphModule:
        """The graph with its modules, without what nobody reads."""
        if self.lifting.settle:
            settle_weights(self.graph, self.root)
        adopted(self.graph, self.root, self.lifting.model)
        self.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        read = {str(node.target) for node in self.graph.nodes if node.op in ("get_attr", "call_module")}
        self.graph.lint()
        return fx.GraphModule({path: self.root[path] for path in sorted(read)}, self.graph)


def _plain(value: Any) -> Any:
    """Outputs as plain containers: dataclasses become dicts, without what is missing in them."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items() if part is not None}
    if isinstance(value, tuple):
        return tuple(_plain(part) for part in value)
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if hasattr(value, "__dataclass_fields__"):
        named = {name: getattr(value, name) for name in value.__dataclass_fields__}
        return {name: _plain(part) for name, part in named.items() if part is not None}
    return value if isinstance(value, fx.Node | bool | int | float | str) else None
