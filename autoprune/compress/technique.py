"""The contract of a technique: something that makes a model smaller or teaches it to be.

A candidate is made in this order, for every technique in turn; each hook but `choices` has a no-op default:

    check      once, before the search: refuse a task or data that it cannot work with
    apply      once, on the freshly built model: change its structure (prune)
    train_on   before each stretch of training: the examples that it sees (data pruning)
    wrap       before each stretch of training: what is trained instead (fake-quantizers in place)
    loss       in each training step: what the model learns from (a teacher)
    on_step    after each optimizer step (keep masks masked)
    finalize   after training: the model that is measured and deployed (quantize)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autoprune.space import Choice, Choices
from autoprune.train import TrainSettings

if TYPE_CHECKING:
    from autoprune.targets import Target
    from autoprune.task import Batch, Data, Split, Task


@dataclass
class Context:
    """What a technique may use besides the model.

    Attributes:
        task: model, loss and metrics.
        data: the splits; techniques touch `train` only.
        target: where the candidate will run.
        reference: the uncompressed trained network, in eval mode; never changed.
        seed: from which every random draw comes.
        settings: how networks are trained in this search.
        structure: plain data (JSON) in which techniques record what they really did, under their own name.
            On a candidate that continues from a checkpoint it holds what was recorded before.
    """

    task: Task
    data: Data
    target: Target
    reference: nn.Module
    seed: int = 0
    structure: dict[str, Any] = field(default_factory=dict)
    settings: TrainSettings = field(default_factory=TrainSettings)


class Technique:
    """Base of all techniques. Give `name`, `choices`, and override the hooks that it needs.

    Names of choices start with the technique's name: `prune.layer1.0.conv1.ratio`. A technique reads choices only
    where they matter, through the `Choices` it is given: what is not read does not distinguish candidates.
    """

    name = ""

    def choices(self, model: nn.Module, example: Any, target: Target) -> dict[str, Choice]:
        """What can be decided about this model on this target, neutral value included."""
        raise NotImplementedError

    def describe(self, model: nn.Module, example: Any) -> dict[str, Any]:
        """What the profile prints about the model from this technique's view (plain data)."""
        return {}

    def check(self, task: Task, data: Data) -> None:
        """Raise a `TaskError` where the technique cannot work with this task or data."""

    def apply(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:
        """Change the structure of a freshly built model; record it in `context.structure[self.name]`."""
        return model

    def restore(self, model: nn.Module, context: Context) -> nn.Module:
        """Repeat on a freshly built model what `context.structure[self.name]` says was done (no choices)."""
        return model

    def train_on(self, split: Split, choices: Choices, context: Context) -> Split:
        """The examples that a stretch of training sees, of the training split."""
        return split

    def bits(self, model: nn.Module, choices: Choices) -> dict[str, tuple[int, int]]:
        """(weight bits, activation bits) of each layer that will not stay float, known before any training."""
        return {}

    def wrap(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:
        """The module that is trained; it shares its parameters with `model`."""
        return model

    def loss(
        self, outputs: Any, batch: Batch, loss: torch.Tensor, choices: Choices, context: Context
    ) -> torch.Tensor:
        """The loss to descend, given the task's own `loss` for these `outputs`."""
        return loss

    def on_step(self, model: nn.Module, step: int, total: int) -> None:
        """Called after each optimizer step of a stretch of `total` steps."""

    def finalize(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:
        """The deployable model; `model` itself stays as it was, for the next stretch of training."""
        return model
