"""Weight sharing: one set of tensors from which every architecture of a space takes its own part.

There are no elastic layers. The task's function makes each sub-network as it always does, and its parameters are
parts of the shared tensors: the first units of a width, the first layers of a depth, the middle of a kernel
(`structure.overlap`). What only some architectures have, an alternative block, is a tensor of its own, and so is what
reads something else than in the largest network: a head behind the second stage, which is narrower than the third. So
whatever a task's `model` takes as an argument can be shared, and what comes of it is the candidate that a search makes.

It begins with the trained reference, its units sorted so that the first ones are those that matter most (Cai et al.
2020, Once-for-All); `sandwich` trains it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn
from torch.func import functional_call

from autoprune.compress.criteria.magnitude import absolute_weights
from autoprune.errors import ModelError, RunFolderError
from autoprune.space import Options, Value
from autoprune.structure import Observed
from autoprune.structure.dimensions import Axis
from autoprune.structure.overlap import Index, places, put, taken
from autoprune.structure.parametrize import make_model
from autoprune.task import Task
from autoprune.tensors import Inputs, call, tensors_in

Architecture = Mapping[str, Value]

MOST_KEPT = 64  # sub-networks that are kept, of those drawn in training
MOST_DRAWS = 50  # of architectures, until one is found that the task can build
SAME = 1e-4  # how far the outputs of a sorted network may be from what they were, relative to the largest


class Part(NamedTuple):
    """Which shared tensor a parameter is a part of, and where in it it lies."""

    key: str
    where: tuple[Index, ...]


class Supernet(nn.Module):
    """The shared tensors of a space of architectures; called, it is the largest network.

    Args:
        task: makes the networks.
        options: what the space offers for each argument of the task's `model`.
        example: inputs of batch size 1.

    Attributes:
        largest, smallest: the options with most and with fewest parameters, each chosen for itself.

    Raises:
        ModelError: the task cannot build the largest network, or one that differs from it in one option; the message
            has the arguments.
    """

    def __init__(self, task: Task, options: Mapping[str, Options], example: Inputs) -> None:
        super().__init__()
        self._task, self._options, self._example = task, options, example
        self.largest, self.smallest = self._extremes()
        self._kept: OrderedDict[str, nn.Module] = OrderedDict()
        self._known: dict[str, dict[str, Part]] = {}
        self._axes: dict[str, list[Axis]] = {}  # shared tensor -> what its axes are made of
        whole = Observed(make_model(task, self.largest).eval(), example)
        self._units, self._largest_reads = {group.name: group.units for group in whole.groups}, _reads(whole)
        for arguments in self._corner():
            self._take_in(arguments)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the largest network gives."""
        return self.run(self.largest, named or inputs)

    def run(self, architecture: Architecture, inputs: Inputs) -> Any:
        """What a sub-network gives, gradients flowing to the shared tensors. It is in the supernet's mode."""
        network, parts = self.network(architecture), self._parts(architecture)
        network.train(self.training)
        parameters = {name: taken(self.tensor(part.key), part.where) for name, part in parts.items()}
        if isinstance(inputs, Mapping):
            return functional_call(network, parameters, (), dict(inputs))
        return functional_call(network, parameters, inputs if isinstance(inputs, tuple) else (inputs,))

    def tensor(self, key: str) -> nn.Parameter:
        """The shared tensor of this key."""
        found: nn.Parameter = getattr(self, key)
        return found

    @torch.no_grad()
    def fill(self, model: nn.Module, architecture: Architecture) -> None:
        """Give a network of this architecture copies of its part of the shared tensors; its statistics stay."""
        parts = self._parts(architecture)
        for name, parameter in model.named_parameters():
            parameter.copy_(taken(self.tensor(parts[name].key), parts[name].where))

    @torch.no_grad()
    def begin_with(self, reference: nn.Module) -> None:
        """Take over a trained network of the default architecture, the units of each group sorted."""
        ordered = sorted_by_importance(reference, self._task, self._example)
        parts = self._parts({})
        for name, parameter in ordered.named_parameters():
            put(self.tensor(parts[name].key).data, parts[name].where, parameter)

    def draw(self, generator: np.random.Generator) -> dict[str, Value]:
        """An architecture, each option as likely as the others; drawn again where the task cannot build it.

        Raises:
            ModelError: hardly any combination of options can be built.
        """
        for attempt in range(MOST_DRAWS):
            found = {
                name: o.values[int(generator.integers(len(o.values)))] for name, o in self._options.items()
            }
            try:
                self._parts(found)
            except ModelError:
                if attempt + 1 == MOST_DRAWS:
                    raise
                continue
            break
        return found

    def to_bytes(self) -> bytes:
        """The shared tensors as safetensors."""
        return bytes(
            save_tensors({key: self.tensor(key).detach().clone().contiguous() for key in self._axes})
        )

    @torch.no_grad()
    def read(self, content: bytes) -> None:
        """Take over what `to_bytes` gave.

        Raises:
            RunFolderError: it is damaged, or of another space.
        """
        try:
            tensors = load_tensors(content)
            for key in self._axes:
                self.tensor(key).copy_(tensors[key])
        except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise RunFolderError(f"the supernet is damaged, or of another space: {reason}") from error

    # -- how it is put together ----------------------------------------------------------------------------------

    def _extremes(self) -> tuple[dict[str, Value], dict[str, Value]]:
        """The options with most and with fewest parameters, others at their default; of equals the default.

        Where the fewest of all make no network, the smallest is the one that differs from the default in one option.
        """
        largest, smallest = {}, {}
        singly: list[tuple[int, dict[str, Value]]] = []
        usual = {name: choice.neutral for name, choice in self._options.items()}
        for name, choice in self._options.items():
            values = sorted(choice.values, key=lambda value: value != choice.neutral)
            sizes = {value: _parameters(make_model(self._task, {name: value})) for value in values}
            largest[name], smallest[name] = (
                max(values, key=sizes.__getitem__),
                min(values, key=sizes.__getitem__),
            )
            singly.append((sizes[smallest[name]], {**usual, name: smallest[name]}))
        try:
            make_model(self._task, smallest)
        except ModelError:
            smallest = min(singly, key=lambda pair: pair[0])[1]
        return largest, smallest

    def _corner(self) -> list[dict[str, Value]]:
        """The largest network, and those that differ from it in one option: together they have every tensor."""
        others = [
            {**self.largest, name: value}
            for name, choice in self._options.items()
            for value in choice.values
            if value != self.largest[name]
        ]
        return [self.largest, *others]

    def _take_in(self, architecture: Architecture) -> None:
        """Make a shared tensor of each parameter that is new, and enlarge those that are larger here.

        Raises:
            ModelError: two networks have a parameter in shapes of which neither holds the other.
        """
        try:
            model = make_model(self._task, architecture).eval()
        except ModelError:
            if architecture == self.largest:
                raise
            return  # such a combination is no network; what it would add, another one has
        observed = Observed(model, self._example)
        keys = self._keys(observed)
        for name, parameter in model.named_parameters():
            key, known = keys[name], getattr(self, keys[name], None)
            if known is not None and _is_inside(parameter.shape, known.shape):
                continue
            if known is not None and not _is_inside(known.shape, parameter.shape):
                raise ModelError(
                    f"the architectures {_listed(self.largest)} and {_listed(architecture)} have {name} in shapes "
                    f"{tuple(known.shape)} and {tuple(parameter.shape)}, neither of which holds the other: they cannot "
                    "share it; give the layers different names, or leave the option out"
                )
            self.register_parameter(key, None)
            setattr(self, key, nn.Parameter(parameter.detach().clone()))
            self._axes[key] = observed.seen.axes.get(name, [])

    def _keys(self, observed: Observed) -> dict[str, str]:
        """The shared tensor of each parameter: of its name, or another one where it reads something else."""
        keys, reads = {}, _reads(observed)
        for name, _ in observed.model.named_parameters():
            own = reads.get(name, "")
            usual = self._largest_reads.get(name, own)
            is_other = own != usual and self._units.get(own, 0) != self._units.get(usual, 0)
            keys[name] = (
                f"{name}@{own}".replace(".", "/")
                if is_other and own in self._units
                else name.replace(".", "/")
            )
        return keys

    def network(self, architecture: Architecture) -> nn.Module:
        """The module of a sub-network; the last ones used are kept."""
        key = json.dumps(architecture, sort_keys=True)
        if key not in self._kept:
            self._kept[key] = make_model(self._task, architecture)
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _parts(self, architecture: Architecture) -> dict[str, Part]:
        """Of each parameter of a sub-network the shared tensor, and where in it it lies.

        Raises:
            ModelError: the task cannot build it, or it has a parameter that is larger than the shared one, which no
                single option makes so large.
        """
        known = json.dumps(architecture, sort_keys=True)
        if known not in self._known:
            network = self.network(architecture)
            observed = Observed(network.eval(), self._example)
            keys, kernels = self._keys(observed), _kernels(network)
            found = {}
            for name, parameter in network.named_parameters():
                shared = getattr(self, keys[name], None)
                if shared is None or not _is_inside(parameter.shape, shared.shape):
                    raise ModelError(
                        f"the architecture {_listed(architecture)} has {name} in shape {tuple(parameter.shape)}, but "
                        "no single option brings that about beside the largest of the others: it cannot be shared"
                    )
                own, theirs = observed.seen.axes.get(name), self._axes[keys[name]]
                index = places(
                    parameter.shape, shared.shape, own, theirs or None, kernel_from=kernels.get(name)
                )
                found[name] = Part(keys[name], index)
            self._known[known] = found
        return self._known[known]


