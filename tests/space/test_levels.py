"""Which values of a choice are looked at alone."""

from __future__ import annotations

import pytest

from autoprune.space import Options, Range
from autoprune.space.levels import levels


def test_levels_lead_away_from_doing_nothing() -> None:
    assert levels(Options((4, 8, 32), 32)) == [4, 8]
    assert levels(Range(0.0, 0.8, 0.0))[-1] == 0.8
    assert levels(Range(0.2, 1.0, 1.0))[-1] == pytest.approx(0.2)
