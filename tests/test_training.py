"""The learning rate of each stretch of a candidate's training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_spec import TINY_SPEC
from tiny_task import TinyTask
from torch import nn

from autoprune.evaluate import Evaluator
from autoprune.record import Donor, Evaluation, Request
from autoprune.space import Space
from autoprune.spec import load_spec
from autoprune.task import Budget, Data

RATE = TINY_SPEC["train"].get("learning_rate", 0.05)

Rates = Callable[..., list[float]]


@pytest.fixture(scope="module")
def trained() -> tuple[Evaluator, list[float]]:
    """An evaluator with stretches of 1, 3 and 4 epochs, whose task trains itself and notes the rates; there is one."""
    rates: list[float] = []

    def fit(model: nn.Module, data: Data, budget: Budget) -> nn.Module:
        rates.append(budget.learning_rate)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        batch = next(iter(data.train.batches(8)))
        budget.loss(model(batch.inputs), batch).backward()
        optimizer.step()
        return model

    task = TinyTask()
    task.fit = fit  # type: ignore[attr-defined]
    prune = {"ratio": [0.0, 0.75], "schedule": ["one_shot", "lottery_ticket"]}
    space = {"architecture": {"width": [4, 8]}, "prune": prune}
    made = Evaluator(load_spec({**TINY_SPEC, "space": space, "search": {"rungs": [0, 1, 4, 8]}}), task)
    made.attach_data(None)
    made.attach_reference(made.train_reference())
    return made, rates


@pytest.fixture
def rates_of(trained: tuple[Evaluator, list[float]]) -> Rates:
    """The rates of the stretches of a request, as shares of the spec's."""
    evaluator, rates = trained
    space = Space.from_json(evaluator.describe()["choices"])

    def found(request: Callable[[dict[str, Any]], Request], **choices: Any) -> list[float]:
        rates.clear()
        point = {**space.neutral(), **{n: 0.5 for n in space if n.endswith(".ratio")}, **choices}
        result = evaluator.evaluate(request(point))
        assert result.state == "finished", result.reason
        return [rate / RATE for rate in rates]

    return found


def test_shorter_stretches_of_a_trained_network_take_smaller_steps(rates_of: Rates) -> None:
    found = rates_of(lambda point: Request(0, 3, point))
    assert found == pytest.approx([0.5, 0.75**0.5, 1.0])


def test_it_is_the_same_wherever_training_goes_on(
    rates_of: Rates, trained: tuple[Evaluator, list[float]]
) -> None:
    first: list[Evaluation] = []

    def later(point: dict[str, Any]) -> Request:
        first.append(trained[0].evaluate(Request(0, 1, point)))
        trained[1].clear()
        return Request(0, 3, point, first[0].checkpoint)

    assert rates_of(later) == pytest.approx([0.75**0.5, 1.0])


def test_an_architecture_without_weights_takes_full_steps(rates_of: Rates) -> None:
    found = rates_of(lambda point: Request(0, 3, point), **{"architecture.width": 4})
    assert found == pytest.approx([1.0, 1.0, 1.0])


def test_its_heir_has_something_to_lose(rates_of: Rates, trained: tuple[Evaluator, list[float]]) -> None:
    def heir(point: dict[str, Any]) -> Request:
        donor = trained[0].evaluate(Request(0, 1, point))
        trained[1].clear()
        return Request(1, 3, point, donor=Donor(0, 1, donor.checkpoint))

    found = rates_of(heir, **{"architecture.width": 4})
    assert found == pytest.approx([0.5, 0.75**0.5, 1.0])


def test_a_lottery_ticket_takes_full_steps(rates_of: Rates) -> None:
    found = rates_of(lambda point: Request(0, 3, point), **{"prune.schedule": "lottery_ticket"})
    assert set(found) == {1.0}


def test_who_finishes_a_candidate_says_how_large_steps_are(rates_of: Rates) -> None:
    assert rates_of(lambda point: Request(0, 4, point, epochs=0.5)) == pytest.approx([1.0])
