"""Metrics of the user's own: plain functions, torchmetrics objects, or references to either."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from autoprune.errors import TaskError, raised
from autoprune.references import resolve, split_query

Metric = Callable[[Any, Any], Any]


def load_metrics(given: Mapping[str, Any], folder: Path | None = None) -> dict[str, Metric]:
    """Each metric as a function of outputs and targets.

    Args:
        given: by name a function `(outputs, targets) -> number`; an object with `update`, `compute` and `reset`,
            as torchmetrics has them; a class or `functools.partial` that makes one; or a reference to any of these
            (`torchmetrics.classification:MulticlassF1Score?num_classes=10`).
        folder: where relative files in references are looked for first.

    Raises:
        UnresolvedReference: a reference leads nowhere.
        TaskError: what is given can be none of these, or cannot be made.
    """
    return {name: _metric(name, metric, folder) for name, metric in given.items()}


def _metric(name: str, given: Any, folder: Path | None) -> Metric:
    if isinstance(given, str):
        where, arguments = split_query(given)
        found = resolve(where, folder=folder)
        given = functools.partial(found, **arguments) if arguments else found
    maker = given.func if isinstance(given, functools.partial) else given
    if isinstance(maker, type):
        try:
            given = given()
        except Exception as error:
            raise TaskError(f"metrics.{name}: making it {raised(error)}") from error
    if all(callable(getattr(given, method, None)) for method in ("update", "compute", "reset")):
        return functools.partial(_accumulated, given)
    if not callable(given):
        raise TaskError(
            f"metrics.{name}: got {type(given).__name__}, expected a function (outputs, targets) -> float, a "
            "torchmetrics metric, or a reference to one"
        )
    function: Metric = given
    return function


def _accumulated(metric: Any, outputs: Any, targets: Any) -> Any:
    metric.reset()
    metric.update(outputs, targets)
    value = metric.compute()
    metric.reset()  # what it keeps of a split would travel to the workers
    return value


def values_of(metrics: Mapping[str, Metric], outputs: Any, targets: Any) -> dict[str, float]:
    """The value of each metric; one that gives a mapping counts as several, `name_key`.

    Raises:
        TaskError: a metric raises, or gives something else than numbers.
    """
    values: dict[str, float] = {}
    for name, metric in metrics.items():
        try:
            value = metric(outputs, targets)
        except Exception as error:
            raise TaskError(f"metrics.{name} {raised(error)}") from error
        parts = value if isinstance(value, Mapping) else {"": value}
        values.update({f"{name}_{key}" if key else name: _number(name, part) for key, part in parts.items()})
    return values


def _number(name: str, value: Any) -> float:
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        raise TaskError(f"metrics.{name} gives a tensor of shape {tuple(value.shape)}, expected one number")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TaskError(f"metrics.{name} gives {type(value).__name__}, expected one number") from None
