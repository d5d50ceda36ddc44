"""Decoupled knowledge distillation (Zhao et al. 2022, https://arxiv.org/abs/2203.08679).

Hinton's distance is a sum of two (eq. 7): how sure the teacher is of the right class, and how it ranks the others. The
second is multiplied with what the teacher leaves to the others, which is next to nothing where it is sure: exactly
where its ranking is worth most. Here each has a weight of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from autoprune.compress.distill.logits import mean_over


def decoupled_distance(
    student: torch.Tensor,
    teacher: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float,
    alpha: float,
    beta: float,
    axis: int = 1,
    counted: torch.Tensor | None = None,
) -> torch.Tensor:
    """`T² (alpha TCKD + beta NCKD)` of eq. 8, averaged over examples, tokens or pixels.

    Args:
        student, teacher: logits of one shape, classes along `axis`.
        targets: the right class of each place: the shape of the logits without the axis of classes.
        temperature: `T`, which flattens both distributions.
        alpha: the weight of the target class (TCKD).
        beta: the weight of the other classes (NCKD).
        axis: of the classes.
        counted: where places count; None where all do. What the targets are elsewhere does not matter.
    """
    right = (targets if counted is None else targets.masked_fill(~counted, 0)).unsqueeze(-1)
    tckd, nckd = _parts(
        student.movedim(axis, -1) / temperature, teacher.movedim(axis, -1) / temperature, right
    )
    return mean_over(temperature**2 * (alpha * tckd + beta * nckd), counted)


def _parts(
    student: torch.Tensor, teacher: torch.Tensor, right: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """TCKD and NCKD of each place, classes last; with the teacher's p of the right class, TCKD + (1 - p) NCKD = KD."""
    learned, wanted = _right_or_not(student, right), _right_or_not(teacher, right)
    tckd = (wanted.exp() * (wanted - learned)).sum(-1)
    learned, wanted = _others(student, right), _others(teacher, right)
    # The right class has no share in the others: its -inf - -inf is no number, and counts nothing.
    gap = (wanted - learned).scatter(-1, right, 0.0)
    return tckd, (wanted.exp() * gap).sum(-1)


def _right_or_not(logits: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the right class and of all others together, along the last axis."""
    others = logits.scatter(-1, right, float("-inf")).logsumexp(-1, keepdim=True)
    return F.log_softmax(torch.cat([logits.gather(-1, right), others], -1), dim=-1)


def _others(logits: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Log-probabilities among the other classes; -inf for the right one."""
    return F.log_softmax(logits.scatter(-1, right, float("-inf")), dim=-1)
