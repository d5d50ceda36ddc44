"""A task is found by its name and tried out; whatever is wrong with it is one clear sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import TaskError, UnresolvedReference
from autoprune.task import (
    ArraySplit,
    Batch,
    ClassificationTask,
    Data,
    LoaderSplit,
    check_task,
    evaluate_metrics,
    example_inputs,
    load_task,
    make_data,
    predict,
)

X = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
Y = np.arange(30) % 3
DATA = make_data((X, Y))


class Plain:
    """A task without a base; tests replace its parts."""

    def __init__(self, **parts: Callable[..., Any]) -> None:
        vars(self).update(parts)

    def model(self) -> nn.Module:
        return nn.Linear(3, 3)

    def data(self) -> Data:
        return DATA

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return outputs.square().mean()

    def metrics(self, outputs: torch.Tensor, batch: Batch) -> dict[str, float]:
        return {"score": outputs.mean().item()}


def raises() -> None:
    raise ValueError("broken wheel")


def test_a_good_task_passes() -> None:
    check_task(Plain(), DATA)
    check_task(ClassificationTask(lambda: nn.Linear(3, 3), (X, Y)), DATA)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model": raises}, r"the task's model\(\) raises ValueError: broken wheel"),
        ({"model": lambda: 3}, r"model\(\) returns int, expected a torch.nn.Module"),
        (
            {"model": lambda: nn.Linear(4, 3)},
            r"the model, on inputs of shape \(8, 3\), raises RuntimeError: mat1",
        ),
        (
            {"model": lambda: nn.Sequential(nn.Linear(3, 3), nn.Flatten(0))},
            "the model gives 24 outputs for 8 inputs",
        ),
        ({"model": lambda: Always(torch.nan)}, "the model's outputs are NaN or infinite"),
        ({"model": lambda: Always(None)}, "different outputs for the same inputs in eval mode"),
        ({"loss": lambda outputs, batch: raises()}, r"the task's loss\(\) raises ValueError: broken wheel"),
        (
            {"loss": lambda outputs, batch: outputs},
            r"loss\(\) returns shape \(8, 3\), expected a tensor with",
        ),
        ({"loss": lambda outputs, batch: 1.0}, r"loss\(\) returns float, expected a tensor"),
        ({"loss": lambda outputs, batch: torch.tensor(torch.nan)}, r"loss\(\) is nan on the first"),
        ({"metrics": lambda outputs, batch: raises()}, r"the task's metrics\(\) raises ValueError"),
        ({"metrics": lambda outputs, batch: 3.0}, r"metrics\(\) returns 3.0, expected a dict"),
        ({"metrics": lambda outputs, batch: {}}, "expected a dict of names and numbers"),
        ({"metrics": lambda outputs, batch: {"a": "high"}}, "gives 'a': 'high', expected a name and a float"),
        ({"metrics": lambda outputs, batch: {"a": float("nan")}}, "gives a = nan, expected a finite number"),
    ],
)
def test_what_is_wrong_is_said(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        check_task(Plain(**parts), DATA)


class Always(nn.Module):
    """Outputs of one value, or random ones."""

    def __init__(self, value: float | None) -> None:
        super().__init__()
        self.value = value
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.rand(len(x), 3) if self.value is None else torch.full((len(x), 3), self.value)


class Pairs:
    """A split that does not hold what it says."""

    def __init__(self, *batches: Batch, length: int = 2) -> None:
        self.given, self.length = batches, length

    def __len__(self) -> int:
        return self.length

    def batches(self, batch_size: int, *, shuffle: int | None = None) -> Any:
        return iter(self.given)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ([1, 2], r"data\(\).val is list, expected a split"),
        (ArraySplit(X[:0], Y[:0]), r"data\(\).val is empty"),
        (Pairs(), "a split gives no batch"),
        (Pairs(Batch(torch.zeros(2, 3), torch.zeros(1))), "gives 2 inputs with 1 targets"),
        (Pairs(Batch(torch.full((2, 3), torch.nan), torch.zeros(2))), "inputs that are NaN or infinite"),
    ],
)
def test_a_bad_split_is_named(split: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        check_task(Plain(), Data(DATA.train, split, DATA.test))


def test_data_must_be_data() -> None:
    with pytest.raises(TaskError, match=r"data\(\) returns tuple, expected autoprune.Data"):
        check_task(Plain(), (DATA.train, DATA.val))  # type: ignore[arg-type]


@pytest.mark.parametrize("as_split", [lambda x, y: ArraySplit(x, y), lambda x, y: LoaderSplit([(x, y)])])
def test_a_label_beyond_the_outputs_is_found_in_any_split(as_split: Callable[..., Any]) -> None:
    wrong = Y.copy()
    wrong[-1] = 7
    data = Data(DATA.train, DATA.val, as_split(torch.tensor(X), torch.tensor(wrong)))
    with pytest.raises(TaskError, match=r"data\(\).test: y holds labels 0 to 7, but the model has 3 outputs"):
        check_task(ClassificationTask(lambda: nn.Linear(3, 3), DATA), data)


def test_outputs_that_are_no_tensor_are_the_tasks_own_affair() -> None:
    class Named(nn.Linear):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"score": super().forward(x)}

    def loss(outputs: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        return outputs["score"].mean()

    def metrics(outputs: dict[str, torch.Tensor], batch: Batch) -> dict[str, float]:
        return {"rows": float(len(outputs["score"]))}

    task = Plain(model=lambda: Named(3, 3), loss=loss, metrics=metrics)
    check_task(task, DATA)
    assert evaluate_metrics(Named(3, 3), task, DATA.train, batch_size=7) == {"rows": 18.0}


def test_predict_joins_tuples() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x + 1

    (one, other), targets = predict(Two(), DATA.val, batch_size=4)
    assert len(one) == len(other) == len(targets) == 6


def test_a_module_and_a_runtime_are_evaluated_alike() -> None:
    task = ClassificationTask(lambda: nn.Linear(3, 3), DATA)
    model = task.model()

    def run(inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ model.weight.T + model.bias

    assert evaluate_metrics(run, task, DATA.val) == pytest.approx(evaluate_metrics(model, task, DATA.val))


def test_predict_runs_in_eval_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Identity()).train()
    outputs, _ = predict(model, DATA.val)
    assert torch.equal(outputs, torch.from_numpy(X[DATA.val.rows]))


def test_example_inputs_are_one_example() -> None:
    assert example_inputs(DATA).shape == (1, 3)


class Tokens(nn.Module):
    """A small network of named inputs that returns several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 9)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
        hidden = self.embed(ids) * mask[..., None]
        return {"hidden": hidden, "logits": self.head(hidden), "cache": None}


