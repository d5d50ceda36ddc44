"""What a network takes as a circuit: a cost model of what hls4ml makes of it, layer by layer.

A layer of n inputs (a window) and m outputs is n·m products for each place of its output. Its **reuse** R is how
many of them one multiplier computes, one after the other, so that n·m / R multipliers work at once and a place takes R
cycles (Duarte et al., "Fast inference of deep neural networks in FPGAs for particle physics", JINST 13, 2018):

    dsp     multipliers whose factors have more than 14 bits together; smaller ones are made of look-up tables
    lut     for each output 77.5 + 1.4 · weight bits and for each input 35.3 (what selects and keeps them), for each
            multiplier its sum, and itself where it is no DSP block; weights that are few, and rows of images that wait
    bram    blocks of 18 kbit that hold the weights, R words deep
    cycles  one layer after the other, or, as `io_stream` has it, convolutions while the one before is at work

`benchmarks/targets.py --only fpga` holds them against 56 reports of Vitis HLS 2023.2 for dense networks of 2 to 16 bits
(wa-hls4ml): cycles and DSP blocks equal every report; LUTs are off by 5 % (median; a tenth by more than 14 %) on
networks that were left out of the fit of the three numbers above. Convolutions, and reuse below 1,000, were in no
report.

Blocks of memory are off by three quarters, and no function of widths, bits and reuse would do much better (a constant:
by half): 24 reports have fewer blocks than the bits of the weights fill, and about one LUT more for each 64 bits that
are missing (median 1,050 LUTs, where 1,170 would hold them); 21 have more than the model, up to seven times as many.
Whether weights lie in memory or in logic is what the tools decide. `bram` says what holds the weights if memory does.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from autoprune.deployed.shapes import LayerShape

FLOAT_BITS = 16
"""What a layer that stays float is costed at: a circuit has no floats."""
LARGEST_IN_LUTS = 14
LUT_OF_OUTPUT, LUT_OF_OUTPUT_BIT, LUT_OF_INPUT = 77.5, 1.4, 35.3
MEMORIES = ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384))
"""Widths and depths of a block of 18 kbit."""
SHALLOW = 64  # words that a LUT holds one bit of: weights that are no deeper get no block
ROW = 32  # places that a LUT keeps one bit of: rows of images
PIPELINE = 2  # cycles from the last product of a layer to the next layer
STREAM, PARALLEL = "io_stream", "io_parallel"


class Circuit(NamedTuple):
    """What one layer takes.

    Attributes:
        reuse: products that each multiplier computes for one place.
        multipliers: that work at once.
        dsp, lut, bram: blocks, look-up tables, blocks of 18 kbit.
        places: of the output.
        lag: cycles by which it ends later than the one before, where both work at once.
    """

    reuse: int
    multipliers: int
    dsp: int
    lut: float
    bram: int
    places: int
    lag: int

    @property
    def cycles(self) -> int:
        """By itself."""
        return self.places * self.reuse


def circuit(shape: LayerShape, reuse: int) -> Circuit:
    """A layer with the reuse that is legal and closest to the one asked for."""
    inputs, outputs = max(1, shape.inputs // shape.groups) * math.prod(shape.kernel), shape.outputs
    reuse = legal_reuse(inputs, outputs, reuse)
    weight_bits, bits = min(FLOAT_BITS, shape.weight_bits), min(FLOAT_BITS, shape.activation_bits)
    multipliers = inputs * outputs // reuse
    is_small = weight_bits + bits <= LARGEST_IN_LUTS
    sums = weight_bits + bits + math.ceil(math.log2(max(2, inputs)))
    lut = outputs * (LUT_OF_OUTPUT + LUT_OF_OUTPUT_BIT * weight_bits) + inputs * LUT_OF_INPUT
    lut += multipliers * (sums + (weight_bits * bits if is_small else 0))
    is_shallow = reuse <= SHALLOW
    lut += multipliers * weight_bits if is_shallow else 0
    lut += _waiting_rows(shape) * bits
    return Circuit(
        reuse=reuse,
        multipliers=multipliers,
        dsp=0 if is_small else multipliers,
        lut=lut,
        bram=0 if is_shallow else memory_blocks(multipliers * weight_bits, reuse),
        places=math.prod(shape.gives),
        lag=(_padded_rows(shape) + 1) * reuse,
    )


def _waiting_rows(shape: LayerShape) -> int:
    """LUTs for each bit of an activation that keep the rows above a window; none of a linear layer."""
    if len(shape.kernel) < 2:
        return 0
    return (shape.kernel[0] - 1) * shape.inputs * math.ceil(shape.given[-1] / ROW)


def _padded_rows(shape: LayerShape) -> int:
    """Places of the output behind the last that comes in: those that see padding below the image."""
    if not shape.kernel:
        return 0
    padded = (shape.gives[0] - 1) * shape.stride[0] + shape.kernel[0] - shape.given[0]
    return max(0, math.ceil(padded / 2)) * math.prod(shape.gives[1:])


def memory_blocks(width: int, depth: int) -> int:
    """Blocks of 18 kbit for so many bits at once and so many words."""
    return min(math.ceil(width / wide) * math.ceil(depth / deep) for wide, deep in MEMORIES)


@lru_cache(maxsize=4096)
def legal_reuse(inputs: int, outputs: int, wanted: int) -> int:
    """The reuse that hls4ml takes where another is asked for: the closest at which its layers are right and quick."""
    products = inputs * outputs
    legal = [reuse for reuse in _divisors(products) if _is_legal(inputs, outputs, reuse)]
    at = bisect.bisect_left(legal, wanted)
    if at == 0:
        return legal[0]
    if at == len(legal):
        return legal[-1]
    before, after = legal[at - 1], legal[at]
    return after if after - wanted < wanted - before else before


def _is_legal(inputs: int, outputs: int, reuse: int) -> bool:
    if reuse >= inputs:
        return reuse % inputs == 0
    return math.ceil(inputs * outputs / reuse) % outputs == 0


def _divisors(number: int) -> list[int]:
    small = [one for one in range(1, math.isqrt(number) + 1) if number % one == 0]
    return sorted({*small, *(number // one for one in small)})


def cycles_of(circuits: Sequence[Circuit], shapes: Sequence[LayerShape], io: str) -> int:
    """Cycles of one inference.

    Convolutions that stream work at the same time: they take as long as the slowest, and what each ends later than the
    one before. A linear layer waits for all of its input.
    """
    total, slowest = 0, 0
    for one, shape in zip(circuits, shapes, strict=True):
        total += PIPELINE
        if io == PARALLEL or not shape.kernel:
            total, slowest = total + slowest + one.cycles, 0
        else:
            busy = one.cycles + max(0, math.prod(shape.given) - one.places)
            total, slowest = total + one.lag, max(slowest, busy)
    return max(1, total + slowest - 1)
