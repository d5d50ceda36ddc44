"""Codes of less than eight bits inside an ONNX file, at their real width.

The file holds bit planes (`deployed.packing`) and one small function that puts them together. ONNX Runtime
evaluates it once, when a session is opened: from then on the model is the same as with int8 weights, and as
fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.deployed.packing import pack_codes

if TYPE_CHECKING:
    import onnx

DOMAIN = "autoprune"
# Below so many weights the unpacking call takes more bytes than it saves.
FEW = 256


def pack_initializers(proto: onnx.ModelProto) -> None:
    """Store every constant of the graph in as few bits as its values need, in place and without loss."""
    from onnx import helper, numpy_helper

    unpacking: list[onnx.NodeProto] = []
    widths: set[int] = set()
    for tensor in list(proto.graph.initializer):
        array, name = numpy_helper.to_array(tensor), tensor.name
        if array.size < FEW:
            continue
        if array.dtype == np.int8 and (bits := _bits_of(array)) < 8:
            widths.add(bits)
            _add(proto, pack_codes(array, bits), f"{name}.packed")
            _add(proto, np.array(array.shape, dtype=np.int64), f"{name}.shape")
            inputs = [f"{name}.packed", f"powers.{bits}", f"{name}.shape"]
            unpacking.append(helper.make_node("Unpack", inputs, [name], domain=DOMAIN))
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
    if widths:
        proto.functions.append(_unpack_function())
        proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _bits_of(codes: np.ndarray[Any, Any]) -> int:
    """The fewest bits, at least two, that hold these symmetric codes."""
    return max(2, int(np.abs(codes.astype(np.int16)).max()).bit_length() + 1)


def _add(proto: onnx.ModelProto, array: np.ndarray[Any, Any], name: str) -> None:
    from onnx import numpy_helper

    proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))


def _unpack_function() -> onnx.FunctionProto:
    """Bit planes (bits, bytes), the powers of two (bits) that they count, and a shape -> int8 codes."""
    from onnx import parser

    return parser.parse_function(_UNPACK)


_UNPACK = """
<opset_import: ["" : 18], domain: "autoprune">
Unpack (packed, powers, shape) => (codes)
{
    shifts = Constant <value = uint8[8] {0, 1, 2, 3, 4, 5, 6, 7}> ()
    lowest = Constant <value = uint8[1] {1}> ()
    last = Constant <value = int64[1] {-1}> ()
    first = Constant <value = int64[1] {0}> ()
    rows = Constant <value = int64[2] {0, -1}> ()
    one = Constant <value = float {1.0}> ()
    half = Constant <value = float {0.5}> ()
    bytes = Unsqueeze (packed, last)
    shifted = BitShift <direction = "RIGHT"> (bytes, shifts)
    bits = BitwiseAnd (shifted, lowest)
    floats = Cast <to = 1> (bits)
    planes = Reshape (floats, rows)
    padded = MatMul (powers, planes)
    count = ReduceProd (shape)
    values = Slice (padded, first, count)
    highest = ReduceSum <keepdims = 0> (powers)
    even = Sub (highest, one)
    top = Mul (even, half)
    centered = Sub (values, top)
    flat = Cast <to = 3> (centered)
    codes = Reshape (flat, shape)
}
"""
