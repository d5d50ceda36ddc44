"""What is known of points before they are tried: limits, damage, and the knapsack over both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from scipy.stats import spearmanr

from autoprune.search.samplers.belief import Belief, Results
from autoprune.search.samplers.encoding import Encoding, Floats
from autoprune.search.samplers.guided import GuidedSampler
from autoprune.search.samplers.known import Known
from autoprune.search.samplers.proposals import anywhere, frugal
from autoprune.search.samplers.surrogate import Surrogate

LAYERS = 4
BITS = (4, 8, 32)
SPACE: dict[str, Any] = {
    **{f"prune.{i}.ratio": FloatDistribution(0.0, 0.8) for i in range(LAYERS)},
    **{f"quantize.{i}.weight_bits": CategoricalDistribution(BITS) for i in range(LAYERS)},
}
PRIOR: dict[str, dict[Any, float]] = {
    **{f"prune.{i}.ratio": {0.0: 0.0, 0.8: 2.0**i} for i in range(LAYERS)},
    **{f"quantize.{i}.weight_bits": {32: 0.0, 8: 0.01, 4: 0.5} for i in range(LAYERS)},
}


class Sizes:
    """Bits of all weights, given for one point or for many at once."""

    def __call__(self, point: Mapping[str, Any]) -> dict[str, float]:
        return {n: float(c[0]) for n, c in self.columns({k: np.array([v]) for k, v in point.items()}).items()}

    def columns(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        parts = [
            (1 - columns[f"prune.{i}.ratio"].astype(float))
            * columns[f"quantize.{i}.weight_bits"].astype(float)
            for i in range(LAYERS)
        ]
        return {"size": sum(parts)}


def known(limit: float = float("inf")) -> tuple[Encoding, Known]:
    encoding = Encoding(SPACE)
    return encoding, Known(encoding, Sizes(), PRIOR, {"size": (0.0, limit)})


START = {
    **{f"prune.{i}.ratio": 0.0 for i in range(LAYERS)},
    **{f"quantize.{i}.weight_bits": 32 for i in range(LAYERS)},
}


def test_many_points_at_once_cost_what_each_costs() -> None:
    encoding, told = known()
    rows = np.array([[0.5, 0, 0.1, 1, 0, 1, 2, 0], [0.0, 0, 0, 0, 2, 2, 2, 2]], dtype=float)
    one_by_one = Known(encoding, lambda point: Sizes()(point), PRIOR)
    assert told.costs(rows).tolist() == one_by_one.costs(rows).tolist()


def test_the_knapsack_takes_what_is_cheap_first_and_goes_to_the_end() -> None:
    encoding, told = known()
    path = frugal(encoding, told, encoding.row(START))
    sizes, damages = told.costs(path)[:, 0], told.prior(path)
    assert sizes[0] == 32 * LAYERS and sizes[-1] == pytest.approx(0.2 * 4 * LAYERS)
    assert (np.diff(sizes) < 0).all() and (np.diff(damages) >= -1e-12).all()
    eight = next(row for row, size in zip(path, sizes, strict=True) if size <= 8 * LAYERS)
    bits = [encoding.point(eight)[f"quantize.{i}.weight_bits"] for i in range(LAYERS)]
    assert max(bits) <= 8  # eight bits save three quarters for next to nothing
    halfway = encoding.point(path[len(path) // 2])
    assert halfway["prune.0.ratio"] >= halfway["prune.3.ratio"]


def test_it_is_close_to_the_best_there_is() -> None:
    encoding, told = known()
    path = frugal(encoding, told, encoding.row(START))
    generator = np.random.default_rng(0)
    rows = np.column_stack(
        [generator.uniform(size=(20_000, LAYERS)), generator.integers(3, size=(20_000, LAYERS))]
    )
    sizes, damages = told.costs(rows)[:, 0], told.prior(rows)
    for size, damage in zip(told.costs(path)[:, 0], told.prior(path), strict=True):
        within = damages[sizes <= size]
        assert not len(within) or damage <= within.min() + 1e-9


def test_with_a_limit_it_ends_there_and_takes_back_what_it_can() -> None:
    encoding, told = known(limit=20.0)
    path = frugal(encoding, told, encoding.row(START), weights={})
    kept = path[told.allowed(path)]
    assert len(kept) and not told.allowed(path[:1])[0]
    assert 18.0 < told.costs(kept).max() <= 20.0


def test_values_of_which_the_prior_does_not_speak_are_left_alone() -> None:
    encoding = Encoding(SPACE)
    told = Known(encoding, Sizes(), {"prune.1.ratio": PRIOR["prune.1.ratio"]})
    path = frugal(encoding, told, encoding.row(START))
    for row in path:
        point = encoding.point(row)
        assert {n: v for n, v in point.items() if n != "prune.1.ratio"} == {
            n: v for n, v in START.items() if n != "prune.1.ratio"
        }


def test_what_breaks_a_limit_is_not_proposed() -> None:
    sampler = GuidedSampler(seed=0, costs=Sizes(), limits={"size": (0.0, 12.0)}, startup=4)
    study = optuna.create_study(sampler=sampler)
    for number in range(14):
        trial = study.ask(SPACE)
        size = Sizes()(trial.params)["size"]
        assert number == 0 or size <= 12.0  # the first trial is Optuna's own random point
        study.tell(trial, -size + sum(trial.params[f"prune.{i}.ratio"] for i in range(LAYERS)))


class Milliseconds(Sizes):
    """Milliseconds, which trials may show to be more.

    Args:
        factor: by which they are multiplied.
    """

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def columns(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        return {"ms": self.factor * super().columns(columns)["size"]}

    def corrected(self, columns: Mapping[str, Any], told: Sequence[Mapping[str, float]]) -> Milliseconds:
        expected = Milliseconds().columns(columns)["ms"]
        return Milliseconds(float(np.mean([one["ms"] for one in told] / expected)))


def test_proposals_keep_a_limit_that_only_trials_reveal() -> None:
    sampler = GuidedSampler(seed=0, costs=Milliseconds(), limits={"ms": (0.0, 24.0)}, startup=4)
    study = optuna.create_study(sampler=sampler)
    found = []
    for _ in range(14):
        trial = study.ask(SPACE)
        ms = Milliseconds(2.0)(trial.params)["ms"]
        trial.set_user_attr("costs", {"ms": ms})
        study.tell(trial, sum(trial.params[f"prune.{i}.ratio"] for i in range(LAYERS)) - ms)
        found.append(ms)
    assert max(found[1:]) <= 24.0  # the first trial is Optuna's own random point
    assert max(found[1:]) > 12.0


def test_costs_are_corrected_again_once_there_are_a_tenth_more_trials() -> None:
    encoding = Encoding(SPACE)
    told = Known(encoding, Milliseconds(), PRIOR)
    row = encoding.row(START)[None]
    doubted = told.aiming(0.0)
    for count, factor, expected in [(20, 2.0, 2.0), (21, 3.0, 2.0), (22, 3.0, 3.0)]:
        told.learn(np.repeat(row, count, axis=0), [{"ms": factor * 32 * LAYERS}] * count)
        assert told.costs(row).tolist() == [[expected * 32 * LAYERS]]
    assert doubted.costs(row).tolist() == [[32.0 * LAYERS]]
    assert told.aiming(0.0).costs(row).tolist() == told.costs(row).tolist()


def test_of_measured_costs_nothing_is_predicted_by_choices_alone() -> None:
    encoding = Encoding(SPACE)
    told = Known(encoding, None, None)
    rows = anywhere(encoding, 20, np.random.default_rng(0))
    told.learn(rows, [{"macs": 1.0 + row[0], "latency_ms": 1.0} for row in rows])
    assert told.costs(rows).shape == (20, 1)


def test_what_is_known_only_roughly_may_be_beyond_a_limit_as_far_as_it_may_be_wrong() -> None:
    encoding = Encoding(SPACE)
    told = Known(encoding, Sizes(), PRIOR, {"size": (0.0, 100.0)}, errors={"size": 0.2})
    rows = np.array([encoding.row({**START, "prune.0.ratio": ratio}) for ratio in (0.0, 0.4, 0.8)])
    sizes = told.named_costs(rows)["size"]
    assert sizes.tolist() == pytest.approx([128.0, 115.2, 102.4])
    for margin, limit in [(1.0, 120.0), (0.0, 100.0), (-0.5, 90.0)]:
        aimed = told.aiming(margin)
        assert aimed.allowed(rows).tolist() == (sizes <= limit).tolist()
        path = frugal(encoding, aimed, encoding.row(START))
        assert (aimed.named_costs(path[aimed.allowed(path)])["size"] <= limit).all()


def test_a_plan_gets_past_single_steps_that_lead_nowhere() -> None:
    class Integers(Sizes):
        """Milliseconds that are less only where all layers are integers, and more where some are."""

        def columns(self, columns: Mapping[str, Any]) -> dict[str, Any]:
            bits = np.array([columns[f"quantize.{i}.weight_bits"].astype(float) for i in range(LAYERS)])
            integers = (bits <= 8).sum(axis=0)
            return {"ms": np.where(integers == LAYERS, 1.0, 2.0 + 0.1 * integers)}

    encoding = Encoding(SPACE)
    told = Known(encoding, Integers(), PRIOR, {"ms": (0.0, 1.5)})
    path = frugal(encoding, told, encoding.row(START), weights={})
    assert told.allowed(path)[-1]
    assert all(encoding.point(path[-1])[f"quantize.{i}.weight_bits"] == 8 for i in range(LAYERS))


def test_what_no_option_stands_for_is_not_expected_of_any() -> None:
    distributions = {"bits": CategoricalDistribution([2, 3, 4])}
    known = Known(Encoding(distributions), None, {"bits": {2: 0.5, 3: 0.1, 32: 0.0}})
    assert known.expected_damage(np.array([[0.0], [1.0], [2.0]])).argmax() == 0


def believed(losses: Floats, rows: Floats, asked: Floats) -> Floats:
    """The mean of a belief in one objective after some trials."""
    encoding, told = known()
    results = Results(rows, losses[:, None], np.zeros((len(rows), 0)), np.ones(len(rows), dtype=bool))
    surrogate = Surrogate(encoding.blocks, told.figures(rows).shape[1])
    belief = Belief(encoding, told, results, [surrogate], tune=True, generator=np.random.default_rng(0))
    mean = belief.predict(asked)[0][:, 0]
    assert np.isfinite(belief.assume(asked)).all()
    return np.asarray(mean)


def test_after_a_few_trials_points_rank_by_the_damage_that_is_known() -> None:
    encoding, told = known()
    rows = anywhere(encoding, 80, np.random.default_rng(1))
    damage = told.expected_damage(rows)
    found = believed(damage[:4], rows[:4], rows[4:])
    assert spearmanr(found, damage[4:]).statistic > 0.9


def test_damage_that_trials_contradict_is_not_believed() -> None:
    encoding, told = known()
    rows = anywhere(encoding, 120, np.random.default_rng(1))
    damage = told.expected_damage(rows)
    found = believed(-damage[:40], rows[:40], rows[40:])
    assert spearmanr(found, damage[40:]).statistic < -0.5
