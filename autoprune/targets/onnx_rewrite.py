"""What is changed in an exported file, so that ONNX Runtime computes in integers from end to end.

The exporter writes quantizers as QuantizeLinear / DequantizeLinear pairs and integer weights as
DequantizeLinear of a constant. What is done here on top lets ONNX Runtime fuse them (it fuses by pattern), and
makes the file as small as the bits promise:

1. integers survive operations that only move values: the pair is repeated behind them;
2. the bias of an integer operation becomes the int32 constant that its kernel adds;
3. a weight whose operation stays in floating point becomes a product that is folded when a session is opened;
4. codes of less than eight bits are stored as bit planes (see `onnx_packing`), float16 weights as they are.

Nothing is found by name, only by pattern: the exporter's names are its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.deployed.codebook import DOMAIN
from autoprune.targets.onnx_packing import define, pack_initializers

if TYPE_CHECKING:
    import onnx

LOOK_UP = "LookUp"
_MOVES = ("Flatten", "Reshape", "MaxPool", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Pad", "Identity")


def rewrite(proto: onnx.ModelProto, prefix: str = "") -> None:
    """Make a file of what an exporter wrote, in place; `prefix` is cut off the names of weights.

    A file with loops or branches stays as it is: what is inside of them refers to names outside.
    """
    if any(node.domain == DOMAIN and node.op_type == LOOK_UP for node in _all_nodes(proto.graph)):
        define(proto, LOOK_UP)
    if any(attribute.HasField("g") for node in proto.graph.node for attribute in node.attribute):
        return
    graph = Graph(proto)
    _bypass_identities(graph)
    _transpose_weights(graph)
    _average_globally(graph)
    _repeat_behind_moves(graph)
    _settle_weights(graph)
    graph.drop_unused()
    pack_initializers(proto)
    _shorten_names(proto, prefix)


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Those of the branches and loops in it included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)


class Graph:
    """An ONNX graph with the look-ups that rewriting needs."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        from onnx import numpy_helper

        self.proto = proto.graph
        self.constants: dict[str, np.ndarray[Any, Any]] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in self.proto.initializer
        }
        for node in self.proto.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        for node in self.proto.node:
            if node.op_type == "Identity" and node.input[0] in self.constants:
                self.constants[node.output[0]] = self.constants[node.input[0]]
        self.producers = {name: node for node in self.proto.node for name in node.output}
        self._serial = 0
        self._zeros: dict[tuple[tuple[int, ...], str], str] = {}

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes, as a list that does not change while the graph does."""
        return list(self.proto.node)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a value."""
        return [node for node in self.proto.node if name in node.input]

    def new_name(self, stem: str) -> str:
        """A name that is not taken."""
        self._serial += 1
        return f"{stem}_{self._serial}"

    def constant(self, array: np.ndarray[Any, Any], stem: str) -> str:
        """The name of a new constant."""
        from onnx import numpy_helper

        name = self.new_name(stem)
        # Not by ascontiguousarray, which makes a vector of a number.
        self.proto.initializer.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        self.constants[name] = array
        return name

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> str:
        """The name of a constant of zeros, one for each shape and type; those of int8 are not shared.

        On a processor without VNNI, ONNX Runtime makes the weights of each layer unsigned, and their zero point with
        them: one that another layer reads too makes it fail.
        """
        key = (shape, np.dtype(dtype).name)
        if key not in self._zeros or dtype == np.int8:
            self._zeros[key] = self.constant(np.zeros(shape, dtype), "zero")
        return self._zeros[key]

    def insert(self, before: onnx.NodeProto, operation: str, inputs: list[str], **attributes: Any) -> str:
        """The output of a new node placed before another one."""
        from onnx import helper

        output = self.new_name("v")
        node = helper.make_node(operation, inputs, [output], **attributes)
        index = next(i for i, other in enumerate(self.proto.node) if other.output == before.output)
        self.proto.node.insert(index, node)
        self.producers[output] = self.proto.node[index]
        return output

    def dequantized(self, name: str, *, weight: bool) -> onnx.NodeProto | None:
        """The DequantizeLinear that makes a value, of a constant (`weight`) or of an activation."""
        node = self.producers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        return node if (node.input[0] in self.constants) == weight else None

    def drop_unused(self) -> None:
        """Remove nodes and constants that nothing reads."""
        wanted = {output.name for output in self.proto.output}
        for node in reversed(self.nodes):
            if wanted.isdisjoint(node.output):
                self.proto.node.remove(node)
            else:
                wanted.update(node.input)
        for tensor in list(self.proto.initializer):
            if tensor.name not in wanted:
                self.proto.initializer.remove(tensor)


