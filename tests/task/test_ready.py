"""The ready tasks: where network and data come from, losses, metrics, and what they refuse."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import TaskError
from autoprune.task import Batch, ClassificationTask, Data, RegressionTask, Task, make_data

X = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
Y = np.arange(30) % 3


def network(*, width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 3))


def batch(*targets: float) -> Batch:
    return Batch(torch.empty(0), torch.tensor(targets))


@pytest.mark.parametrize("kind", [ClassificationTask, RegressionTask])
def test_they_are_tasks(kind: type) -> None:
    assert isinstance(kind(network, (X, Y)), Task)


def test_the_arguments_of_the_network_show_through() -> None:
    task = ClassificationTask(network, (X, Y), architecture={"width": [2, 4]})
    assert inspect.signature(task.model).parameters["width"].default == 4
    assert task.model(width=2)[0].out_features == 2
    assert task.architecture == {"width": [2, 4]}


def test_a_trained_network_is_copied() -> None:
    trained = network()
    task = ClassificationTask(trained, (X, Y))
    copy = task.model()
    nn.init.zeros_(copy[0].weight)
    assert trained[0].weight.abs().sum() > 0
    assert torch.equal(task.model()[0].weight, trained[0].weight)


def test_data_can_be_splits_a_pair_or_a_function() -> None:
    data = make_data((X, Y))
    assert ClassificationTask(network, data).data() is data
    assert ClassificationTask(network, lambda: data).data() is data
    assert isinstance(ClassificationTask(network, (X, Y)).data(), Data)


def test_three_loaders_are_the_three_splits() -> None:
    loaders = tuple([(torch.from_numpy(X[:n]), torch.from_numpy(Y[:n]))] for n in (20, 6, 4))
    data = ClassificationTask(network, lambda: loaders).data()
    assert [len(split) for split in (data.train, data.val, data.test)] == [20, 6, 4]


def test_data_in_no_known_form_is_refused() -> None:
    with pytest.raises(TaskError, match="data: got int, accepted: a pair"):
        ClassificationTask(network, lambda: 3).data()


def test_accuracy_is_in_percent() -> None:
    task = ClassificationTask(network, (X, Y))
    outputs = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 9, 0], [0, 0, 9]])
    metrics = task.metrics(outputs, Batch(torch.empty(0), torch.tensor([0, 1, 2, 2])))
    assert metrics["accuracy"] == 75.0
    assert metrics["error"] == 25.0
    assert metrics["cross_entropy"] > 2


def test_regression_metrics_of_a_perfect_and_a_mean_prediction() -> None:
    task = RegressionTask(network, (X, X))
    perfect = task.metrics(torch.tensor([[1.0], [2.0], [3.0]]), batch(1, 2, 3))
    mean = task.metrics(torch.tensor([[2.0], [2.0], [2.0]]), batch(1, 2, 3))
    assert perfect == {"r2": 1.0, "mae": 0.0, "rmse": 0.0}
    assert mean["r2"] == pytest.approx(0.0)
    assert mean["mae"] == pytest.approx(2 / 3)


def test_a_column_of_outputs_meets_a_row_of_targets() -> None:
    task = RegressionTask(network, (X, X))
    assert task.loss(torch.tensor([[1.0], [2.0]]), batch(1, 4)).item() == pytest.approx(2.0)


def test_outputs_of_another_size_are_refused() -> None:
    with pytest.raises(TaskError, match=r"outputs of shape \(2, 3\) do not fit targets of shape \(2,\)"):
        RegressionTask(network, (X, X)).loss(torch.zeros(2, 3), batch(1, 4))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (Y + 0.0, "y holds float64, expected whole class numbers"),
        (Y - 1, "y holds labels -1 to 1, but the model has 3 outputs: labels go from 0 to 2"),
        (Y + 1, "y holds labels 1 to 3"),
        (Y[:, None], r"y has shape \(30, 1\), expected one class number per example"),
    ],
)
def test_wrong_labels_are_named(targets: np.ndarray, message: str) -> None:
    task = ClassificationTask(network, (X, Y))
    outputs = torch.zeros(1, 3)
    assert re.search(message, task.problem_of(targets, outputs))
    assert task.problem_of(Y, outputs) == ""


def test_classification_needs_two_outputs() -> None:
    found = ClassificationTask(network, (X, Y)).problem_of(Y, torch.zeros(4, 1))
    assert "expected (N, classes)" in found


def test_wrong_values_are_named() -> None:
    task = RegressionTask(network, (X, X))
    assert "y has 1 values per example, but the model gives 3" in task.problem_of(Y, torch.zeros(1, 3))
    assert "NaN" in task.problem_of(np.array([[np.nan, 0, 0]]), torch.zeros(1, 3))
    assert task.problem_of(X, torch.zeros(1, 3)) == ""
