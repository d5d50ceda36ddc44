"""Distillation as a technique: its choices and what is read, the loss of Hinton et al., what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.compress.distill import Distill
from autoprune.compress.distill.logits import soft_distance
from autoprune.compress.technique import Context
from autoprune.errors import ModelError, TaskError, UnresolvedReference
from autoprune.space import Choices, Options, Range
from autoprune.task import Batch, ClassificationTask, RegressionTask, make_data
from autoprune.train import TrainSettings, train

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = np.arange(60) % 3
DATA = make_data((X, Y))
BATCH = Batch(torch.from_numpy(X[:8]), torch.from_numpy(Y[:8]))
LOSS = torch.tensor(2.0)


def network(seed: int = 0, outputs: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, outputs))


def context(reference: nn.Module, kind: type = ClassificationTask) -> Context:
    return Context(kind(network, DATA), DATA, target=None, reference=reference)  # type: ignore[arg-type]


def point(weight: float, temperature: float = 4.0) -> Choices:
    return Choices({"distill.kd_weight": weight, "distill.temperature": temperature})


def test_its_choices_are_those_it_was_given() -> None:
    temperature, weight = Options((2, 4), 4), Range(0.0, 0.9, neutral=0.0)
    technique = Distill(temperature, weight)
    found = technique.choices(network(), BATCH.inputs[:1], target=None)  # type: ignore[arg-type]
    assert found == {"distill.temperature": temperature, "distill.kd_weight": weight}
    described = technique.describe(network(), BATCH.inputs[:1])
    assert described == {"teachers": ["reference"], "methods": ["logits"]}


def test_weight_zero_reads_no_temperature_and_asks_no_teacher() -> None:
    choices = point(0.0)
    assert Distill().loss(torch.zeros(8, 3), BATCH, LOSS, choices, context(nn.Linear(1, 1))) is LOSS
    assert choices.read == {"distill.kd_weight": 0.0}


def test_the_loss_is_the_weighted_mean_of_label_and_teacher() -> None:
    teacher, outputs = network(1).eval(), torch.randn(8, 3)
    choices = point(0.25, 3.0)
    found = Distill().loss(outputs, BATCH, LOSS, choices, context(teacher))
    divergence = F.kl_div(
        F.log_softmax(outputs / 3, 1), F.softmax(teacher(BATCH.inputs) / 3, 1), reduction="batchmean"
    )
    assert found.item() == pytest.approx((0.75 * 2.0 + 0.25 * 9 * divergence).item(), rel=1e-5)
    assert set(choices.read) == {"distill.kd_weight", "distill.temperature"}


def test_a_student_that_agrees_is_at_no_distance() -> None:
    logits = torch.randn(5, 3)
    assert soft_distance(logits, logits + 7.0, 2.0).item() == pytest.approx(0.0, abs=1e-5)


def test_gradients_keep_their_size_when_the_temperature_rises() -> None:
    teacher, student = torch.randn(64, 3), torch.randn(64, 3, requires_grad=True)
    norms = [
        torch.autograd.grad(soft_distance(student, teacher, t), student)[0].norm().item() for t in (8.0, 32.0)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=0.3)


def test_real_values_are_compared_by_their_square() -> None:
    teacher, outputs = network(1).eval(), torch.randn(8, 3)
    choices = point(1.0)
    found = Distill().loss(outputs, BATCH, LOSS, choices, context(teacher, RegressionTask))
    assert found.item() == pytest.approx(F.mse_loss(outputs, teacher(BATCH.inputs)).item())
    assert "distill.temperature" not in choices.read


def told(kind: str, outputs: torch.Tensor, taught: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The distance alone, for a task of that kind whose teacher says `taught` in a dict."""

    class Says(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": taught}

    here = context(Says())
    here.task = type("Own", (), {"outputs": kind})()
    return Distill().loss({"logits": outputs}, Batch(BATCH.inputs, targets), LOSS, point(1.0, 1.0), here)


def test_tokens_that_do_not_count_are_not_compared() -> None:
    student, taught = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    targets = torch.tensor([[1, -100, -100], [2, 0, -100]])
    counted = targets != -100
    expected = soft_distance(student[counted], taught[counted], 1.0)
    assert told("token_logits", student, taught, targets).item() == pytest.approx(expected.item(), rel=1e-5)


def test_pixels_are_compared_over_their_classes() -> None:
    student, taught = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    found = told("segmentation", student, taught, torch.zeros(2, 3, 3).long())
    assert found.item() == pytest.approx(soft_distance(student, taught, 1.0).item(), rel=1e-5)


def test_labels_of_their_own_are_compared_one_by_one() -> None:
    taught = torch.randn(4, 3)
    assert told("multi_label", taught, taught, torch.zeros(4, 3)).item() == pytest.approx(0.0, abs=1e-6)
    assert told("multi_label", taught + 1, taught, torch.zeros(4, 3)).item() > 0.01


def test_a_kind_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(TaskError, match="'logit'.*did you mean 'logits'"):
        told("logit", torch.randn(2, 3), torch.randn(2, 3), torch.zeros(2))


@pytest.mark.parametrize(("targets", "reads"), [(torch.zeros(8), False), (BATCH.targets, True)])
def test_a_task_that_does_not_say_is_judged_by_its_targets(targets: torch.Tensor, reads: bool) -> None:
    silent = context(network(1))
    silent.task = object()  # type: ignore[assignment]
    choices = point(1.0)
    Distill().loss(torch.randn(8, 3), Batch(BATCH.inputs, targets), LOSS, choices, silent)
    assert ("distill.temperature" in choices.read) is reads


def test_the_teacher_stays_as_it_is_while_the_student_learns_from_it() -> None:
    teacher, student = network(1).eval(), network(2)
    before = [parameter.detach().clone() for parameter in teacher.parameters()]
    technique, here = Distill(), context(teacher)

    def loss(outputs: Any, batch: Batch, value: torch.Tensor) -> torch.Tensor:
        return technique.loss(outputs, batch, value, point(1.0, 1.0), here)

    settings = TrainSettings(batch_size=18, learning_rate=0.2)
    train(student, here.task, DATA.train, epochs=60, settings=settings, loss=loss)
    agreement = (student(BATCH.inputs).argmax(1) == teacher(BATCH.inputs).argmax(1)).float().mean()
    assert agreement >= 0.75
    assert not teacher.training
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_each_reference_teaches_its_own_candidates() -> None:
    technique, outputs = Distill(), torch.randn(8, 3)
    one, other = (
        technique.loss(outputs, BATCH, LOSS, point(1.0), context(network(seed))).item() for seed in (1, 2)
    )
    assert one != other


TEACHERS = """
import torch
from torch import nn

def good():
    torch.manual_seed(9)
    return nn.Linear(4, 3)

def wide(): return nn.Linear(4, 5)
def narrow(): return nn.Linear(2, 3)
def broken(): raise RuntimeError("no weights")
def number(): return 3
ready = good()

class Named(nn.Module):
    def forward(self, x): return {"logits": x}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "teachers.py").write_text(TEACHERS)
    return tmp_path


@pytest.mark.parametrize("name", ["good", "ready"])
def test_a_named_teacher_teaches(folder: Path, name: str) -> None:
    technique = Distill(teacher=(f"teachers.py:{name}",), folder=folder)
    technique.choices(network(), BATCH.inputs[:1], target=None)  # type: ignore[arg-type]
    torch.manual_seed(9)
    teacher, outputs = nn.Linear(4, 3), torch.randn(8, 3)
    found = technique.loss(outputs, BATCH, LOSS, point(1.0, 2.0), context(network(1)))
    assert found.item() == pytest.approx(soft_distance(outputs, teacher(BATCH.inputs), 2.0).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wide", r"got 'teachers.py:wide', which gives outputs of shape \(1, 5\), expected \(1, 3\)"),
        ("broken", "got 'teachers.py:broken', expected a network: .* raises RuntimeError: no weights"),
        ("number", "got 'teachers.py:number', expected a network: .* makes int"),
        ("Named", r"got 'teachers.py:Named', which gives outputs of shape \(1, 4\)"),
        ("narrow", "got 'teachers.py:narrow', which raises RuntimeError: .* for the task's inputs"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_the_first_trial(
    folder: Path, name: str, message: str
) -> None:
    technique = Distill(teacher=(f"teachers.py:{name}",), folder=folder)
    with pytest.raises(ModelError, match=f"space.distill.teacher: {message}"):
        technique.choices(network(), BATCH.inputs[:1], target=None)  # type: ignore[arg-type]


def test_a_teacher_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(UnresolvedReference, match="did you mean 'good'"):
        Distill(teacher=("teachers.py:goood",), folder=folder).choices(
            network(), BATCH.inputs[:1], target=None
        )  # type: ignore[arg-type]
