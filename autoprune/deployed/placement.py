"""Where quantizers go in a traced network, so that an integer runtime can fuse everything between them.

Integer kernels need integers on both sides: a convolution whose output is not quantized, or an addition of
which one input is not, falls back to floating point. So three kinds of tensors are quantized:

1. what a quantized layer reads (through operations that only move values: flatten, pooling of maxima, ...);
2. what an integer convolution writes, after its ReLU;
3. what feeds an addition, concatenation or average whose result is quantized.

The first kind has the bits that its readers ask for; the others, derived, have eight. A layer that stays
float reads the unrounded tensor, unless an integer operation wrote it: that would not be one if anybody read
its floats. What the network returns is never quantized.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from autoprune.deployed.fold import input_of, module_of
from autoprune.deployed.kinds import layer_kind
from autoprune.deployed.quantizers import FLOAT_BITS

Bits = Mapping[str, tuple[int, int]]
"""Layer -> (weight bits, activation bits)."""

DERIVED_BITS = 8
_aten = torch.ops.aten

# Operations by what they do to values: functions, names of methods, classes of modules.
_MOVES: tuple[Any, ...] = (
    torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.permute, torch.transpose,
    F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d, F.dropout,
    "flatten", "view", "reshape", "squeeze", "unsqueeze", "permute", "transpose", "contiguous", "detach",
    nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.PixelShuffle,
    nn.PixelUnshuffle, nn.ChannelShuffle, torch.channel_shuffle, F.pixel_shuffle,
    _aten.flatten.using_ints, _aten.reshape.default, _aten.view.default, _aten._unsafe_view.default,
    _aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.unsqueeze.default, _aten.permute.default,
    _aten.transpose.int, _aten.t.default, _aten.contiguous.default, _aten.clone.default, _aten.expand.default,
    _aten.slice.Tensor, _aten.select.int, _aten.roll.default, _aten.channel_shuffle.default,
    _aten.pixel_shuffle.default, _aten.unflatten.int,
    _aten.max_pool1d.default, _aten.max_pool2d.default, _aten.max_pool3d.default, _aten.dropout.default,
)  # fmt: skip
_RECTIFIES: tuple[Any, ...] = (
    F.relu, F.relu_, F.relu6, torch.relu, torch.relu_, "relu", "relu_", nn.ReLU, nn.ReLU6,
    _aten.relu.default, _aten.relu6.default,
)  # fmt: skip
_COMBINES: tuple[Any, ...] = (
    operator.add, operator.iadd, torch.add, torch.cat, torch.concat, torch.mean,
    F.avg_pool1d, F.avg_pool2d, F.avg_pool3d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
    "add", "add_", "mean",
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    _aten.add.Tensor, _aten.cat.default, _aten.concat.default, _aten.mean.dim, _aten.mean.default,
    _aten.avg_pool1d.default, _aten.avg_pool2d.default, _aten.avg_pool3d.default,
    _aten.adaptive_avg_pool1d.default, _aten.adaptive_avg_pool2d.default, _aten.adaptive_avg_pool3d.default,
)  # fmt: skip
_ADDITIONS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_", _aten.add.Tensor)


@dataclass(frozen=True)
class Placement:
    """A quantizer: the tensor that it rounds, to how many bits, and who reads the rounded tensor."""

    tensor: fx.Node
    bits: int
    readers: tuple[fx.Node, ...]


def place(
    graph: fx.GraphModule, bits: Bits, norms: Mapping[fx.Node, fx.Node] | None = None
) -> list[Placement]:
    """The quantizers of a network.

    Args:
        graph: the traced network.
        bits: of the layers that do not stay float.
        norms: layer node -> BatchNorm node that counts as a part of the layer (none are left once folded).
    """
    return _Placer(graph, bits, norms or {}).placements()


def moves_values(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node passes the values of its input on unchanged (or zeros beside them)."""
    if node.target is F.pad:
        mode = node.kwargs.get("mode", node.args[2] if len(node.args) > 2 else "constant")
        value = node.kwargs.get("value", node.args[3] if len(node.args) > 3 else 0)
        return mode == "constant" and not value
    if node.target in (_aten.pad.default, _aten.constant_pad_nd.default):
        return not any(value not in ("constant", 0, None) for value in node.args[2:])
    if node.target is operator.getitem:
        # An integer picks one of several results, a name one of a dict; only slices of a tensor move values.
        return not isinstance(node.args[1], int | str)
    return _is(graph, node, _MOVES)


def summands(graph: fx.GraphModule, tensor: Any) -> list[fx.Node]:
    """The two tensors whose sum, or its ReLU, a tensor is; none for any other."""
    total = input_of(tensor) if isinstance(tensor, fx.Node) and _is(graph, tensor, _RECTIFIES) else tensor
    if not isinstance(total, fx.Node) or not _is(graph, total, _ADDITIONS) or total.kwargs:
        return []
    given = [node for node in total.all_input_nodes if not is_size(node)]
    return given if len(given) == 2 else []


def is_size(node: fx.Node) -> bool:
    """Whether a node gives a number, not a tensor."""
    return node.target is _aten.sym_size.int or isinstance(node.meta.get("val"), torch.SymInt | int | float)


