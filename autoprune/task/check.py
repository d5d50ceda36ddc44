"""A task from its name, tried out before a search depends on it, and run over a split."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.errors import AutopruneError, TaskError, raised
from autoprune.references import resolve, search_spaces_folder, wrong_arguments
from autoprune.task.contract import Batch, Data, Split, Task
from autoprune.task.inputs import Array
from autoprune.task.splits import ArraySplit

BUILT_IN = {
    "cifar10": "cifar10.py:Cifar10",
    "digits": "digits.py:Digits",
    "fashion_mnist": "fashion_mnist.py:FashionMnist",
    "mnist": "mnist.py:Mnist",
}
METHODS = ("model", "data", "loss", "metrics")
PROBE = 8
LABEL_BATCHES = 20


def load_task(reference: str, folder: Path | None = None, arguments: Mapping[str, Any] | None = None) -> Task:
    """The task that `reference` names.

    Args:
        reference: a key of `BUILT_IN`, `file.py:Name` or `package.module:Name`. What it names is a task, or a
            class or function that makes one.
        folder: where a relative file is looked for first.
        arguments: keyword arguments for that class or function.

    Raises:
        UnresolvedReference: it leads nowhere.
        TaskError: making the task raises, or a method is missing.
    """
    # By full path: a file of the same name in the user's folder must not take the place of a built-in task.
    here = search_spaces_folder()
    found = resolve(
        reference, folder=folder, builtins={name: f"{here / ref}" for name, ref in BUILT_IN.items()}
    )
    if isinstance(found, type) or not isinstance(found, Task):
        if not callable(found):
            raise TaskError(f"{reference} is {found!r}, expected a task or a class that makes one")
        if problem := wrong_arguments(found, arguments or {}):
            raise TaskError(f"task {reference}: {problem}")
        found = _call(f"{reference}({_listed(arguments)})", lambda: found(**(arguments or {})))
    missing = [name for name in METHODS if not callable(getattr(found, name, None))]
    if missing:
        raise TaskError(
            f"{reference} is no task: {type(found).__name__} has no {', '.join(f'{m}()' for m in missing)} "
            "(a task has model, data, loss and metrics)"
        )
    task: Task = found
    return task


def _listed(arguments: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in (arguments or {}).items())


def _call(what: str, function: Callable[[], Any]) -> Any:
    """What `function` returns; whatever it raises becomes a `TaskError` that says in what."""
    try:
        return function()
    except AutopruneError:
        raise
    except Exception as error:
        raise TaskError(f"the task's {what} {raised(error)}") from error


def check_task(task: Task, data: Data) -> None:
    """Try the task on a few examples.

    Raises:
        TaskError: data that is empty, mislabelled or not finite; a model, loss or metric that raises or gives
            something else than the contract asks.
    """
    if not isinstance(data, Data):
        raise TaskError(
            f"the task's data() returns {type(data).__name__}, expected autoprune.Data(train, val, test)"
        )
    for name in ("train", "val", "test"):
        _check_split(name, getattr(data, name))
    model = _call("model()", task.model)
    if not isinstance(model, nn.Module):
        raise TaskError(f"the task's model() returns {type(model).__name__}, expected a torch.nn.Module")
    batch = first_batch(data.train, PROBE)
    outputs = _check_outputs(model.eval(), batch)
    for name in ("train", "val", "test"):
        _check_targets(task, name, getattr(data, name), outputs)
    _check_loss(_call("loss()", lambda: task.loss(outputs, batch)))
    _check_metrics(_call("metrics()", lambda: task.metrics(outputs, Batch(torch.empty(0), batch.targets))))


def _check_split(name: str, split: Any) -> None:
    if not isinstance(split, Split):
        raise TaskError(
            f"data().{name} is {type(split).__name__}, expected a split with batches() and a length"
        )
    if len(split) == 0:
        raise TaskError(f"data().{name} is empty")
    batch = _call(f"data().{name}", lambda: first_batch(split, PROBE))
    if len(batch.inputs) != len(batch.targets):
        raise TaskError(f"data().{name} gives {len(batch.inputs)} inputs with {len(batch.targets)} targets")
    if batch.inputs.is_floating_point() and not torch.isfinite(batch.inputs).all():
        raise TaskError(f"data().{name} gives inputs that are NaN or infinite")


def _check_outputs(model: nn.Module, batch: Batch) -> Any:
    with torch.no_grad():
        outputs = _call("model, on one batch,", lambda: model(batch.inputs))
        again = model(batch.inputs)
    if not isinstance(outputs, torch.Tensor):
        return outputs
    if len(outputs) != len(batch.inputs):
        raise TaskError(f"the model gives {len(outputs)} outputs for {len(batch.inputs)} inputs")
    if not torch.isfinite(outputs).all():
        raise TaskError("the model's outputs are NaN or infinite on the first training batch")
    if not torch.equal(outputs, again):
        raise TaskError(
            "the model gives different outputs for the same inputs in eval mode: remove the randomness"
        )
    return outputs


def _check_targets(task: Task, name: str, split: Split, outputs: Any) -> None:
    """Ask a ready task about all targets of an array, and of any other split about its first batches."""
    problem_of = getattr(task, "problem_of", None)
    if problem_of is None:
        return
    if isinstance(split, ArraySplit):
        targets = split.targets
    else:
        batches = zip(range(LABEL_BATCHES), split.batches(256), strict=False)
        targets = torch.cat([batch.targets for _, batch in batches]).numpy()
    if problem := problem_of(targets, outputs):
        raise TaskError(f"data().{name}: {problem}")


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, torch.Tensor) or loss.dim() != 0:
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise TaskError(f"the task's loss() returns {found}, expected a tensor with a single number")
    if not torch.isfinite(loss):
        raise TaskError(f"the task's loss() is {loss.item()} on the first training batch")


def _check_metrics(metrics: Any) -> None:
    if not isinstance(metrics, Mapping) or not metrics:
        raise TaskError(f"the task's metrics() returns {metrics!r:.80}, expected a dict of names and numbers")
    for name, value in metrics.items():
        if not isinstance(name, str) or not isinstance(value, Real | np.number):
            raise TaskError(
                f"the task's metrics() gives {name!r}: {value!r:.80}, expected a name and a float"
            )
        if not math.isfinite(float(value)):
            raise TaskError(f"the task's metrics() gives {name} = {value}, expected a finite number")


def first_batch(split: Split, batch_size: int) -> Batch:
    """The first examples of a split, in its own order.

    Raises:
        TaskError: it gives no batch.
    """
    for batch in split.batches(batch_size):
        return batch
    raise TaskError("a split gives no batch: it is empty, or was read before and can be read only once")


def example_inputs(data: Data) -> torch.Tensor:
    """Inputs of batch size 1: the first example of the validation split."""
    return first_batch(data.val, 1).inputs


@torch.no_grad()
def predict(
    model: nn.Module | Callable[[Array], Any], split: Split, *, batch_size: int = 256
) -> tuple[Any, torch.Tensor]:
    """Outputs and targets of a whole split, in its order.

    Args:
        model: a module (run in eval mode, on tensors), or a callable from NumPy inputs to outputs, such as
            `Runnable.run`.
        split: what to run it on.
        batch_size: how many examples at once.
    """
    run = model.eval() if isinstance(model, nn.Module) else _on_tensors(model)
    outputs, targets = [], []
    for batch in split.batches(batch_size):
        outputs.append(run(batch.inputs))
        targets.append(batch.targets)
    return _joined(outputs), torch.cat(targets)


def _on_tensors(run: Callable[[Array], Any]) -> Callable[[torch.Tensor], Any]:
    return lambda inputs: torch.as_tensor(run(inputs.numpy()))


def _joined(parts: list[Any]) -> Any:
    """Outputs of batches as outputs of a split: tensors, or tuples and dicts of them."""
    if isinstance(parts[0], torch.Tensor):
        return torch.cat(parts)
    if isinstance(parts[0], Mapping):
        return {name: _joined([part[name] for part in parts]) for name in parts[0]}
    return tuple(_joined(list(column)) for column in zip(*parts, strict=True))


def evaluate_metrics(
    model: nn.Module | Callable[[Array], Any], task: Task, split: Split, *, batch_size: int = 256
) -> dict[str, float]:
    """The task's metrics over a whole split, as plain floats.

    Raises:
        TaskError: metrics() raises, or gives something else than finite numbers.
    """
    outputs, targets = predict(model, split, batch_size=batch_size)
    metrics = _call("metrics()", lambda: task.metrics(outputs, Batch(torch.empty(0), targets)))
    _check_metrics(metrics)
    return {name: float(value) for name, value in metrics.items()}
