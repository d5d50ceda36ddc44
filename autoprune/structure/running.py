"""How a network is run while it is observed and compared: in eval mode, by plain kernels, its constants known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from autoprune.structure.known import Known, Source
from autoprune.tensors import Inputs, call, in_eval_mode


def run(model: nn.Module, inputs: Inputs) -> Any:
    """The network's outputs; a graph is interpreted with its constants known."""
    if not isinstance(model, fx.GraphModule):
        return call(model, inputs)
    return call(_Interpreter(model).forward, inputs)


@contextmanager
def plain_execution(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, and no fused kernels that hide what attention and recurrent layers do."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            in_eval_mode(model),
            torch.no_grad(),
            torch.backends.mkldnn.flags(False, None, None, None),
            _plain_attention(model),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


@contextmanager
def _plain_attention(model: nn.Module) -> Iterator[None]:
    """Attention of transformers as products and a softmax: there it uses numbers that its fused kernels do without."""
    name = "_attn_implementation"
    configs = {
        id(c): c for m in model.modules() if (c := vars(m).get("config")) is not None and hasattr(c, name)
    }
    before = [(config, getattr(config, name)) for config in configs.values()]
    for config, used in before:
        if used == "sdpa":
            setattr(config, name, "eager")
    try:
        yield
    finally:
        for config, used in before:
            setattr(config, name, used)


class _Interpreter:
    """Runs a graph node by node, with the integers in a node's arguments known by their place."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self._graph = graph

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        graph = self._graph
        values: dict[fx.Node, Any] = {}
        given = iter(args)
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                if node.target in kwargs:
                    values[node] = kwargs[node.target]
                else:
                    values[node] = next(given, node.args[0] if node.args else None)
            elif node.op == "output":
                return fx.map_arg(node.args[0], lambda n: values[n])
            else:
                values[node] = self._call(node, values)
        return None

    def _call(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        if node.op == "get_attr":
            value: Any = self._graph
            for part in str(node.target).split("."):
                value = getattr(value, part)
            return value
        args, kwargs = (
            _resolved(part, Source(node, name, (), node.name), values)
            for name, part in (("args", node.args), ("kwargs", node.kwargs))
        )
        if node.op == "call_module":
            return self._graph.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _resolved(value: Any, source: Source, values: dict[fx.Node, Any]) -> Any:
    """Arguments of a node: tensors for nodes, known integers for integers."""
    if isinstance(value, fx.Node):
        return values[value]
    if type(value) is int:
        return Known(value, source)

    def inner(key: Any, part: Any) -> Any:
        return _resolved(part, Source(source.owner, source.name, (*source.path, key), source.label), values)

    if isinstance(value, tuple | list):
        parts = [inner(i, part) for i, part in enumerate(value)]
        return tuple(parts) if isinstance(value, tuple) else parts
    if isinstance(value, dict):
        return {key: inner(key, part) for key, part in value.items()}
    if isinstance(value, slice):
        return slice(inner("start", value.start), inner("stop", value.stop), inner("step", value.step))
    return value
