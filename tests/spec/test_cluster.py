"""The section on workers: numbers or ranges of them, shapes, rungs and prices."""

from __future__ import annotations

from typing import Any

import pytest

from autoprune.errors import SpecError
from autoprune.spec import Spec, load_spec

BASE: dict[str, Any] = {"task": "digits", "budget": {"trials": 3}, "search": {"rungs": [0, 1]}}
TWO = {
    "shapes": {"small": {"price": 0.1}, "large": {"workers": 1, "price": 2.0}},
    "rungs": ["small", "large"],
}


@pytest.mark.parametrize(
    "cluster",
    [
        {"workers": {"min": 0, "max": 4}, "memory": "2GB", "resources": {"pi": 1}, "price": 0.5},
        {"workers": 3, "gpus_per_worker": 0.25, "heartbeat_seconds": 30, "trial_minutes": 5},
        TWO,
    ],
)
def test_it_is_read_back_as_it_was_written(cluster: dict[str, Any]) -> None:
    spec = load_spec({**BASE, "cluster": cluster})
    assert Spec.from_yaml(spec.to_yaml()).cluster == spec.cluster
    assert load_spec(spec, trials=5).cluster == spec.cluster


def test_without_shapes_there_is_one_for_every_rung() -> None:
    cluster = load_spec({**BASE, "cluster": {"workers": 4, "memory": "500MB", "price": 2}}).cluster
    assert {cluster.shape_at(rung) for rung in range(5)} == {"worker"} == set(cluster.by_name)
    assert cluster.by_name["worker"].demands == {"CPU": 1.0, "GPU": 0.0, "memory": 5e8}
    assert (cluster.most_workers, cluster.price_at(3), cluster.has_gpus) == (4, 2.0, False)


def test_each_rung_has_the_shape_that_it_names() -> None:
    cluster = load_spec({**BASE, "cluster": TWO}).cluster
    assert [cluster.shape_at(rung) for rung in (0, 1, 2)] == ["small", "large", "large"]
    assert (cluster.price_at(0), cluster.price_at(1), cluster.most_workers) == (0.1, 2.0, 2)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"workers": {"min": 3, "max": 2}}, "cluster.workers: got min 3 above max 2, expected min <= max"),
        ({"workers": "2"}, "cluster.workers: got '2', expected a whole number of 1 or more, or {min, max}"),
        ({"memory": "lots"}, "cluster.memory: got 'lots', expected bytes, or a text such as 500MB or 4GB"),
        ({"resources": {"pi": 0}}, "cluster.resources.pi: got 0, expected custom resources"),
        ({**TWO, "workers": 2}, "cluster: got workers beside shapes, expected them in each shape"),
        (
            {**TWO, "rungs": ["small", "lrge"]},
            "cluster.rungs: got 'lrge', expected small, large; did you mean",
        ),
        ({**TWO, "rungs": ["small"]}, "cluster.rungs: got 1 names, expected one for each of the 2 rungs"),
        ({"shapes": {"a": {"wrkers": 2}}}, "got an unknown field, expected one of workers, cpus_per_worker"),
        ({"heartbeat_seconds": 0}, "cluster.heartbeat_seconds: got 0, expected a number of 1 or more"),
    ],
)
def test_what_cannot_be_is_refused(cluster: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec({**BASE, "cluster": cluster})
    assert message in str(caught.value)


def test_money_needs_a_price_for_every_shape() -> None:
    with pytest.raises(
        SpecError, match="cluster.price: got nothing, expected what a worker costs in an hour"
    ):
        load_spec(BASE, money=5.0)
    unpriced = {**TWO, "shapes": {**TWO["shapes"], "large": {}}}
    with pytest.raises(SpecError, match=r"^cluster.shapes.large.price: got nothing"):
        load_spec({**BASE, "cluster": unpriced}, money=5.0)
