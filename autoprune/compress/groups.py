"""The coupled groups of a network: which output channels must be cut together, and which must stay.

Cutting a channel of one layer forces cuts elsewhere: in the norm behind it, in every layer that reads it, in
every layer whose output is added to it. All that one channel drags along is found by tracing the network;
whether it was found rightly is checked by cutting. What does not pass is frozen, with its reason: never a
wrong network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autoprune.compress.cut import TOLERANCE, check_cut
from autoprune.compress.dependency import (
    BATCH_NORMS,
    LAYERS,
    cuts_outputs_of,
    group_of,
    layers_of,
    traced,
    width_of,
)

# Half of a group must move the outputs by far more than rounding does, or its check proves nothing.
VISIBLE = 10 * TOLERANCE
# Layers that mix the channels which they carry: the rest of them changes when one is cut.
MIXING = (nn.MultiheadAttention, nn.RNNBase, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Member:
    """A layer's part in a group: its own channel `rows[k]` is channel `channels[k]` of the group."""

    layer: str
    rows: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """One coupled set of output channels.

    Attributes:
        name: dotted name of its first layer, in module order, that has no output channels besides these.
        channels: how many there are.
        members: the convolution and linear layers whose output channels it cuts.
        norms: the BatchNorm layers that it cuts.
        readers: the convolution and linear layers whose input channels it cuts.
        together: channels i, i + channels/together, ... only go together (grouped convolutions, gates that
            split their input); 1 when each can go alone.
        reason: why nothing of it may be cut; empty when it is prunable.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    norms: tuple[Member, ...] = ()
    readers: tuple[Member, ...] = ()
    together: int = 1
    reason: str = ""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers whose output channels it cuts, in module order."""
        return tuple(member.layer for member in self.members)

    @property
    def units(self) -> int:
        """How many sets of channels can be cut independently of each other."""
        return self.channels // self.together

    def channels_of(self, units: Iterable[int]) -> list[int]:
        """The channels that go with these units, in order."""
        return sorted(unit + copy * self.units for unit in units for copy in range(self.together))

    def __str__(self) -> str:
        others = ", ".join(layer for layer in self.layers if layer != self.name)
        coupled = f" with {others}" if others else ""
        stays = f" [stays: {self.reason}]" if self.reason else ""
        return f"{self.name}: {self.channels} channels{coupled}{stays}"


def find_groups(model: nn.Module, example: torch.Tensor) -> list[Group]:
    """The coupled groups of `model`, each checked; about 0.1 s a group for a small network.

    Args:
        model: any module whose forward pass autograd can follow; it is left as it was, in eval mode.
        example: inputs of batch size 1.

    Raises:
        ModelError: the model cannot be traced at all; it can still be searched without pruning.
    """
    groups = trace_groups(model, example)
    return [g if g.reason else replace(g, reason=check_group(model, example, g)) for g in groups]


def trace_groups(model: nn.Module, example: torch.Tensor) -> list[Group]:
    """The groups as the trace shows them, none of them tried: fast, and not to be trusted.

    Raises:
        ModelError: as for `find_groups`.
    """
    names = {module: name for name, module in model.named_modules()}
    with traced(model, example) as graph:
        found = [_group(graph, names, coupled) for coupled in _coupled_sets(graph, model)]
    covered = {layer for group in found for layer in group.layers}
    left = [_unmet(name, layer) for name, layer in layers_of(model) if name not in covered]
    order = {name: place for place, (name, _) in enumerate(layers_of(model))}
    return sorted(found + left, key=lambda group: order[group.name])


def check_group(model: nn.Module, example: torch.Tensor, group: Group, fraction: float = 0.5) -> str:
    """Why `group` may not be cut, found by cutting a random `fraction` of it; empty when it may."""
    count = min(max(1, round(fraction * group.units)), group.units - 1)
    order = torch.randperm(group.units, generator=torch.Generator().manual_seed(0)).tolist()
    # The first without the last: a choice that reads the same from behind would not show reversed channels.
    chosen = [0, *(unit for unit in order if 0 < unit < group.units - 1)][:count]
    return check_cut(model, example, {group.name: group.channels_of(chosen)}, VISIBLE)


