"""Transfer: how much of a network that was trained for something else stays as it is.

The first layers of a network learn what is of use for almost any task, the last ones what their own task asks for
(Yosinski et al., "How transferable are features in deep neural networks?", 2014, https://arxiv.org/abs/1411.1792).
Where between the two a new task should begin to train depends on how much it resembles the old one and on how many
examples it has: it is a choice. What the network starts from, and its new head, are the task's affair: `model` may be
an artifact of ours, already pruned, and `classes` replaces its last layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from autoprune.compress.technique import Context, Technique
from autoprune.space import Choice, Choices, Range
from autoprune.structure.running import plain_execution
from autoprune.task import example_inputs
from autoprune.task.head import last_layers
from autoprune.tensors import Inputs, call, map_tensors, tensors_in

if TYPE_CHECKING:
    from autoprune.targets import Target

FROZEN = "transfer.frozen"


class Transfer(Technique):
    """Choose the share of a candidate's layers, from the first that runs on, that its training leaves alone.

    The layers that the outputs come from train always. Frozen layers may still be cut, factorized and quantized: that
    is done to them, not learned by them. BatchNorm between frozen layers keeps its statistics in training. What
    `train.freeze` names stays frozen besides; if nothing were left to train, the last layer that it leaves is.

    Args:
        frozen: the choice of the share, from 0 (everything trains) to 1 (the head alone).
    """

    name = "transfer"

    def __init__(self, frozen: Choice = Range(0.0, 0.8, neutral=0.0)) -> None:  # noqa: B008 (immutable)
        self.frozen = frozen

    def choices(self, model: nn.Module, example: Any, target: Target) -> dict[str, Choice]:  # noqa: ARG002
        """`transfer.frozen`; nothing for a network of which every layer is a head."""
        return {FROZEN: self.frozen} if body_of(model, example) else {}

    def describe(self, model: nn.Module, example: Any) -> dict[str, Any]:
        """`layers`: what can be frozen, in the order in which it runs."""
        return {"layers": list(body_of(model, example))}

    @contextmanager
    def watch(
        self, trained: nn.Module, choices: Choices, context: Context
    ) -> Iterator[Iterable[nn.Parameter]]:
        """Freeze while the stretch lasts; records the layers in `context.structure["transfer"]["frozen"]`."""
        share = choices.number(FROZEN, 0.0)
        body = body_of(trained, example_inputs(context.data)) if share > 0 else {}
        layers = list(body)[: round(share * len(body))]
        while layers and not _trains(trained, body, layers):
            layers.pop()
        if layers:
            context.structure[self.name] = {"frozen": layers}
        frozen = [p for layer in layers for p in body[layer] if p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            yield ()
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)


def body_of(model: nn.Module, example: Inputs) -> dict[str, list[nn.Parameter]]:
    """The layers that are not heads with their parameters, in the order in which the network first reads them.

    A layer is what holds a weight of two axes or more; what holds scales and biases only, as norms do, belongs to the
    layer before it. A parameter that a head shares is left out.

    Args:
        model: left as it is: a copy is run, in eval mode.
        example: inputs of batch size 1.
    """
    own = dict(model.named_parameters())
    last = last_layers(model, example)
    heads = {
        id(parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if any(not layer or f"{name}.".startswith(f"{layer}.") for layer in last)
    }
    order = [name for name in _in_order(model, example) if id(own[name]) not in heads]
    layers: dict[str, list[nn.Parameter]] = {}
    begins = {_owner(name) for name in order if own[name].dim() > 1}
    current = ""
    for name in order:
        if _owner(name) in begins or not layers:
            current = _owner(name)
        layers.setdefault(current, []).append(own[name])
    return layers


def _owner(parameter: str) -> str:
    """The module that holds a parameter; the parameter itself where the network does, without a layer."""
    return parameter.rpartition(".")[0] or parameter


def _trains(model: nn.Module, body: Mapping[str, list[nn.Parameter]], frozen: Iterable[str]) -> bool:
    """Whether something is left to train when these layers are frozen."""
    gone = {id(parameter) for layer in frozen for parameter in body[layer]}
    return any(parameter.requires_grad and id(parameter) not in gone for parameter in model.parameters())


def _in_order(model: nn.Module, example: Inputs) -> list[str]:
    """Names of parameters in the order in which operations first read them; of tied ones the first name."""
    probe = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]), plain_execution(probe), _Reads(probe) as reads:
        call(probe, map_tensors(torch.clone, example))
    return list(reads.seen)


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which parameters of a network are read, while it is on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.seen: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tensors_in((args, kwargs or {})):
            if id(tensor) in self._names:
                self.seen[self._names[id(tensor)]] = None
        return func(*args, **(kwargs or {}))
