"""What the ready tasks share: where the network, the data and the user's own metrics come from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.errors import TaskError
from autoprune.references import resolve
from autoprune.space import Value
from autoprune.task.check_model import make_copyable
from autoprune.task.contract import Data
from autoprune.task.head import WithHead, head_of
from autoprune.task.metric import Metric, load_metrics, values_of
from autoprune.task.model_space import SampledSpace, is_model_space, space_of
from autoprune.task.output import main_output
from autoprune.task.parts import make_data
from autoprune.task.sources import model_factory
from autoprune.tensors import Inputs

Network = nn.Module | Callable[..., nn.Module] | str
Source = Data | Callable[[], Any] | tuple[Any, ...] | str


class ReadyTask:
    """Base of the ready tasks; it adds what they do not differ in.

    Args:
        model: a function or class that makes the network; its keyword arguments are what a spec can search
            under `space.architecture`, and their defaults are the uncompressed baseline. Or a trained
            network, of which copies are handed out. Or a model space of NNI, whose labels are searched. Or a
            reference to one of these (see `autoprune.task.sources`).
        data: a pair `(x, y)` of arrays, which is split automatically; three loaders or pairs to train, validate and
            test on; the splits as `make_data` makes them; a function that returns any of these, or a reference
            `file.py:name` to it.
        architecture: options of `model` to search when a spec says `architecture: default`.
        metrics: further metrics by name: functions `(outputs, targets) -> float`, torchmetrics objects or what
            makes them, or references. They are given the tensor that counts of the outputs (`main_output`) and
            all targets of a split.
        classes: how many outputs the network's last layer is to have: where it has another number (a network that
            was trained for another task), it is replaced by a fresh one. The layer is found by following the
            outputs back.
        head: the same as `{layer: name, outputs: number}`, for networks in which it cannot be found.
        folder: where relative files in references are looked for first.

    Raises:
        UnresolvedReference: a reference leads nowhere.
        ArtifactError: the artifact that `model` names is none, or damaged.
        TaskError: a metric is none; `classes` or `head` is no number of outputs, or is given to a class with a
            `model` of its own.
    """

    def __init__(
        self,
        model: Network,
        data: Source,
        *,
        architecture: Mapping[str, Sequence[Value]] | None = None,
        metrics: Mapping[str, Any] | None = None,
        classes: int | None = None,
        head: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        wanted = head_of(classes, head)
        if not hasattr(type(self), "model"):  # a subclass may have a method of its own
            make = _factory(model, folder)
            self.model: Callable[..., nn.Module] = (
                make if wanted is None else WithHead(make, wanted, self._example, self._chosen)
            )
        elif wanted is not None:
            raise TaskError(
                f"classes, head: {type(self).__name__} has a model() of its own, which decides about it"
            )
        found = resolve(data, folder=folder) if isinstance(data, str) else data
        self._data = _splits(found) if isinstance(found, tuple) else found
        space = space_of(self.model)
        offered = {} if space is None else {name: one.values for name, one in space.options.items()}
        self.architecture: dict[str, Sequence[Value]] = dict(architecture or offered)
        self._metrics: dict[str, Metric] = load_metrics(metrics or {}, folder)

    def data(self) -> Data:
        """The three splits."""
        return self._data if isinstance(self._data, Data) else _splits(self._data)

    def _example(self) -> Inputs:
        return next(iter(self.data().val.batches(1))).inputs

    def _chosen(self, outputs: Any) -> torch.Tensor:
        return main_output(self, outputs)

    def own_metrics(self, outputs: torch.Tensor, targets: Any) -> dict[str, float]:
        """The metrics that the user added, on outputs and targets of a whole split."""
        return values_of(self._metrics, outputs, targets)


def _splits(given: Any) -> Data:
    found = given() if callable(given) else given
    if isinstance(found, tuple):
        return make_data(*found) if len(found) == 3 else make_data(found)
    if not isinstance(found, Data):
        raise TaskError(
            f"data: got {type(found).__name__}, accepted: a pair (x, y) of arrays, three loaders (to train, validate "
            "and test on), autoprune.Data, or a function that returns one of them"
        )
    return found


def _factory(model: Network, folder: Path | None) -> Callable[..., nn.Module]:
    if isinstance(model, str):
        return model_factory(model, folder)
    if is_model_space(model):
        return SampledSpace(getattr(model, "__name__", type(model).__name__), model)
    return _copies(model) if isinstance(model, nn.Module) else model


def _copies(network: nn.Module) -> Callable[[], nn.Module]:
    def copy_of_the_network() -> nn.Module:
        make_copyable(network)
        return copy.deepcopy(network)

    return copy_of_the_network
