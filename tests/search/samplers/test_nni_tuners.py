"""NNI's tuners as samplers: Optuna's conformance tests, and that what they are told counts."""

from __future__ import annotations

import random
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
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

pytest.importorskip("nni")

from autoprune.errors import SpecError
from autoprune.search.samplers.nni_tuners import POPULATION, TUNERS, NniSampler
from autoprune.spec import load_spec
from autoprune.spec.sections import NOT_SAMPLERS

optuna.logging.set_verbosity(optuna.logging.WARNING)

SPACE: dict[str, BaseDistribution] = {
    "ratio": FloatDistribution(0.0, 0.8),
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "stepped": FloatDistribution(0.1, 0.9, step=0.2),
    "width": IntDistribution(8, 64, step=8),
    "count": IntDistribution(1, 100, log=True),
    "bits": CategoricalDistribution((4, 8, "none")),
}


class _Conformance(BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase):
    """Optuna's own suite."""

    tuner = ""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: NniSampler(self.tuner, seed=0)


class TestTpe(_Conformance):
    tuner = "tpe"


class TestEvolution(_Conformance):
    tuner = "evolution"


@pytest.mark.slow
class TestRandom(_Conformance):
    tuner = "random"


@pytest.mark.slow
class TestGrid(_Conformance):
    tuner = "grid"


def proposals(sampler: BaseSampler, study: optuna.Study, count: int) -> list[dict[str, object]]:
    """Points that a sampler proposes, each told a loss that is best at small ratios and four bits."""
    study.sampler = sampler
    found = []
    for _ in range(count):
        trial = study.ask(SPACE)
        found.append(dict(trial.params))
        study.tell(trial, trial.params["ratio"] + (0.0 if trial.params["bits"] == 4 else 0.3))
    return found


@pytest.mark.parametrize("tuner", TUNERS)
def test_proposals_lie_in_the_space_and_repeat_under_a_seed(tuner: str) -> None:
    state = random.getstate()
    runs = [proposals(NniSampler(tuner, seed=1), optuna.create_study(), 30) for _ in range(2)]
    assert runs[0] == runs[1] and random.getstate() == state
    for point in runs[0]:
        assert all(
            distribution._contains(distribution.to_internal_repr(point[name]))
            for name, distribution in SPACE.items()
        )


@pytest.mark.parametrize("tuner", ["tpe", "evolution"])
def test_what_it_was_told_by_others_counts_from_the_first_proposal_on(tuner: str) -> None:
    study = optuna.create_study()
    proposals(NniSampler("random", seed=0), study, 60)
    found = proposals(NniSampler(tuner, seed=0), study, 20)
    assert np.mean([point["bits"] == 4 for point in found]) > 0.5
    assert np.mean([float(str(point["ratio"])) for point in found]) < 0.3


def test_the_grid_goes_on_where_it_stopped_and_ends() -> None:
    space: dict[str, BaseDistribution] = {
        "a": CategoricalDistribution(("x", "y", "z")),
        "b": IntDistribution(0, 3),
    }
    study = optuna.create_study()
    seen = []
    for number in range(12):
        if number in (1, 6):  # a new process, which has only the study
            study.sampler = NniSampler("grid", seed=0)
        trial = study.ask(space)
        seen.append(tuple(trial.params.values()))
        if number != 3:  # one stays under way
            study.tell(trial, 0.0)
    assert len(set(seen)) == 12
    assert study.ask(space).params["a"] in ("x", "y", "z")  # all tried: any point


@pytest.mark.parametrize("tuner", TUNERS)
def test_what_was_tried_is_not_proposed_again_while_there_is_anything_else(tuner: str) -> None:
    space: dict[str, BaseDistribution] = {name: CategoricalDistribution((0, 1, 2)) for name in "abc"}
    study = optuna.create_study(sampler=NniSampler(tuner, seed=0))
    for _ in range(24):
        trial = study.ask(space)
        study.tell(trial, float(sum(trial.params.values())))
    assert len({tuple(trial.params.values()) for trial in study.trials}) >= 23


def test_several_objectives_are_aimed_at_by_turns() -> None:
    space: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0)}
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=NniSampler("evolution", seed=0))
    for number in range(80):
        trial = study.ask(space)
        x = trial.params["x"]
        study.tell(trial, [x, 1 - (1 - x) ** 2])
        assert number < POPULATION or 0.0 <= x <= 1.0
    late = [t.params["x"] for t in study.trials[POPULATION:]]
    assert min(late) < 0.2 and max(late) > 0.8


@pytest.mark.parametrize("tuner", ["tpe", "evolution"])
def test_what_breaks_a_constraint_is_worse_than_anything_that_does_not(tuner: str) -> None:
    space: dict[str, BaseDistribution] = {name: FloatDistribution(0.0, 1.0) for name in "xyzuvw"}
    study, generator = optuna.create_study(sampler=NniSampler(tuner, seed=0)), np.random.default_rng(0)
    for _ in range(60):
        point = {name: float(generator.uniform()) for name in space}
        limit = {"limit": 0.6 - point["x"]}
        trial = optuna.trial.create_trial(
            params=point, distributions=space, value=point["x"], constraints=limit
        )
        study.add_trial(trial)  # it is best where the constraint is broken most
    proposed = [study.ask(space).params["x"] for _ in range(30)]
    assert np.median(proposed) > 0.55


@pytest.mark.parametrize("name", sorted(NOT_SAMPLERS))
def test_tuners_that_do_not_work_are_refused_with_an_alternative(name: str) -> None:
    with pytest.raises(SpecError, match="search.sampler: got .*expected"):
        load_spec({"task": "digits", "budget": {"trials": 1}, "search": {"sampler": name}})
