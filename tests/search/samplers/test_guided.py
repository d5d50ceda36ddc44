"""The guided sampler: Optuna's conformance tests, and what it promises beyond them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import TrialState

from autoprune.pareto import hypervolume
from autoprune.search.samplers import REJECTED
from autoprune.search.samplers.guided import GuidedSampler

optuna.logging.set_verbosity(optuna.logging.WARNING)

LAYERS = 8
SPACE: dict[str, BaseDistribution] = {
    f"prune.{i}.ratio": FloatDistribution(0.0, 0.8) for i in range(LAYERS)
} | {f"quantize.{i}.weight_bits": CategoricalDistribution((4, 8, 32)) for i in range(LAYERS)}


class TestConformance(BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase):
    """Optuna's own suite, with a model from the third trial on."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: GuidedSampler(seed=0, startup=2)


def figures(point: Mapping[str, Any]) -> tuple[float, float]:
    """Error and size of a made-up network: late layers bear more pruning than early ones."""
    ratios = np.array([point[f"prune.{i}.ratio"] for i in range(LAYERS)])
    bits = np.array([point[f"quantize.{i}.weight_bits"] for i in range(LAYERS)])
    error = np.maximum(ratios - np.linspace(0.1, 0.7, LAYERS), 0).mean() + 0.2 * (bits == 4).mean()
    return float(error), float(((1 - ratios) * bits).mean() / 32)


def search(sampler: BaseSampler, trials: int, in_flight: int = 1, limit: float | None = None) -> optuna.Study:
    """A search that always has `in_flight` trials under way; with `limit`, sizes beyond it are infeasible."""
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    under_way = []
    for number in range(trials + in_flight - 1):
        if number < trials:
            under_way.append(study.ask(SPACE))
        if len(under_way) >= in_flight or number >= trials:
            trial = under_way.pop(0)
            values = figures(trial.params)
            if limit is not None:
                trial.set_constraint("size", values[1] - limit)
            study.tell(trial, values)
    return study


def volume(study: optuna.Study) -> float:
    return hypervolume([t.values for t in study.trials if t.values], [0.5, 1.0])


def test_it_finds_more_than_tpe_with_twice_the_trials() -> None:
    tpe = volume(search(TPESampler(seed=0, multivariate=True), 80))
    assert volume(search(GuidedSampler(seed=0), 40)) > tpe > 0.0


def test_a_known_cost_is_used_also_where_nothing_can_be_learned_of_it() -> None:
    def erratic(point: Mapping[str, Any]) -> float:
        return float(np.sin(1e4 * figures(point)[1]) % 1.0)

    def best(**known: Any) -> float:
        study = optuna.create_study(sampler=GuidedSampler(seed=0, startup=6, **known))
        for _ in range(14):
            trial = study.ask(SPACE)
            study.tell(trial, erratic(trial.params))
        return study.best_value

    assert best(costs=lambda point: {"erratic": erratic(point)}) < min(0.01, best())


def test_an_objective_that_is_a_cost_is_computed_and_constraints_on_it_are_kept() -> None:
    sampler = GuidedSampler(seed=0, costs=lambda point: {"size": 4e6 * figures(point)[1]})
    study = search(sampler, 30, limit=0.1)
    kept = [t.constraints["size"] <= 0 for t in study.trials[14:]]
    assert all(kept)


def test_many_trials_in_flight_are_all_different_and_lose_little() -> None:
    one, many = search(GuidedSampler(seed=0), 60), search(GuidedSampler(seed=0), 60, in_flight=16)
    assert len({str(t.params) for t in many.trials}) == 60
    assert volume(many) > 0.9 * volume(one)


def test_learned_constraints_are_mostly_kept() -> None:
    study = search(GuidedSampler(seed=0), 40, limit=0.15)
    assert np.mean([t.constraints["size"] <= 0 for t in study.trials[20:]]) > 0.7


