"""Codes of less than eight bits inside an ONNX file, at their real width, and values that are looked up.

The file holds bit planes (`deployed.packing`) and one small function that puts them together, and for weights that
share values these values and their indices. ONNX Runtime evaluates it once, when a session is opened: from then on
the model is the same as with int8 or float weights, and as fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.deployed.codebook import DOMAIN
from autoprune.deployed.packing import pack_codes
from autoprune.deployed.streams import pack_bits

if TYPE_CHECKING:
    import onnx

# Below so many weights the unpacking call takes more bytes than it saves.
FEW = 256


def pack_initializers(proto: onnx.ModelProto) -> None:
    """Store every constant of the graph in as few bits as its values need, in place and without loss."""
    from onnx import helper, numpy_helper

    unpacking: list[onnx.NodeProto] = []
    widths: set[int] = set()
    functions: set[str] = set()
    for tensor in list(proto.graph.initializer):
        array, name = numpy_helper.to_array(tensor), tensor.name
        if array.size < FEW:
            continue
        if array.dtype in (np.int8, np.uint8) and (bits := _bits_of(array)) < 8:
            is_index = array.dtype == np.uint8
            widths.add(bits)
            planes = pack_bits(array.ravel(), bits) if is_index else pack_codes(array, bits)
            _add(proto, planes, f"{name}.packed")
            _add(proto, np.array(array.shape, dtype=np.int64), f"{name}.shape")
            inputs = [f"{name}.packed", f"powers.{bits}", f"{name}.shape"]
            function = "UnpackIndices" if is_index else "Unpack"
            functions.add(function)
            unpacking.append(helper.make_node(function, inputs, [name], domain=DOMAIN))
        elif array.dtype == np.float32 and np.array_equal(half := array.astype(np.float16), array):
            _add(proto, half, f"{name}.half")
            unpacking.append(helper.make_node("Cast", [f"{name}.half"], [name], to=1))
        else:
            continue
        proto.graph.initializer.remove(tensor)
    for node in reversed(unpacking):
        proto.graph.node.insert(0, node)
    for bits in sorted(widths):
        _add(proto, 2.0 ** np.arange(bits, dtype=np.float32), f"powers.{bits}")
    for function in sorted(functions):
        define(proto, function)


def define(proto: onnx.ModelProto, name: str) -> None:
    """Give a file one of autoprune's functions, in place; once, however often it is asked for."""
    from onnx import helper, parser

    if all(function.name != name for function in proto.functions):
        proto.functions.append(parser.parse_function(_FUNCTIONS[name]))
    if all(opset.domain != DOMAIN for opset in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _bits_of(codes: np.ndarray[Any, Any]) -> int:
    """The fewest bits, at least two, that hold these indices or symmetric codes."""
    if codes.dtype == np.uint8:
        return max(2, int(codes.max()).bit_length())
    return max(2, int(np.abs(codes.astype(np.int16)).max()).bit_length() + 1)


def _add(proto: onnx.ModelProto, array: np.ndarray[Any, Any], name: str) -> None:
    from onnx import numpy_helper

    proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))


# Bit planes (bits, bytes), the powers of two (bits) that they count, and a shape -> values from zero on.
_PLANES = """
    shifts = Constant <value = uint8[8] {0, 1, 2, 3, 4, 5, 6, 7}> ()
    lowest = Constant <value = uint8[1] {1}> ()
    last = Constant <value = int64[1] {-1}> ()
    first = Constant <value = int64[1] {0}> ()
    rows = Constant <value = int64[2] {0, -1}> ()
    bytes = Unsqueeze (packed, last)
    shifted = BitShift <direction = "RIGHT"> (bytes, shifts)
    bits = BitwiseAnd (shifted, lowest)
    floats = Cast <to = 1> (bits)
    planes = Reshape (floats, rows)
    padded = MatMul (powers, planes)
    count = ReduceProd (shape)
    values = Slice (padded, first, count)
"""
_HEAD = '<opset_import: ["" : 18], domain: "autoprune">'
_FUNCTIONS = {
    "Unpack": f"""
{_HEAD}
Unpack (packed, powers, shape) => (codes)
{{{_PLANES}
    one = Constant <value = float {{1.0}}> ()
    half = Constant <value = float {{0.5}}> ()
    highest = ReduceSum <keepdims = 0> (powers)
    even = Sub (highest, one)
    top = Mul (even, half)
    centered = Sub (values, top)
    flat = Cast <to = 3> (centered)
    codes = Reshape (flat, shape)
}}
""",
    "UnpackIndices": f"""
{_HEAD}
UnpackIndices (packed, powers, shape) => (indices)
{{{_PLANES}
    flat = Cast <to = 2> (values)
    indices = Reshape (flat, shape)
}}
""",
    "LookUp": f"""
{_HEAD}
LookUp (values, codes) => (weight)
{{
    indices = Cast <to = 6> (codes)
    weight = Gather (values, indices)
}}
""",
}
