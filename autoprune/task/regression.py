"""The ready task of predicting real numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from autoprune.errors import TaskError
from autoprune.task.contract import Batch
from autoprune.task.inputs import Array
from autoprune.task.output import main_output
from autoprune.task.ready import ReadyTask


class RegressionTask(ReadyTask):
    """Real numbers: mean squared error; r2, mae and rmse in the units of the targets.

    Outputs and targets have the same number of values; `(N, 1)` and `(N,)` go together.
    """

    outputs = "values"

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Mean squared error."""
        values = main_output(self, outputs)
        return F.mse_loss(values, _like(values, batch.targets))

    def metrics(self, outputs: Any, batch: Batch) -> dict[str, float]:
        """`r2` (1 is perfect, 0 is as good as the mean), `mae` and `rmse`."""
        values = main_output(self, outputs)
        targets = _like(values, batch.targets).double()
        residual = values.double() - targets
        spread = (targets - targets.mean(0)).square().sum().clamp_min(1e-12)
        return {
            "r2": 1.0 - (residual.square().sum() / spread).item(),
            "mae": residual.abs().mean().item(),
            "rmse": residual.square().mean().sqrt().item(),
            **self.own_metrics(values, batch.targets),
        }

    def problem_of(self, targets: Array, outputs: Any) -> str:
        """What is wrong with the targets of a split, given outputs of the network; empty when nothing is."""
        expected, found = main_output(self, outputs)[0].numel(), int(np.prod(targets.shape[1:]))
        if expected != found:
            return f"y has {found} values per example, but the model gives {expected}"
        if not np.isfinite(targets).all():
            return "y holds NaN or infinity: remove or replace those examples"
        return ""


def _like(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Targets in the shape of the outputs: (N,) against (N, 1) would be spread to (N, N) unnoticed."""
    if outputs.numel() != targets.numel():
        raise TaskError(
            f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}"
        )
    return targets.reshape(outputs.shape).to(outputs.dtype)
