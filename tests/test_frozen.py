"""Frozen parts are named by patterns, and really stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import TaskError
from autoprune.frozen import freeze, unmatched
from autoprune.task import ArraySplit, ClassificationTask
from autoprune.train import TrainSettings, train

Y = np.arange(64) % 2
X = (np.random.default_rng(0).normal(size=(64, 3)) + Y[:, None]).astype(np.float32)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    back = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
    return nn.Sequential(*[back, nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2)])


def trained(model: nn.Module) -> set[str]:
    """Names of what training changed."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, ClassificationTask(network, (X, Y)), ArraySplit(X, Y), epochs=1, settings=TrainSettings(16))
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("pattern", ["0", "0.*", "[01].?.weight"])
def test_a_pattern_names_parameters_or_what_is_around_them(pattern: str) -> None:
    model = network()
    freeze(model, [pattern])
    assert not model[0][0].weight.requires_grad
    assert model[2].weight.requires_grad


def test_what_is_frozen_stays_statistics_included() -> None:
    model = network()
    freeze(model, ["0"])
    changed = trained(model)
    assert not any(name.startswith("0.") for name in changed)
    assert {"1.0.weight", "1.1.running_mean", "2.bias"} <= changed


def test_parameters_without_gradients_stay_without_being_named() -> None:
    model = network()
    model[2].requires_grad_(False)
    assert not any(name.startswith("2.") for name in trained(model))


def test_a_network_that_is_frozen_whole_cannot_be_trained() -> None:
    with pytest.raises(TaskError, match="every parameter of the model is frozen"):
        trained(network().requires_grad_(False))


def test_a_pattern_that_names_nothing_is_told() -> None:
    model = nn.ModuleDict({"embeddings": nn.Linear(1, 1)})
    assert unmatched(model, ["embeddings.*"]) == []
    (line,) = unmatched(model, ["embedings"])
    assert line == "train.freeze: 'embedings' names no layer of the model; did you mean 'embeddings'?"
