"""Schedules that train in between, through the evaluator: rungs, checkpoints, costs, tickets and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gradual_tasks import DigitsTask, digits, mlp, same
from tiny_task import TinyTask
from torch import nn

from autoprune.candidate import restore
from autoprune.errors import TaskError
from autoprune.evaluate import Evaluator
from autoprune.record import Donor, Evaluation, Request
from autoprune.spec import load_spec
from autoprune.task import Budget, ClassificationTask, Data, Task
from autoprune.training import Training

SCHEDULES = {
    "prune": ["one_shot", "iterative", "agp", "lottery_ticket"],
    "sparsify": ["one_shot", "iterative", "agp", "dynamic_surgery", "movement", "lottery_ticket"],
}
WEIGHTS: dict[type, bytes] = {}


def evaluator(task: Task, rungs: tuple[float, ...] = (0, 1), **space: dict[str, Any]) -> Evaluator:
    """With a reference trained for three epochs, once for each kind of task."""
    spec = {
        "task": f"{Path(__file__).parent / 'tiny_task.py'}:TinyTask",
        "space": {
            kind: {"schedule": SCHEDULES[kind], **fields} if "schedule" not in fields else fields
            for kind, fields in space.items()
        },
        "target": {"use": "onnxruntime", "rounds": 2, "block_ms": 1.0, "channel_multiple": 1},
        "train": {"epochs": 3, "batch_size": 32},
        "budget": {"trials": 1},
        "search": {"rungs": list(rungs)},
    }
    made = Evaluator(load_spec(spec), task)
    made.attach_data(None)
    if type(task) not in WEIGHTS:
        WEIGHTS[type(task)] = made.train_reference()
    made.attach_reference(WEIGHTS[type(task)])
    return made


def point(used: Evaluator, share: float, **schedules: str) -> dict[str, Any]:
    """The same share of everything, by these schedules."""
    space = used.describe()["choices"]
    values = {n: share if n.endswith((".ratio", ".sparsity")) else c["neutral"] for n, c in space.items()}
    return {**values, **{f"{kind}.schedule": schedule for kind, schedule in schedules.items()}}


def done(result: Evaluation) -> Evaluation:
    assert result.state == "finished", result.reason
    return result


@pytest.mark.parametrize(
    ("kind", "schedule"), [(k, s) for k, all_of in SCHEDULES.items() for s in all_of[1:]]
)
def test_a_rung_later_it_is_what_it_would_have_been_at_once(kind: str, schedule: str) -> None:
    used = evaluator(TinyTask(), **{kind: {}})
    values = point(used, 0.6, **{kind: schedule})
    untrained = done(used.evaluate(Request(0, 0, values)))
    continued = done(used.evaluate(Request(0, 1, values, untrained.checkpoint)))
    at_once = done(used.evaluate(Request(1, 1, values)))
    assert continued.checkpoint == at_once.checkpoint
    assert continued.structure == at_once.structure
    assert untrained.metrics["params"] == at_once.metrics["params"]
    trained, _ = restore(at_once.checkpoint or b"", used.techniques, used.context())
    deployed, _ = used.deploy(trained, *_rest(used, at_once))
    assert same(trained, deployed)


@pytest.mark.parametrize(
    ("kind", "schedule"),
    [("prune", "iterative"), ("prune", "agp"), ("sparsify", "iterative"), ("sparsify", "dynamic_surgery")],
)
def test_an_heir_is_made_smaller_little_by_little_from_what_its_donor_was(kind: str, schedule: str) -> None:
    used = evaluator(TinyTask(), **{kind: {}})
    trained = done(used.evaluate(Request(0, 1, point(used, 0.3, **{kind: "one_shot"}))))
    donor, values = Donor(0, 1, trained.checkpoint), point(used, 0.6, **{kind: schedule})
    untrained = done(used.evaluate(Request(1, 0, values, donor=donor)))
    continued = done(used.evaluate(Request(1, 1, values, untrained.checkpoint, donor=donor)))
    at_once = done(used.evaluate(Request(1, 1, values, donor=donor)))
    assert untrained.structure["inherited_from"] == continued.structure["inherited_from"] == 0
    assert continued.checkpoint == at_once.checkpoint
    plain = done(used.evaluate(Request(1, 1, values)))
    assert continued.checkpoint != plain.checkpoint
    assert continued.metrics["params"] == plain.metrics["params"]


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_lottery_ticket_goes_back_to_its_own_weights_and_inherits_none(kind: str) -> None:
    used = evaluator(TinyTask(), **{kind: {}})
    trained = done(used.evaluate(Request(0, 1, point(used, 0.3, **{kind: "one_shot"}))))
    values = point(used, 0.6, **{kind: "lottery_ticket"})
    result = done(used.evaluate(Request(1, 1, values, donor=Donor(0, 1, trained.checkpoint))))
    assert "inherited_from" not in result.structure
    assert result.checkpoint == done(used.evaluate(Request(1, 1, values))).checkpoint


def _rest(used: Evaluator, result: Evaluation) -> tuple[Any, Any]:
    from autoprune.space import Choices

    where = used.context()
    where.structure = result.structure
    return Choices(result.choices), where


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_later_stretch_keeps_the_zeros_of_the_first(kind: str) -> None:
    used = evaluator(TinyTask(), (1, 2), **{kind: {}})
    values = point(used, 0.6, **{kind: "lottery_ticket"})
    first = done(used.evaluate(Request(0, 0, values)))
    second = done(used.evaluate(Request(0, 1, values, first.checkpoint)))
    nets = [restore(r.checkpoint or b"", used.techniques, used.context())[0] for r in (first, second)]
    for one, other in zip(*(n.named_parameters() for n in nets), strict=True):
        assert one[1].shape == other[1].shape
        if kind == "sparsify" and one[1].dim() > 1:
            assert torch.equal(one[1] == 0, other[1] == 0)


def test_the_costs_are_those_of_what_came_out() -> None:
    used = evaluator(TinyTask(), prune={"guard": -1000.0})
    values = point(used, 0.6, prune="iterative")
    planned, came_out = (done(used.evaluate(Request(0, rung, values))) for rung in (0, 1))
    assert "nothing was pruned" in came_out.structure["prune"]["iterative"]["stopped"]
    whole = sum(parameter.numel() for parameter in used.reference.parameters())
    assert planned.metrics["params"] < came_out.metrics["params"] == whole
    assert came_out.structure["prune"]["removed"] == {}


def test_two_that_train_in_between_share_the_stretch() -> None:
    used = evaluator(TinyTask(), prune={}, sparsify={})
    result = done(used.evaluate(Request(0, 1, point(used, 0.5, prune="iterative", sparsify="iterative"))))
    for kind in ("prune", "sparsify"):
        record = result.structure[kind]["iterative"]
        assert record["steps"] == 3
    layers = result.structure["sparsify"]["layers"].values()
    assert all(plan["realised"] == pytest.approx(0.5, abs=0.05) for plan in layers)


@pytest.mark.parametrize(("kind", "rewind"), [("prune", 0.0), ("prune", 0.25), ("sparsify", 0.25)])
def test_a_trial_gives_its_ticket_back(kind: str, rewind: float) -> None:
    used = evaluator(TinyTask(), **{kind: {"rewind": rewind, "rounds": 2}})
    values = point(used, 0.6, **{kind: "lottery_ticket"})
    result = done(used.evaluate(Request(0, 1, values)))
    ticket = used.ticket(Request(0, 1, values, result.checkpoint))
    trained, _ = restore(result.checkpoint or b"", used.techniques, used.context())
    training = Training(used.spec, used.techniques, Request(0, 1, values), *_rest(used, result))
    drawn, training._stretch = [], lambda model, *_: drawn.append(model)  # type: ignore[method-assign,assignment]
    training.run(used.task.model(), -1)
    assert same(ticket, drawn[-1]) and not same(ticket, trained)
    torch.manual_seed(0)
    first = used.task.model().linear.bias
    assert torch.equal(ticket.linear.bias, first) is (rewind == 0.0)


def test_a_ticket_of_both_is_the_last_one() -> None:
    used = evaluator(TinyTask(), prune={}, sparsify={})
    values = point(used, 0.5, prune="lottery_ticket", sparsify="lottery_ticket")
    result = done(used.evaluate(Request(0, 1, values)))
    ticket = used.ticket(Request(0, 1, values, result.checkpoint))
    trained, _ = restore(result.checkpoint or b"", used.techniques, used.context())
    weight, kept = ticket.get_submodule("stem.0").weight, trained.get_submodule("stem.0").weight
    assert weight.shape == kept.shape and torch.equal(weight == 0, kept == 0)


def test_a_trial_without_a_ticket_has_none_to_give() -> None:
    used = evaluator(TinyTask(), prune={})
    values = point(used, 0.5, prune="lottery_ticket")
    result = done(used.evaluate(Request(0, 0, values)))
    with pytest.raises(TaskError, match="no ticket: it was not trained"):
        used.ticket(Request(0, 0, values, result.checkpoint))


class FitsItself(DigitsTask):
    """A training of its own, which knows nothing of zeros."""

    def fit(self, model: nn.Module, data: Data, budget: Budget) -> nn.Module:
        optimizer = torch.optim.SGD(model.parameters(), budget.learning_rate, momentum=0.9)
        for batch in data.train.batches(budget.batch_size, shuffle=budget.seed):
            optimizer.zero_grad()
            budget.loss(model(batch.inputs), batch).backward()
            optimizer.step()
        return model


@pytest.mark.parametrize("schedule", ["iterative", "lottery_ticket"])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_rounds_work_with_a_training_of_the_tasks_own(kind: str, schedule: str) -> None:
    used = evaluator(FitsItself(), **{kind: {"schedule": ["one_shot", schedule]}})
    result = done(used.evaluate(Request(0, 1, point(used, 0.5, **{kind: schedule}))))
    record = result.structure[kind]
    if kind == "prune":
        assert set(record["ratios"].values()) == {0.5}
    else:
        assert {round(plan["realised"], 2) for plan in record["layers"].values()} == {0.5}


@pytest.mark.parametrize(
    ("kind", "schedule"),
    [("prune", "agp"), ("sparsify", "agp"), ("sparsify", "dynamic_surgery"), ("sparsify", "movement")],
)
def test_what_goes_step_by_step_is_refused_before_the_first_trial(kind: str, schedule: str) -> None:
    message = f"space.{kind}.schedule: got '{schedule}', .* expected one_shot, iterative or lottery_ticket"
    with pytest.raises(TaskError, match=message):
        evaluator(FitsItself(), **{kind: {"schedule": ["one_shot", schedule]}})


def test_a_candidate_of_one_shot_reads_no_more_than_before() -> None:
    used = evaluator(ClassificationTask(mlp, digits), prune={})
    result = done(used.evaluate(Request(0, 1, point(used, 0.0, prune="iterative"))))
    assert "prune.schedule" not in result.read and "iterative" not in result.structure["prune"]
