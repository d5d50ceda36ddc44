"""How far choices move the outputs: measured and estimated, on the digits data of scikit-learn."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import nn

from autoprune.compress.prune import Prune
from autoprune.compress.technique import Context
from autoprune.sensitivity import Calibration, estimates, fisher
from autoprune.space import Options, Range
from autoprune.targets import load_target
from autoprune.task import ClassificationTask, example_inputs
from autoprune.train import TrainSettings, train


class Net(nn.Module):
    """Two convolutions and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.second, self.head = nn.Conv2d(12, 24, 3, stride=2), nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def context() -> Context:
    torch.manual_seed(0)
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype("float32")
    task = ClassificationTask(Net, (images, digits.target))
    data, model = task.data(), Net()
    train(model, task, data.train, epochs=6, settings=TrainSettings(batch_size=64, learning_rate=0.1))
    return Context(task, data, load_target("onnxruntime"), model.eval().requires_grad_(False))


def rounded(context: Context, layer: str, bits: int) -> nn.Module:
    model = copy.deepcopy(context.reference)
    weight = model.get_parameter(f"{layer}.weight")
    rows = weight.flatten(1)
    step = rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    weight.copy_(((rows / step).round() * step).view_as(weight))
    return model


def test_nothing_done_is_no_distance_and_more_done_is_more(context: Context) -> None:
    seen = Calibration(context)
    assert seen.distance(context.reference) == pytest.approx(0.0, abs=1e-6)
    distances = [seen.distance(rounded(context, "second", bits)) for bits in (6, 4, 3, 2)]
    assert 0 < distances[0] < distances[1] < distances[2] < distances[3]
    assert seen.floor < distances[2]


def test_what_is_estimated_from_gradients_ranks_what_is_measured(context: Context) -> None:
    choices: dict[str, Any] = {
        f"quantize.{layer}.weight_bits": Options((2, 3, 4, 6, 32), 32)
        for layer in ("first", "second", "head")
    }
    found = estimates(context.reference, fisher(context.reference, context), choices, [])
    seen = Calibration(context)
    estimated, measured = [], []
    for name, pairs in found.items():
        for bits, damage in pairs:
            estimated.append(damage)
            measured.append(seen.distance(rounded(context, name.split(".")[1], int(bits))))  # type: ignore[call-overload]
    assert len(estimated) == 12
    assert spearmanr(estimated, measured).statistic > 0.85


def test_estimates_grow_with_ratio_and_sparsity_and_leave_gradients_off(context: Context) -> None:
    model, example = copy.deepcopy(context.reference), example_inputs(context.data)
    groups = Prune().prunable(model, example)
    choices: dict[str, Any] = {name: Range(0.0, 0.8, 0.0) for name, _ in groups}
    choices["sparsify.second.sparsity"] = Range(0.0, 0.9, 0.0)
    found = estimates(model, fisher(model, context), choices, groups)
    assert set(found) == set(choices)
    for pairs in found.values():
        damages = [damage for _, damage in pairs]
        assert damages == sorted(damages) and damages[-1] > damages[0] >= 0
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_real_valued_outputs_are_compared_by_their_variance(context: Context) -> None:
    class Values(ClassificationTask):
        outputs = "values"

    digits = load_digits()
    task = Values(Net, ((digits.images[:, None] / 16).astype("float32"), digits.target))
    seen = Calibration(Context(task, context.data, context.target, context.reference))
    zero = copy.deepcopy(context.reference)
    zero.get_parameter("head.weight").zero_()
    assert 0.2 < seen.distance(zero) < 20
    assert seen.distance(context.reference) == 0
