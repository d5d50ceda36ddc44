"""What is known before the first trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tiny_spec import TINY_SPEC

from autoprune.errors import SpecError, TaskError
from autoprune.evaluate import Evaluator
from autoprune.search.profile import check_reachable, make_profile, smallest_point
from autoprune.space import Options, Range, Space
from autoprune.spec import load_spec


class OneWorker:
    """An evaluator in this process, called as a pool calls one."""

    size = 1

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = load_spec(spec)
        self.evaluator = Evaluator(self.spec)
        self.evaluator.attach_data(None)
        self.evaluator.attach_reference(self.evaluator.train_reference())

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self.evaluator, method)(*arguments)

    def map(self, method: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        return [self.call(method, *arguments) for arguments in calls]


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    worker = OneWorker({**TINY_SPEC, "train": {"epochs": 1, "batch_size": 32}})
    return make_profile(worker, worker.spec)


def test_costs_range_from_the_smallest_point_to_the_baseline(made: dict[str, Any]) -> None:
    for metric in ("params", "macs", "bops", "size_bytes"):
        low, high = made["ranges"][metric]
        assert 0 < low < high == made["baseline"][metric]
    assert made["ranges"]["latency_ms"][0] <= made["baseline"]["latency_ms"]
    assert made["seconds"]["per_epoch"] > 0 and made["seconds"]["per_evaluation"] > 0


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"constraints": ["params <= 1"]}, "achievable is"),
        ({"constraints": ["size_bytes >= 101%"]}, "cannot be met"),
        ({"constraints": ["latency_ms <= 0.000001"]}, "latency_ms"),
        ({"objectives": {"acuracy5": "maximize"}}, "acuracy5"),
        ({"constraints": ["recall >= 90"]}, "recall"),
    ],
)
def test_what_cannot_be_is_refused(
    made: dict[str, Any], tiny_spec: dict[str, Any], wanted: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        check_reachable(load_spec({**tiny_spec, **wanted}), made)


def test_what_can_be_met_passes(made: dict[str, Any], tiny_spec: dict[str, Any]) -> None:
    check_reachable(load_spec({**tiny_spec, "constraints": ["size_bytes <= 50%", "accuracy >= 10"]}), made)


def test_the_smallest_point_takes_the_cheapest_of_each_option() -> None:
    space = Space(
        {
            "architecture.kernel": Options((3, 5, 1), 5),
            "prune.a.ratio": Range(0.0, 0.8, 0.0),
            "quantize.a.weight_bits": Options((8, 4, 32), 32),
            "distill.kd_weight": Range(0.0, 1.0, 0.0),
        }
    )
    found = smallest_point(space, lambda point: {"macs": float(str(point["architecture.kernel"]))})
    assert found == {
        "architecture.kernel": 1,
        "prune.a.ratio": 0.8,
        "quantize.a.weight_bits": 4,
        "distill.kd_weight": 0.0,
    }


def test_a_baseline_that_cannot_be_evaluated_is_the_tasks_fault(tiny_spec: dict[str, Any]) -> None:
    worker = OneWorker({**tiny_spec, "train": {"epochs": 0}})
    worker.evaluator.task.metrics = lambda outputs, batch: {"accuracy": float("nan")}  # type: ignore[method-assign]
    with pytest.raises(TaskError, match="cannot be evaluated"):
        make_profile(worker, worker.spec)