def _coupled_sets(graph: Any, model: nn.Module) -> Iterator[Any]:
    """torch-pruning's group of each coupled set, rooted at its first layer in module order.

    A layer that is only partly coupled to narrower ones (the sum of it and a concatenation) is no root: then
    the group of each narrower layer holds its share.
    """
    covered: set[nn.Module] = set()
    for _, layer in layers_of(model):
        if layer in covered or layer not in graph.module2node:
            continue
        coupled = group_of(graph, layer, range(width_of(layer)))
        members = [item for item in coupled.items if cuts_outputs_of(graph, item.dep, LAYERS)]
        if min(len(item.idxs) for item in members) == width_of(layer):
            covered.update(item.dep.target.module for item in members)
            yield coupled


def _group(graph: Any, names: Mapping[nn.Module, str], coupled: Any) -> Group:
    root, together = coupled[0].dep.target.module, _together(graph, coupled)
    reason = _frozen(graph, names, coupled)
    if not together:
        reason = reason or "its channels are coupled among themselves in no regular pattern"
    elif together == width_of(root):
        reason = reason or "its channels only go all together"
    layers = [item for item in coupled.items if isinstance(item.dep.target.module, LAYERS)]
    return Group(
        name=names[root],
        channels=width_of(root),
        members=_members(names, [item for item in layers if cuts_outputs_of(graph, item.dep, LAYERS)]),
        norms=_members(
            names, [item for item in coupled.items if cuts_outputs_of(graph, item.dep, BATCH_NORMS)]
        ),
        readers=_members(names, [item for item in layers if not cuts_outputs_of(graph, item.dep, LAYERS)]),
        together=together or 1,
        reason=reason,
    )


def _members(names: Mapping[nn.Module, str], items: Iterable[Any]) -> tuple[Member, ...]:
    """The layers that these parts of a coupled set cut, in module order."""
    parts = {item.dep.target.module: (tuple(item.idxs), tuple(item.root_idxs)) for item in items}
    return tuple(Member(name, *parts[module]) for module, name in names.items() if module in parts)


def _frozen(graph: Any, names: Mapping[nn.Module, str], coupled: Any) -> str:
    """Why a coupled set must stay, as far as the graph shows it; empty when it does not."""
    types, kinds = graph.ops.OPTYPE, set()
    for dep, _ in coupled:
        node, module = dep.target, dep.target.module
        is_last = graph.is_out_channel_pruning_fn(dep.handler) and not node.outputs
        if is_last or node.type == types.OUTPUT:
            return "its channels are outputs of the model"
        if isinstance(module, MIXING):
            return f"{names[module]} ({type(module).__name__}) computes across these channels"
        if cuts_outputs_of(graph, dep, LAYERS):
            kinds.add(node.type)
    if kinds == {types.DEPTHWISE_CONV}:
        return "depthwise only: its channels are those of the model's input"
    return ""


def _together(graph: Any, coupled: Any) -> int:
    """How many channels, evenly spaced, must be cut as one; 0 when the coupling has no such pattern."""
    root, grouped = coupled[0].dep.target.module, _grouped(coupled)
    channels, copies = width_of(root), max([len(_alone(graph, root, 0)), *grouped])
    if channels % copies or any(copies % groups for groups in grouped):
        return 0
    units = channels // copies
    for channel in {0, units - 1}:
        alone = _alone(graph, root, channel)
        if alone not in ({channel}, {channel + copy * units for copy in range(copies)}):
            return 0
    return copies


def _alone(graph: Any, root: nn.Module, channel: int) -> set[int]:
    """The channels of `root` that go when one of them does."""
    return set(group_of(graph, root, [channel])[0].idxs)


def _grouped(coupled: Any) -> list[int]:
    """Numbers of groups of the grouped (but not depthwise) convolutions that a coupled set touches."""
    modules = [dep.target.module for dep, _ in coupled]
    return [m.groups for m in modules if isinstance(m, LAYERS[0]) and 1 < m.groups < m.out_channels]


def _unmet(name: str, layer: nn.Module) -> Group:
    rows = tuple(range(width_of(layer)))
    reason = "unused, used otherwise than by calling it, or coupled in part only"
    return Group(name, len(rows), (Member(name, rows, rows),), reason=reason)
