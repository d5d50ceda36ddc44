"""Is a pruned network the dense one with some channels zeroed? Told from the weights alone, whoever pruned it.

Pruning keeps values: every tensor of the pruned network is a part of the dense one's. So where all values differ,
the values themselves say which positions were kept along each axis, and no tool has to be trusted to tell. The dense
network with all other positions zeroed, where they are written and where they are read, must give the same outputs.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from autoprune.tensors import call, tensors_in

TOLERANCE = 1e-3
"""Largest difference of two outputs, relative to the dense network's largest."""


@torch.no_grad()
def redraw(model: nn.Module) -> None:
    """Make all values differ: biases and norms are constant in a fresh network, and hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.add_(0.2 * torch.rand(buffer.shape, generator=generator))


def kept_positions(dense: torch.Tensor, pruned: torch.Tensor) -> list[np.ndarray[Any, Any]] | None:
    """Along each axis, the positions of `dense` that are in `pruned`; None where the values do not tell.

    Raises:
        ValueError: `pruned` is no part of `dense`.
    """
    if dense.dim() != pruned.dim():
        return None
    values, first, times = np.unique(dense.detach().numpy(), return_index=True, return_counts=True)
    wanted = pruned.detach().numpy()
    found = np.searchsorted(values, wanted).clip(max=len(values) - 1)
    if not np.array_equal(values[found], wanted):
        raise ValueError("it holds values that the dense network lacks")
    telling = times[found] == 1  # some of a hundred thousand random float32 numbers are equal
    kept = []
    # Flat: with several axes and more than 8,192 elements, NumPy 2.4's unravel_index gives wrong places.
    for axis, flat in enumerate(np.unravel_index(first[found].ravel(), dense.shape)):
        place = np.where(telling, flat.reshape(wanted.shape), -1)
        rows = np.moveaxis(place, axis, 0).reshape(wanted.shape[axis], -1)
        if (rows.max(axis=1) < 0).any():
            return None
        kept.append(rows.max(axis=1))
    return kept


@torch.no_grad()
def with_channels_zeroed(dense: nn.Module, pruned: nn.Module) -> nn.Module:
    """A copy of `dense` in which every position that `pruned` lacks is zero.

    Raises:
        ValueError: a tensor of `pruned` is no part of the dense one.
    """
    zeroed = copy.deepcopy(dense)
    smaller = pruned.state_dict()
    for name, tensor in zeroed.state_dict().items():
        part = smaller.get(name)
        if part is None or part.shape == tensor.shape or not tensor.is_floating_point():
            continue
        try:
            kept = kept_positions(dict(dense.state_dict())[name], part)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        for axis, positions in enumerate(kept or []):
            gone = np.setdiff1d(np.arange(tensor.shape[axis]), positions)
            tensor.index_fill_(axis, torch.from_numpy(gone), 0.0)
    return zeroed


def is_comparable(dense: nn.Module, pruned: nn.Module) -> bool:
    """Whether removing is the same as zeroing: not where a norm is taken over channels of which some are gone."""
    smaller = dict(pruned.named_parameters())
    return not any(
        "Norm" in type(module).__name__
        and not isinstance(module, nn.modules.batchnorm._NormBase)
        and any(p.shape != smaller[f"{name}.{own}"].shape for own, p in module.named_parameters())
        for name, module in dense.named_modules()
        if all(f"{name}.{own}" in smaller for own, _ in module.named_parameters())
    )


class Comparison(NamedTuple):
    """Two distances of outputs, relative to the largest output of the dense network.

    Attributes:
        apart: of the pruned from the zeroed network: rounding, if the cut is right.
        moved: of the zeroed from the dense network: where it is rounding, too, nothing has been proven.
    """

    apart: float
    moved: float


@torch.no_grad()
def compare(dense: nn.Module, pruned: nn.Module, inputs: Any) -> Comparison:
    """The pruned network beside the dense one with the same channels zeroed.

    Args:
        dense: the network before, with values that all differ (`redraw`).
        pruned: the same, after.
        inputs: what both take.

    Raises:
        ValueError: outputs have other shapes, or a tensor of `pruned` is no part of the dense one.
    """
    whole, zeroed, cut = (
        [output.float() for output in tensors_in(call(network, inputs))]
        for network in (dense, with_channels_zeroed(dense, pruned), pruned)
    )
    if [output.shape for output in zeroed] != [output.shape for output in cut]:
        shapes = [tuple(output.shape) for output in cut]
        raise ValueError(f"its outputs have the shapes {shapes}, not {[tuple(o.shape) for o in zeroed]}")
    return Comparison(_distance(zeroed, cut, whole), _distance(whole, zeroed, whole))


def _distance(some: list[torch.Tensor], others: list[torch.Tensor], scales: list[torch.Tensor]) -> float:
    distances = [0.0]
    for one, other, scale in zip(some, others, scales, strict=True):
        if one.numel():
            largest = max(torch.nan_to_num(scale, posinf=0.0, neginf=0.0).abs().max().item(), 1e-6)
            apart = torch.where(one == other, 0.0, one - other)  # where both are minus infinity, for one
            distances.append(torch.nan_to_num(apart, nan=torch.inf).abs().max().item() / largest)
    return max(distances)
