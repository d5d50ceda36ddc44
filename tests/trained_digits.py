"""A perceptron that has learned scikit-learn's digits: a real problem for what claims to know which weights matter."""

from __future__ import annotations

import functools

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from autoprune.task import ClassificationTask, Data, Task, evaluate_metrics
from autoprune.tensors import call
from autoprune.train import TrainSettings, train


def perceptron(normed: bool = False) -> nn.Module:
    """Two hidden layers, with a BatchNorm each where `normed`."""
    norms = (nn.BatchNorm1d(48), nn.BatchNorm1d(32)) if normed else (nn.Identity(), nn.Identity())
    return nn.Sequential(
        nn.Linear(64, 48), norms[0], nn.ReLU(), nn.Linear(48, 32), norms[1], nn.ReLU(), nn.Linear(32, 10)
    )


@functools.cache
def digits() -> tuple[Task, Data]:
    """The task and its data."""
    x, y = load_digits(return_X_y=True)
    task = ClassificationTask(perceptron, ((x / 16).astype(np.float32), y))
    return task, task.data()


@functools.cache
def trained(seed: int, normed: bool = False) -> nn.Module:
    """A network after a few epochs, about 93 % accurate; not to be changed."""
    torch.manual_seed(seed)
    model, (task, data) = perceptron(normed), digits()
    train(model, task, data.train, epochs=8, settings=TrainSettings(batch_size=32), seed=seed)
    return model


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """On the validation examples, in percent."""
    task, data = digits()
    return evaluate_metrics(lambda inputs: call(model, inputs), task, data.val)["accuracy"]
