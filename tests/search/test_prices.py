"""Prices by arithmetic, against networks that were really made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_spec import TINY_SPEC

from autoprune.evaluate import Evaluator
from autoprune.search.points import as_columns, check_points
from autoprune.search.prices import Floats, Prices
from autoprune.space import Space
from autoprune.spec import load_spec

TIMED: dict[str, Any] = {
    "terms": [
        {
            "layer": name,
            "params": 64,
            "macs": 64,
            "can_round": True,
            "axes": [[[name, 1.0]], []],
            "reads": 1,
            "writes": 0,
            "outputs": 8,
        }
        for name in "ab"
    ],
    "groups": {
        name: {"choice": f"{name}.ratio", "units": 64, "together": 1, "units_at": {}} for name in "ab"
    },
    "channel_multiple": 1,
    "bits": {name: [f"{name}.bits", f"{name}.bits"] for name in "ab"},
    "elsewhere": 0,
    "factors": {},
    "layer_ms": {
        name: {"reads": [1.0], "writes": [1.0, 0.0], "float": [[4.0, 0.5]], "integer": [[2.0, 0.5]]}
        for name in "ab"
    },
    "call_ms": 0.25,
    "fits": {"latency_ms": {"weights": [1.0, 1.0, 0.25, 0.25, 0.125], "constant": -0.1}},
}
"""Two layers that take milliseconds."""

LAYER = {
    "layer": "l",
    "params": 64,
    "macs": 64,
    "can_round": True,
    "axes": [[["a", 1.0]], []],
    "reads": 1,
    "writes": 0,
    "outputs": 8,
}
"""A layer whose outputs are the group `a`."""


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    made = Evaluator(load_spec({**TINY_SPEC, "train": {"epochs": 0}}))
    made.attach_data(None)
    made.attach_reference(made.train_reference())
    return made


@pytest.fixture(scope="module")
def space(evaluator: Evaluator) -> Space:
    return Space.from_json(evaluator.describe()["choices"])


@pytest.fixture(scope="module")
def data(evaluator: Evaluator, space: Space) -> dict[str, Any]:
    found: dict[str, Any] = evaluator.foresee("terms", space.to_json())
    return found


@pytest.mark.parametrize("metric", ["params", "macs", "bops"])
def test_they_are_exact_for_widths_and_bits(
    evaluator: Evaluator, space: Space, data: dict[str, Any], metric: str
) -> None:
    points = [p for p in check_points(space, 24) if all(p[n] == space[n].neutral for n in p if "arch" in n)]
    found = Prices(data).columns(as_columns(space, points))[metric]
    assert len(points) > 10 and len(set(found.tolist())) > 5
    assert found.tolist() == [evaluator.price_point(point)[metric] for point in points]


def test_they_are_exact_for_each_architecture_alone_and_close_where_it_is_pruned_too(
    evaluator: Evaluator, space: Space, data: dict[str, Any]
) -> None:
    prices, neutral = Prices(data), space.neutral()
    for name in ("architecture.width", "architecture.depth"):
        for value in space[name].values:  # type: ignore[union-attr]
            point = {**neutral, name: value}
            assert prices(point)["macs"] == evaluator.price_point(point)["macs"]
    both = {**neutral, "architecture.width": 4, "architecture.depth": 1}
    both |= {n: 0.5 for n in space if n.endswith(".ratio")}
    assert prices(both)["macs"] == pytest.approx(evaluator.price_point(both)["macs"], rel=0.1)


def test_one_point_costs_what_it_costs_among_many(space: Space, data: dict[str, Any]) -> None:
    points = list(check_points(space, 5))
    at_once = Prices(data).columns(as_columns(space, points))
    for i, point in enumerate(points):
        assert Prices(data)(point) == {name: float(column[i]) for name, column in at_once.items()}


def test_groups_that_share_an_axis_add_up_and_those_that_factor_it_multiply() -> None:
    def term(axis: list[list[Any]]) -> dict[str, Any]:
        return {
            "layer": "l",
            "params": 100,
            "macs": 100,
            "can_round": False,
            "axes": [axis],
            "reads": None,
            "writes": None,
            "outputs": 0,
        }

    def cost(axis: list[list[Any]]) -> float:
        group = {"units": 10, "together": 1, "units_at": {}}
        data = {
            "terms": [term(axis)],
            "groups": {"a": {**group, "choice": "ra"}, "b": {**group, "choice": "rb"}},
            "channel_multiple": 1,
            "bits": {},
            "elsewhere": 0,
            "factors": {},
        }
        return Prices(data)({"ra": 0.5, "rb": 0.2})["params"]

    assert cost([["a", 0.5], ["b", 0.5]]) == pytest.approx(100 * (0.5 * 0.5 + 0.5 * 0.8))  # side by side
    assert cost([["a", 1.0], ["b", 1.0]]) == pytest.approx(100 * 0.5 * 0.8)  # heads and their width
    assert cost([["a", 0.4]]) == pytest.approx(100 * (1 - 0.4 * 0.5))


def test_times_of_layers_are_interpolated_between_widths_and_chosen_by_bits() -> None:
    data = {
        "terms": [LAYER],
        "groups": {"a": {"choice": "r", "units": 8, "together": 1, "units_at": {}}},
        "channel_multiple": 1,
        "bits": {"l": ["w", "x"]},
        "elsewhere": 0,
        "factors": {},
        "layer_ms": {
            "l": {"reads": [1.0], "writes": [1.0, 0.5], "float": [[4.0, 2.0]], "integer": [[1.0, 0.5]]}
        },
        "call_ms": 0.25,
        "fits": {"latency_ms": {"weights": [1.0, 1.0, 0.25, 0.25, 0.125], "constant": 0.5}},
    }
    columns = {
        "r": np.array([0.0, 0.5, 0.25, 0.0, 0.5]),
        "w": np.array([32.0, 32.0, 32.0, 8.0, 8.0]),
        "x": np.array([32.0, 32.0, 32.0, 8.0, 32.0]),
    }
    assert Prices(data).columns(columns)["latency_ms"].tolist() == [4.5, 2.5, 3.5, 1.75, 2.5]


def test_a_layer_made_narrow_takes_what_one_cut_to_that_width_takes() -> None:
    halved = {"l": (0.5, 0.5)}
    data = {
        "terms": [LAYER],
        "groups": {
            "a": {"choice": "r", "units": 8, "together": 1, "units_at": {"width": [(1.0, 8), (0.5, 4)]}}
        },
        "channel_multiple": 1,
        "bits": {},
        "elsewhere": 0,
        "factors": {"width": [(1.0, {}), (0.5, halved)], "kernel": [(3, {}), (1, {"l": (0.25, 0.25)})]},
        "layer_ms": {"l": {"reads": [1.0], "writes": [1.0, 0.5], "float": [[4.0, 3.0]]}},
        "fits": {"latency_ms": {"weights": [1.0, 0.0, 0.0, 0.0, 0.0], "constant": 0.0}},
    }
    columns = {
        "r": np.array([0.0, 0.5, 0.0, 0.5, 0.0]),
        "width": np.array([1.0, 1.0, 0.5, 0.5, 0.5]),
        "kernel": np.array([3, 3, 3, 3, 1]),
    }
    # A quarter of the width is beyond the grid, and a kernel changes no width: both are in proportion.
    assert Prices(data).columns(columns)["latency_ms"].tolist() == [4.0, 3.0, 3.0, 1.5, 0.75]


def test_points_need_not_name_choices_that_leave_none(
    evaluator: Evaluator, space: Space, data: dict[str, Any]
) -> None:
    point = {**space.neutral(), "architecture.width": 4}
    named = {name: value for name, value in point.items() if name != "architecture.width"}
    assert Prices(data, {"architecture.width": 4})(named) == Prices(data)(point)
    assert Prices(data)(point)["macs"] == evaluator.price_point(point)["macs"]


def timed(count: int, seed: int) -> tuple[dict[str, Any], Floats]:
    """Points of two layers, and what they take where integers take 1.4 times what the profile says."""
    generator = np.random.default_rng(seed)
    columns = {f"{name}.ratio": generator.uniform(0.0, 0.8, count) for name in "ab"}
    columns |= {f"{name}.bits": generator.choice([8.0, 32.0], count) for name in "ab"}
    fit = {"weights": [1.0, 1.4, 0.25, 0.35, 0.125], "constant": -0.1}
    truth = Prices({**TIMED, "fits": {"latency_ms": fit}}).columns(columns)["latency_ms"]
    return columns, truth * generator.uniform(0.98, 1.02, count)


def told_of(truth: Floats) -> list[dict[str, float]]:
    return [{"latency_ms": ms} for ms in truth.tolist()]


def test_latencies_come_nearer_to_what_trials_take_the_more_of_them_there_are() -> None:
    prices, (columns, truth) = Prices(TIMED), timed(40, seed=0)
    asked, expected = timed(200, seed=1)

    def error(told: Prices) -> float:
        return float(np.abs(told.columns(asked)["latency_ms"] / expected - 1.0).mean())

    errors = [error(prices)]
    for count in (4, 40):
        few = {name: column[:count] for name, column in columns.items()}
        errors.append(error(prices.corrected(few, told_of(truth[:count]))))
    assert errors[0] > 0.12 > errors[1] > errors[2]
    assert errors[2] < 0.03
    again = prices.corrected(columns, told_of(truth)).corrected(columns, told_of(truth))
    assert error(again) == errors[2]  # from the profile's fit, not from the one before


def test_a_correction_changes_only_what_trials_speak_of() -> None:
    prices, (columns, truth) = Prices(TIMED), timed(40, seed=0)
    of_floats = {**columns, "a.bits": np.full(40, 32.0), "b.bits": np.full(40, 32.0)}
    expected = prices.columns(of_floats)
    corrected = prices.corrected(of_floats, told_of(expected["latency_ms"]))
    assert corrected.columns(columns)["latency_ms"] == pytest.approx(prices.columns(columns)["latency_ms"])
    corrected = prices.corrected(columns, told_of(truth))
    assert corrected.columns(columns)["bops"].tolist() == prices.columns(columns)["bops"].tolist()


def test_without_latencies_to_learn_from_nothing_is_corrected() -> None:
    prices, (columns, truth) = Prices(TIMED), timed(3, seed=0)
    assert prices.corrected(columns, []) is prices
    assert prices.corrected(columns, [{"macs": 1.0}, {}, {"latency_ms": 0.0}]) is prices
    unfitted = Prices({**TIMED, "fits": {}})
    assert unfitted.corrected(columns, told_of(truth)) is unfitted


def test_a_correction_knows_of_choices_that_points_need_not_name() -> None:
    columns, truth = timed(20, seed=0)
    columns["a.bits"] = np.full(20, 8.0)
    named = {name: column for name, column in columns.items() if name != "a.bits"}
    found = Prices(TIMED, {"a.bits": 8.0}).corrected(named, told_of(truth)).columns(named)
    assert found["latency_ms"].tolist() == (
        Prices(TIMED).corrected(columns, told_of(truth)).columns(columns)["latency_ms"].tolist()
    )
