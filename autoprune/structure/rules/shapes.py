"""Operations that only rearrange: reshape, transpose, concatenate, slice, repeat, pad."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoprune.structure.dimensions import ONE, Axis, axis, concatenation, leaves, pin, product, split, unify
from autoprune.structure.rules.operation import SPATIAL, Axes, Operation, Rule, merged, named

ON_DIAGONAL = "its positions are those of a diagonal"


def _view(op: Operation) -> list[Axes]:
    if op.x.numel() == 0:
        raise ValueError("an empty tensor has no layout")
    found = _regrouped(op.of(op.x), op.x.shape, op.outs[0].shape)
    op.require(op.arg("size") or op.arg("shape") or op.outs[0].shape, found)
    return [found]


def _regrouped(axes: Axes, before: Sequence[int], after: Sequence[int]) -> Axes:
    """The axes of a reshaped tensor: the shortest runs with equal products are merged and taken apart."""
    ins = [(size, ax) for size, ax in zip(before, axes, strict=True) if size != 1]
    outs = [size for size in after if size != 1]
    made: list[Axis] = []
    while outs:
        merge, apart = [ins.pop(0)], [outs.pop(0)]
        while (have := math.prod(size for size, _ in merge)) != (want := math.prod(apart)):
            if have < want:
                merge.append(ins.pop(0))
            else:
                apart.append(outs.pop(0))
        made += _run([ax for _, ax in merge], apart)
    remaining = iter(made)
    return [ONE if size == 1 else next(remaining) for size in after]


def _run(axes: Axes, sizes: Sequence[int]) -> Axes:
    if len(axes) == len(sizes) == 1:
        return axes
    made = [axis(size) for size in sizes]
    unify(product(axes), product(made))
    return made


def _expand(op: Operation) -> list[Axes]:
    axes, shape, sizes = op.of(op.x), op.x.shape, op.arg("size")
    new = len(sizes) - len(shape)
    found = [
        axes[place - new] if place >= new and shape[place - new] == size else axis(size)
        for place, size in enumerate(op.outs[0].shape)
    ]
    op.require(sizes, found)
    return [found]


def _repeat(op: Operation) -> list[Axes]:
    axes, counts = op.of(op.x), op.arg("repeats")
    axes = [ONE] * (len(counts) - len(axes)) + axes
    copies = [axis(count) for count in counts]
    op.require(counts, copies)
    return [[merged(*pair) for pair in zip(copies, axes, strict=True)]]


def _permute(op: Operation) -> list[Axes]:
    axes, count = op.of(op.x), op.x.dim()
    if op.name in ("t", "numpy_T"):
        return [axes[::-1]]
    if op.name == "transpose":
        a, b = op.arg("dim0") % count, op.arg("dim1") % count
        axes[a], axes[b] = axes[b], axes[a]
        return [axes]
    return [[axes[dim % count] for dim in op.arg("dims")]]


def _restrided(op: Operation) -> list[Axes]:
    """A change of the memory layout alone."""
    if list(op.arg("size")) != list(op.x.shape):
        raise ValueError("overlapping views are not followed")
    return [op.of(op.x)]


def _unsqueeze(op: Operation) -> list[Axes]:
    axes = op.of(op.x)
    axes.insert(op.arg("dim") % (len(axes) + 1), ONE)
    return [axes]


def _squeeze(op: Operation) -> list[Axes]:
    dims = op.dims()
    return [[ax for i, ax in enumerate(op.of(op.x)) if not (i in dims and op.x.shape[i] == 1)]]


def _cat(op: Operation) -> list[Axes]:
    tensors = [t for t in op.arg("tensors") if not (t.dim() == 1 and t.numel() == 0)]
    dim = int(op.arg("dim", 0)) % op.outs[0].dim()
    found = op.of(tensors[0])
    for tensor in tensors[1:]:
        for place, ax in enumerate(op.of(tensor)):
            if place != dim:
                unify(found[place], ax)
    found[dim] = concatenation(op.of(tensor)[dim] for tensor in tensors if tensor.shape[dim])
    return [found]


def _stack(op: Operation) -> list[Axes]:
    tensors = op.arg("tensors")
    found = op.of(tensors[0])
    for tensor in tensors[1:]:
        for mine, other in zip(found, op.of(tensor), strict=True):
            unify(mine, other)
    dim = int(op.arg("dim", 0)) % op.outs[0].dim()
    found.insert(dim, axis(len(tensors), "it counts stacked tensors"))
    return [found]


def _split(op: Operation) -> list[Axes]:
    dim, axes = op.dim(), op.of(op.x)
    sizes = [out.shape[dim] for out in op.outs]
    asked = op.arg("split_sizes") or op.arg("split_size")
    if isinstance(asked, int) and len(set(sizes)) > 1:
        pin([axes[dim]], "it is split into unequal pieces", op.line())
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    pieces = [split(axes[dim], end - size, end) for end, size in zip(ends, sizes, strict=True)]
    if isinstance(asked, int):
        op.require([asked], pieces[:1])
        _equal(pieces)
    else:
        op.require(asked, pieces)
    return [[*axes[:dim], piece, *axes[dim + 1 :]] for piece in pieces]


def _equal(pieces: Sequence[Axis]) -> None:
    """Pieces of equal length stay so."""
    for piece in pieces[1:]:
        unify(pieces[0], piece)


def _slice(op: Operation) -> list[Axes]:
    dim, axes, step = op.dim(), op.of(op.x), op.arg("step", 1)
    size, left = op.x.shape[dim], op.outs[0].shape[dim]
    if left == size:
        return [axes]
    if step != 1:
        return [_strided(op, axes, dim, step)]
    start, end = op.arg("start", 0), op.arg("end", size)
    for edge in (start, end):
        _edge(op, axes[dim], edge, size)
    first = max(0, start + size if start < 0 else start)
    axes[dim] = split(axes[dim], first, first + left) if left else axis(0)
    return [axes]


def _edge(op: Operation, ax: Axis, edge: int, size: int) -> None:
    """Where a slice begins or ends: at a size of the model, counted from the end, or at a part of the whole axis."""
    if -size < edge < 0:
        pin([split(ax, size + edge, size)], "its positions are counted from the end", op.line())
    elif 0 < edge < size and op.is_of_model(edge):
        op.require([edge], [split(ax, 0, edge)])
    elif 0 < edge < size and not all(leaf.pinned for leaf in leaves(ax)):
        piece = math.gcd(edge, size)
        if piece > 1 and piece in (
            edge,
            size - edge,
        ):  # x[:, : width // 2]: cut alike, the halves stay halves
            _equal([split(ax, start, start + piece) for start in range(0, size, piece)])


def _strided(op: Operation, axes: Axes, dim: int, step: int) -> Axes:
    """Every `step`-th position: (a, step) with one of the `step` picked."""
    size = op.x.shape[dim]
    if size % step or op.outs[0].shape[dim] * step != size:
        pin([axes[dim]], "it is sliced in steps", op.line())
        axes[dim] = axis(op.outs[0].shape[dim], "it is sliced in steps")
        return axes
    outer = axis(size // step)
    unify(axes[dim], merged(outer, axis(step, "it is sliced in steps")))
    axes[dim] = outer
    return axes


def _select(op: Operation) -> list[Axes]:
    axes = op.of(op.x)
    pin([axes.pop(op.dim())], "one of its positions is picked by number", op.line())
    return [axes]


def _unbind(op: Operation) -> list[Axes]:
    axes = op.of(op.x)
    pin([axes.pop(op.dim())], "its positions are taken apart one by one", op.line())
    return [list(axes) for _ in op.outs]


def _slice_scatter(op: Operation) -> list[Axes]:
    """A tensor with a part of one axis replaced: what a write to a slice is in a functional graph."""
    dim, axes, source, size = op.dim(), op.of(op.x), op.axes("src"), op.x.shape[op.dim()]
    start, end = op.arg("start", 0), op.arg("end", size)
    for edge in (start, end):
        _edge(op, axes[dim], edge, size)
    if op.arg("step", 1) != 1:
        pin([axes[dim], source[dim]], "it is sliced in steps", op.line())
    first = max(0, start + size if start < 0 else start)
    for place, (mine, its) in enumerate(zip(axes, source, strict=True)):
        if place != dim:
            unify(mine, its)
        elif op.arg("step", 1) == 1:
            unify(split(mine, first, first + op.arg("src").shape[dim]), its)
    return [axes]


def _select_scatter(op: Operation) -> list[Axes]:
    axes = op.of(op.x)
    pin([axes[op.dim()]], "one of its positions is picked by number", op.line())
    rest = [ax for place, ax in enumerate(axes) if place != op.dim()]
    for mine, its in zip(rest, op.axes("src"), strict=True):
        unify(mine, its)
    return [axes]


def _diagonal(op: Operation) -> list[Axes]:
    axes, count = op.of(op.x), op.x.dim()
    pair = sorted({op.arg("dim1", 0) % count, op.arg("dim2", 1) % count})
    pin([axes[dim] for dim in pair], ON_DIAGONAL, op.line())
    rest = [ax for dim, ax in enumerate(axes) if dim not in pair]
    return [[*rest, axis(op.outs[0].shape[-1], ON_DIAGONAL)]]


def _diag_embed(op: Operation) -> list[Axes]:
    axes, count = op.of(op.x), op.outs[0].dim()
    pin(axes[-1:], ON_DIAGONAL, op.line())
    rest = iter(axes[:-1])
    pair = {op.arg("dim1", -2) % count, op.arg("dim2", -1) % count}
    sizes = op.outs[0].shape
    return [[axis(sizes[dim], ON_DIAGONAL) if dim in pair else next(rest) for dim in range(count)]]


def _made(op: Operation) -> list[Axes]:
    """A tensor from sizes alone."""
    out = op.outs[0]
    axes: Axes = [axis(size) for size in out.shape]
    op.require(op.arg("size", out.shape), axes)
    return [axes]


def _pad(op: Operation) -> list[Axes]:
    axes, pads = op.of(op.x), list(op.arg("pad") or op.arg("padding"))
    for i in range(len(pads) // 2):
        dim, before, after = len(axes) - 1 - i, pads[2 * i], pads[2 * i + 1]
        if (before, after) == (0, 0):
            continue
        size = op.x.shape[dim]
        if op.name != "constant_pad_nd":
            pin([axes[dim]], "it is padded with its own values", op.line())
            axes[dim] = axis(size + before + after, SPATIAL)
            continue
        inner = split(axes[dim], max(0, -before), size - max(0, -after))
        ends = [axis(n, "it is padding") if n > 0 else None for n in (before, after)]
        axes[dim] = concatenation(part for part in (ends[0], inner, ends[1]) if part is not None)
    return [axes]


RULES: dict[str, Rule] = {
    **named(_view, "view _unsafe_view reshape _reshape_alias view_copy"),
    **named(_expand, "expand expand_copy"),
    **named(_repeat, "repeat"),
    **named(_permute, "permute transpose t numpy_T permute_copy"),
    **named(_restrided, "as_strided"),
    **named(_unsqueeze, "unsqueeze"),
    **named(_squeeze, "squeeze"),
    **named(_cat, "cat concat"),
    **named(_stack, "stack"),
    **named(_split, "split split_with_sizes unsafe_split unsafe_split_with_sizes chunk unsafe_chunk"),
    **named(_slice, "slice"),
    **named(_select, "select"),
    **named(_slice_scatter, "slice_scatter"),
    **named(_select_scatter, "select_scatter"),
    **named(_diagonal, "diagonal diagonal_copy linalg_diagonal"),
    **named(_diag_embed, "diag_embed"),
    **named(_unbind, "unbind"),
    **named(
        _made,
        "arange zeros ones full empty rand randn scalar_tensor new_zeros new_ones new_full new_empty "
        "linspace eye randint empty_strided new_empty_strided",
    ),
    **named(
        _pad,
        "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
        "replication_pad2d replication_pad3d",
    ),
}
"""Rules by the names of operations."""
