"""Each habit of a network that would spoil a search is found, and said in one sentence."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.errors import TaskError
from autoprune.task import ClassificationTask, check_task, make_data
from autoprune.task.check_model import model_problems

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A linear layer and, behind it, whatever a test gives it to do."""

    def __init__(self, forward: Callable[..., Any] | None = None, **attributes: Any) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.register_buffer("count", torch.zeros(()))
        self.does = (forward,)  # in a tuple: a function as an attribute is itself a finding
        vars(self).update(attributes)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.linear(x)
        return y if self.does[0] is None else self.does[0](self, x, y)


def counts(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    net.count += 1
    return y


def goes_back_to_training(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return net.norm.train()(y)


def normalizes_by_the_batch(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(y, net.norm.running_mean, net.norm.running_var, training=True)


def drops_out(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.dropout(y)


def writes_to_its_input(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x.mul_(2) + y


def forgets_the_batch_of_one(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y.squeeze(0)


def hard_codes_the_batch(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y.view(4, 3)


def grows_with_the_batch(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y @ y.T


def moves_itself(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    net.norm.to("meta")
    return y


def moves_its_outputs(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y.to("meta")


def asks_for_a_gpu(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    raise AssertionError("Torch not compiled with CUDA enabled")


def returns_nothing(net: Net, x: torch.Tensor, y: torch.Tensor) -> None:
    return None


def divides_by_zero(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y / (1 // 0)


@pytest.mark.parametrize(
    ("forward", "sentence"),
    [
        (counts, "changes its count each time it runs in eval mode"),
        (goes_back_to_training, "leaves eval mode when it runs"),
        (normalizes_by_the_batch, "changes its norm.running_mean, norm.running_var each time"),
        (drops_out, r"different outputs for the same inputs in eval mode: remove the randomness \(F.dropout"),
        (writes_to_its_input, "changes its inputs in place"),
        (forgets_the_batch_of_one, r"shape \(4, 3\) for a batch of 4 and of shape \(3,\) for one of 1"),
        (hard_codes_the_batch, "runs on a batch of 4 but not on one of 1"),
        (moves_itself, "moves its norm.weight to another device"),
        (moves_its_outputs, "moves its outputs to another device"),
        (asks_for_a_gpu, r"to another device \(Torch not compiled with CUDA enabled\)"),
        (returns_nothing, "returns NoneType without a tensor"),
        (divides_by_zero, r"on inputs of shape \(4, 3\), raises ZeroDivisionError"),
    ],
)
def test_what_running_shows_is_refused(forward: Callable[..., Any], sentence: str) -> None:
    problems = model_problems(Net(forward), X)
    assert [problem.severity for problem in problems] == ["error"], problems
    assert "\n" not in problems[0].sentence
    assert re.search(sentence, problems[0].sentence), problems[0].sentence


class CallsItself(nn.Module):
    """Its activation is a lambda that holds on to it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.act = lambda x: self.linear(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (nn.Flatten(), "the model has no parameters"),
        (nn.LazyLinear(3), r"without a shape \(weight\)"),
        (Net(lock=threading.Lock()), r"cannot be copied, lock \(TypeError"),
        (Net(cached=nn.Linear(3, 3)(X)), "cannot be copied, cached .* detach"),
        (CallsItself(), "holds a lambda that uses its own layers, act"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_it_runs(model: nn.Module, sentence: str) -> None:
    (problem,) = model_problems(model, X)
    assert problem.severity == "error"
    assert re.search(sentence, problem.sentence), problem.sentence


def prints(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    print("now at", x.shape)
    return y


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Net(prints), r"the model prints while it runs \(now at torch.Size\(\[4, 3\]\)\): remove print()"),
        (Net(act=lambda x: x), "the model holds a lambda, act, so it cannot be pickled"),
    ],
)
def test_what_does_no_harm_is_only_said(
    model: nn.Module, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (problem,) = model_problems(model, X)
    assert problem.severity == "warning"
    assert re.search(sentence, problem.sentence), problem.sentence
    assert capsys.readouterr().out == ""


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (self.embed(ids) * mask[..., None]).sum(1)


IDS, MASK = torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4)


def test_inputs_may_be_named_or_several() -> None:
    assert model_problems(Masked(), {"ids": IDS, "mask": MASK}) == []
    assert model_problems(Masked(), (IDS, MASK)) == []


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"ids": IDS}, r"does not fit the inputs \(ids\): missing a required argument: 'mask'"),
        (IDS, r"\(1 positional\): missing a required argument: 'mask'"),
        ({"ids": IDS, "mask": MASK, "kind": IDS}, "got an unexpected keyword argument 'kind'"),
    ],
)
def test_an_argument_that_is_not_given_is_named(inputs: Any, sentence: str) -> None:
    (problem,) = model_problems(Masked(), inputs)
    assert re.search(sentence, problem.sentence), problem.sentence


def test_one_example_is_tried_as_two() -> None:
    assert model_problems(Net(), X[:1]) == []
    (problem,) = model_problems(Net(forgets_the_batch_of_one), X[:1])
    assert "for a batch of 1" in problem.sentence


def test_a_cache_that_is_filled_once_is_no_change() -> None:
    def remembers(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        net.count.fill_(1)
        return y + net.count

    assert model_problems(Net(remembers), X) == []


def test_recurrent_states_may_hold_the_batch_in_another_axis() -> None:
    assert model_problems(nn.LSTM(3, 5, batch_first=True), torch.randn(4, 7, 3)) == []


def test_the_model_and_the_process_are_left_as_they_were() -> None:
    model = Net(counts).train()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    model_problems(model, X)
    assert torch.equal(torch.rand(1), expected)
    assert model.training
    assert model.count == 0


def test_several_findings_are_said_together_and_end_the_check() -> None:
    def careless(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        net.count += 1
        return F.dropout(y) + x.mul_(2)

    data = make_data((torch.randn(30, 3), torch.arange(30) % 3))
    with pytest.raises(TaskError) as caught:
        check_task(ClassificationTask(lambda: Net(careless), data), data)
    assert len(str(caught.value).splitlines()) == 3


def test_warnings_are_returned_by_the_check_of_a_task() -> None:
    data = make_data((torch.randn(30, 3), torch.arange(30) % 3))
    (sentence,) = check_task(ClassificationTask(lambda: Net(prints), data), data)
    assert sentence.startswith("the model prints")


def test_outputs_that_compare_the_examples_of_a_batch_are_warned_of() -> None:
    (problem,) = model_problems(Net(grows_with_the_batch), X)
    assert problem.severity == "warning"
    assert "outputs of shape (4, 4) for a batch of 4 and of shape (1, 1)" in problem.sentence
    assert "compare the examples of a batch with each other" in problem.sentence
