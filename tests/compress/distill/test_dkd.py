"""Decoupled distillation against its formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from autoprune.compress.distill.dkd import _parts, decoupled_distance
from autoprune.compress.distill.logits import soft_distance

STUDENT, TEACHER = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(16) % 5


def test_the_parts_add_up_to_the_distance_of_hinton() -> None:
    tckd, nckd = _parts(STUDENT, TEACHER, TARGETS[:, None])
    left = 1 - F.softmax(TEACHER, 1).gather(1, TARGETS[:, None])[:, 0]
    assert (tckd + left * nckd).mean().item() == pytest.approx(soft_distance(STUDENT, TEACHER, 1.0).item())


def test_it_is_the_weighted_sum_of_two_divergences() -> None:
    p, q = (F.softmax(logits / 2, 1) for logits in (TEACHER, STUDENT))
    expected = torch.zeros(())
    for row, target in enumerate(TARGETS.tolist()):
        wanted, learned = p[row, target], q[row, target]
        binary = wanted * (wanted / learned).log() + (1 - wanted) * ((1 - wanted) / (1 - learned)).log()
        others = [c for c in range(5) if c != target]
        a, b = p[row, others] / (1 - wanted), q[row, others] / (1 - learned)
        expected = expected + 4 * (0.5 * binary + 3.0 * (a * (a / b).log()).sum()) / 16
    found = decoupled_distance(STUDENT, TEACHER, TARGETS, temperature=2.0, alpha=0.5, beta=3.0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_student_that_agrees_is_at_no_distance_and_feels_no_pull() -> None:
    student = TEACHER.clone().requires_grad_()
    found = decoupled_distance(student, TEACHER, TARGETS, temperature=3.0, alpha=1.0, beta=8.0)
    found.backward()
    assert found.item() == pytest.approx(0.0, abs=1e-5)
    assert student.grad is not None and student.grad.abs().max() < 1e-5


def test_places_that_do_not_count_are_not_compared() -> None:
    student, teacher = STUDENT.view(4, 4, 5), TEACHER.view(4, 4, 5)
    targets = TARGETS.view(4, 4).clone()
    targets[:, 2:] = -100
    settings = {"temperature": 1.0, "alpha": 1.0, "beta": 2.0}
    found = decoupled_distance(student, teacher, targets, axis=-1, counted=targets != -100, **settings)
    kept = [part[:, :2].flatten(0, 1) for part in (student, teacher, targets)]
    assert found.item() == pytest.approx(decoupled_distance(*kept, **settings).item(), rel=1e-5)


def test_a_teacher_that_is_certain_gives_finite_gradients() -> None:
    student, teacher = STUDENT.clone().requires_grad_(), 1000 * F.one_hot(TARGETS, 5).float()
    decoupled_distance(student, teacher, TARGETS, temperature=1.0, alpha=1.0, beta=8.0).backward()
    assert student.grad is not None and torch.isfinite(student.grad).all()
