"""What is believed of points: where limits end it, and which trials it rests on."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution

from autoprune.pareto import Floats
from autoprune.search.samplers.belief import MOST_TRIALS, Belief, Results
from autoprune.search.samplers.encoding import Encoding
from autoprune.search.samplers.known import Known
from autoprune.search.samplers.surrogate import Surrogate

SPACE: dict[str, BaseDistribution] = {f"prune.{i}.ratio": FloatDistribution(0.0, 1.0) for i in range(3)}


def believed(rows: Floats, losses: Floats, violations: Floats) -> Belief:
    """What follows from trials that were all measured, by kernels that were not learned."""
    encoding = Encoding(SPACE)
    known = Known(encoding, None, None)
    outputs = losses.shape[1] + violations.shape[1]
    surrogates = [Surrogate(encoding.blocks, known.figures(rows).shape[1]) for _ in range(outputs)]
    results = Results(rows, losses, violations, np.ones(len(rows), dtype=bool))
    return Belief(encoding, known, results, surrogates, tune=False, generator=np.random.default_rng(0))


def test_hypervolume_ends_where_a_constraint_limits_an_objective() -> None:
    error = np.linspace(0.0, 1.0, 10) ** 2
    limit_of_another = np.sin(np.arange(10.0))
    belief = believed(
        np.random.default_rng(0).uniform(size=(10, len(SPACE))),
        np.column_stack([error, 1.0 - error]),
        np.column_stack([2.0 * error - 0.5, -error, limit_of_another]),
    )
    at_the_limit = belief.scaled_losses(np.array([[0.25, 0.0]]))[0, 0]
    assert belief.ends == pytest.approx([at_the_limit, belief.scaled_losses(np.array([[0.0, 1.0]]))[0, 1]])


def test_of_many_trials_the_bad_ones_are_not_forgotten() -> None:
    generator = np.random.default_rng(0)
    good = generator.uniform(0.4, 0.6, size=(2 * MOST_TRIALS, len(SPACE)))
    bad = np.tile([[0.0, 1.0, 0.0]], (MOST_TRIALS, 1)) + generator.uniform(0.0, 0.05, size=(MOST_TRIALS, 3))
    rows = np.vstack([good, bad])
    error = np.concatenate([generator.uniform(0.0, 0.1, len(good)), np.full(len(bad), 5.0)])
    belief = believed(rows, error[:, None], np.zeros((len(rows), 0)))
    mean, deviation = belief.predict(np.array([[0.02, 0.98, 0.02], [0.98, 0.02, 0.98]]))
    assert mean[0, 0] == pytest.approx(belief.scaled_losses(np.array([[5.0]]))[0, 0], rel=0.1)
    assert deviation[0, 0] < 0.3 * deviation[1, 0]
