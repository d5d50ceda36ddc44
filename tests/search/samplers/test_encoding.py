"""Points as rows and features."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from autoprune.search.samplers.encoding import Encoding
from autoprune.search.samplers.proposals import anywhere, children, neighbours

SPACE: dict[str, BaseDistribution] = {
    "a.bits": CategoricalDistribution((4, 8, 32)),
    "b.bits": CategoricalDistribution((4, 8, 32)),
    "kind": CategoricalDistribution(("l1", None, True)),
    "many": CategoricalDistribution(tuple(range(0, 80, 10))),
    "a.ratio": FloatDistribution(0.0, 0.8),
    "b.ratio": FloatDistribution(0.0, 0.8),
    "stepped": FloatDistribution(0.0, 0.8, step=0.05),
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "whole": IntDistribution(8, 64, step=8),
    "count": IntDistribution(1, 100, log=True),
}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_every_candidate_is_a_point_of_the_space(seed: int) -> None:
    encoding, generator = Encoding(SPACE), np.random.default_rng(seed)
    rows = anywhere(encoding, 8, generator)
    rows = np.vstack(
        [rows, children(encoding, rows, 8, generator), neighbours(encoding, rows[:1], 8, generator)]
    )
    for row in rows:
        point = encoding.point(row)
        assert all(d._contains(d.to_internal_repr(point[name])) for name, d in SPACE.items())
        np.testing.assert_allclose(encoding.row(point), row, atol=1e-9)


def test_neighbours_differ_in_at_most_one_choice() -> None:
    encoding, generator = Encoding(SPACE), np.random.default_rng(0)
    row = anywhere(encoding, 1, generator)
    assert ((neighbours(encoding, row, 50, generator) != row).sum(axis=1) <= 1).all()


def test_blocks_have_length_one_and_agree_with_themselves() -> None:
    encoding = Encoding(SPACE)
    features = encoding.features(anywhere(encoding, 20, np.random.default_rng(0)))
    for choice in range(len(SPACE)):
        block = features[:, encoding.blocks == choice]
        np.testing.assert_allclose((block**2).sum(axis=1), 1.0)


def test_summaries_count_options_and_average_numbers_of_a_kind() -> None:
    encoding = Encoding({name: SPACE[name] for name in ("a.bits", "b.bits", "a.ratio", "b.ratio")})
    point = {"a.bits": 4, "b.bits": 32, "a.ratio": 0.0, "b.ratio": 0.8}
    np.testing.assert_allclose(encoding.summaries(encoding.row(point)[None]), [[0.5, 0.0, 0.5, 0.5]])


def test_an_unknown_distribution_is_named() -> None:
    class Strange(BaseDistribution):
        def to_internal_repr(self, param_value_in_external_repr: object) -> float:
            return 0.0

        def single(self) -> bool:
            return False

        def _contains(self, param_value_in_internal_repr: float) -> bool:
            return True

    with pytest.raises(ValueError, match="got a Strange, expected a categorical"):
        Encoding({"x": Strange()})


def test_single_precision_describes_the_same_points() -> None:
    encoding = Encoding({"a": FloatDistribution(0.0, 1.0), "b": CategoricalDistribution((1, 2, 3, 4, 5, 6))})
    rows = np.column_stack([np.linspace(0.0, 1.0, 6), np.arange(6.0)])
    found = encoding.features(rows, np.float32)
    assert found.dtype == np.float32
    assert np.allclose(found, encoding.features(rows), atol=1e-6)
