"""The cost model of circuits: what reports of the vendor's tool say, and what must hold of any circuit."""

from __future__ import annotations

import itertools

import pytest

from autoprune.deployed.shapes import LayerShape
from autoprune.targets.circuit import circuit, cycles_of, legal_reuse, memory_blocks


def dense(inputs: int, outputs: int, bits: int = 8) -> LayerShape:
    return LayerShape("dense", "Linear", inputs, outputs, (), (), 1, (), (), bits, bits)


def convolution(channels: int = 8, size: int = 16, kernel: int = 3, bits: int = 8) -> LayerShape:
    sizes = (size, size)
    return LayerShape("c", "Conv2d", channels, channels, (kernel,) * 2, (1, 1), 1, sizes, sizes, bits, bits)


@pytest.mark.parametrize(
    ("widths", "bits", "reuse", "cycles", "dsp", "lut"),
    [
        ((80, 24, 120), 8, 1024, 1923, 5, 15198),
        ((104, 64, 128), 6, 3070, 5379, 0, 22370),
        ((56, 56, 96), 16, 3070, 5827, 3, 19574),
        ((104, 48, 104, 128), 4, 4093, 13317, 0, 35340),
        ((128, 88, 120), 8, 1024, 2083, 21, 28518),
    ],
)
def test_cycles_and_multipliers_are_those_of_reports_and_look_up_tables_near_them(
    widths: tuple[int, ...], bits: int, reuse: int, cycles: int, dsp: int, lut: int
) -> None:
    shapes = [dense(before, after, bits) for before, after in itertools.pairwise(widths)]
    found = [circuit(shape, reuse) for shape in shapes]
    assert cycles_of(found, shapes, "io_parallel") == cycles
    assert sum(one.dsp for one in found) == dsp
    assert sum(one.lut for one in found) == pytest.approx(lut, rel=0.15)


@pytest.mark.parametrize(("inputs", "outputs"), [(16, 64), (27, 10), (7, 5), (72, 1)])
def test_legal_reuse_divides_the_work_and_is_the_closest(inputs: int, outputs: int) -> None:
    for wanted in (1, 3, 16, 100, 10**6):
        reuse = legal_reuse(inputs, outputs, wanted)
        assert inputs * outputs % reuse == 0
        assert legal_reuse(inputs, outputs, reuse) == reuse
    assert legal_reuse(inputs, outputs, 1) == 1


def test_more_reuse_is_less_area_and_more_time() -> None:
    found = [circuit(convolution(), reuse) for reuse in (1, 8, 72, 576)]
    assert [one.dsp for one in found] == sorted((one.dsp for one in found), reverse=True)
    assert [one.cycles for one in found] == sorted(one.cycles for one in found)
    assert found[0].dsp == 576 and found[-1].dsp == 1


def test_fewer_bits_need_no_multiplier_blocks_and_less_memory() -> None:
    wide, narrow = circuit(convolution(64, bits=16), 576), circuit(convolution(64, bits=4), 576)
    assert narrow.dsp == 0 < wide.dsp
    assert 0 < narrow.bram < wide.bram and narrow.lut < wide.lut + wide.multipliers * 16


def test_floats_are_costed_at_sixteen_bits() -> None:
    assert circuit(dense(16, 16, 32), 4) == circuit(dense(16, 16, 16), 4)


def test_convolutions_that_stream_overlap_and_linear_layers_wait() -> None:
    shapes = [convolution(), convolution(), dense(64, 10)]
    found = [circuit(shape, 8) for shape in shapes]
    one_by_one, streamed = (cycles_of(found, shapes, io) for io in ("io_parallel", "io_stream"))
    assert sum(one.cycles for one in found) <= one_by_one
    assert max(one.cycles for one in found) < streamed < 0.7 * one_by_one


def test_memory_blocks_hold_width_times_depth() -> None:
    assert memory_blocks(8, 512) == 1 and memory_blocks(36, 512) == 1 and memory_blocks(72, 513) == 4
    assert memory_blocks(1, 16384) == 1 and memory_blocks(2, 16384) == 2
