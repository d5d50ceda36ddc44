"""Data pruning: which examples a candidate trains on, and which data it cannot be done with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from autoprune.compress.data_pruning import HARDEST, DataPruning, kept
from autoprune.compress.technique import Context
from autoprune.errors import SpecError, TaskError
from autoprune.evaluate import Evaluator
from autoprune.record import Request
from autoprune.space import Choices, Options
from autoprune.spec import load_spec
from autoprune.task import (
    ArraySplit,
    Batch,
    ClassificationTask,
    Data,
    LoaderSplit,
    RegressionTask,
    evaluate_metrics,
    make_data,
)
from autoprune.train import TrainSettings, train

SETTINGS = TrainSettings(batch_size=32, learning_rate=0.1)
LABELS = np.repeat([0, 1, 2], [100, 20, 2])


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def digits() -> Data:
    """Real digits."""
    images, labels = load_digits(return_X_y=True)
    x, y = (images / 16).astype(np.float32), labels.astype(np.int64)
    return make_data((x[:1000], y[:1000]), (x[1000:1100], y[1000:1100]), (x[1100:], y[1100:]))


class Digits(ClassificationTask):
    def __init__(self) -> None:
        super().__init__(net, digits())


@pytest.fixture(scope="module")
def context() -> Context:
    task = Digits()
    torch.manual_seed(0)
    reference, data = net(), task.data()
    train(reference, task, data.train, epochs=3, settings=SETTINGS)
    target: Any = None
    return Context(task, data, target, reference.requires_grad_(False), settings=SETTINGS)


def chosen(context: Context, keep: float, method: str = "margin") -> ArraySplit:
    point = Choices({"data_pruning.method": method, "data_pruning.keep": keep})
    split = DataPruning().train_on(context.data.train, point, context)
    assert isinstance(split, ArraySplit)
    return split


def test_every_class_keeps_its_share_and_one_example_at_least() -> None:
    places = kept(np.random.default_rng(0).random(122), LABELS, 0.2)
    assert np.bincount(LABELS[places]).tolist() == [20, 4, 1]
    assert np.array_equal(places, np.unique(places))


def test_the_highest_scores_stay() -> None:
    scores, labels = np.arange(10.0), np.zeros(10, np.int64)
    assert kept(scores, labels, 0.3).tolist() == [7, 8, 9]
    assert kept(scores, labels, 1.0).tolist() == list(range(10))


def test_by_chance_hard_examples_stay_more_often_but_for_the_hardest() -> None:
    scores, labels = np.linspace(0, 1, 1000), np.zeros(1000, np.int64)
    places = kept(scores, labels, 0.3, by_chance=True)
    assert len(places) == 300
    assert places.max() < 1000 - round(HARDEST * 0.7 * 1000)
    easy, hard = (places < 300).sum(), (places >= 600).sum()
    assert 0 < 3 * easy < hard


def test_by_chance_the_share_of_each_class_holds_even_where_all_are_alike() -> None:
    places = kept(np.zeros(122), LABELS, 0.2, by_chance=True)
    assert np.bincount(LABELS[places]).tolist() == [20, 4, 1]


def test_equals_are_drawn_by_the_seed() -> None:
    scores, labels = np.zeros(100), np.zeros(100, np.int64)
    assert np.array_equal(kept(scores, labels, 0.3, seed=1), kept(scores, labels, 0.3, seed=1))
    assert not np.array_equal(kept(scores, labels, 0.3, seed=1), kept(scores, labels, 0.3, seed=2))


def test_all_examples_leave_the_split_as_it_is_and_the_method_unread(context: Context) -> None:
    point = Choices({"data_pruning.method": "el2n", "data_pruning.keep": 1.0})
    assert DataPruning().train_on(context.data.train, point, context) is context.data.train
    assert list(point.read) == ["data_pruning.keep"]


def test_what_is_kept_is_recorded_and_the_arrays_are_shared(context: Context) -> None:
    split = chosen(context, 0.25)
    assert context.structure["data_pruning"] == {"method": "margin", "keep": 0.25, "examples": len(split)}
    assert abs(len(split) - 250) < 10
    assert split.x is context.data.train.x  # type: ignore[attr-defined]
    assert len(context.data.train) == 1000


def test_scores_are_computed_once_for_a_reference(context: Context) -> None:
    technique = DataPruning()
    point = Choices({"data_pruning.method": "moderate", "data_pruning.keep": 0.5})
    technique.train_on(context.data.train, point, context)
    assert technique._scored is not None
    first = technique._scored[2]["moderate"]
    technique.train_on(context.data.train, point, context)
    assert technique._scored[2]["moderate"] is first
    again = replace(context, reference=net().requires_grad_(False))
    technique.train_on(context.data.train, point, again)
    assert technique._scored[2]["moderate"] is not first


def test_a_good_score_beats_random(context: Context) -> None:
    """Paul et al. 2021: examples that are learned late and badly teach more than others."""

    def accuracy(method: str, seed: int) -> float:
        torch.manual_seed(seed)
        model, split = net(), chosen(replace(context, seed=seed), 0.3, method)
        train(model, context.task, split, epochs=10, settings=SETTINGS, seed=seed)
        with torch.no_grad():
            return evaluate_metrics(model, context.task, context.data.test)["accuracy"]

    gains = [accuracy("el2n", seed) - accuracy("random", seed) for seed in range(3)]
    assert np.mean(gains) > 0.8


class Loaded(ClassificationTask):
    def __init__(self) -> None:
        batches = [(torch.randn(8, 64), torch.arange(8))] * 2
        super().__init__(net, Data(*[LoaderSplit(batches)] * 3))


class Measured(RegressionTask):
    def __init__(self) -> None:
        x = np.random.default_rng(0).normal(size=(60, 64)).astype(np.float32)
        super().__init__(lambda: nn.Linear(64, 1), (x, x[:, :1]))


class FitsItself(Digits):
    def fit(self, model: nn.Module, data: Data, budget: Any) -> nn.Module:
        return model


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (Loaded(), "the training split is a LoaderSplit, expected arrays"),
        (Measured(), "the training targets are float32 of shape (36, 1), expected the class of each example"),
        (FitsItself(), "forgetting counts in our training, and the task has its own fit()"),
    ],
)
def test_data_and_tasks_that_do_not_fit_are_refused(task: Any, sentence: str) -> None:
    technique = DataPruning(method=Options(("forgetting", "random"), "random"))
    with pytest.raises(TaskError) as caught:
        technique.check(task, task.data())
    assert str(caught.value) == f"space.data_pruning: {sentence}; leave the section out"


class Counting(ArraySplit):
    """A split that counts what it gives out."""

    seen = 0

    def batches(self, batch_size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        for batch in super().batches(batch_size, shuffle=shuffle):
            type(self).seen += len(batch.targets)
            yield batch


def test_a_candidate_trains_on_what_is_kept_and_validates_on_everything(tiny_spec: dict[str, Any]) -> None:
    tiny_spec["space"] = {"data_pruning": {"method": ["random", "margin"], "keep": [0.25, 1.0]}}
    evaluator = Evaluator(load_spec(tiny_spec))
    evaluator.attach_data(None)
    split = evaluator.data.train
    assert isinstance(split, ArraySplit)
    counting = Counting(split.x, split.y, rows=split.rows)
    evaluator.attach_data(replace(evaluator.data, train=counting))
    evaluator.attach_reference(evaluator.train_reference())
    assert set(evaluator.describe()["choices"]) == {"data_pruning.method", "data_pruning.keep"}
    Counting.seen = 0
    point = {"data_pruning.method": "random", "data_pruning.keep": 0.25}
    found = evaluator.evaluate(Request(0, 1, point))
    assert found.state == "finished", found.reason
    assert found.structure["data_pruning"]["examples"] == len(split) // 4
    assert Counting.seen <= len(split) // 4
    assert found.metrics["accuracy"] > 50


def test_a_spec_with_a_share_of_nothing_or_without_training_is_refused(tiny_spec: dict[str, Any]) -> None:
    tiny_spec["space"] = {"data_pruning": {"method": "el2", "keep": [0.0, 1.0]}}
    with pytest.raises(SpecError) as caught:
        load_spec(tiny_spec)
    assert any("data_pruning.keep: got 0.0" in problem for problem in caught.value.problems)
    assert any("did you mean 'el2n'?" in problem for problem in caught.value.problems)
    tiny_spec["space"] = {"data_pruning": True}
    tiny_spec["search"] = {"rungs": [0]}
    with pytest.raises(SpecError, match="got something to train for"):
        load_spec(tiny_spec)
