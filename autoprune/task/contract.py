"""The contract of a task: model, data, loss and metric.

A task is any object with `model`, `data`, `loss` and `metrics`; write one in a file of your own and name it
`file.py:Name` in a spec. `ready.ClassificationTask` and `ready.RegressionTask` take a model factory and
arrays and are often all that is needed. What a task may do besides is one protocol each: `TrainsItself`,
`Summarizes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

from autoprune.tensors import Inputs

IGNORED = -100
"""The target of a position that does not count, such as padding; the losses of torch ignore it by default."""


class Batch(NamedTuple):
    """Inputs as the model takes them, and the targets that belong to them (first dimension: examples).

    Inputs are a tensor, a tuple of positional arguments or a dict of keyword arguments (see `autoprune.tensors`).
    Targets are a tensor, a tuple or dict of tensors, or a list with an entry of any form for each example; without
    targets, a tensor of shape `(N, 0)`.
    """

    inputs: Inputs
    targets: Any


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

        Sequences of unequal length are padded, outputs with 0 and whole-number targets with `IGNORED`.
        `batch.inputs` is an empty tensor here, because the inputs of a whole split need not fit in memory.
        """
        ...


@dataclass(frozen=True)
class Budget:
    """What a training of the task's own may spend, and what it should learn from.

    Attributes:
        epochs: passes over the training split, perhaps a fraction.
        seconds: end after so much time; None sets no limit.
        learning_rate: the peak that the spec, or the search, asks for.
        batch_size: examples per step.
        seed: of every random draw; torch's generator is seeded with it already.
        loss: `loss(outputs, batch)` is the task's loss with what the techniques of the search make of it
            (distillation); a loss of one's own is given as the third argument. A training that descends something
            else is welcome: it then learns nothing from a teacher.
    """

    epochs: float
    seconds: float | None
    learning_rate: float
    batch_size: int
    seed: int
    loss: Callable[..., torch.Tensor]


@runtime_checkable
class TrainsItself(Protocol):
    """A task with a training of its own, in place of ours: for the reference, and for each stretch of a candidate.

        class Mine(ClassificationTask):
            def fit(self, model, data, budget):
                optimizer = torch.optim.AdamW(model.parameters(), budget.learning_rate)
                for epoch in range(math.ceil(budget.epochs)):
                    for batch in data.train.batches(budget.batch_size, shuffle=epoch):
                        optimizer.zero_grad()
                        budget.loss(model(batch.inputs), batch).backward()
                        optimizer.step()
                return model

    `autoprune.fit` has ready ones for Lightning and for the `Trainer` of transformers.
    """

    def fit(self, model: nn.Module, data: Data, budget: Budget) -> nn.Module | None:
        """Train `model`, in place or as a copy that is returned; its layers and their shapes stay as they are."""
        ...


@runtime_checkable
class Summarizes(Protocol):
    """A task whose outputs are too large to be held for a whole split: the logits of a vocabulary for each token."""

    def summary(self, outputs: Any, batch: Batch) -> Any:
        """What `metrics` needs of the outputs for one batch (the loss of each token); tensors, examples first.

        `metrics` then gets these, concatenated, in place of the outputs.
        """
        ...
