"""A training of the task's own takes the place of ours, and what must hold afterwards holds."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import ModelError, TaskError
from autoprune.stretch import stretch
from autoprune.task import Budget, ClassificationTask, Data, make_data
from autoprune.train import TrainSettings

Y = np.arange(90) % 3
X = (np.random.default_rng(0).normal(size=(90, 4)) + 2 * np.eye(4)[Y]).astype(np.float32)
DATA = make_data((X, Y))
SETTINGS = TrainSettings(batch_size=8, learning_rate=0.02, max_seconds=7.0)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


class Own(ClassificationTask):
    """Trains by the function it is given."""

    def __init__(self, fit: Callable[..., Any]) -> None:
        super().__init__(network, DATA)
        self.fit = fit


def learns(model: nn.Module, data: Data, budget: Budget) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), budget.learning_rate)
    for epoch in range(math.ceil(budget.epochs)):
        for batch in data.train.batches(budget.batch_size, shuffle=budget.seed + epoch):
            optimizer.zero_grad()
            budget.loss(model(batch.inputs), batch).backward()
            optimizer.step()
    return model


def run(fit: Callable[..., Any], model: nn.Module | None = None, **settings: Any) -> nn.Module:
    model = network() if model is None else model
    stretch(model, Own(fit), DATA, epochs=2, settings=SETTINGS, seed=3, **settings)
    return model


def accuracy(model: nn.Module) -> float:
    batch = next(DATA.val.batches(100))
    return float((model(batch.inputs).argmax(1) == batch.targets).float().mean())


def test_it_trains_in_place_of_our_loop() -> None:
    model = run(lambda model, data, budget: learns(model, data, Budget(**{**vars(budget), "epochs": 20})))
    assert accuracy(model) > 0.8
    assert not model.training


def test_the_budget_says_what_the_search_asks_for() -> None:
    seen: list[Budget] = []

    def looks(model: nn.Module, data: Data, budget: Budget) -> None:
        assert model.training
        assert data is DATA
        seen.append(budget)

    run(looks)
    assert (seen[0].epochs, seen[0].seconds, seen[0].learning_rate) == (2, 7.0, 0.02)
    assert (seen[0].batch_size, seen[0].seed) == (8, 3)


def test_its_loss_is_the_tasks_with_what_techniques_make_of_it() -> None:
    found: list[float] = []

    def asks(model: nn.Module, data: Data, budget: Budget) -> None:
        batch = next(data.train.batches(4))
        outputs = model(batch.inputs)
        found.extend(
            x.item() for x in (budget.loss(outputs, batch), budget.loss(outputs, batch, outputs.sum() * 0))
        )
        found.append(Own(asks).loss(outputs, batch).item())

    run(asks, loss=lambda outputs, batch, loss: 2 * loss + 1)
    assert found[0] == pytest.approx(2 * found[2] + 1)
    assert found[1] == 1


def test_a_copy_that_is_returned_is_taken_over() -> None:
    model, other = network(), copy.deepcopy(network())
    shared = model[1].running_mean

    def trains_a_copy(given: nn.Module, data: Data, budget: Budget) -> nn.Module:
        return learns(other, data, budget).double()

    run(trains_a_copy, model)
    assert torch.equal(model[0].weight, other[0].weight.float())
    assert model[0].weight.dtype == torch.float32
    assert model[1].running_mean is shared
    assert shared.abs().sum() > 0


def test_what_is_masked_is_masked_again_at_the_end() -> None:
    model = network()

    def mask(step: int, total: int) -> None:
        assert step == total
        with torch.no_grad():
            model[0].weight[0] = 0

    run(learns, model, on_step=mask)
    assert model[0].weight[0].abs().sum() == 0


def test_the_process_is_left_as_it_was_and_the_seed_is_set() -> None:
    drawn = []
    torch.manual_seed(5)
    expected = torch.rand(1)
    for _ in range(2):
        torch.manual_seed(5)
        run(lambda model, data, budget: drawn.append(torch.rand(1)), network_with_seed(5))
    assert torch.equal(torch.rand(1), expected)
    assert drawn[0] == drawn[1]


def network_with_seed(seed: int) -> nn.Module:
    model = network()
    torch.manual_seed(seed)
    return model


def widens(model: nn.Sequential, data: Data, budget: Budget) -> None:
    model[3] = nn.Linear(8, 5)


def explodes(model: nn.Sequential, data: Data, budget: Budget) -> None:
    with torch.no_grad():
        model[0].bias.fill_(torch.nan)


def raises(model: nn.Sequential, data: Data, budget: Budget) -> None:
    raise ValueError("no more pages")


@pytest.mark.parametrize(
    ("fit", "error", "message"),
    [
        (
            widens,
            ModelError,
            r"changes '3.weight' from shape \(3, 8\) to \(5, 8\): train the network it is given",
        ),
        (lambda model, *_: model[:3], ModelError, "returns a network without '3.weight'"),
        (lambda model, *_: nn.Sequential(*model, nn.PReLU()), ModelError, "with '4.weight' added"),
        (explodes, ModelError, "leaves NaN or infinity in '0.bias'"),
        (lambda *_: 3.5, TaskError, r"fit\(\) returns float, expected the trained"),
        (raises, TaskError, r"fit\(\) raises ValueError: no more pages \(test_stretch.py, line"),
    ],
)
def test_what_a_training_must_not_do_is_named(fit: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(fit)


def test_without_a_training_of_its_own_our_loop_trains() -> None:
    model = network()
    note = stretch(
        model, ClassificationTask(network, DATA), DATA, epochs=20, settings=TrainSettings(8, compile=True)
    )
    assert accuracy(model) > 0.8
    assert note.startswith("not compiled: ")
