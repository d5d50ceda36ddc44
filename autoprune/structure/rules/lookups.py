"""Operations that pick positions by number: along that axis no unit can go, the other axes are free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from autoprune.structure.dimensions import ONE, Axis, axis, pin, unify
from autoprune.structure.rules.operation import Axes, Operation, Rule, broadcast, broadcast_onto, named

BY_NUMBER = "its positions are looked up by number"


def _index(op: Operation) -> list[Axes]:
    return [_indexed(op, list(op.arg("indices")))]


def _index_put(op: Operation) -> list[Axes]:
    indices = list(op.arg("indices"))
    broadcast_onto(op, op.arg("values"), _indexed(op, indices))
    return [op.of(op.x)]


def _indexed(op: Operation, indices: list[Any]) -> Axes:
    """The axes of `x[indices]`: those that the indices share stand where the first of them did, or in front."""
    axes, place = op.of(op.x), 0
    used: list[int] = []
    for index in indices:
        span = index.dim() if index is not None and _is_mask(index) else 1
        if index is not None:
            used += range(place, place + span)
        place += span
    pin([axes[i] for i in used], BY_NUMBER, op.line())
    picked = _picked(op, [index for index in indices if index is not None])
    at = used[0] if used == list(range(used[0], used[-1] + 1)) else 0
    rest = [ax for i, ax in enumerate(axes) if i not in used]
    return [*rest[:at], *picked, *rest[at:]]


def _is_mask(index: torch.Tensor) -> bool:
    return index.dtype in (torch.bool, torch.uint8)


def _picked(op: Operation, indices: Sequence[torch.Tensor]) -> Axes:
    """The axes that indices have together; masks pick a number of positions that only the values say."""
    if not any(_is_mask(index) for index in indices):
        shape = np.broadcast_shapes(*(tuple(index.shape) for index in indices))
        return broadcast(op, indices, shape)
    for index in indices:
        pin(op.of(index), "it decides which positions are picked", op.line())
    sizes = [int(index.count_nonzero()) if _is_mask(index) else index.numel() for index in indices]
    return [axis(max(sizes), BY_NUMBER)]


def _index_select(op: Operation) -> list[Axes]:
    axes, dim = op.of(op.x), op.dim()
    pin([axes[dim]], BY_NUMBER, op.line())
    axes[dim] = op.axes("index")[0] if op.arg("index").dim() else ONE
    return [axes]


def _gather(op: Operation) -> list[Axes]:
    found = op.axes("index")
    _aligned(op, found, op.arg("index").shape)
    return [found]


def _scatter(op: Operation) -> list[Axes]:
    """Values put into a tensor at the places that an index of their shape names."""
    for name in ("index", "src"):
        if isinstance(op.arg(name), torch.Tensor):
            _aligned(op, op.axes(name), op.arg(name).shape)
    return [op.of(op.x)]


def _aligned(op: Operation, other: Axes, shape: Sequence[int]) -> None:
    """Axes that go along: all but the one looked up; where fewer positions are named than there are, none."""
    dim = op.dim()
    for place, (mine, its) in enumerate(zip(op.of(op.x), other, strict=True)):
        if place == dim or op.x.shape[place] != shape[place]:
            pin([mine, its], BY_NUMBER, op.line())
        else:
            unify(mine, its)


def _index_add(op: Operation) -> list[Axes]:
    axes, dim = op.of(op.x), op.dim()
    source = op.arg("source", op.arg("src"))
    for place, (mine, its) in enumerate(zip(axes, op.of(source), strict=True)):
        if place == dim:
            pin([mine, its], BY_NUMBER, op.line())
        else:
            unify(mine, its)
    return [axes]


def _index_fill(op: Operation) -> list[Axes]:
    axes = op.of(op.x)
    pin([axes[op.dim()]], BY_NUMBER, op.line())
    return [axes]


def _masked_select(op: Operation) -> list[Axes]:
    """A row of the values where a mask is true: which these are says the mask alone."""
    for tensor in op.tensors:
        pin(op.of(tensor), BY_NUMBER, op.line())
    return [op.pinned(op.outs[0], BY_NUMBER)]


def _buckets(op: Operation) -> list[Axes]:
    """The place of each value among sorted boundaries."""
    boundaries = op.arg("boundaries", op.arg("sorted_sequence"))
    pin(op.of(boundaries), BY_NUMBER, op.line())
    return [op.of(op.arg("self"))]


def _packed(op: Operation) -> list[Axes]:
    """Sequences (time, examples, ...) as rows without their padding."""
    rows: Axis = axis(op.outs[0].shape[0], "it is a temporal axis")
    return [[rows, *op.axes("input")[2:]], *(op.pinned(out) for out in op.outs[1:])]


def _as_complex(op: Operation) -> list[Axes]:
    axes = op.of(op.x)
    pin([axes.pop()], "its two units are a complex number", op.line())
    return [axes]


def _as_real(op: Operation) -> list[Axes]:
    return [[*op.of(op.x), axis(2, "its two units are a complex number")]]


RULES: dict[str, Rule] = {
    **named(_index, "index _unsafe_index"),
    **named(_index_put, "index_put _unsafe_index_put _index_put_impl"),
    **named(_index_select, "index_select"),
    **named(_gather, "gather"),
    **named(_scatter, "scatter scatter_add scatter_reduce"),
    **named(_index_add, "index_add index_copy"),
    **named(_index_fill, "index_fill"),
    **named(_masked_select, "masked_select take"),
    **named(_buckets, "bucketize searchsorted"),
    **named(_packed, "_pack_padded_sequence"),
    **named(_as_complex, "view_as_complex"),
    **named(_as_real, "view_as_real"),
}
"""Rules by the names of operations."""
