"""The first points of a search: uniform designs that lie in the space, whatever it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from inline_workers import search_spec

from autoprune.search.anchors import MOST, FirstPoints, anchors, first_points
from autoprune.space import Choice, Options, Range, Space

FULL = Space(
    {
        "architecture.depth": Options((1, 2, 3), 3),
        "architecture.norm": Options(("batch", "none"), "batch"),
        "prune.a.ratio": Range(0.0, 0.8, 0.0),
        "prune.b.ratio": Range(0.0, 0.8, 0.0),
        "prune.criterion": Options(("l1", "taylor"), "l1"),
        "distill.temperature": Range(1.0, 8.0, 4.5),
        "quantize.a.weight_bits": Options((4, 8, 32), 32),
        "quantize.a.activation_bits": Options((8, 32), 32),
    }
)


def test_they_start_from_the_baseline_and_compress_it_alike() -> None:
    points = anchors(FULL, FULL.neutral())
    assert points[0] == FULL.neutral()
    assert points[1] == {**FULL.neutral(), "quantize.a.weight_bits": 8, "quantize.a.activation_bits": 8}
    assert {point["prune.a.ratio"] for point in points} == {0.0, 0.25, 0.5}
    assert all(point["prune.a.ratio"] == point["prune.b.ratio"] for point in points)
    assert {point["architecture.depth"] for point in points} == {1, 2, 3}
    assert {point["architecture.norm"] for point in points} == {"batch", "none"}


def test_what_the_target_says_goes_together_is_tried_in_eight_bits() -> None:
    space = Space({**FULL, "target.a.reuse": Options((1, 64), 64)})
    points = anchors(space, space.neutral(), [{"target.a.reuse": 1, "target.gone.reuse": 1}])
    assert points[1] == {**points[2], "target.a.reuse": 1}
    assert points[1]["quantize.a.weight_bits"] == 8


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"prune.a.ratio": Range(0.6, 0.7, 0.0)},
        {"prune.a.ratio": Range(0.0, 0.8, 0.0, step=0.2)},
        {"prune.a.ratio": Options((0.3, 0.5), 0.0)},
        {"quantize.a.weight_bits": Options((2, 4), 32)},
        {"quantize.a.weight_bits": Options((32,), 32)},
        {"architecture.kind": Options(("wide", "deep"), "shallow")},
        {"architecture.width": Range(8, 64, 32, step=8)},
        {"architecture.bias": Options((True, False), True)},
        {"train.learning_rate": Range(0.1, 0.1, 0.1)},
    ],
)
def test_every_point_lies_in_the_space_and_none_comes_twice(choices: dict[str, Choice]) -> None:
    space = Space(choices)
    points = anchors(space, space.neutral())
    assert 1 <= len(points) <= MOST
    assert all(space.problems_of(point) == [] and set(point) == set(space) for point in points)
    assert all(point not in points[:i] for i, point in enumerate(points))


def test_bits_that_are_not_offered_are_replaced_by_the_nearest() -> None:
    space = Space({"quantize.a.weight_bits": Options((3, 6, 32), 32)})
    assert [point["quantize.a.weight_bits"] for point in anchors(space, space.neutral())] == [32, 6]


def test_a_large_space_is_covered_by_few() -> None:
    space = Space({f"architecture.blocks{i}": Options((1, 2, 3), 3) for i in range(20)})
    assert len(anchors(space, space.neutral())) == MOST


ONE_LAYER = Space(
    {
        "prune.a.ratio": Range(0.0, 0.8, 0.0),
        "quantize.a.weight_bits": Options((8, 32), 32),
        "quantize.a.activation_bits": Options((8, 32), 32),
    }
)
TERM = {
    "layer": "a",
    "params": 64,
    "macs": 64,
    "can_round": True,
    "axes": [[["a", 1.0]]],
    "reads": 0,
    "writes": 0,
    "outputs": 8,
}
PRICES: dict[str, Any] = {
    "terms": [TERM],
    "groups": {"a": {"choice": "prune.a.ratio", "units": 64, "together": 1, "units_at": {}}},
    "channel_multiple": 1,
    "bits": {"a": ["quantize.a.weight_bits", "quantize.a.activation_bits"]},
    "elsewhere": 0,
    "factors": {},
    "layer_ms": {
        "a": {"reads": [1.0], "writes": [1.0], "float": [[4.0]], "integer": [[2.0]]},
    },
    "fits": {"latency_ms": {"weights": [1.0, 1.0, 0.0, 0.0, 0.0], "constant": 0.0}},
}
INTEGER = {"prune.a.ratio": 0.0, "quantize.a.weight_bits": 8, "quantize.a.activation_bits": 8}


def one_layer_study(*trials: Any, warm_start: bool = True) -> Any:
    """A study of one layer of 4 ms, 2 ms as integers, that may take 2.4 ms."""
    profile = {
        "choices": ONE_LAYER.to_json(),
        "baseline": {"latency_ms": 4.0},
        "preview": {"prices": PRICES, "errors": {"latency_ms": 0.0}},
    }
    spec = search_spec(constraints=["latency_ms <= 60%"], search={"warm_start": warm_start})
    return SimpleNamespace(space=ONE_LAYER, spec=spec, profile=profile, trials=list(trials))


def measured(point: dict[str, Any], ms: float, is_unstable: bool = False) -> Any:
    return SimpleNamespace(choices=point, metrics={"latency_ms": ms}, is_unstable=is_unstable)


def popped(points: FirstPoints) -> list[dict[str, Any]]:
    found = []
    while (point := points.pop()) is not None:
        found.append(point)
    return found


def test_first_points_come_in_their_order_without_those_that_were_tried() -> None:
    study = one_layer_study()
    planned = first_points(study)
    points = FirstPoints(study)
    points.drop(planned[1])
    assert popped(points) == [planned[0], *planned[2:]]
    assert popped(FirstPoints(one_layer_study(warm_start=False))) == []


def test_first_points_that_by_what_trials_took_break_a_limit_are_passed_over() -> None:
    study = one_layer_study()
    planned = first_points(study)
    points = FirstPoints(study)
    assert INTEGER in planned
    slower = {**INTEGER, "prune.a.ratio": 0.25}
    study.trials.append(measured(slower, 2.7))  # 1.5 by the profile
    kept = popped(points)
    assert kept and INTEGER not in kept and slower not in kept
    assert kept == [point for point in planned if point not in (INTEGER, slower)]


def test_first_points_are_kept_where_latencies_kept_changing() -> None:
    study = one_layer_study(measured(INTEGER, 6.0, is_unstable=True))
    assert popped(FirstPoints(study)) == first_points(study)
