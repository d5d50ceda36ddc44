"""Times of layers at their widths: what is measured, and what is filled in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from autoprune.search.layer_times import ALL, SOME, _Axis, _Grid

WIDTHS = np.array([1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25])


def grid() -> _Grid:
    axis = _Axis.of(WIDTHS)
    return _Grid(axis, axis)


def in_blocks(reads: float, writes: float) -> float:
    """Of 32 channels, in blocks of 16."""
    return (0.1 + reads) * np.ceil(2 * writes)


def measured(grid: _Grid, time: Any) -> Mapping[tuple[float, float], float]:
    return {pair: time(*pair) for pair in grid.measured()}


def test_each_axis_is_measured_in_full_and_the_coarse_widths_in_pairs() -> None:
    pairs = grid().measured()
    assert len(pairs) == len(set(pairs)) == 7 + 7 - 1 + 4
    assert {(width, 1.0) for width in WIDTHS} | {(1.0, width) for width in WIDTHS} <= set(pairs)
    assert (0.625, 0.25) in pairs and (0.75, 0.75) not in pairs


def test_what_is_a_product_of_both_axes_is_filled_in_exactly() -> None:
    filled = grid().filled(measured(grid(), in_blocks))
    assert filled == pytest.approx(np.array([[in_blocks(a, b) for b in WIDTHS] for a in WIDTHS]))


def test_what_was_measured_stays_and_the_rest_lies_between() -> None:
    def with_overhead(reads: float, writes: float) -> float:
        return 0.5 + reads * writes

    filled = grid().filled(known := measured(grid(), with_overhead))
    places = {width: place for place, width in enumerate(WIDTHS)}
    for (reads, writes), time in known.items():
        assert filled[places[reads], places[writes]] == pytest.approx(time)
    truth = np.array([[with_overhead(a, b) for b in WIDTHS] for a in WIDTHS])
    assert np.abs(filled / truth - 1).max() < 0.05


def test_layers_that_take_no_time_take_none() -> None:
    assert grid().filled(measured(grid(), lambda reads, writes: 0.0)) == pytest.approx(0.0, abs=1e-6)


def test_widths_in_multiples_are_all_measured() -> None:
    few = np.linspace(0.25, 1.0, ALL)
    assert _Axis.of(few).widths == pytest.approx(few[::-1])


def test_of_many_widths_some_and_the_coarse_ones_are_measured() -> None:
    many = np.linspace(0.2, 1.0, 53)
    axis = _Axis.of(many)
    assert SOME <= len(axis.widths) <= SOME + 3
    assert axis.widths[0] == 1.0 and axis.widths[-1] == 0.2
    assert [axis.widths[place] for place in axis.coarse] == many[[52, 26, 0]].tolist()


def test_an_axis_of_one_width_is_one_measurement() -> None:
    alone = _Axis.of(np.ones(5))
    assert _Grid(alone, alone).measured() == [(1.0, 1.0)]
    assert _Grid(alone, alone).filled({(1.0, 1.0): 3.0}).tolist() == [[3.0]]
