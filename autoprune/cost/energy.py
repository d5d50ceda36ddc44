"""Energy of one inference, modelled: what each multiply-accumulate and each byte that moves takes.

Constants: Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9, a 45 nm
process at 0.9 V. In picojoules: multiply int8 .2, int32 3.1, float16 1.1, float32 3.7; add int8 .03, int32 .1,
float16 .4, float32 .9; 64 bits from a memory of 1 MB on the chip 100, from DRAM 1,300 to 2,600 (the lower is taken).

Integers of other widths: the multiplier grows with the product of both widths from that of 8 × 8 bits, sums are of 32
bits. Weights come once from DRAM at their real width; activations are written once and read once on the chip. It is
a model of arithmetic and storage, not of one processor: it ranks candidates, its absolute value is of that process.
"""

from __future__ import annotations

from torch import nn

from autoprune.deployed.shapes import LayerShape, layer_shapes
from autoprune.tensors import Inputs

SOURCE = "modelled: Horowitz, ISSCC 2014 (45 nm, 0.9 V), per MAC and byte at the bit width"
INTEGER_MULTIPLY, INTEGER_ADD = 0.2 / 64, 0.1  # pJ for each product of two bits; pJ of a sum of 32 bits
HALF_MAC, FLOAT_MAC = 1.1 + 0.4, 3.7 + 0.9
ON_CHIP, DRAM = 100 / 8, 1300 / 8  # pJ for each byte
LARGEST_INTEGER = 8
HALF, PICO_TO_MICRO = 16, 1e-6


def energy_uj(model: nn.Module, example: Inputs) -> float:
    """Microjoules of one inference.

    Args:
        model: deployed, or float.
        example: inputs of batch size 1.
    """
    seen: set[str] = set()
    total = 0.0
    for shape in layer_shapes(model, example):
        total += shape.macs * mac_pj(shape.weight_bits, shape.activation_bits)
        total += (shape.reads * shape.activation_bits / 8 + shape.writes * _written(shape) / 8) * ON_CHIP
        if shape.name not in seen:
            total += shape.weights * shape.weight_bits / 8 * DRAM
            seen.add(shape.name)
    return total * PICO_TO_MICRO


def mac_pj(weight_bits: int, activation_bits: int) -> float:
    """Picojoules of one multiply-accumulate: in integers where both are, else in the wider float."""
    widest = max(weight_bits, activation_bits)
    if widest <= LARGEST_INTEGER:
        return weight_bits * activation_bits * INTEGER_MULTIPLY + INTEGER_ADD
    return HALF_MAC if widest <= HALF else FLOAT_MAC


def _written(shape: LayerShape) -> int:
    """Bits of an output: taken to be those of the input, for the next layer is most often rounded alike."""
    return shape.activation_bits