@torch.no_grad()
def sorted_by_importance(model: nn.Module, task: Task, example: Inputs) -> nn.Module:
    """A copy of a network that computes the same, the units of each group with the largest weights first.

    A group whose order the network depends on, so that its outputs would change, stays as it is.
    """
    copy = make_model(task, {})
    copy.load_state_dict(model.state_dict())
    copy.eval()
    before = tensors_in(call(copy, example))
    for group in Observed(copy, example).groups:
        if group.reason:
            continue
        order = torch.argsort(absolute_weights(group, copy), descending=True, stable=True).numpy()
        _reorder(copy, group, order)
        after = tensors_in(call(copy, example))
        largest = max(float(tensor.abs().max()) for tensor in before)
        if any(float((a - b).abs().max()) > SAME * largest for a, b in zip(before, after, strict=True)):
            _reorder(copy, group, np.argsort(order))
    return copy


def _reorder(model: nn.Module, group: Any, order: np.ndarray[Any, Any]) -> None:
    """Put the units of a group in another order, in every tensor that they occur in."""
    state = model.state_dict(keep_vars=True)
    for part in group.slices:
        tensor = state.get(part.tensor)
        if tensor is not None:
            index = np.arange(tensor.shape[part.axis])
            index[part.positions.reshape(-1)] = part.positions[order].reshape(-1)
            tensor.data = tensor.data.index_select(part.axis, torch.from_numpy(index))


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _kernels(model: nn.Module) -> dict[str, int]:
    """Weights of convolutions -> the first axis of their kernels."""
    layers = (item for item in model.named_modules() if isinstance(item[1], nn.modules.conv._ConvNd))
    return {f"{name}.weight".lstrip("."): 2 for name, _ in layers}


def _reads(observed: Observed) -> dict[str, str]:
    """Parameter or buffer -> the group that it reads or follows."""
    slices = ((group.name, part) for group in observed.groups for part in group.slices)
    return {part.tensor: name for name, part in slices if part.role != "writes"}


def _is_inside(shape: torch.Size, whole: torch.Size) -> bool:
    return len(shape) == len(whole) and all(size <= full for size, full in zip(shape, whole, strict=True))


def _listed(architecture: Architecture) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in architecture.items()) or "of the defaults"
