"""The evolutionary sampler: Optuna's conformance tests, and that it finds fronts."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from autoprune.pareto import hypervolume
from autoprune.search.samplers.evolution import EvolutionSampler

optuna.logging.set_verbosity(optuna.logging.WARNING)


class TestConformance(BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase):
    """Optuna's own suite."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: EvolutionSampler(seed=0, startup=1)


def search(sampler: BaseSampler, trials: int, choices: int) -> float:
    """Hypervolume after a search over many ratios, with two objectives that pull apart."""
    distributions: dict[str, BaseDistribution] = {
        f"prune.{i}.ratio": FloatDistribution(0.0, 0.8) for i in range(choices)
    } | {f"quantize.{i}.weight_bits": CategoricalDistribution((4, 8, 32)) for i in range(choices)}
    ideal = np.linspace(0.1, 0.7, choices)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    found = []
    for _ in range(trials):
        trial = study.ask(distributions)
        ratios = np.array([trial.params[f"prune.{i}.ratio"] for i in range(choices)])
        bits = np.array([trial.params[f"quantize.{i}.weight_bits"] for i in range(choices)])
        error = np.maximum(ratios - ideal, 0).mean() + 0.2 * (bits == 4).mean()
        values = [float(error), float(((1 - ratios) * bits).mean() / 32)]
        study.tell(trial, values)
        found.append(values)
    return hypervolume(np.array(found), [0.5, 1.0])


def test_it_finds_more_than_chance() -> None:
    assert search(EvolutionSampler(seed=0), 150, 10) > 1.05 * search(RandomSampler(seed=0), 150, 10)


def test_it_is_cheap_at_a_thousand_trials_of_sixty_choices() -> None:
    distributions: dict[str, BaseDistribution] = {f"c{i}": FloatDistribution(0.0, 1.0) for i in range(60)}
    study = optuna.create_study(directions=["minimize"] * 3, sampler=EvolutionSampler(seed=0))
    generator = np.random.default_rng(0)
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={name: float(generator.uniform()) for name in distributions},
                distributions=distributions,
                values=generator.uniform(size=3).tolist(),
            )
            for _ in range(1000)
        ]
    )
    trial = study.trials[0]
    study.sampler.infer_relative_search_space(study, trial)  # the first call reads all trials
    start = time.perf_counter()
    for _ in range(10):
        space = study.sampler.infer_relative_search_space(study, trial)
        assert len(study.sampler.sample_relative(study, trial, space)) == 60
    assert (time.perf_counter() - start) / 10 < 0.1  # 20 ms on a machine that is not busy


def test_infeasible_trials_are_parents_only_for_want_of_better() -> None:
    study = optuna.create_study(directions=["minimize"], sampler=EvolutionSampler(seed=0))
    space: dict[str, BaseDistribution] = {"x": IntDistribution(0, 1000)}
    for x in range(100):
        # Infeasible below 900: there the loss is best.
        study.add_trial(
            optuna.trial.create_trial(
                params={"x": 10 * x},
                distributions=space,
                value=float(x),
                constraints={"limit": 0.0 if x >= 90 else 90.0 - x},
            )
        )
    proposed = [study.ask(space).params["x"] for _ in range(60)]
    assert np.median(proposed) == pytest.approx(900, abs=60)


def test_steps_stay_on_the_grid() -> None:
    study = optuna.create_study(sampler=EvolutionSampler(seed=1, startup=1))
    space: dict[str, BaseDistribution] = {
        "stepped": FloatDistribution(0.0, 0.8, step=0.05),
        "whole": IntDistribution(8, 64, step=8),
        "log": FloatDistribution(1e-4, 1.0, log=True),
    }
    for _ in range(60):
        trial = study.ask(space)
        assert trial.params["whole"] % 8 == 0 and isinstance(trial.params["whole"], int)
        assert trial.params["stepped"] / 0.05 == pytest.approx(round(trial.params["stepped"] / 0.05))
        assert 1e-4 <= trial.params["log"] <= 1.0
        study.tell(trial, trial.params["stepped"])
    assert min(t.value for t in study.trials if t.value is not None) == 0.0


def test_a_copy_can_be_made_to_draw_differently() -> None:
    sampler = EvolutionSampler(seed=0)
    before = sampler._generator.bit_generator.state
    sampler.reseed_rng()
    assert sampler._generator.bit_generator.state != before
