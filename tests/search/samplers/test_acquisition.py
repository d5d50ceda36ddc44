"""Expected gain of hypervolume against what sampling gives."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.pareto import hypervolume
from autoprune.search.samplers.acquisition import expected_gain

FRONT = np.array([[0.2, 0.8], [0.5, 0.5], [0.8, 0.1]])
REFERENCE = np.ones(2)


@pytest.mark.parametrize("mean", [[0.4, 0.4], [0.1, 0.9], [0.9, 0.9], [0.6, 0.05], [1.5, 0.2]])
def test_two_objectives_agree_with_sampling(mean: list[float]) -> None:
    deviation = np.array([0.2, 0.1])
    draws = mean + deviation * np.random.default_rng(0).normal(size=(4000, 2))
    before = hypervolume(FRONT, REFERENCE)
    sampled = np.mean([hypervolume(np.vstack([FRONT, draw]), REFERENCE) - before for draw in draws])
    found = expected_gain(np.array([mean]), deviation[None], FRONT, REFERENCE, seed=0)[0]
    assert found == pytest.approx(sampled, abs=0.004)


def test_without_a_front_the_whole_volume_counts() -> None:
    sure = np.full((1, 2), 1e-9)
    assert expected_gain(np.full((1, 2), 0.5), sure, np.zeros((0, 2)), REFERENCE, 0)[0] == pytest.approx(0.25)


def test_one_objective_is_expected_improvement() -> None:
    means, deviations = np.array([[0.2], [0.9]]), np.full((2, 1), 1e-9)
    gain = expected_gain(means, deviations, np.array([[0.5]]), np.ones(1), 0)
    np.testing.assert_allclose(gain, [0.3, 0.0], atol=1e-6)


def test_three_objectives_are_ranked_as_by_hypervolume() -> None:
    generator = np.random.default_rng(0)
    front, candidates = generator.uniform(0.3, 0.9, (6, 3)), generator.uniform(0.0, 0.9, (30, 3))
    before = hypervolume(front, np.ones(3))
    exact = [hypervolume(np.vstack([front, c]), np.ones(3)) - before for c in candidates]
    found = expected_gain(candidates, np.full_like(candidates, 1e-6), front, np.ones(3), 0)
    assert np.corrcoef(found, exact)[0, 1] > 0.95
