"""The contract of a technique: something that makes a model smaller or teaches it to be.

A candidate is made in this order, for every technique in turn; each hook but `choices` has a no-op default:

    check      once, before the search: refuse a task or data that it cannot work with
    apply      once, on the freshly built model: change its structure (prune)
    train_on   before each stretch of training: the examples that it sees (data pruning)
    wrap       before each stretch of training: what is trained instead (fake-quantizers in place)
    watch      around each stretch of training: look into what is trained, and train parameters along (hints)
    loss       in each training step: what the model learns from (a teacher)
    on_step    after each optimizer step (keep masks masked)
    finalize   after training: the model that is measured and deployed (quantize)

A technique that changes the structure little by little, with training in between, says so by `is_gradual`. Its `apply`
is called without `context.recovery` first, for the costs of what it will come to and for rungs without training, and
once more on a freshly built model when the first stretch of training begins: with a `Recovery`, by which it trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from autoprune.space import Choice, Choices
from autoprune.train import StepHook, TrainSettings, recalibrate

if TYPE_CHECKING:
    from autoprune.targets import Target
    from autoprune.task import Batch, Data, Split, Task


RECALIBRATION_BATCH_SIZE, RECALIBRATION_BATCHES = 64, 4


class Recovery:
    """The training that a gradual technique may use while it changes a network: a part of the stretch that begins.

    What it does not use is trained afterwards, so that every candidate of a rung trains equally long.

    Args:
        descend: trains a network in place for a share of the stretch, with a hook after each step, in one cycle of the
            learning rate, and leaves it in eval mode. It draws from the place in the stretch, 0 to 999.
        look: the quality of a network on the validation split, larger is better.
        initial: the candidate's network before any training, in the structure that is recorded so far; 0 is the draw
            that the reference was trained from.
        epochs: of the stretch.
        among: how many techniques train in it; each has an equal part of the stretch.
    """

    def __init__(
        self,
        descend: Callable[[nn.Module, float, int, StepHook | None], None],
        look: Callable[[nn.Module], float],
        initial: Callable[[int], nn.Module],
        epochs: float,
        among: int = 1,
    ) -> None:
        self._descend, self._look, self.initial, self.epochs, self.among = (
            descend,
            look,
            initial,
            epochs,
            among,
        )
        self.left = 1.0  # share of the stretch that is not used yet

    @property
    def place(self) -> int:
        """How far in the stretch we are, in thousandths."""
        return round(999 * (1.0 - self.left))

    def train(self, model: nn.Module, share: float, on_step: StepHook | None = None) -> None:
        """Train `model` in place for a share of the technique's part of the stretch, as far as that is left."""
        share = min(share / self.among, self.left)
        if share > 0:
            self.left = max(0.0, self.left - share)
            self._descend(model, share, self.place, on_step)

    def train_aside(self, model: nn.Module, on_step: StepHook | None = None) -> None:
        """Train `model` in place for all that is left of the stretch, without using it up: to compare."""
        if self.left > 0:
            self._descend(model, self.left, 999, on_step)

    def quality(self, model: nn.Module) -> float:
        """The first objective that the task measures, on the validation split; negative where it is minimized."""
        return self._look(model)


class Shared(Protocol):
    """Weights that networks of any architecture take their part of (see `supernet`)."""

    def fill(self, model: nn.Module, architecture: Mapping[str, Any]) -> None:
        """Give a network of this architecture its part."""
        ...


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
        recovery: the training that a gradual technique may use in `apply`; None where there is none.
        origin: uncompressed, with the weights that the candidate starts from; None for the reference.
        shared: what architectures other than the reference's start from in its place; None for the reference, as far
            as its weights fit.
        scored: scores of units that other candidates were given, by all that they depend on; scores are looked up and
            kept here. None: each candidate is scored anew.
    """

    task: Task
    data: Data
    target: Target
    reference: nn.Module
    seed: int = 0
    structure: dict[str, Any] = field(default_factory=dict)
    settings: TrainSettings = field(default_factory=TrainSettings)
    recovery: Recovery | None = None
    origin: nn.Module | None = None
    shared: Shared | None = None
    scored: dict[Any, tuple[torch.Tensor, Mapping[str, Any]]] | None = None

    def mend(self, model: nn.Module) -> None:
        """Recalibrate BatchNorm in place, whose statistics are those of the network before a technique changed it."""
        size, batches = RECALIBRATION_BATCH_SIZE, RECALIBRATION_BATCHES
        recalibrate(model, self.data.train, batch_size=size, batches=batches, seed=self.seed)


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

    def is_gradual(self, choices: Choices) -> bool:
        """Whether `apply` wants to train while it changes this candidate."""
        return False

    def apply(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:
        """Change the structure of a freshly built model; record it in `context.structure[self.name]`."""
        return model

    def restore(self, model: nn.Module, context: Context) -> nn.Module:
        """Repeat on a freshly built model what `context.structure[self.name]` says was done (no choices)."""
        return model

    def ticket(self, early: nn.Module, trained: nn.Module, context: Context) -> nn.Module:
        """The lottery ticket that the record speaks of, once a technique has drawn one: what it left of `early`.

        Args:
            early: the network before this technique, with the weights that were rewound to.
            trained: the candidate.
        """
        return self.restore(early, context)

    def train_on(self, split: Split, choices: Choices, context: Context) -> Split:
        """The examples that a stretch of training sees, of the training split."""
        return split

    def bits(self, model: nn.Module, choices: Choices) -> dict[str, tuple[int, int]]:
        """(weight bits, activation bits) of each layer that will not stay float, known before any training."""
        return {}

    def wrap(self, model: nn.Module, choices: Choices, context: Context) -> nn.Module:
        """The module that is trained; it shares its parameters with `model`."""
        return model

    @contextmanager
    def watch(
        self, trained: nn.Module, choices: Choices, context: Context
    ) -> Iterator[Iterable[nn.Parameter]]:
        """Around a stretch of training of `trained`, all wrapped; gives parameters that are trained with it.

        A task that trains itself has no place for such parameters: a technique that needs them refuses it in `check`.
        """
        yield ()

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