def sequences() -> list[dict[str, torch.Tensor]]:
    """Batches of four sequences of another length each."""
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(1, 9, (4, length), generator=draw) for length in (5, 3)]
    return [{"ids": one, "mask": torch.ones_like(one), "labels": one} for one in ids]


class TokenTask(Plain):
    """Keeps the loss of each token, not the logits."""

    def model(self) -> nn.Module:
        return Tokens()

    def data(self) -> Data:
        return Data(*(LoaderSplit(sequences()) for _ in range(3)))

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs["logits"].flatten(0, 1), batch.targets.flatten())

    def summary(self, outputs: Any, batch: Batch) -> torch.Tensor:
        logits = outputs["logits"].transpose(1, 2)
        return torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")

    def metrics(self, outputs: torch.Tensor, batch: Batch) -> dict[str, float]:
        counts = batch.targets != -100
        return {"loss": outputs[counts].mean().item(), "tokens": float(counts.sum())}


def test_named_inputs_and_several_outputs_of_unequal_length() -> None:
    task, data = TokenTask(), TokenTask().data()
    check_task(task, data)
    model = task.model()
    found = evaluate_metrics(model, task, data.val, batch_size=4)
    assert found["tokens"] == 4 * 5 + 4 * 3
    assert found == pytest.approx(evaluate_metrics(model, task, data.val, batch_size=3), rel=1e-5)


def test_only_the_summary_of_each_batch_is_kept() -> None:
    task, data = TokenTask(), TokenTask().data()
    outputs, targets = predict(task.model(), data.val, batch_size=4, summary=task.summary)
    assert outputs.shape == targets.shape == (8, 5)
    whole, _ = predict(task.model(), data.val, batch_size=4)
    assert whole["logits"].shape == (8, 5, 9)
    assert whole["cache"] is None


def test_a_summary_that_raises_is_the_tasks_fault() -> None:
    class Broken(TokenTask):
        def summary(self, outputs: Any, batch: Batch) -> torch.Tensor:
            raise KeyError("logits")

    with pytest.raises(TaskError, match=r"the task's summary\(\) raises KeyError"):
        check_task(Broken(), Broken().data())


def test_an_input_that_is_not_given_is_named() -> None:
    class Forgetful(TokenTask):
        def data(self) -> Data:
            given = [{"ids": batch["ids"], "labels": batch["labels"]} for batch in sequences()]
            return Data(*(LoaderSplit(given) for _ in range(3)))

    with pytest.raises(TaskError, match="missing a required argument: 'mask'"):
        check_task(Forgetful(), Forgetful().data())


def test_example_inputs_keep_their_names() -> None:
    example = example_inputs(TokenTask().data())
    assert {name: tuple(tensor.shape) for name, tensor in example.items()} == {"ids": (1, 5), "mask": (1, 5)}


TASK_FILE = """
from autoprune import ClassificationTask
from torch import nn
import numpy as np

class Mine(ClassificationTask):
    def __init__(self, outputs=2):
        super().__init__(lambda: nn.Linear(3, outputs), (np.zeros((20, 3)), np.arange(20) % 2))

def make():
    return Mine()

ready = Mine()
number = 3

class Half:
    def model(self): ...
    def data(self): ...
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(TASK_FILE)
    return tmp_path


@pytest.mark.parametrize("name", ["Mine", "make", "ready"])
def test_a_task_is_a_class_a_function_or_an_object(folder: Path, name: str) -> None:
    assert load_task(f"mine.py:{name}", folder).model().out_features == 2


def test_arguments_reach_the_class(folder: Path) -> None:
    assert load_task("mine.py:Mine", folder, {"outputs": 5}).model().out_features == 5


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Mine", {"inputs": 3}, "mine.py:Mine: got an unknown argument 'inputs', expected outputs"),
        ("number", {}, "mine.py:number is 3, expected a task"),
        ("Half", {}, r"Half has no loss\(\), metrics\(\)"),
    ],
)
def test_what_is_no_task_is_refused(folder: Path, name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_task(f"mine.py:{name}", folder, arguments)


def test_a_misspelt_built_in_name_gets_the_nearest() -> None:
    with pytest.raises(UnresolvedReference, match="did you mean 'digits'"):
        load_task("digit")
