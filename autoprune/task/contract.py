"""The contract of a task: model, data, loss and metric.

A task is any object with `model`, `data`, `loss` and `metrics`; write one in a file of your own and name it
`file.py:Name` in a spec. `ready.ClassificationTask` and `ready.RegressionTask` take a model factory and
arrays and are often all that is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn


class Batch(NamedTuple):
    """Inputs as the model takes them, and the targets that belong to them (first dimension: examples)."""

    inputs: torch.Tensor
    targets: torch.Tensor


@runtime_checkable
class Split(Protocol):
    """A split of the data, as batches."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def batches(self, batch_size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        """Batches of `batch_size` examples, the last one perhaps smaller.

        In order and as they are, or shuffled and augmented by the seed `shuffle`: the same seed, the same
        batches.
        """
        ...


@dataclass(frozen=True)
class Data:
    """The search trains on `train` and sees `val`; `test` is read once, for the report."""

    train: Split
    val: Split
    test: Split


@runtime_checkable
class Task(Protocol):
    """What a task must be able to do."""

    def model(self, **architecture: Any) -> nn.Module:
        """A new network; without arguments the uncompressed baseline (pretrained weights are welcome)."""
        ...

    def data(self) -> Data:
        """The three splits; the same on every call."""
        ...

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """A finite scalar to descend."""
        ...

    def metrics(self, outputs: Any, batch: Batch) -> dict[str, float]:
        """Named finite numbers over a whole split: outputs and targets of all its batches, concatenated.

        `batch.inputs` is an empty tensor here, because the inputs of a whole split need not fit in memory.
        """
        ...
