"""How many units a ratio leaves, for one ratio and for many."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.space.widths import units_left


@pytest.mark.parametrize(
    ("units", "together", "ratio", "multiple", "left"),
    [
        (16, 1, 0.0, 1, 16),
        (16, 1, 0.5, 1, 8),
        (16, 1, 0.99, 1, 1),  # one stays
        (16, 1, 1.0, 1, 1),
        (16, 1, 0.4, 16, 16),  # the nearest multiple is all of it
        (64, 1, 0.3, 16, 48),
        (64, 1, 0.9, 16, 16),  # never below one multiple
        (12, 1, 0.5, 16, 6),  # narrower than a multiple: no multiple is wanted
        (8, 4, 0.5, 16, 4),  # units of four channels come by fours
        (8, 4, 0.3, 16, 4),
    ],
)
def test_what_is_left_is_whole_and_a_multiple_where_one_is_wanted(
    units: int, together: int, ratio: float, multiple: int, left: int
) -> None:
    assert units_left(units, together, ratio, multiple) == left


def test_many_ratios_at_once_are_as_one_by_one() -> None:
    ratios = np.linspace(0.0, 1.0, 101)
    for multiple in (1, 8):
        at_once = units_left(48, 1, ratios, multiple)
        assert at_once.tolist() == [int(units_left(48, 1, ratio, multiple)) for ratio in ratios]
        assert (np.diff(at_once) <= 0).all()
