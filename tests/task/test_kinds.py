"""The ready tasks beyond one class or number per example: losses, metrics, what they refuse."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import TaskError
from autoprune.task import (
    KINDS,
    AnomalyTask,
    Batch,
    ClassificationTask,
    Data,
    DetectionTask,
    LanguageModelTask,
    MultiLabelTask,
    SegmentationTask,
    Task,
    TokenClassificationTask,
    load_task,
    main_output,
    make_data,
)
from autoprune.task.detection import average_precision, overlaps
from autoprune.tensors import concatenate

X = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
DATA = make_data((X, np.arange(30) % 2))
NOTHING = torch.empty(0)


def one_hot(classes: torch.Tensor, count: int, axis: int = -1) -> torch.Tensor:
    """Scores that are sure of these classes."""
    scores = 20.0 * nn.functional.one_hot(classes, count).float()
    return scores.movedim(-1, axis)


def zero_loss(outputs: Any, targets: Any) -> torch.Tensor:
    return torch.zeros(())


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_kind_is_made_by_its_short_name(name: str) -> None:
    more = {"loss": zero_loss, "decode": list} if name == "detection" else {}
    task = load_task(name, arguments={"model": nn.Linear(3, 2), "data": DATA, **more})
    assert isinstance(task, Task)
    assert isinstance(task.data(), Data)


@pytest.mark.parametrize(
    "outputs",
    [
        torch.ones(2),
        {"loss": torch.zeros(1), "logits": torch.ones(2)},
        (torch.ones(2), torch.zeros(3)),
        SimpleNamespace(logits=torch.ones(2), hidden=torch.zeros(3)),
        [[torch.ones(2)], None],
    ],
)
def test_the_tensor_that_counts_is_found(outputs: Any) -> None:
    assert main_output(object(), outputs).eq(1).all()


def test_a_task_chooses_the_tensor_that_counts() -> None:
    task = SimpleNamespace(select=lambda outputs: outputs["second"])
    assert main_output(task, {"first": torch.zeros(1), "second": torch.ones(1)}).item() == 1


def test_outputs_without_a_tensor_are_refused() -> None:
    with pytest.raises(TaskError, match=r"without a tensor in it: give the task a method select"):
        main_output(object(), {"logits": None})


def test_classification_reads_outputs_of_transformers() -> None:
    outputs = SimpleNamespace(logits=one_hot(torch.tensor([0, 1]), 2))
    assert ClassificationTask(nn.Linear(3, 2), DATA).metrics(outputs, Batch(NOTHING, torch.tensor([0, 0])))[
        "accuracy"
    ] == pytest.approx(50.0)


def test_labels_are_counted_one_by_one() -> None:
    task = MultiLabelTask(nn.Linear(3, 3), DATA)
    wanted = torch.tensor([[1, 0, 0], [1, 1, 0]])
    scores = torch.tensor([[2.0, -1.0, -3.0], [1.0, -0.5, -3.0]])
    metrics = task.metrics(scores, Batch(NOTHING, wanted))
    assert metrics["map"] == 100.0  # the third label occurs nowhere
    assert metrics["f1"] == pytest.approx(80.0)
    assert metrics["exact"] == 50.0
    assert task.loss(scores, Batch(NOTHING, wanted)).item() == pytest.approx(metrics["cross_entropy"])


def test_labels_other_than_0_and_1_are_named() -> None:
    task = MultiLabelTask(nn.Linear(3, 2), DATA)
    assert "holds values 0 to 2" in task.problem_of(np.array([[0, 2]]), torch.zeros(1, 2))
    assert "expected one 0 or 1 per example and output" in task.problem_of(np.zeros(4), torch.zeros(1, 2))
    assert task.problem_of(np.array([[0, 1]]), torch.zeros(1, 2)) == ""


def test_tokens_that_do_not_count_are_left_out() -> None:
    task = TokenClassificationTask(nn.Linear(3, 3), DATA)
    wanted = torch.tensor([[0, 1, -100], [2, -100, -100]])
    scores = one_hot(torch.tensor([[0, 2, 0], [2, 0, 0]]), 3)
    metrics = task.metrics(scores, Batch(NOTHING, wanted))
    assert metrics["accuracy"] == pytest.approx(200 / 3)
    assert metrics["f1"] == pytest.approx(100 * (1 + 0 + 2 / 3) / 3)
    assert task.loss(scores, Batch(NOTHING, wanted)).item() == pytest.approx(metrics["cross_entropy"])


def test_a_batch_without_a_token_that_counts_has_no_loss() -> None:
    targets = torch.full((1, 2), -100)
    assert LanguageModelTask(nn.Linear(3, 3), DATA).loss(torch.randn(1, 2, 3), Batch(NOTHING, targets)) == 0


def test_a_language_model_that_guesses_is_perplexed_by_its_vocabulary() -> None:
    task = LanguageModelTask(nn.Linear(3, 8), DATA)
    metrics = task.metrics(torch.zeros(2, 5, 8), Batch(NOTHING, torch.ones(2, 5).long()))
    assert metrics["perplexity"] == pytest.approx(8.0)
    assert metrics["bits"] == pytest.approx(3.0)
    assert metrics["cross_entropy"] == pytest.approx(math.log(8))


def test_summaries_of_batches_of_unequal_length_give_the_metrics_of_the_whole() -> None:
    task = LanguageModelTask(nn.Linear(3, 8), DATA)
    long, short = torch.randn(2, 5, 8), torch.randn(3, 4, 8)
    targets = torch.randint(0, 8, (5, 5))
    targets[2:, 4] = -100
    parts = [
        task.summary(long, Batch(NOTHING, targets[:2])),
        task.summary(short, Batch(NOTHING, targets[2:, :4])),
    ]
    padded = torch.zeros(5, 5, 8)
    padded[:2], padded[2:, :4] = long, short
    found = task.metrics(concatenate(parts), Batch(NOTHING, targets))
    assert found == pytest.approx(task.metrics(padded, Batch(NOTHING, targets)))


def test_classes_of_tokens_are_checked() -> None:
    task = LanguageModelTask(nn.Linear(3, 8), DATA)
    scores = torch.zeros(1, 4, 8)
    assert "-100 where nothing counts" in task.problem_of(np.full((2, 4), 8), scores)
    assert "nothing but -100" in task.problem_of(np.full((2, 4), -100), scores)
    assert "expected one class number per token" in task.problem_of(np.zeros(4, int), scores)
    assert task.problem_of(np.full((2, 4), 7), scores) == ""


def test_intersection_over_union_is_a_mean_over_classes_that_occur() -> None:
    task = SegmentationTask(nn.Linear(3, 3), DATA)
    wanted = torch.tensor([[[0, 0], [1, -100]]])
    scores = one_hot(torch.tensor([[[0, 1], [1, 2]]]), 4, axis=1)
    metrics = task.metrics(scores, Batch(NOTHING, wanted))
    assert metrics["iou"] == pytest.approx(50.0)  # 1 of 2 for both classes
    assert metrics["accuracy"] == pytest.approx(200 / 3)
    assert task.loss(scores, Batch(NOTHING, wanted)).item() == pytest.approx(metrics["cross_entropy"])


def test_a_foreground_alone_is_a_sigmoid_and_small_outputs_are_enlarged() -> None:
    task = SegmentationTask(nn.Linear(3, 1), DATA, ignore=255)
    scores, wanted = torch.full((1, 1, 2, 2), 3.0), torch.ones(1, 4, 4).long()
    wanted[0, 0, 0] = 255
    assert task.metrics(scores, Batch(NOTHING, wanted))["iou"] == 100.0
    expected = nn.functional.binary_cross_entropy_with_logits(torch.tensor(3.0), torch.tensor(1.0))
    assert task.loss(scores, Batch(NOTHING, wanted)).item() == pytest.approx(expected.item())
    assert task.problem_of(wanted.numpy(), scores) == ""


def test_overlaps_are_intersection_over_union() -> None:
    one, other = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]])
    assert overlaps(one, other)[0].tolist() == pytest.approx([1.0, 1 / 3, 0.0])


def boxes(*rows: tuple[float, ...], scores: list[float] | None = None) -> dict[str, torch.Tensor]:
    """Boxes of label 0 in one image."""
    found = {"boxes": torch.tensor(rows).reshape(-1, 4), "labels": torch.zeros(len(rows)).long()}
    return found if scores is None else {**found, "scores": torch.tensor(scores)}


A, B, FAR = (0.0, 0.0, 2.0, 2.0), (4.0, 4.0, 6.0, 6.0), (9.0, 9.0, 9.5, 9.5)


@pytest.mark.parametrize(
    ("found", "scores", "expected"),
    [
        ([A, B], [0.9, 0.8], 1.0),
        ([A, A], [0.9, 0.8], 51 / 101),  # a box is found once; recall ends at one half
        ([FAR, A, B], [0.9, 0.8, 0.7], 2 / 3),  # the best precision from any recall on
        ([], [], 0.0),
    ],
)
def test_average_precision(found: list[tuple[float, ...]], scores: list[float], expected: float) -> None:
    value = average_precision([boxes(*found, scores=scores)], [boxes(A, B)], 0.5)
    assert value == pytest.approx(expected)


def test_detection_takes_loss_and_decoder_of_the_user() -> None:
    def decode(outputs: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        return [boxes(tuple(row.tolist()), scores=[1.0]) for row in outputs]

    task = DetectionTask(nn.Linear(3, 4), DATA, loss=zero_loss, decode=decode)
    targets = torch.tensor([[[0.0, *A], [-1, 0, 0, 0, 0]]])
    shifted = torch.tensor([[0.0, 0.0, 2.0, 1.5]])  # overlap 0.75: right up to it
    metrics = task.metrics(shifted, Batch(NOTHING, targets))
    assert metrics == pytest.approx({"map": 60.0, "map_50": 100.0})
    assert task.select({"a": torch.zeros(2, 3, 4), "b": torch.zeros(2, 5)}).shape == (2, 17)
    assert "without an area" in task.problem_of(np.array([[[0, 2, 2, 1, 3.0]]]), shifted)


def test_detection_without_a_metric_is_refused() -> None:
    with pytest.raises(TaskError, match="needs decode"):
        DetectionTask(nn.Linear(3, 4), DATA, loss=zero_loss)


def test_strange_is_what_an_autoencoder_cannot_repeat() -> None:
    task = AnomalyTask(nn.Linear(3, 3), DATA)
    batch = Batch(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))
    outputs = torch.tensor([[0.1, 0], [0.2, 0], [0.9, 0], [0.8, 0]])
    scores = task.summary(outputs, batch)
    assert task.metrics(scores, Batch(NOTHING, batch.targets)) == {"auc": 100.0, "average_precision": 100.0}
    assert task.loss(outputs, batch).item() == pytest.approx((0.005 + 0.02) / 2)


def test_a_score_of_the_network_is_learnt_from_the_targets() -> None:
    task = AnomalyTask(nn.Linear(3, 1), DATA, score="output")
    batch = Batch(X[:4], torch.tensor([0, 1, 0, 1]))
    assert task.metrics(torch.tensor([[0.0], [3], [1], [2]]), batch)["auc"] == 100.0
    assert task.loss(torch.zeros(4, 1), batch).item() == pytest.approx(math.log(2))


def test_one_kind_of_examples_is_refused_where_it_is_measured() -> None:
    with pytest.raises(TaskError, match="val needs normal"):
        AnomalyTask(nn.Linear(3, 3), make_data((X, np.zeros(30, int)))).data()
    with pytest.raises(TaskError, match="score: got 'distance'"):
        AnomalyTask(nn.Linear(3, 3), DATA, score="distance")