def _bypass_identities(graph: Graph) -> None:
    """Read constants directly: the exporter shares equal ones by way of Identity."""
    for node in graph.nodes:
        if node.op_type == "Identity" and node.input[0] in graph.constants:
            _replace(graph, node.output[0], node.input[0])


def _transpose_weights(graph: Graph) -> None:
    """Transpose constants beforehand: Transpose(DequantizeLinear(codes)) hides the weight of a MatMul."""
    for node in graph.nodes:
        weight = graph.dequantized(node.input[0], weight=True) if node.op_type == "Transpose" else None
        if weight is None:
            continue
        codes, axis = graph.constants[weight.input[0]], _attribute(weight, "axis", 1)
        order = list(_attribute(node, "perm", range(codes.ndim)[::-1]))
        name = graph.constant(codes.transpose(order), "codes")
        output = graph.insert(node, "DequantizeLinear", [name, weight.input[1]], axis=order.index(axis))
        _replace(graph, node.output[0], output)


def _average_globally(graph: Graph) -> None:
    """Write means over all pixels as the pooling for which there is an integer kernel."""
    for node in graph.nodes:
        source = graph.dequantized(node.input[0], weight=False) if node.op_type == "ReduceMean" else None
        axes = graph.constants.get(node.input[1]) if len(node.input) > 1 else _attribute(node, "axes", None)
        if source is None or axes is None or sorted(np.asarray(axes).tolist()) not in ([2, 3], [-2, -1]):
            continue
        output = graph.insert(node, "GlobalAveragePool", [node.input[0]])
        readers = graph.readers(node.output[0])
        if len(readers) == 1 and readers[0].op_type == "QuantizeLinear":
            # The kernel wants its result quantized at once, not behind a change of shape.
            codes = graph.insert(node, "QuantizeLinear", [output, *readers[0].input[1:]])
            output = graph.insert(node, "DequantizeLinear", [codes, *readers[0].input[1:]])
        if not _attribute(node, "keepdims", 1):
            output = graph.insert(node, "Flatten", [output], axis=1)
        _replace(graph, node.output[0], output)


def _repeat_behind_moves(graph: Graph) -> None:
    """Quantize again, on the same grid, behind operations that only move integers: nothing is rounded."""
    for node in graph.nodes:
        source = graph.dequantized(node.input[0], weight=False) if node.op_type in _MOVES else None
        if source is None or any(output.name in node.output for output in graph.proto.output):
            continue
        readers = graph.readers(node.output[0])
        if len(readers) == 0:
            continue
        if node.op_type == "Flatten" and _attribute(node, "axis", 1) == 1:
            # ONNX Runtime carries integers through Reshape, not through Flatten.
            node.op_type = "Reshape"
            del node.attribute[:]
            node.input.append(graph.constant(np.array([0, -1], dtype=np.int64), "shape"))
        codes = graph.insert(readers[0], "QuantizeLinear", [node.output[0], *source.input[1:]])
        floats = graph.insert(readers[0], "DequantizeLinear", [codes, *source.input[1:]])
        for reader in readers:
            _replace_input(reader, node.output[0], floats)


def _settle_weights(graph: Graph) -> None:
    """Make each integer weight what its operation takes: int8 with an int32 bias, or a float product."""
    taken: set[str] = set()
    for node in graph.nodes:
        _keep_float(graph, node)
        for index, name in enumerate(list(node.input)):
            weight = graph.dequantized(name, weight=True)
            if weight is None:
                continue
            source = graph.dequantized(node.input[0], weight=False)
            if source is not None and index == 1:
                weight = _of_its_own(graph, node, weight) if weight.input[0] in taken else weight
                taken.add(weight.input[0])
                _round_bias(graph, node, source, weight)
                _add_zero_point(graph, weight)
            else:
                node.input[index] = _as_product(graph, node, weight)


