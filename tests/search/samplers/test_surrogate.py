"""The surrogate: its gradient, what it learns, and how sure it is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import approx_fprime

from autoprune.search.samplers.surrogate import Surrogate

Floats = NDArray[np.float64]


def points(count: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """Three choices of three options, one figure; one interaction and one dead choice."""
    rows = np.random.default_rng(seed).integers(0, 3, (count, 3))
    features = np.eye(3)[rows].reshape(count, 9)
    values = rows[:, 0] + 0.5 * rows[:, 0] * (rows[:, 1] == 2)
    return features, rows.sum(axis=1, keepdims=True) / 3.0 - 1.0, values.astype(float)


@pytest.mark.parametrize("figures", [0, 1])
def test_the_gradient_is_that_of_the_loss(figures: int) -> None:
    features, given, values = points(20, 0)
    surrogate = Surrogate(np.repeat(np.arange(3), 3), figures)
    logs = surrogate._centre + np.random.default_rng(1).normal(size=surrogate._centre.shape) * 0.3
    scaled = (values - values.mean()) / values.std()

    def loss(at: Floats) -> float:
        return surrogate._loss(at, features, given[:, :figures], scaled)[0]

    gradient = surrogate._loss(logs, features, given[:, :figures], scaled)[1]
    np.testing.assert_allclose(gradient, approx_fprime(logs, loss, 1e-6), atol=1e-3)


def test_it_predicts_points_that_it_has_not_seen() -> None:
    surrogate = Surrogate(np.repeat(np.arange(3), 3), 1)
    surrogate.tune(*points(25, 0))
    surrogate.fit(*points(25, 0))
    features, figures, values = points(200, 1)
    assert np.corrcoef(surrogate.predict(features, figures)[0], values)[0, 1] > 0.97


def test_it_is_surer_of_what_it_has_seen() -> None:
    surrogate = Surrogate(np.repeat(np.arange(3), 3), 1)
    features, figures, values = points(6, 0)
    surrogate.fit(features, figures, values)
    seen = surrogate.predict(features, figures)[1]
    assert seen.max() < surrogate.predict(*points(50, 1)[:2])[1].max()


def test_values_that_are_all_alike_are_predicted() -> None:
    features, figures, _ = points(5, 0)
    surrogate = Surrogate(np.repeat(np.arange(3), 3), 1)
    surrogate.tune(features, figures, np.full(5, 7.0))
    surrogate.fit(features, figures, np.full(5, 7.0))
    np.testing.assert_allclose(surrogate.predict(features, figures)[0], 7.0)
