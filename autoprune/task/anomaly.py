"""The ready task of telling what is unlike the training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from autoprune.errors import TaskError
from autoprune.task.contract import Batch, Data
from autoprune.task.inputs import Array
from autoprune.task.output import main_output
from autoprune.task.ready import Network, ReadyTask, Source
from autoprune.task.splits import ArraySplit
from autoprune.tensors import tensors_in

SCORES = ("reconstruction", "output")


class AnomalyTask(ReadyTask):
    """How strange an example is: area under the ROC curve in percent, 50 is guessing.

    Targets are 0 (normal) and 1 (strange), `(N,)`. Data and model are given as for any ready task.

    Args:
        score: `reconstruction` for an autoencoder, whose output has the shape of its (first) input: strange is what
            it cannot repeat, and it learns to repeat the normal examples. `output` for a network that gives one
            score per example, higher for stranger ones, and learns it from the targets.
    """

    outputs = "scores"

    def __init__(
        self,
        model: Network,
        data: Source,
        *,
        score: str = "reconstruction",
        metrics: dict[str, Any] | None = None,
        architecture: dict[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__(model, data, architecture=architecture, metrics=metrics, folder=folder)
        if score not in SCORES:
            raise TaskError(f"score: got {score!r}, accepted are {', '.join(SCORES)}")
        self._repeats = score == "reconstruction"

    def data(self) -> Data:
        """The three splits; those that are measured on must hold both kinds.

        Raises:
            TaskError: one of them does not.
        """
        data = super().data()
        for name in ("val", "test"):
            split = getattr(data, name)
            if isinstance(split, ArraySplit) and len(np.unique(split.targets)) < 2:
                raise TaskError(f"data: {name} needs normal (0) and strange (1) examples to tell them apart")
        return data

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Mean squared error of repeating the normal examples, or binary cross-entropy of the score."""
        if not self._repeats:
            scores = main_output(self, outputs)
            targets: torch.Tensor = batch.targets.to(scores.dtype)
            return F.binary_cross_entropy_with_logits(scores.flatten(), targets)
        normal = (batch.targets == 0).float()
        loss: torch.Tensor = (self._strangeness(outputs, batch) * normal).sum() / normal.sum().clamp_min(1)
        return loss

    def summary(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """The score of each example, `(N,)`: what is kept of a batch."""
        return self._strangeness(outputs, batch).float()

    def _strangeness(self, outputs: Any, batch: Batch) -> torch.Tensor:
        found = main_output(self, outputs)
        if not self._repeats:
            return found.flatten()
        given = tensors_in(batch.inputs)[0]
        return (found.reshape(given.shape) - given.to(found.dtype)).square().flatten(1).mean(1)

    def metrics(self, outputs: Any, batch: Batch) -> dict[str, float]:
        """`auc` and `average_precision` in percent, of scores `(N,)` as `summary` gives them."""
        from sklearn.metrics import average_precision_score, roc_auc_score

        scores, strange = main_output(self, outputs).flatten(), batch.targets.flatten()
        if len(scores) != len(strange):  # outputs as they come, where somebody did not summarise
            scores = self.summary(outputs, batch)
        known = 0 < int(strange.sum()) < len(strange)  # one kind alone cannot be ranked: that is guessing
        auc = roc_auc_score(strange.numpy(), scores.numpy()) if known else 0.5
        precision = (
            average_precision_score(strange.numpy(), scores.numpy())
            if known
            else float(strange.float().mean())
        )
        return {
            "auc": 100.0 * float(auc),
            "average_precision": 100.0 * float(precision),
            **self.own_metrics(scores, batch.targets),
        }

    def problem_of(self, targets: Array, outputs: Any) -> str:
        """What is wrong with the targets of a split, given outputs of the network; empty when nothing is."""
        if targets.ndim != 1 or not np.isin(targets, (0, 1)).all():
            return "y must hold 0 (normal) or 1 (strange) for each example, (N,)"
        found = main_output(self, outputs)
        if not self._repeats and found[0].numel() != 1:
            return f"the model's outputs have shape {tuple(found.shape)}, expected one score per example"
        return ""
