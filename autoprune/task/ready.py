"""Ready tasks: classification and regression from a network and arrays, tensors or loaders."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.errors import TaskError
from autoprune.space import Value
from autoprune.task.contract import Batch, Data
from autoprune.task.inputs import Array
from autoprune.task.parts import make_data

Network = nn.Module | Callable[..., nn.Module]
Source = Data | Callable[[], Data] | tuple[Any, Any]


class _ReadyTask:
    """What the ready tasks share: where the network and the data come from.

    Args:
        model: a function or class that makes the network; its keyword arguments are what a spec can search
            under `space.architecture`, and their defaults are the uncompressed baseline. Or a trained
            network, of which copies are handed out.
        data: the splits, a function that loads them, or a pair `(x, y)` of arrays that is split automatically
            (see `make_data` for everything else).
        architecture: options of `model` to search when a spec says `architecture: default`.
    """

    def __init__(
        self, model: Network, data: Source, *, architecture: Mapping[str, Sequence[Value]] | None = None
    ) -> None:
        if not hasattr(type(self), "model"):  # a subclass may have a method of its own
            self.model: Callable[..., nn.Module] = _copies(model) if isinstance(model, nn.Module) else model
        self._data = make_data(data) if isinstance(data, tuple) else data
        self.architecture = dict(architecture or {})

    def data(self) -> Data:
        """The three splits."""
        return self._data if isinstance(self._data, Data) else self._data()


def _copies(network: nn.Module) -> Callable[[], nn.Module]:
    def copy_of_the_network() -> nn.Module:
        return copy.deepcopy(network)

    return copy_of_the_network


class ClassificationTask(_ReadyTask):
    """One class of several: cross-entropy, accuracy in percent.

    The network gives one score (logit) per class, `(N, classes)`; targets are whole numbers from 0, `(N,)`.

        task = ClassificationTask(MyNetwork, (x, y))
    """

    outputs = "logits"

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross-entropy, averaged over the batch."""
        return F.cross_entropy(outputs, batch.targets)

    def metrics(self, outputs: Any, batch: Batch) -> dict[str, float]:
        """`accuracy` and `error` in percent, and `cross_entropy` in nats, which still tells equals apart."""
        correct = 100.0 * int((outputs.argmax(1) == batch.targets).sum()) / len(batch.targets)
        return {
            "accuracy": correct,
            "error": 100.0 - correct,
            "cross_entropy": F.cross_entropy(outputs.float(), batch.targets).item(),
        }

    def problem_of(self, targets: Array, outputs: torch.Tensor) -> str:
        """What is wrong with the labels of a split, given outputs of the network; empty when nothing is."""
        if outputs.dim() != 2 or outputs.shape[1] < 2:
            return f"the model's outputs have shape {tuple(outputs.shape)}, expected (N, classes)"
        if targets.ndim != 1:
            return f"y has shape {targets.shape}, expected one class number per example, (N,)"
        if not np.issubdtype(targets.dtype, np.integer):
            return f"y holds {targets.dtype}, expected whole class numbers (y.astype('int64'))"
        classes = outputs.shape[1]
        if targets.min() < 0 or targets.max() >= classes:
            return (
                f"y holds labels {targets.min()} to {targets.max()}, but the model has {classes} outputs: "
                f"labels go from 0 to {classes - 1}"
            )
        return ""


class RegressionTask(_ReadyTask):
    """Real numbers: mean squared error; r2, mae and rmse in the units of the targets.

    Outputs and targets have the same number of values; `(N, 1)` and `(N,)` go together.
    """

    outputs = "values"

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Mean squared error."""
        return F.mse_loss(outputs, _like(outputs, batch.targets))

    def metrics(self, outputs: Any, batch: Batch) -> dict[str, float]:
        """`r2` (1 is perfect, 0 is as good as the mean), `mae` and `rmse`."""
        targets = _like(outputs, batch.targets).double()
        residual = outputs.double() - targets
        spread = (targets - targets.mean(0)).square().sum().clamp_min(1e-12)
        return {
            "r2": 1.0 - (residual.square().sum() / spread).item(),
            "mae": residual.abs().mean().item(),
            "rmse": residual.square().mean().sqrt().item(),
        }

    def problem_of(self, targets: Array, outputs: torch.Tensor) -> str:
        """What is wrong with the targets of a split, given outputs of the network; empty when nothing is."""
        expected, found = outputs[0].numel(), int(np.prod(targets.shape[1:]))
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
