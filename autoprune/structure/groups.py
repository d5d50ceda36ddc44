"""The coupled groups of a network: what can only be removed together, and what must stay whole, and why.

A group is a factor of the observed axes: its units are channels, neurons, attention heads or positions within a head,
and each unit is a slice of every weight, bias, norm and buffer that it occurs in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from autoprune.structure.dimensions import Factor, leaves, positions
from autoprune.structure.observe import Observation

Role = Literal["writes", "reads", "follows"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Slice:
    """A group's part in one tensor.

    Attributes:
        tensor: name of the parameter or buffer.
        axis: the axis along which units are removed.
        positions: (units, copies): where each unit lies along that axis.
        role: `writes`: the output side of a weight; `reads`: its input side; `follows`: a bias, a norm, a buffer.
    """

    tensor: str
    axis: int
    positions: np.ndarray[Any, Any]
    role: Role

    @property
    def layer(self) -> str:
        """The module that owns the tensor."""
        return self.tensor.rpartition(".")[0]


@dataclass(frozen=True)
class Group:
    """Units that go together wherever they occur.

    Attributes:
        name: the first layer that writes its units, with `.heads` or `.head_dim` for attention, and a number where
            a layer has several groups of a kind.
        kind: `channels`, `heads` or `head_dim`.
        units: how many there are; at least one stays.
        slices: where they occur.
        reason: why nothing of it may go; empty if it is prunable.
        unproven: why removing is not the same as zeroing (a norm is taken over the units); such a group is left
            alone unless the user says otherwise.
        line: `file:line` of the model behind either.
    """

    name: str
    kind: str
    units: int
    slices: tuple[Slice, ...]
    reason: str = ""
    unproven: str = ""
    line: str = ""

    def role(self, role: Role) -> list[Slice]:
        """Its slices of one role."""
        return [part for part in self.slices if part.role == role]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that write its units, in the order of the model."""
        return tuple(dict.fromkeys(part.layer for part in self.role("writes")))

    @property
    def together(self) -> int:
        """Channels of its first layer that each unit stands for (the width of a head)."""
        return int(self.role("writes")[0].positions.shape[1])

    @property
    def channels(self) -> int:
        """Channels of its first layer that the group stands for."""
        return self.units * self.together

    def only(self, units: Sequence[int]) -> Group:
        """The group as if it had these units alone, to score them."""
        rows = list(units)
        slices = tuple(replace(part, positions=part.positions[rows]) for part in self.slices)
        return replace(self, units=len(rows), slices=slices)

    def __str__(self) -> str:
        others = ", ".join(layer for layer in self.layers[1:])
        coupled = f" with {others}" if others else ""
        why = self.reason or self.unproven
        stays = f" [stays: {why}]" if why else ""
        return f"{self.name}: {self.units} {self.kind}{coupled}{stays}"


def groups_of(seen: Observation) -> tuple[list[Group], dict[str, Factor]]:
    """All groups of an observed network in the order of its layers, and the factor behind each."""
    places: dict[Factor, list[tuple[str, int]]] = {}
    for name, axes in seen.axes.items():
        for i, ax in enumerate(axes):
            for leaf in dict.fromkeys(leaves(ax)):
                places.setdefault(leaf, []).append((name, i))
    groups: list[Group] = []
    factors: dict[str, Factor] = {}
    for leaf, found in places.items():
        if any(place in seen.writes for place in found):
            group = _group(seen, leaf, found)
            name = _free_name(group.name, factors)
            groups.append(replace(group, name=name))
            factors[name] = leaf
    return groups, factors


def _group(seen: Observation, leaf: Factor, places: Iterable[tuple[str, int]]) -> Group:
    slices, reason = [], leaf.pinned
    for name, i in places:
        where = positions(seen.axes[name][i], leaf)
        if where is None:
            reason = reason or "it meets itself in one axis"
            continue
        role: Role = (
            "writes" if (name, i) in seen.writes else "reads" if (name, i) in seen.reads else "follows"
        )
        slices.append(Slice(name, i, where, role))
    writers = [part for part in slices if part.role == "writes"]
    first = writers[0].layer or writers[0].tensor if writers else places.__iter__().__next__()[0]
    name = first if leaf.kind == "channels" else f"{first}.{leaf.kind}"
    return Group(name, leaf.kind, leaf.size, tuple(slices), reason, leaf.unproven, leaf.line)


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}.{number}"
    return free


def frozen_layers(groups: Iterable[Group]) -> dict[str, tuple[str, str]]:
    """Layers of which no output channel can go -> (reason, line of the model)."""
    frozen: dict[str, tuple[str, str]] = {}
    free: set[str] = set()
    for group in groups:
        why = group.reason or group.unproven
        for layer in group.layers:
            if why:
                frozen.setdefault(layer, (why, group.line))
            else:
                free.add(layer)
    return {layer: why for layer, why in frozen.items() if layer not in free}
