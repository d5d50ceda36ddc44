"""What quantized trials tell of the unquantized point beside them, and what the sampler learns from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from autoprune.record import Evaluation
from autoprune.search.beside import beside
from autoprune.search.samplers import BESIDE
from autoprune.search.samplers.belief import Belief, Beside, Results
from autoprune.search.samplers.encoding import Encoding
from autoprune.search.samplers.guided import GuidedSampler
from autoprune.search.samplers.known import Known
from autoprune.search.samplers.surrogate import Surrogate
from autoprune.space import Options, Range, Space
from autoprune.spec import load_spec
from autoprune.study import Study

WIDE = Space({"prune.a.ratio": Range(0.0, 0.8, 0.0), "quantize.a.weight_bits": Options((4, 32), 32)})
NARROW = Space({"prune.a.ratio": Range(0.0, 0.8, 0.0), "quantize.a.weight_bits": Options((4, 8), 32)})
POINT = {"prune.a.ratio": 0.4, "quantize.a.weight_bits": 4}


def study(folder: Path, space: Space = WIDE) -> Study:
    constraints = ["size_bytes <= 90%", "accuracy >= baseline - 10"]
    spec = load_spec({"task": "digits", "budget": {"trials": 9}, "constraints": constraints})
    baseline = {"accuracy": 90.0, "latency_ms": 2.0, "size_bytes": 1000.0}
    return Study.create(folder, spec, space, {}, baseline)


def quantized(**unquantized: float) -> Evaluation:
    metrics = {"accuracy": 70.0, "latency_ms": 1.0, "size_bytes": 500.0}
    return Evaluation(0, 0, "finished", dict(POINT), metrics, unquantized=unquantized)


def test_only_what_rounding_changes_is_told(tmp_path: Path) -> None:
    with study(tmp_path) as made:
        found = beside(
            made, quantized(accuracy=85.0), {"accuracy": 72.0, "latency_ms": 1.0, "size_bytes": 500.0}
        )
        assert found is not None
        assert found["point"] == {"prune.a.ratio": 0.4, "quantize.a.weight_bits": 32}
        assert found["values"] == [87.0, None]  # as much better as it is at its own rung
        (size, accuracy) = found["violations"]
        assert size is None and accuracy == pytest.approx(
            made.violations({"accuracy": 87.0, "size_bytes": 1.0})[1]
        )


def test_a_float_network_and_a_space_without_floats_tell_nothing(tmp_path: Path) -> None:
    with study(tmp_path / "wide") as made:
        assert beside(made, quantized(), quantized().metrics) is None
    with study(tmp_path / "narrow", NARROW) as made:
        assert beside(made, quantized(accuracy=85.0), quantized().metrics) is None


def test_a_belief_is_drawn_to_what_was_told_beside() -> None:
    encoding = Encoding(WIDE.distributions())
    ratios = np.linspace(0.0, 0.8, 9)
    rows = np.array([encoding.row({**POINT, "prune.a.ratio": ratio}) for ratio in ratios])
    floats = np.array([encoding.row({"prune.a.ratio": r, "quantize.a.weight_bits": 32}) for r in ratios])
    losses, measured = 10.0 + ratios[:, None] ** 2, np.ones(9, dtype=bool)
    told = Beside(floats, np.column_stack([ratios**2]))

    def predicted(other: Beside | None) -> np.ndarray:  # type: ignore[type-arg]
        known = Known(encoding, None, None)
        surrogate = Surrogate(encoding.blocks, known.figures(rows).shape[1])
        results = Results(rows, losses, np.zeros((9, 0)), measured, other)
        generator = np.random.default_rng(0)
        belief = Belief(encoding, known, results, [surrogate], tune=True, generator=generator)
        means, _ = belief.predict(floats)
        quantized, _ = belief.predict(rows)
        assert results.feasible.sum() == 9  # nobody takes what was told beside for a trial
        return quantized[:, 0] - means[:, 0]

    assert (predicted(told) > 0.5).all()  # in floating point all are better
    assert np.abs(predicted(None)).max() < 0.5  # of which quantized trials alone say nothing


def test_the_guided_sampler_proposes_on() -> None:
    space = {
        "prune.a.ratio": FloatDistribution(0.0, 0.8),
        "quantize.a.weight_bits": CategoricalDistribution((4, 32)),
    }
    made = optuna.create_study(directions=["maximize", "minimize"], sampler=GuidedSampler(seed=0, startup=4))
    for _ in range(8):
        trial = made.ask(space)  # type: ignore[arg-type]
        ratio, bits = trial.params.values()
        other = {"point": {**trial.params, "quantize.a.weight_bits": 32}, "values": [90 - ratio, None]}
        made._storage.set_trial_system_attr(trial._trial_id, BESIDE, {**other, "violations": [None]})
        trial.set_constraint("0", ratio - 0.7)
        made.tell(trial, [80 - ratio + bits / 4, (1 - ratio) * bits])
    assert len({tuple(t.params.values()) for t in made.trials}) == 8
