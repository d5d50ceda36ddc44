"""Distillation: a candidate learns from what a teacher says, besides from the labels (Hinton et al. 2015).

A wrong class to which the teacher gives a tenth tells more about an image than its label does. For small and
shortly trained candidates that is worth points of accuracy, at the price of the teacher's forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from autoprune.compress.technique import Context, Technique
from autoprune.errors import ModelError
from autoprune.references import resolve
from autoprune.space import Choice, Choices, Range
from autoprune.train import fast_layout

if TYPE_CHECKING:
    from autoprune.targets import Target
    from autoprune.task import Batch

TEMPERATURE = "distill.temperature"
KD_WEIGHT = "distill.kd_weight"


class Distill(Technique):
    """Mix the task's loss with the distance to what a teacher says.

    The loss is `(1 - kd_weight) * loss + kd_weight * distance`. For logits the distance is
    `T² KL(teacher/T ‖ student/T)`, where the temperature `T` flattens both distributions; for real values
    it is the mean squared error. A task says which by an attribute `outputs`, `"logits"` or `"values"`;
    without it, whole-number targets mean logits.

    Args:
        temperature: the choice of `T`, read only where the weight is above 0.
        kd_weight: the choice of the weight: 0 learns from the labels alone, 1 from the teacher alone.
        teacher: reference to a function or class that makes the trained teacher; None is the uncompressed
            network.
        folder: where a relative file of `teacher` is looked for first.

    Raises:
        ModelError: the teacher cannot be made, or its outputs do not fit those of the task's model.
    """

    name = "distill"

    def __init__(
        self,
        temperature: Choice = Range(1.0, 8.0, neutral=4.0),  # noqa: B008  (immutable)
        kd_weight: Choice = Range(0.0, 1.0, neutral=0.0),  # noqa: B008
        teacher: str | None = None,
        folder: Path | None = None,
    ) -> None:
        self.temperature, self.kd_weight = temperature, kd_weight
        self._reference, self._folder = teacher, folder
        self._teacher: _Teacher | None = None

    def choices(self, model: nn.Module, example: Any, target: Target) -> dict[str, Choice]:  # noqa: ARG002
        """Temperature and weight. A named teacher is tried here, to be refused before the first trial."""
        if self._reference is not None:
            with torch.no_grad():
                _check_fit(
                    self._named_teacher(self._reference)(example), model.eval()(example), self._reference
                )
        return {TEMPERATURE: self.temperature, KD_WEIGHT: self.kd_weight}

    def describe(self, model: nn.Module, example: Any) -> dict[str, Any]:  # noqa: ARG002
        """Who teaches."""
        return {"teacher": self._reference or "the uncompressed network"}

    def loss(
        self, outputs: Any, batch: Batch, loss: torch.Tensor, choices: Choices, context: Context
    ) -> torch.Tensor:
        """The mixed loss; the task's own, and no pass of the teacher, where the weight is 0."""
        weight = choices.number(KD_WEIGHT, 0.0)
        if weight <= 0.0:
            return loss
        taught = self._teacher_in(context)(batch.inputs)
        _check_fit(taught, outputs, self._reference or "the uncompressed network")
        if outputs_kind(context, batch) == "logits":
            distance = soft_distance(outputs, taught, choices.number(TEMPERATURE, 4.0))
        else:
            distance = F.mse_loss(outputs, taught)
        return (1.0 - weight) * loss + weight * distance

    def _teacher_in(self, context: Context) -> _Teacher:
        if self._reference is not None:
            return self._named_teacher(self._reference)
        if self._teacher is None or self._teacher.network is not context.reference:
            self._teacher = _Teacher(context.reference)
        return self._teacher

    def _named_teacher(self, reference: str) -> _Teacher:
        if self._teacher is None:
            self._teacher = _Teacher(_make(reference, resolve(reference, folder=self._folder)))
        return self._teacher


class _Teacher:
    """A network that is only asked: in eval mode, without gradients, in the layout that suits it."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()
        self._layout: torch.memory_format | None = None

    def __call__(self, inputs: torch.Tensor) -> Any:
        if self._layout is None:
            self._layout = fast_layout(self.network, inputs)
        with torch.no_grad():
            outputs = self.network(inputs.to(memory_format=self._layout))
        return outputs.float() if isinstance(outputs, torch.Tensor) else outputs


def _make(reference: str, factory: Callable[[], Any]) -> nn.Module:
    try:
        teacher = factory if isinstance(factory, nn.Module) else factory()
    except Exception as error:
        raise ModelError(f"the teacher {reference} raises {type(error).__name__}: {error}") from error
    if not isinstance(teacher, nn.Module):
        raise ModelError(f"the teacher {reference} is {type(teacher).__name__}, expected a torch.nn.Module")
    return teacher


def _check_fit(taught: Any, outputs: Any, teacher: str) -> None:
    for who, found in (("the candidate", outputs), (f"the teacher ({teacher})", taught)):
        if not isinstance(found, torch.Tensor):
            raise ModelError(f"{who} returns {type(found).__name__}; expected one tensor of outputs")
    if taught.shape != outputs.shape:
        raise ModelError(
            f"the teacher ({teacher}) gives outputs of shape {tuple(taught.shape)}, the candidate "
            f"{tuple(outputs.shape)}: a teacher must do the same task"
        )


def outputs_kind(context: Context, batch: Batch) -> str:
    """`logits` or `values`: what the task says, or what its targets suggest."""
    guess = "values" if batch.targets.is_floating_point() else "logits"
    return str(getattr(context.task, "outputs", guess))


def soft_distance(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """`T² KL(teacher/T ‖ student/T)` over the second dimension, averaged over all others.

    Gradients of softened targets shrink with `1/T²`; the factor keeps the weight's meaning at every
    temperature.
    """
    learned = F.log_softmax(student / temperature, dim=1)
    wanted = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * (wanted.exp() * (wanted - learned)).sum(1).mean()
