"""Metrics of the user's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import TaskError
from autoprune.task import Batch, ClassificationTask, load_task
from autoprune.task.metric import load_metrics, values_of

OUTPUTS, TARGETS = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), torch.tensor([0, 1, 1])


class Count:
    """What torchmetrics looks like."""

    def __init__(self, step: int = 1) -> None:
        self.step, self.seen = step, 0

    def reset(self) -> None:
        self.seen = 0

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.seen += self.step * len(targets)

    def compute(self) -> torch.Tensor:
        return torch.tensor([self.seen])


@pytest.mark.parametrize("given", [Count(2), partial(Count, step=2), partial(Count, 2)])
def test_an_object_that_accumulates_starts_anew_for_each_split(given: Any) -> None:
    metrics = load_metrics({"count": given})
    assert values_of(metrics, OUTPUTS, TARGETS) == values_of(metrics, OUTPUTS, TARGETS) == {"count": 6.0}


def test_torchmetrics_are_welcome_as_object_class_or_reference() -> None:
    torchmetrics = pytest.importorskip("torchmetrics.classification")
    metrics = load_metrics(
        {
            "a": torchmetrics.MulticlassF1Score(num_classes=2, average="micro"),
            "b": "torchmetrics.classification:MulticlassF1Score?num_classes=2&average=micro",
        }
    )
    assert values_of(metrics, OUTPUTS, TARGETS) == pytest.approx({"a": 2 / 3, "b": 2 / 3})


def test_a_function_in_a_file_joins_the_metrics_of_a_task(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def share(outputs, targets): return (outputs.argmax(1) == 1).float().mean()\n"
    )
    data = (np.zeros((20, 3), np.float32), np.arange(20) % 2)
    arguments = {"model": nn.Linear(3, 2), "data": data, "metrics": {"share": "mine.py:share"}}
    task = load_task("classification", tmp_path, arguments)
    metrics = task.metrics(OUTPUTS, Batch(torch.empty(0), TARGETS))
    assert metrics["share"] == pytest.approx(1 / 3)
    assert "accuracy" in metrics


def test_a_mapping_counts_as_several_metrics() -> None:
    found = values_of(load_metrics({"f": lambda outputs, targets: {"low": 1, "high": 2}}), OUTPUTS, TARGETS)
    assert found == {"f_low": 1.0, "f_high": 2.0}


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (
            lambda outputs, targets: outputs,
            r"metrics.m gives a tensor of shape \(3, 2\), expected one number",
        ),
        (lambda outputs, targets: "high", "metrics.m gives str, expected one number"),
        (lambda outputs, targets: 1 / 0, "metrics.m raises ZeroDivisionError"),
        (3, "metrics.m: got int, expected a function"),
        (partial(Count, steps=3), "metrics.m: making it raises TypeError"),
    ],
)
def test_what_is_no_metric_is_named(metric: Any, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        values_of(load_metrics({"m": metric}), OUTPUTS, TARGETS)


def test_they_are_not_kept_from_the_ready_ones() -> None:
    def sure(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        return float(outputs.max())

    task = ClassificationTask(
        nn.Linear(3, 2), (np.zeros((20, 3), np.float32), np.arange(20) % 2), metrics={"sure": sure}
    )
    assert task.metrics(OUTPUTS, Batch(torch.empty(0), TARGETS))["sure"] == 2.0
