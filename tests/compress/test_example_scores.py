"""What each method says of an example, on digits of which some are mislabelled."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from autoprune.compress.example_scores import BUILT_IN, OF_HARDNESS, Scores
from autoprune.compress.technique import Context
from autoprune.spec import techniques
from autoprune.task import ArraySplit, ClassificationTask, Data, make_data
from autoprune.train import TrainSettings, train

WRONG = 60
SETTINGS = TrainSettings(batch_size=32, learning_rate=0.1)


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


def digits() -> Data:
    """The first 60 training examples have the label of another class."""
    images, labels = load_digits(return_X_y=True)
    x, y = (images / 16).astype(np.float32), labels.astype(np.int64)
    y[:WRONG] = (y[:WRONG] + 1 + np.arange(WRONG) % 8) % 10
    return make_data((x[:1200], y[:1200]), (x[1200:1500], y[1200:1500]), (x[1500:], y[1500:]))


class Digits(ClassificationTask):
    def __init__(self) -> None:
        super().__init__(net, digits())


@pytest.fixture(scope="module")
def context() -> Context:
    task = Digits()
    data = task.data()
    torch.manual_seed(0)
    reference = net()
    train(reference, task, data.train, epochs=4, settings=SETTINGS)
    target: Any = SimpleNamespace(channel_multiple=1)
    return Context(task, data, target, reference.requires_grad_(False), settings=SETTINGS)


@pytest.fixture(scope="module")
def scores(context: Context) -> dict[str, Scores]:
    assert isinstance(context.data.train, ArraySplit)
    return {name: score(context.data.train, context) for name, score in BUILT_IN.items()}


def test_the_names_are_those_of_the_spec() -> None:
    assert tuple(BUILT_IN) == techniques.DATA_PRUNING


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_example_has_a_finite_score(name: str, scores: dict[str, Scores]) -> None:
    assert scores[name].shape == (1200,)
    assert np.isfinite(scores[name]).all()


@pytest.mark.parametrize("name", ["random", "el2n", "forgetting"])
def test_the_same_seed_gives_the_same_scores(name: str, context: Context, scores: dict[str, Scores]) -> None:
    assert isinstance(context.data.train, ArraySplit)
    assert np.array_equal(BUILT_IN[name](context.data.train, context), scores[name])


@pytest.mark.parametrize("name", OF_HARDNESS)
def test_mislabelled_examples_are_the_hardest(name: str, scores: dict[str, Scores]) -> None:
    """Paul et al. 2021, section 4, and Toneva et al. 2019, section 5, find noise at this end."""
    hardest = np.argsort(-scores[name], kind="stable")[: 2 * WRONG]
    assert np.isin(np.arange(WRONG), hardest).mean() > 0.8


def test_scoring_leaves_the_reference_and_the_split_alone(context: Context) -> None:
    assert isinstance(context.data.train, ArraySplit)
    before = {name: tensor.clone() for name, tensor in context.reference.state_dict().items()}
    rows = context.data.train.rows.copy()
    for score in BUILT_IN.values():
        score(context.data.train, context)
    assert all(torch.equal(before[name], tensor) for name, tensor in context.reference.state_dict().items())
    assert np.array_equal(context.data.train.rows, rows)
    assert not any(module._forward_pre_hooks for module in context.reference.modules())


def features(context: Context) -> np.ndarray[Any, Any]:
    x, _ = digits().train.x, None  # type: ignore[attr-defined]
    with torch.no_grad():
        return context.reference[:3](torch.from_numpy(x)).numpy()  # type: ignore[index, no-any-return]


def test_moderate_keeps_the_median_distance(context: Context, scores: dict[str, Scores]) -> None:
    labels, found = np.asarray(context.data.train.targets), features(context)  # type: ignore[attr-defined]
    members = np.flatnonzero(labels == 3)
    distances = np.linalg.norm(found[members] - found[members].mean(0), axis=1)
    best = members[np.argsort(-scores["moderate"][members])[:20]]
    ranks = np.argsort(np.argsort(distances))[np.isin(members, best)] / len(members)
    assert 0.25 < ranks.min() < 0.5 < ranks.max() < 0.75


def test_herding_follows_the_mean_of_its_class(context: Context, scores: dict[str, Scores]) -> None:
    """Welling 2009: the error of the mean falls with 1/n, that of a random draw with 1/√n."""
    labels, found = np.asarray(context.data.train.targets), features(context)  # type: ignore[attr-defined]
    members = np.flatnonzero(labels == 3)
    centre = found[members].mean(0)

    def error(name: str) -> float:
        first = members[np.argsort(-scores[name][members], kind="stable")[:20]]
        return float(np.linalg.norm(found[first].mean(0) - centre))

    assert error("herding") < 0.4 * error("random")