def test_of_a_quality_what_is_worse_than_ordinary_is_looked_for_only_within_a_limit() -> None:
    def worse_than_ordinary(direction: str, limit: float | None = None) -> float:
        sign = -1.0 if direction == "maximize" else 1.0
        study = optuna.create_study(
            directions=[direction, "minimize"], sampler=GuidedSampler(seed=0, startup=12)
        )
        for _ in range(40):
            trial = study.ask(SPACE)
            error, size = figures(trial.params)
            if limit is not None:
                trial.set_constraint("error", error - limit)
            study.tell(trial, [sign * error, size])
        errors = [abs(t.values[0]) for t in study.trials]
        return float(np.mean(np.array(errors[12:]) > np.median(errors[:12])))

    as_a_cost = worse_than_ordinary("minimize")
    assert worse_than_ordinary("maximize") < 0.5 * as_a_cost < 0.5
    assert worse_than_ordinary("maximize", limit=0.4) > 0.5 * as_a_cost


def test_a_right_prior_helps_and_a_wrong_one_does_not_mislead_for_long() -> None:
    cost = {"costs": lambda point: {"size": figures(point)[1]}}
    right = {
        **{f"quantize.{i}.weight_bits": {4: 0.2 / LAYERS, 8: 0.0, 32: 0.0} for i in range(LAYERS)},
        **{
            f"prune.{i}.ratio": {0.0: 0.0, ideal: 0.0, 0.8: (0.8 - ideal) / LAYERS}
            for i, ideal in enumerate(np.linspace(0.1, 0.7, LAYERS).tolist())
        },
    }
    wrong = {name: {value: -loss for value, loss in losses.items()} for name, losses in right.items()}
    helped = volume(search(GuidedSampler(seed=0, prior=right, **cost), 14))
    assert helped > volume(search(GuidedSampler(seed=0, **cost), 14))
    misled = volume(search(GuidedSampler(seed=0, prior=wrong, **cost), 30))
    assert misled > volume(search(RandomSampler(seed=0), 120))


def test_with_one_objective_the_first_points_lose_least_within_the_limits() -> None:
    prior: dict[str, dict[Any, float]] = {
        name: {32: 0.0, 8: 0.1, 4: 1.0} if name.endswith("bits") else {0.0: 0.0, 0.8: 1.0} for name in SPACE
    }
    known: dict[str, Any] = {
        "costs": lambda point: {"size": figures(point)[1]},
        "limits": {"size": (0.0, 0.3)},
    }
    study = optuna.create_study(sampler=GuidedSampler(seed=0, prior=prior, **known))
    planned = []
    for number in range(6):
        trial = study.ask(SPACE)
        study.tell(trial, 1.0)
        if number % 3 < 2:
            planned.append(trial.params)
    assert len({str(params) for params in planned}) == len(planned)
    assert all(0.2 < figures(params)[1] <= 0.3 for params in planned)


@pytest.mark.parametrize("has_prior", [True, False])
def test_two_of_three_first_points_have_the_familiar_values(has_prior: bool) -> None:
    space = {**SPACE, "architecture.depth": CategoricalDistribution((1, 2, 3, 4))}
    prior: dict[str, dict[Any, float]] = {name: {0.0: 0.0, 0.8: 1.0} for name in SPACE if "ratio" in name}
    known = {"costs": lambda point: {"size": figures(point)[1]}, "prior": prior if has_prior else {}}
    familiar = {"architecture.depth": 3, "not.there": 1}
    sampler = GuidedSampler(seed=0, startup=90, familiar=familiar, **known)
    study = optuna.create_study(sampler=sampler)
    depths = []
    for _ in range(90):
        trial = study.ask(space)
        study.tell(trial, 1.0)
        depths.append(trial.params["architecture.depth"])
    assert 55 <= depths.count(3) <= 78 and {1, 2, 4} <= set(depths)


