"""Distillation: a candidate learns from what a teacher says, besides from the labels (Hinton et al. 2015).

A wrong class to which the teacher gives a tenth tells more about an image than its label does. For small and
shortly trained candidates that is worth points of accuracy, at the price of the teacher's forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from autoprune.compress.technique import Context, Technique
from autoprune.errors import ModelError, TaskError
from autoprune.forward import fast_layout, laid_out
from autoprune.references import nearest, resolve
from autoprune.space import Choice, Choices, Range
from autoprune.task import main_output
from autoprune.task.contract import IGNORED
from autoprune.task.output import logits_of
from autoprune.tensors import Inputs, call, tensors_in

if TYPE_CHECKING:
    from autoprune.targets import Target
    from autoprune.task import Batch

TEMPERATURE = "distill.temperature"
KD_WEIGHT = "distill.kd_weight"
REAL = ("values", "scores")
KINDS = ("logits", "token_logits", "segmentation", "multi_label", *REAL)


class Distill(Technique):
    """Mix the task's loss with the distance to what a teacher says.

    The loss is `(1 - kd_weight) * loss + kd_weight * distance`. The distance fits the kind of outputs, which a task
    names by an attribute `outputs`:

    | kind | distance |
    |---|---|
    | `logits` | `T² KL(teacher/T ‖ student/T)`, where the temperature `T` flattens both distributions |
    | `token_logits`, `segmentation` | the same, averaged over the tokens or pixels that count |
    | `multi_label` | `T²` times the KL divergence of each label on its own |
    | `values`, `scores` | the mean squared error |

    Without it, whole-number targets mean logits. Of outputs with several tensors, `autoprune.task.main_output` says
    which one is compared.

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
                taught = logits_of(self._named_teacher(self._reference)(example))
                _check_fit(taught, logits_of(call(model.eval(), example)), self._reference)
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
        taught = main_output(context.task, self._teacher_in(context)(batch.inputs)).float()
        student = main_output(context.task, outputs)
        _check_fit(taught, student, self._reference or "the uncompressed network")
        kind = outputs_kind(context, batch)
        if kind in REAL:
            distance = F.mse_loss(student, taught)
        elif kind == "multi_label":
            distance = soft_labels_distance(student, taught, choices.number(TEMPERATURE, 4.0))
        else:
            axis, counted = (-1 if kind == "token_logits" else 1), _counted(context, batch, kind, student)
            distance = soft_distance(student, taught, choices.number(TEMPERATURE, 4.0), axis, counted)
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
    """A network that is only asked: in eval mode, without gradients, on the device and in the layout that suit."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()
        self._asked = self.network
        self._layout: torch.memory_format | None = None

    def __call__(self, inputs: Inputs) -> Any:
        if self._layout is None:
            self._asked = _on_device_of(inputs, self.network)
            self._layout = fast_layout(self._asked, inputs)
        with torch.no_grad():
            return call(self._asked, laid_out(inputs, self._layout))


def _on_device_of(inputs: Inputs, network: nn.Module) -> nn.Module:
    """The network itself, or a copy of it where the inputs are on another device: the reference stays where it is."""
    given, own = next(iter(tensors_in(inputs)), None), next(network.parameters(), None)
    if given is None or own is None or given.device == own.device:
        return network
    return copy.deepcopy(network).to(given.device)


def _make(reference: str, factory: Callable[[], Any]) -> nn.Module:
    try:
        teacher = factory if isinstance(factory, nn.Module) else factory()
    except Exception as error:
        raise ModelError(f"the teacher {reference} raises {type(error).__name__}: {error}") from error
    if not isinstance(teacher, nn.Module):
        raise ModelError(f"the teacher {reference} is {type(teacher).__name__}, expected a torch.nn.Module")
    return teacher


def _check_fit(taught: torch.Tensor, student: torch.Tensor, teacher: str) -> None:
    if taught.shape != student.shape:
        raise ModelError(
            f"the teacher ({teacher}) gives outputs of shape {tuple(taught.shape)}, the candidate "
            f"{tuple(student.shape)}: a teacher must do the same task"
        )


def outputs_kind(context: Context, batch: Batch) -> str:
    """The kind of outputs: what the task says, or what its targets suggest (`logits` or `values`).

    Raises:
        TaskError: the task names a kind that does not exist.
    """
    real = isinstance(batch.targets, torch.Tensor) and batch.targets.is_floating_point()
    kind = str(getattr(context.task, "outputs", "values" if real else "logits"))
    if kind not in KINDS:
        raise TaskError(
            f"the task's outputs are {kind!r}, accepted are {', '.join(KINDS)}{nearest(kind, KINDS)}"
        )
    return kind


def _counted(context: Context, batch: Batch, kind: str, student: torch.Tensor) -> torch.Tensor | None:
    """Where tokens or pixels count, None where all do."""
    places = student.shape[:-1] if kind == "token_logits" else (len(student), *student.shape[2:])
    if kind == "logits" or not isinstance(batch.targets, torch.Tensor) or batch.targets.shape != places:
        return None
    return batch.targets != getattr(context.task, "ignore", IGNORED)


def soft_distance(
    student: torch.Tensor,
    teacher: torch.Tensor,
    temperature: float,
    axis: int = 1,
    counted: torch.Tensor | None = None,
) -> torch.Tensor:
    """`T² KL(teacher/T ‖ student/T)` over the axis of classes, averaged over all others where `counted` is true.

    Gradients of softened targets shrink with `1/T²`; the factor keeps the weight's meaning at every
    temperature.
    """
    learned = F.log_softmax(student / temperature, dim=axis)
    wanted = F.log_softmax(teacher / temperature, dim=axis)
    distances = temperature**2 * (wanted.exp() * (wanted - learned)).sum(axis)
    if counted is None:
        return distances.mean()
    return (distances * counted).sum() / counted.sum().clamp_min(1)


def soft_labels_distance(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """`T² KL` between the flattened probabilities of each label on its own, averaged; 0 where both agree."""
    wanted = torch.sigmoid(teacher / temperature)
    agreed = F.binary_cross_entropy_with_logits(teacher / temperature, wanted)
    return temperature**2 * (F.binary_cross_entropy_with_logits(student / temperature, wanted) - agreed)
