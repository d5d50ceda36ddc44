"""Ready tasks with one decision per example: one class of several, or any number of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from autoprune.task.contract import Batch
from autoprune.task.inputs import Array
from autoprune.task.output import main_output
from autoprune.task.ready import ReadyTask


class ClassificationTask(ReadyTask):
    """One class of several: cross-entropy, accuracy in percent.

    The network gives one score (logit) per class, `(N, classes)`; targets are whole numbers from 0, `(N,)`.

        task = ClassificationTask(MyNetwork, (x, y))
    """

    outputs = "logits"

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross-entropy, averaged over the batch."""
        return F.cross_entropy(main_output(self, outputs), batch.targets)

    def metrics(self, outputs: Any, batch: Batch) -> dict[str, float]:
        """`accuracy` and `error` in percent, and `cross_entropy` in nats, which still tells equals apart."""
        scores = main_output(self, outputs)
        correct = 100.0 * int((scores.argmax(1) == batch.targets).sum()) / len(batch.targets)
        return {
            "accuracy": correct,
            "error": 100.0 - correct,
            "cross_entropy": F.cross_entropy(scores.float(), batch.targets).item(),
            **self.own_metrics(scores, batch.targets),
        }

    def problem_of(self, targets: Array, outputs: Any) -> str:
        """What is wrong with the labels of a split, given outputs of the network; empty when nothing is."""
        scores = main_output(self, outputs)
        if scores.dim() != 2 or scores.shape[1] < 2:
            return f"the model's outputs have shape {tuple(scores.shape)}, expected (N, classes)"
        if targets.ndim != 1:
            return f"y has shape {targets.shape}, expected one class number per example, (N,)"
        return problem_of_classes(targets, scores.shape[1])


def problem_of_classes(targets: Array, classes: int, ignore: int | None = None) -> str:
    """What is wrong with class numbers, of which those that equal `ignore` do not count; empty if nothing is."""
    if not np.issubdtype(targets.dtype, np.integer):
        return f"y holds {targets.dtype}, expected whole class numbers (y.astype('int64'))"
    counted = targets if ignore is None else targets[targets != ignore]
    if counted.size == 0:
        return f"y holds nothing but {ignore}, which stands for positions that do not count"
    if counted.min() < 0 or counted.max() >= classes:
        besides = "" if ignore is None else f", and {ignore} where nothing counts"
        return (
            f"y holds labels {counted.min()} to {counted.max()}, but the model has {classes} outputs: "
            f"labels go from 0 to {classes - 1}{besides}"
        )
    return ""


class MultiLabelTask(ReadyTask):
    """Any number of labels per example: binary cross-entropy; average precision and F1 in percent.

    The network gives one score (logit) per label, `(N, labels)`; targets are 0 or 1 in the same shape.
    """

    outputs = "multi_label"

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Binary cross-entropy, averaged over batch and labels."""
        scores = main_output(self, outputs)
        return F.binary_cross_entropy_with_logits(scores, batch.targets.to(scores.dtype))

    def metrics(self, outputs: Any, batch: Batch) -> dict[str, float]:
        """`map`, `f1` (of all decisions together, at a score of 0), `exact` and `cross_entropy`.

        `map` is the mean over labels of the area under precision against recall; labels that no example has do not
        count. `exact` is the share of examples with all labels right.
        """
        from sklearn.metrics import average_precision_score, f1_score

        scores = main_output(self, outputs).float()
        wanted, found = batch.targets.numpy().astype(int), (scores > 0).numpy().astype(int)
        present = wanted.any(0)
        precision = (
            average_precision_score(wanted[:, present], scores.numpy()[:, present]) if present.any() else 0.0
        )
        return {
            "map": 100.0 * float(precision),
            "f1": 100.0 * float(f1_score(wanted, found, average="micro", zero_division=0.0)),
            "exact": 100.0 * float((wanted == found).all(1).mean()),
            "cross_entropy": F.binary_cross_entropy_with_logits(scores, batch.targets.float()).item(),
            **self.own_metrics(scores, batch.targets),
        }

    def problem_of(self, targets: Array, outputs: Any) -> str:
        """What is wrong with the labels of a split, given outputs of the network; empty when nothing is."""
        scores = main_output(self, outputs)
        if targets.shape[1:] != tuple(scores.shape[1:]) or targets.ndim != 2:
            return (
                f"y has shape {targets.shape}, expected one 0 or 1 per example and output of the model, "
                f"(N, {scores.shape[-1]})"
            )
        if not np.isin(targets, (0, 1)).all():
            found = f"{targets.min():g} to {targets.max():g}"
            return f"y holds values {found}, expected 0 (without the label) or 1 (with it)"
        return ""
