"""How far what a student says is from what its teachers say (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).

A wrong class to which the teacher gives a tenth tells more about an image than its label does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from autoprune.errors import TaskError
from autoprune.references import nearest
from autoprune.task.contract import IGNORED

if TYPE_CHECKING:
    from autoprune.task import Batch

REAL = ("values", "scores")
CLASSES = ("logits", "token_logits", "segmentation")
KINDS = (*CLASSES, "multi_label", *REAL)


def outputs_kind(task: Any, batch: Batch) -> str:
    """The kind of outputs: what the task says, or what its targets suggest (`logits` or `values`).

    Raises:
        TaskError: the task names a kind that does not exist.
    """
    real = isinstance(batch.targets, torch.Tensor) and batch.targets.is_floating_point()
    kind = str(getattr(task, "outputs", "values" if real else "logits"))
    if kind not in KINDS:
        raise TaskError(
            f"the task's outputs are {kind!r}, accepted are {', '.join(KINDS)}{nearest(kind, KINDS)}"
        )
    return kind


def class_axis(kind: str) -> int:
    """The axis of a kind of outputs along which its classes lie."""
    return -1 if kind == "token_logits" else 1


def places_of(kind: str, student: torch.Tensor) -> torch.Size:
    """The shape of targets that give one class for each example, token or pixel."""
    return student.movedim(class_axis(kind), -1).shape[:-1]


def counted_places(task: Any, batch: Batch, kind: str, student: torch.Tensor) -> torch.Tensor | None:
    """Where tokens or pixels count, None where all do."""
    if kind == "logits" or not isinstance(batch.targets, torch.Tensor):
        return None
    if batch.targets.shape != places_of(kind, student):
        return None
    return batch.targets != getattr(task, "ignore", IGNORED)


def mean_over(distances: torch.Tensor, counted: torch.Tensor | None) -> torch.Tensor:
    """The mean of the distances where `counted` is true, of all where it is None; 0 where nothing counts."""
    if counted is None:
        return distances.mean()
    return (distances * counted).sum() / counted.sum().clamp_min(1)


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
    return mean_over(temperature**2 * (wanted.exp() * (wanted - learned)).sum(axis), counted)


def soft_labels_distance(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """`T² KL` between the flattened probabilities of each label on its own, averaged; 0 where both agree."""
    wanted = torch.sigmoid(teacher / temperature)
    agreed = F.binary_cross_entropy_with_logits(teacher / temperature, wanted)
    return temperature**2 * (F.binary_cross_entropy_with_logits(student / temperature, wanted) - agreed)


def averaged(taught: Sequence[torch.Tensor], temperature: float, axis: int = 1) -> torch.Tensor:
    """Logits whose probabilities at this temperature are the mean of the teachers' (but for a constant)."""
    if len(taught) == 1:
        return taught[0]
    soft = torch.stack([F.log_softmax(logits / temperature, dim=axis) for logits in taught])
    return temperature * (soft.logsumexp(0) - math.log(len(taught)))


def averaged_labels(taught: Sequence[torch.Tensor], temperature: float) -> torch.Tensor:
    """The same for labels of their own: the mean of each label's probability, as a logit."""
    if len(taught) == 1:
        return taught[0]
    scaled = torch.stack(list(taught)) / temperature
    return temperature * (F.logsigmoid(scaled).logsumexp(0) - F.logsigmoid(-scaled).logsumexp(0))


def plain_distance(
    task: Any, student: torch.Tensor, teacher: torch.Tensor, batch: Batch
) -> torch.Tensor | None:
    """How far a student is from one teacher at temperature 1; None for tasks whose outputs are of no known kind."""
    try:
        kind = outputs_kind(task, batch)
    except TaskError:
        return None
    if kind in REAL:
        return F.mse_loss(student, teacher)
    if kind == "multi_label":
        return soft_labels_distance(student, teacher, 1.0)
    return soft_distance(student, teacher, 1.0, class_axis(kind), counted_places(task, batch, kind, student))
