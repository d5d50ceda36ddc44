"""Tasks, networks and samplers that go wrong in one way each, for tests of what a user is told."""

from __future__ import annotations

import numpy as np
import torch
from optuna.samplers import RandomSampler
from tiny_task import TinyNet, TinyTask, bars
from torch import nn

from autoprune.task import ClassificationTask, Data, make_data
from autoprune.task.splits import ArraySplit

NUMBER = 7
NOISE = np.random.default_rng(0).normal(size=(100, 1, 8, 8)).astype(np.float32)
LABELS = np.arange(100) % 4


class ConstructorRaises(TinyTask):
    def __init__(self):
        raise ValueError("no disk")


class WantsAnArgument(TinyTask):
    def __init__(self, path):
        super().__init__()


class ModelRaises(TinyTask):
    def model(self, **architecture):
        raise RuntimeError("no weights")


class ModelIsNone(TinyTask):
    def model(self, **architecture):
        return None


class DataRaises(TinyTask):
    def data(self):
        raise FileNotFoundError("images.npz")


class LossRaises(TinyTask):
    def loss(self, outputs, batch):
        raise KeyError("label")


class LossIsNan(TinyTask):
    def loss(self, outputs, batch):
        return outputs.sum() * float("nan")


class LossRaisesLater(TinyTask):
    calls = 0

    def loss(self, outputs, batch):
        self.calls += 1
        if self.calls > 3:
            raise RuntimeError("label 7 is unknown")
        return super().loss(outputs, batch)


class LossIsNanLater(TinyTask):
    calls = 0

    def loss(self, outputs, batch):
        self.calls += 1
        return super().loss(outputs, batch) * (float("nan") if self.calls > 3 else 1.0)


class MetricsRaise(TinyTask):
    def metrics(self, outputs, batch):
        raise IndexError("no column 3")


class MetricsAreNan(TinyTask):
    def metrics(self, outputs, batch):
        return {"accuracy": float("nan")}


class Empty(TinyTask):
    def data(self):
        return make_data((NOISE[:0], LABELS[:0]))


class EmptyValidation(TinyTask):
    def data(self):
        return Data(bars().train, ArraySplit(NOISE[:0], LABELS[:0]), bars().test)


class LabelsFromOne(TinyTask):
    def data(self):
        return make_data((NOISE, LABELS + 1))


class LabelsMissing(TinyTask):
    def data(self):
        return make_data((NOISE, LABELS[1:]))


class LabelsAreFloats(TinyTask):
    def data(self):
        return make_data((NOISE, LABELS.astype(np.float32)))


class InputsAreNan(TinyTask):
    def data(self):
        return make_data((NOISE * np.float32("nan"), LABELS))


class InputsOfAnotherShape(TinyTask):
    def data(self):
        return make_data((NOISE.repeat(3, axis=1), LABELS))


class NoGradients(nn.Module):
    """A layer whose forward pass cannot be followed by autograd."""

    def forward(self, x):
        if torch.is_grad_enabled() and not self.training:
            raise RuntimeError("no gradients here")
        return x


class GatedNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.gate = TinyNet(), NoGradients()

    def forward(self, x):
        return self.gate(self.inner(x))


class Untraceable(ClassificationTask):
    def __init__(self):
        super().__init__(GatedNet, bars)


class EigenNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 4, 3), nn.Linear(4, 4)

    def forward(self, x):
        x = torch.relu(self.conv(x)).mean((2, 3))
        return self.linear(torch.linalg.eigvalsh(x[:, :, None] * x[:, None, :]))


class Unexportable(ClassificationTask):
    def __init__(self):
        super().__init__(EigenNet, bars)


class BranchingNet(TinyNet):
    """`torch.fx` cannot trace it: which way it goes depends on the data."""

    def forward(self, x):
        return super().forward(x if x.mean() > 1000 else x * 1.0)


class Branching(ClassificationTask):
    def __init__(self):
        super().__init__(BranchingNet, bars)


class SamplerRaises(RandomSampler):
    def sample_independent(self, *arguments):
        raise ZeroDivisionError("my sampler")


class SamplerCannotBeMade(RandomSampler):
    def __init__(self):
        raise ValueError("no configuration")
