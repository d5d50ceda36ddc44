"""What all criteria share: the contract, what they may look at, and which values of a tensor belong to a unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autoprune.structure import Group, Slice
from autoprune.task import Batch, Task


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at.

    Attributes:
        model: the network, left as it is, without gradients.
        task: whose loss is descended.
        batches: of training data; a criterion reads them at most once.
        groups: all that will be scored, so that what needs the whole network is observed once for all of them.
        seed: of every random draw.
        notes: plain data (JSON) in which a criterion says how it came to its scores.
    """

    model: nn.Module
    task: Task
    batches: Iterable[Batch]
    groups: Sequence[Group] = ()
    seed: int = 0
    notes: dict[str, Any] = field(default_factory=dict)


Score = Callable[[Group], torch.Tensor]
"""Group -> a score of each of its units, shape (units,); raises `Unscored` where nothing was observed of it."""

Criterion = Callable[[Evidence], Score]
"""Observes the network as a whole, and returns how a group is scored."""


class Unscored(Exception):
    """Nothing is known of a group that a criterion could use; the message says why."""


def tensor_of(model: nn.Module, part: Slice) -> torch.Tensor:
    """The parameter or buffer that a slice lies in."""
    owner, _, name = part.tensor.rpartition(".")
    tensor: torch.Tensor = getattr(model.get_submodule(owner), name)
    return tensor


def rows_of(part: Slice, tensor: torch.Tensor) -> torch.Tensor:
    """What of a tensor belongs to each unit, shape (units, values)."""
    rows = tensor.movedim(part.axis, 0).flatten(1) if tensor.dim() > 1 else tensor[:, None]
    units, copies = part.positions.shape
    chosen = torch.from_numpy(part.positions.reshape(-1)).to(tensor.device)
    return rows[chosen].reshape(units, copies * rows.shape[1])


def written(group: Group, model: nn.Module) -> list[torch.Tensor]:
    """The weights that make each unit, shape (units, values), one tensor for each layer that writes the group."""
    return [rows_of(part, tensor_of(model, part).detach()) for part in group.role("writes")]


def balanced(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean over layers of their scores, each layer's divided by their mean first: none outvotes the others."""
    scaled = [part.cpu().float() / part.float().mean().clamp_min(1e-12).item() for part in parts]
    return torch.stack(scaled).mean(0)


@contextmanager
def gradients_everywhere(model: nn.Module) -> Iterator[None]:
    """Let gradients reach every floating parameter, and leave each parameter's flag as it was and no gradient."""
    flags: Mapping[nn.Parameter, bool] = {p: p.requires_grad for p in model.parameters()}
    for parameter in flags:
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        with torch.enable_grad():
            yield
    finally:
        model.zero_grad(set_to_none=True)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
