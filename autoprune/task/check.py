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
from autoprune.task.check_model import model_problems
from autoprune.task.collate import as_array, is_finite, join_targets, length
from autoprune.task.contract import Batch, Data, Split, Summarizes, Task
from autoprune.task.output import main_output
from autoprune.task.splits import ArraySplit
from autoprune.tensors import Inputs, batch_size, call, concatenate, map_tensors

READY = {
    "activities": "activities.py:Activities",
    "banking77": "banking77.py:Banking77",
    "cifar10": "cifar10.py:Cifar10",
    "digits": "digits.py:Digits",
    "fashion_mnist": "fashion_mnist.py:FashionMnist",
    "mnist": "mnist.py:Mnist",
    "spoken_digits": "spoken_digits.py:SpokenDigits",
    "tinyshakespeare": "tinyshakespeare.py:TinyShakespeare",
    "lenet_300_100": "lenet.py:LeNet300100",
    "lenet_5": "lenet.py:LeNet5",
}
"""Tasks with model and data, in the folder of ready search spaces."""

KINDS = {
    "anomaly": "autoprune.task:AnomalyTask",
    "classification": "autoprune.task:ClassificationTask",
    "detection": "autoprune.task:DetectionTask",
    "language_model": "autoprune.task:LanguageModelTask",
    "multi_label": "autoprune.task:MultiLabelTask",
    "regression": "autoprune.task:RegressionTask",
    "segmentation": "autoprune.task:SegmentationTask",
    "token_classification": "autoprune.task:TokenClassificationTask",
}
"""Tasks that want the user's `model` and `data`."""

BUILT_IN = {**READY, **KINDS}
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
    ready = {name: f"{here / ref}" for name, ref in READY.items()}
    found = resolve(reference, folder=folder, builtins={**KINDS, **ready})
    if isinstance(found, type) or not isinstance(found, Task):
        if reference in KINDS:  # files that its arguments name are where the spec is
            arguments = {"folder": folder, **(arguments or {})}
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


def check_task(task: Task, data: Data) -> list[str]:
    """Try the task on a few examples.

    Returns:
        What is odd about the model without standing in the way, a sentence each.

    Raises:
        TaskError: data that is empty, mislabelled or not finite; a model, loss or metric that raises or gives
            something else than the contract asks; a model that cannot be searched (see `model_problems`).
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
    warnings = _check_model(model, batch.inputs)
    outputs = _check_outputs(task, model.eval(), batch)
    for name in ("train", "val", "test"):
        _check_targets(task, name, getattr(data, name), outputs)
    _check_loss(_call("loss()", lambda: task.loss(outputs, batch)))
    _check_metrics(_metrics(task, _summary_of(task)(outputs, batch), batch.targets))
    return warnings


def _check_split(name: str, split: Any) -> None:
    if not isinstance(split, Split):
        raise TaskError(
            f"data().{name} is {type(split).__name__}, expected a split with batches() and a length"
        )
    if _call(f"data().{name}", lambda: len(split)) == 0:
        raise TaskError(f"data().{name} is empty")
    batch = _call(f"data().{name}", lambda: first_batch(split, PROBE))
    inputs, targets = batch_size(batch.inputs), length(batch.targets)
    if inputs != targets:
        raise TaskError(f"data().{name} gives {inputs} inputs with {targets} targets")
    if not is_finite(batch.inputs):
        raise TaskError(f"data().{name} gives inputs that are NaN or infinite")


def _check_model(model: nn.Module, inputs: Inputs) -> list[str]:
    problems = model_problems(model, inputs)
    errors = [problem.sentence for problem in problems if problem.severity == "error"]
    if errors:
        raise TaskError("\n".join(errors))
    return [problem.sentence for problem in problems]


def _check_outputs(task: Task, model: nn.Module, batch: Batch) -> Any:
    with torch.no_grad():
        outputs = call(model, batch.inputs)
    counted, examples = main_output(task, outputs), batch_size(batch.inputs)
    if counted.dim() == 0 or len(counted) != examples:
        found = len(counted) if counted.dim() else "one number as"
        raise TaskError(f"the model gives {found} outputs for {examples} inputs")
    if not is_finite(counted):
        raise TaskError("the model's outputs are NaN or infinite on the first training batch")
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
        targets = as_array(join_targets([batch.targets for _, batch in batches]))
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


def example_inputs(data: Data) -> Inputs:
    """Inputs of batch size 1: the first example of the validation split."""
    return first_batch(data.val, 1).inputs


@torch.no_grad()
def predict(
    model: nn.Module | Callable[[Inputs], Any],
    split: Split,
    *,
    batch_size: int = 256,
    summary: Callable[[Any, Batch], Any] | None = None,
) -> tuple[Any, Any]:
    """Outputs and targets of a whole split, in its order, on the CPU.

    Args:
        model: a module (run in eval mode, where it lies), or a callable from inputs to outputs, such as
            `Runnable.run`.
        split: what to run it on.
        batch_size: how many examples at once.
        summary: what to keep of the outputs for a batch; None keeps them. Of one batch after the other only this is
            held.
    """
    run = _runner(model)
    outputs, targets = [], []
    for batch in split.batches(batch_size):
        found = map_tensors(torch.Tensor.cpu, run(batch.inputs))
        outputs.append(found if summary is None else summary(found, batch))
        targets.append(batch.targets)
    return concatenate(outputs), join_targets(targets)


def _runner(model: nn.Module | Callable[[Inputs], Any]) -> Callable[[Inputs], Any]:
    if not isinstance(model, nn.Module):
        return model
    network = model.eval()
    first = next(network.parameters(), torch.empty(0))
    return lambda inputs: call(network, map_tensors(lambda tensor: tensor.to(first.device), inputs))


def evaluate_metrics(
    model: nn.Module | Callable[[Inputs], Any], task: Task, split: Split, *, batch_size: int = 256
) -> dict[str, float]:
    """The task's metrics over a whole split, as plain floats.

    Raises:
        TaskError: metrics() or summary() raises, or gives something else than finite numbers.
    """
    summary = _summary_of(task) if isinstance(task, Summarizes) else None
    outputs, targets = predict(model, split, batch_size=batch_size, summary=summary)
    metrics = _metrics(task, outputs, targets)
    _check_metrics(metrics)
    return {name: float(value) for name, value in metrics.items()}


def _summary_of(task: Task) -> Callable[[Any, Batch], Any]:
    if not isinstance(task, Summarizes):
        return lambda outputs, _: outputs
    return lambda outputs, batch: _call("summary()", lambda: task.summary(outputs, batch))


def _metrics(task: Task, outputs: Any, targets: Any) -> Any:
    return _call("metrics()", lambda: task.metrics(outputs, Batch(torch.empty(0), targets)))
