"""Where the tensors of a smaller network lie in those of a larger one that the same code makes.

Both were observed: their axes are the same sums of products of factors, of other sizes. The first units of a factor
are those that both have, so two of four heads are the first two of all heads, and half the width of a head is the
first half of each head, although both halve the same axis. A convolution's kernel lies in the middle of a larger one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from autoprune.structure.dimensions import Axis, Factor, Term, root, size_of

Index = slice | torch.Tensor
Places = np.ndarray[Any, Any]


def places(
    shape: Sequence[int],
    whole: Sequence[int],
    own: Sequence[Axis] | None = None,
    other: Sequence[Axis] | None = None,
    *,
    kernel_from: int | None = None,
) -> tuple[Index, ...]:
    """Where a tensor lies in a larger one, an index for each axis.

    Args:
        shape: of the tensor.
        whole: of the larger one, no axis of which is shorter.
        own, other: what their axes are made of; without them the first positions are meant.
        kernel_from: the first axis of a convolution's kernel; None for other tensors.
    """
    found: list[Index] = []
    for number, (size, full) in enumerate(zip(shape, whole, strict=True)):
        if kernel_from is not None and number >= kernel_from:
            start = (full - size) // 2
            found.append(slice(start, start + size))
            continue
        indices = (
            _of_axis(own[number], other[number])
            if own is not None and other is not None and size != full
            else None
        )
        is_first = indices is None or np.array_equal(indices, np.arange(size))
        found.append(slice(0, size) if is_first or indices is None else torch.from_numpy(indices))
    return tuple(found)


def taken(tensor: torch.Tensor, index: Sequence[Index]) -> torch.Tensor:
    """What of a tensor lies there: a view where that is possible, through which gradients flow in any case."""
    for axis, where in enumerate(index):
        if isinstance(where, torch.Tensor):
            tensor = tensor.index_select(axis, where.to(tensor.device))
        elif where.stop - where.start != tensor.shape[axis]:
            tensor = tensor.narrow(axis, where.start, where.stop - where.start)
    return tensor


def put(tensor: torch.Tensor, index: Sequence[Index], values: torch.Tensor) -> None:
    """Write values to where they lie in a tensor."""
    axes = [
        np.arange(*w.indices(n)) if isinstance(w, slice) else w.numpy()
        for w, n in zip(index, tensor.shape, strict=True)
    ]
    tensor[tuple(torch.from_numpy(axis) for axis in np.ix_(*axes))] = values.to(tensor.dtype)


def _of_axis(own: Axis, other: Axis) -> Places | None:
    """The positions in one axis of those of a smaller one; None where they are not made alike."""
    if len(own) != len(other):
        return None
    found, offset = [], 0
    for mine, theirs in zip(own, other, strict=True):
        part = _of_term(mine, theirs)
        if part is None:
            return None
        found.append(offset + part)
        offset += size_of((theirs,))
    return np.concatenate(found)


def _of_term(own: Term, other: Term) -> Places | None:
    if len(own) != len(other):
        return None
    found = np.zeros(1, dtype=np.int64)
    for mine, theirs in zip(own, other, strict=True):
        inner = _of_factor(root(mine), root(theirs))
        if inner is None:
            return None
        found = np.add.outer(found * theirs.size, inner).reshape(-1)
    return found


def _of_factor(own: Factor, other: Factor) -> Places | None:
    if own.size == other.size:
        return np.arange(own.size)
    if own.parts is not None and other.parts is not None:
        return _of_axis(own.parts, other.parts)
    return np.arange(own.size) if own.size < other.size else None