def _of_its_own(graph: Graph, node: onnx.NodeProto, weight: onnx.NodeProto) -> onnx.NodeProto:
    """A weight again for a layer that is called once more, stored once: the copy is made when a session is opened.

    On a processor without VNNI, ONNX Runtime cannot take the same codes for two operations (see `Graph.zeros`).
    """
    shape = np.array(graph.constants[weight.input[0]].shape, dtype=np.int64)
    codes = graph.insert(node, "Reshape", [weight.input[0], graph.constant(shape, "shape")])
    graph.constants[codes] = graph.constants[weight.input[0]]
    axis = {} if (found := _attribute(weight, "axis", None)) is None else {"axis": found}
    node.input[1] = graph.insert(node, "DequantizeLinear", [codes, weight.input[1]], **axis)
    copied: onnx.NodeProto = graph.producers[node.input[1]]
    return copied


def _keep_float(graph: Graph, node: onnx.NodeProto) -> None:
    """Separate a float layer from an integer input, so that its weight stays what it is.

    Where it finds DequantizeLinear before a layer, ONNX Runtime rounds that layer's float weight to integers
    of its own choosing. A maximum of one tensor changes nothing and is in the way of that.
    """
    layer = node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
    if not layer or graph.dequantized(node.input[0], weight=False) is None:
        return
    if not _has_kernel(graph, node) or graph.dequantized(node.input[1], weight=True) is None:
        node.input[0] = graph.insert(node, "Max", [node.input[0]])


def _has_kernel(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether the operation exists in integers; that of a convolution writes integers too."""
    if node.op_type != "Conv":
        return node.op_type in ("Gemm", "MatMul")
    readers = graph.readers(node.output[0])
    while len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
        readers = graph.readers(readers[0].output[0])
    return bool(readers) and all(reader.op_type == "QuantizeLinear" for reader in readers)


def _round_bias(graph: Graph, node: onnx.NodeProto, source: onnx.NodeProto, weight: onnx.NodeProto) -> None:
    """The bias as int32 in units of input scale times weight scale; it is on that grid already."""
    bias = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
    if bias is None:
        return
    scale = graph.constants[source.input[1]].astype(np.float32) * graph.constants[weight.input[1]]
    codes = np.round(bias.astype(np.float64) / scale.astype(np.float64)).astype(np.int32)
    names = [graph.constant(codes, "bias"), graph.constant(scale.astype(np.float32), "bias_scale")]
    node.input[2] = graph.insert(node, "DequantizeLinear", names, axis=0)
    _add_zero_point(graph, graph.producers[node.input[2]])


def _add_zero_point(graph: Graph, node: onnx.NodeProto) -> None:
    """Spell out the zero point 0: ONNX Runtime fuses Gemm, alone among the operations, only with it."""
    if len(node.input) < 3:
        codes, scale = graph.constants[node.input[0]], graph.constants[node.input[1]]
        node.input.append(graph.zeros(scale.shape, codes.dtype))


def _as_product(graph: Graph, node: onnx.NodeProto, weight: onnx.NodeProto) -> str:
    """Codes times scale by operations that ONNX Runtime folds, which it does not do to DequantizeLinear."""
    codes, scale = graph.constants[weight.input[0]], graph.constants[weight.input[1]]
    axis = _attribute(weight, "axis", 1)
    shape = [-1 if i == axis else 1 for i in range(codes.ndim)]
    floats = graph.insert(node, "Cast", [weight.input[0]], to=1)
    return graph.insert(node, "Mul", [floats, graph.constant(scale.reshape(shape), "scale")])


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    from onnx import helper

    found = [attribute for attribute in node.attribute if attribute.name == name]
    return helper.get_attribute_value(found[0]) if found else default


def _replace(graph: Graph, old: str, new: str) -> None:
    for reader in graph.readers(old):
        _replace_input(reader, old, new)


def _replace_input(node: onnx.NodeProto, old: str, new: str) -> None:
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new


def _shorten_names(proto: onnx.ModelProto, prefix: str) -> None:
    """Drop what only a reader of the exporter's log would want: a tenth of a small network's file."""
    kept = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    short: dict[str, str] = {}
    for tensor in proto.graph.initializer:
        # Weights keep the name of their layer; what the exporter or we named after nothing does not.
        own = "::" not in tensor.name and "." in tensor.name.removeprefix(prefix)
        name = tensor.name.removeprefix(prefix) if own else f"c{len(short)}"
        tensor.name = short.setdefault(tensor.name, name)
        kept.add(tensor.name)
    for node in proto.graph.node:
        node.name = node.doc_string = ""
        del node.metadata_props[:]
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name and name not in kept:
                    names[index] = short.setdefault(name, f"t{len(short)}")
    del proto.graph.value_info[:]