def _is(graph: fx.GraphModule, node: fx.Node, operations: tuple[Any, ...]) -> bool:
    if node.op == "call_module":
        return type(module_of(graph, node)) in operations
    return node.op in ("call_function", "call_method") and node.target in operations


class _Placer:
    """The graph, with the questions that placement asks of it."""

    def __init__(self, graph: fx.GraphModule, bits: Bits, norms: Mapping[fx.Node, fx.Node]) -> None:
        self.graph, self.bits = graph, bits
        self.norms = dict(norms)
        self.layer_of_norm = {norm: layer for layer, norm in norms.items()}
        self.needed: dict[fx.Node, set[int]] = {}
        self.written: set[fx.Node] = set()

    def placements(self) -> list[Placement]:
        self._need_what_layers_read()
        self._need_what_convolutions_write()
        self._need_what_is_combined()
        found = []
        for tensor, widths in self.needed.items():
            readers: dict[int, list[fx.Node]] = {width: [] for width in widths}
            written = self._is_written_in_integers(tensor)
            for user in tensor.users:
                wanted = self._wanted(user)
                if user.op != "output" and (written or wanted != FLOAT_BITS):
                    readers[wanted if wanted in widths else max(widths)].append(user)
            found += [Placement(tensor, width, tuple(users)) for width, users in readers.items() if users]
        return found

    # -- which tensors ---------------------------------------------------------------------------------------

    def _need_what_layers_read(self) -> None:
        for node in self._layers():
            width = self.bits.get(str(node.target), (FLOAT_BITS, FLOAT_BITS))[1]
            if width < FLOAT_BITS:
                self.needed.setdefault(self._origin(input_of(node)), set()).add(width)

    def _need_what_convolutions_write(self) -> None:
        for node in self._layers():
            weight_bits, activation_bits = self.bits.get(str(node.target), (FLOAT_BITS, FLOAT_BITS))
            is_linear = layer_kind(self.graph.get_submodule(str(node.target))) == "Linear"
            if is_linear or weight_bits > 8 or activation_bits > 8:
                continue
            end = self._end(node)
            if not self._is_returned(end):
                self.needed.setdefault(end, {DERIVED_BITS})
                self.written.add(end)

    def _need_what_is_combined(self) -> None:
        waiting = list(self.needed)
        while waiting:
            inputs = self._combined(waiting.pop())
            if not inputs or not all(self._can_be_integer(tensor) for tensor in inputs):
                continue
            for tensor in inputs:
                if tensor not in self.needed:
                    self.needed[tensor] = {DERIVED_BITS}
                    waiting.append(tensor)

    def _is_written_in_integers(self, tensor: fx.Node) -> bool:
        inputs = self._combined(tensor)
        return tensor in self.written or (bool(inputs) and all(other in self.needed for other in inputs))

    def _can_be_integer(self, tensor: fx.Node) -> bool:
        inputs = self._combined(tensor)
        return tensor in self.needed or (
            bool(inputs) and all(self._can_be_integer(other) for other in inputs)
        )

    # -- the graph -------------------------------------------------------------------------------------------

    def _layers(self) -> Iterator[fx.Node]:
        for node in self.graph.graph.nodes:
            module = module_of(self.graph, node)
            if module is not None and layer_kind(module):
                yield node

    def _origin(self, node: Any) -> fx.Node:
        """The tensor whose values a node passes on, as far back as all who read them want the same."""
        while (
            moves_values(self.graph, node)
            and isinstance(input_of(node), fx.Node)
            and len(self._wishes(node)) < 2
        ):
            node = input_of(node)
        return node  # type: ignore[no-any-return]

    def _end(self, node: fx.Node) -> fx.Node:
        """Where a layer's output is quantized: after its BatchNorm and its ReLU."""
        node = self.norms.get(node, node)
        users = list(node.users)
        return users[0] if len(users) == 1 and _is(self.graph, users[0], _RECTIFIES) else node

    def _combined(self, tensor: fx.Node) -> list[fx.Node]:
        """The tensors that a sum, concatenation or average (and its ReLU) is made of; none for any other."""
        if (
            _is(self.graph, tensor, _RECTIFIES)
            and isinstance(input_of(tensor), fx.Node)
            and len(input_of(tensor).users) == 1
        ):
            tensor = input_of(tensor)
        if not _is(self.graph, tensor, _COMBINES):
            return []
        given = [node for node in tensor.all_input_nodes if not is_size(node)]
        if _is(self.graph, tensor, _ADDITIONS) and len(given) != 2:
            return []
        return [self._origin(node) for node in given]

    def _is_returned(self, node: fx.Node) -> bool:
        """Whether the values of a node go nowhere but out of the network."""
        return all(
            user.op == "output" or (moves_values(self.graph, user) and self._is_returned(user))
            for user in node.users
        )

    def _wanted(self, user: fx.Node) -> int:
        """The bits in which a reader wants a tensor; 0 when it takes what there is."""
        module = module_of(self.graph, user)
        if module is not None and layer_kind(module):
            return self.bits.get(str(user.target), (FLOAT_BITS, FLOAT_BITS))[1]
        return max(self._wishes(user), default=0) if moves_values(self.graph, user) else 0

    def _wishes(self, node: fx.Node) -> set[int]:
        """The different bits in which readers of a node want it, without those that take what there is."""
        return {self._wanted(user) for user in node.users} - {0}
