"""What samplers see: proposals, latest values, violations."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler

from autoprune.constraint import Objective
from autoprune.errors import BadInput
from autoprune.search.samplers import BESIDE
from autoprune.search.sampling import RevisedStorage, Sampling
from autoprune.space import Options, Range, Space

SPACE = Space({"ratio": Range(0.0, 0.8, 0.0), "bits": Options((4, 8, 32), 32)})
OBJECTIVES = [Objective("accuracy", "maximize"), Objective("latency_ms", "minimize")]
BASELINE = {"accuracy": 90.0, "latency_ms": 2.0}


class Looking(RandomSampler):
    """A random sampler that keeps what it is shown when it is asked."""

    shown: list[Any]

    def before_trial(self, study: Any, trial: Any) -> None:
        self.shown = [
            (t.state.name, t.values, dict(t.constraints)) for t in study.get_trials(deepcopy=False)
        ][:-1]


def sampling(sampler: BaseSampler | None = None) -> Sampling:
    return Sampling(SPACE, OBJECTIVES, sampler or RandomSampler(seed=0), BASELINE)


def test_points_lie_in_the_space_and_repeat_under_a_seed() -> None:
    first, second = (([s.ask()[1] for _ in range(20)]) for s in (sampling(), sampling()))
    assert first == second
    assert all(SPACE.problems_of(point) == [] and len(point) == 2 for point in first)


def test_a_sampler_sees_the_latest_values_of_each_trial() -> None:
    sampler = Looking(seed=0)
    told = sampling(sampler)
    first, second = told.ask()[0], told.insert({"ratio": 0.5, "bits": 8})
    told.tell(first, {"accuracy": 80.0, "latency_ms": 1.0}, [0.2])
    told.ask()
    assert sampler.shown == [("COMPLETE", [80.0, 1.0], {"0": 0.2}), ("RUNNING", None, {})]
    told.tell(first, {"accuracy": 89.0, "latency_ms": 1.0}, [-0.1])
    told.tell_failed(second)
    told.ask()
    assert sampler.shown[:2] == [("COMPLETE", [89.0, 1.0], {"0": -0.1}), ("FAIL", None, {})]


def test_a_rejected_point_counts_as_the_worst_that_was_measured() -> None:
    sampler = Looking(seed=0)
    told = sampling(sampler)
    told.tell(told.ask()[0], {"accuracy": 60.0, "latency_ms": 0.5}, [0.0])
    told.tell_rejected(told.ask()[0], [0.7])
    told.ask()
    assert sampler.shown[1] == ("COMPLETE", [60.0, 2.0], {"0": 0.7})


def test_inserted_points_can_be_parents_of_a_genetic_sampler() -> None:
    told = sampling(NSGAIISampler(population_size=4, seed=0, mutation_prob=0.0, crossover_prob=0.0))
    for ratio in (0.1, 0.2, 0.3, 0.4):
        number = told.insert({"ratio": ratio, "bits": 8})
        told.tell(number, {"accuracy": 90.0 - ratio, "latency_ms": 1.0 - ratio}, [])
    assert {told.ask()[1]["ratio"] for _ in range(8)} <= {0.1, 0.2, 0.3, 0.4}


def test_a_sampler_that_raises_is_named() -> None:
    class Broken(RandomSampler):
        def sample_independent(self, *arguments: Any) -> Any:
            raise KeyError("oops")

    with pytest.raises(BadInput, match="search.sampler: Broken raises KeyError: 'oops'"):
        sampling(Broken()).ask()


def test_the_storage_copies_only_when_asked() -> None:
    storage = RevisedStorage()
    study = optuna.create_study(storage=storage, directions=["minimize"])
    study.add_trial(optuna.trial.create_trial(value=3.0))
    storage.revise(0, [1.0], {}, {})
    assert study.trials[0].value == 1.0 and study.best_trial.value == 1.0
    assert study.get_trials(deepcopy=False)[0] is storage.get_trial(0)


def test_what_a_trial_tells_of_another_point_is_shown_and_replaced() -> None:
    told = sampling()
    number = told.ask()[0]
    other = {"point": {"ratio": 0.1, "bits": 32}, "values": [85.0, None], "violations": []}
    told.tell(number, {"accuracy": 80.0, "latency_ms": 1.0}, [], other)
    assert told._storage.get_trial(number).system_attrs[BESIDE] == other
    told.tell(number, {"accuracy": 84.0, "latency_ms": 1.0}, [], {**other, "values": [89.0, None]})
    assert told._storage.get_trial(number).system_attrs[BESIDE]["values"] == [89.0, None]


def test_a_latency_is_told_among_the_costs_unless_it_was_not_steady() -> None:
    told = sampling()
    metrics = {"accuracy": 80.0, "latency_ms": 1.0, "macs": 5.0}
    for steady, costs in [(True, {"macs": 5.0, "latency_ms": 1.0}), (False, {"macs": 5.0})]:
        number = told.ask()[0]
        told.tell(number, metrics, [], steady=steady)
        assert told._storage.get_trial(number).user_attrs["costs"] == costs


def test_a_latency_that_is_steady_at_a_later_rung_is_told_then_and_stays() -> None:
    told = sampling()
    number = told.ask()[0]
    for steady, latency in [(False, 1.4), (True, 1.0), (False, 1.4)]:
        told.tell(number, {"accuracy": 80.0, "latency_ms": latency, "macs": 5.0}, [], steady=steady)
    assert told._storage.get_trial(number).user_attrs["costs"] == {"macs": 5.0, "latency_ms": 1.0}