def test_costs_that_trials_tell_are_learned() -> None:
    sampler = GuidedSampler(seed=0)
    study = optuna.create_study(directions=["minimize"], sampler=sampler)
    for _ in range(16):
        trial = study.ask(SPACE)
        error, size = figures(trial.params)
        trial.set_user_attr("costs", {"size": size})
        study.tell(trial, error)
    memory = sampler._memory
    assert memory is not None
    rows = np.array(list(memory.rows.values()))
    told = [figures(memory.encoding.point(row))[1] for row in rows]
    assert np.corrcoef(memory.known.costs(rows)[:, 0], told)[0, 1] > 0.95


def test_losses_of_rejected_trials_are_not_believed() -> None:
    study = optuna.create_study(direction="minimize", sampler=GuidedSampler(seed=0, startup=4))
    space: dict[str, BaseDistribution] = {"x": IntDistribution(0, 1000)}
    for x in range(0, 1001, 50):
        rejected = x >= 500  # the told losses pull there, though nothing was measured
        study.add_trial(
            optuna.trial.create_trial(
                params={"x": x},
                distributions=space,
                value=-5000.0 if rejected else float((x - 300) ** 2) / 1000,
                constraints={"limit": x / 500 - 0.999},
                system_attrs={REJECTED: rejected},
            )
        )
    proposed = [study.ask(space).params["x"] for _ in range(6)]
    assert max(proposed) < 550 and abs(np.median(proposed) - 300) < 100


def test_failed_trials_are_not_proposed_again() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=GuidedSampler(seed=1, startup=3))
    space: dict[str, BaseDistribution] = {n: CategoricalDistribution((0, 1, 2)) for n in "abc"}
    proposed = []
    for number in range(26):
        trial = study.ask(space)
        proposed.append(tuple(trial.params.values()))
        if number % 3 == 1:
            study.tell(trial, state=TrialState.FAIL)
        else:
            total = float(sum(trial.params.values()))
            study.tell(trial, [total, -total + trial.params["a"]])
    # The very first point comes choice by choice; all others are new.
    assert len(set(proposed)) >= 25


def test_a_space_that_is_exhausted_still_gets_proposals() -> None:
    study = optuna.create_study(sampler=GuidedSampler(seed=0, startup=2))
    space: dict[str, BaseDistribution] = {"a": CategoricalDistribution((0, 1)), "b": IntDistribution(0, 1)}
    for _ in range(12):
        trial = study.ask(space)
        study.tell(trial, float(trial.params["a"] + trial.params["b"]))
    assert len({tuple(t.params.values()) for t in study.trials}) == 4


@pytest.mark.parametrize("bad", [float("inf"), 1e12, 0.0])
def test_infinite_huge_and_constant_values_do_no_harm(bad: float) -> None:
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=GuidedSampler(seed=0, startup=3))
    for number in range(12):
        trial = study.ask(SPACE)
        study.tell(trial, [bad if number % 2 else 0.0, 1.0])
    assert len(study.trials) == 12


def test_three_objectives_and_one() -> None:
    for directions in (["minimize"] * 3, ["minimize"]):
        study = optuna.create_study(directions=directions, sampler=GuidedSampler(seed=0))
        for _ in range(25):
            trial = study.ask(SPACE)
            error, size = figures(trial.params)
            study.tell(trial, [error + 0.2 * size, size, error][: len(directions)])
        late = [t.values[0] for t in study.trials[15:]]
        assert min(late) < min(t.values[0] for t in study.trials[:10])


def test_it_draws_the_same_under_a_seed_and_differently_when_reseeded() -> None:
    first, second = (search(GuidedSampler(seed=5), 20) for _ in range(2))
    assert [t.params for t in first.trials] == [t.params for t in second.trials]
    sampler = GuidedSampler(seed=5)
    sampler.reseed_rng()
    assert [t.params for t in search(sampler, 14).trials] != [t.params for t in first.trials[:14]]
