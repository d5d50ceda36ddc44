"""Operations that multiply and add up: matrix products, layers with weights, attention.

A product is where a unit is made (the axis of a weight that it leaves) and where it is read (the axis that it sums
over): that is what tells the layers of a group from the biases and norms that only follow.
"""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.structure.dimensions import ONE, Axis, axis, doubt, leaves, pin, size_of, unify
from autoprune.structure.rules.operation import Axes, Operation, Rule, broadcast_onto, merged, named

# Said of attention to which no scale is given. A graph has the scale as a number of its own, which stays.
DIVIDES = "attention divides by the root of its length"


def _mm(op: Operation) -> list[Axes]:
    a, b = op.arg("mat1", op.arg("self")), op.arg("mat2")
    ours, theirs = op.of(a), op.of(b)
    unify(ours[1], theirs[0])
    op.watcher.contracted(b, 0, 1)
    op.watcher.contracted(a, 1, 0)
    return [_added(op, [ours[0], theirs[1]])]


def _added(op: Operation, found: Axes) -> Axes:
    """The result of a product to which something is added first."""
    if op.name in ("addmm", "baddbmm", "addmv"):
        broadcast_onto(op, op.arg("self"), found)
    return found


def _bmm(op: Operation) -> list[Axes]:
    """Products of two activations are attention; those with a weight are a layer (`einsum` makes them)."""
    a, b = op.arg("batch1", op.arg("self")), op.arg("batch2", op.arg("mat2"))
    ours, theirs = op.of(a), op.of(b)
    unify(ours[0], theirs[0])
    unify(ours[2], theirs[1])
    weighted = [op.watcher.contracted(b, 1, 2), op.watcher.contracted(a, 2, 1)]
    if not any(weighted):
        _attends(ours[0], (ours[2], theirs[2]))
    return [_added(op, [ours[0], ours[1], theirs[2]])]


def _attends(heads: Axis, widths: Sequence[Axis]) -> None:
    for ax, kind in ((heads, "heads"), *((width, "head_dim") for width in widths)):
        for leaf in leaves(ax):
            if not leaf.pinned and leaf.kind == "channels":
                leaf.kind = kind


def _mv(op: Operation) -> list[Axes]:
    matrix, vector = op.arg("mat", op.arg("self")), op.arg("vec")
    unify(op.of(matrix)[1], op.of(vector)[0])
    op.watcher.contracted(matrix, 1, 0)
    return [_added(op, op.of(matrix)[:1])]


def _dot(op: Operation) -> list[Axes]:
    unify(op.axes("self")[0], op.axes("tensor")[0])
    return [[]]


def _linear(op: Operation) -> list[Axes]:
    x, weight = op.axes("input"), op.axes("weight")
    unify(x[-1], weight[1])
    op.watcher.contracted(op.arg("weight"), 1, 0)
    if op.arg("bias") is not None:
        unify(op.axes("bias")[0], weight[0])
    return [[*x[:-1], weight[0]]]


def _trilinear(op: Operation) -> list[Axes]:
    """`nn.Bilinear`: (examples, i) and (examples, j) with a weight (out, i, j)."""
    one, weight, other = op.axes("i1"), op.axes("i2"), op.axes("i3")
    if len(one) != 2 or len(weight) != 3 or op.arg("sumdim") != [2, 3]:
        raise ValueError("another product of three tensors")
    unify(one[0], other[0])
    unify(one[1], weight[1])
    unify(other[1], weight[2])
    op.watcher.contracted(op.arg("i2"), 1, 0)
    op.watcher.contracted(op.arg("i2"), 2, 0)
    return [[one[0], weight[0]]]


def _grouped_mm(op: Operation) -> list[Axes]:
    """Experts: rows (n, k) in runs, each with a weight of its own out of (experts, k, m)."""
    x, weight = op.axes("self"), op.axes("mat2")
    if len(x) != 2 or len(weight) != 3:
        raise ValueError("runs along another axis")
    unify(x[1], weight[1])
    pin([weight[0], x[0]], "its positions are looked up by number", op.line())
    op.watcher.contracted(op.arg("mat2"), 1, 2)
    return [[x[0], weight[2]]]


def _convolution(op: Operation) -> list[Axes]:
    x, weight, shape = op.axes("input"), op.axes("weight"), op.arg("weight").shape
    groups, transposed = op.arg("groups", 1), bool(op.arg("transposed", False))
    blocks = axis(groups)
    if groups > 1:
        op.require([groups], [blocks])
        unify(weight[0], merged(blocks, axis(shape[0] // groups)))
    pin(weight[2:], "it is a kernel axis")
    inside = merged(blocks, weight[1])
    inner, outer = (weight[0], inside) if transposed else (inside, weight[0])
    unify(x[1], inner)
    op.watcher.contracted(op.arg("weight"), 0 if transposed else 1, 1 if transposed else 0)
    if op.arg("bias") is not None:
        unify(op.axes("bias")[0], outer)
    return [[x[0], outer, *(x[2:] if _is_pointwise(op) else op.pinned(op.outs[0])[2:])]]


def _is_pointwise(op: Operation) -> bool:
    """Whether a convolution leaves the axes behind the channels as they are."""
    kernel, strides, padding = op.arg("weight").shape[2:], op.arg("stride"), op.arg("padding")
    return {*kernel, *strides} == {1} and not any(padding)


def _embedding(op: Operation) -> list[Axes]:
    weight, indices = op.axes("weight"), op.axes("indices")
    pin([weight[0]], "its rows are looked up by number")
    op.watcher.contracted(op.arg("weight"), 0, 1)
    return [[*indices, weight[1]]]


def _embedding_bag(op: Operation) -> list[Axes]:
    weight = op.axes("weight")
    pin([weight[0]], "its rows are looked up by number")
    op.watcher.contracted(op.arg("weight"), 0, 1)
    bags = axis(op.outs[0].shape[0], "it counts examples")
    return [[bags, weight[1]], *(op.pinned(out, "it counts examples") for out in op.outs[1:])]


def _attention(op: Operation) -> list[Axes]:
    """Fused scaled dot-product attention: (batch, heads, length, width)."""
    query, key, value = (op.axes(name) for name in ("query", "key", "value"))
    for other in (key, value):
        for mine, its in zip(query[:-2], other[:-2], strict=True):
            unify(mine, _shared(mine, its))
    unify(query[-1], key[-1])
    unify(key[-2], value[-2])
    _attends(query[1] if len(query) > 3 else ONE, (query[-1], value[-1]))
    if op.arg("scale") is None:
        doubt([query[-1]], DIVIDES, op.line())
    mask = op.arg("attn_mask") if op.arg("attn_mask") is not None else op.arg("attn_bias")
    if mask is not None:
        broadcast_onto(op, mask, [*query[:-1], key[-2]])
    return [[*query[:-1], value[-1]], *(op.pinned(out, "attention's statistics") for out in op.outs[1:])]


def _shared(heads: Axis, fewer: Axis) -> Axis:
    """Key and value heads as query heads see them: each is shared by so many (grouped-query attention)."""
    copies = size_of(heads) // size_of(fewer)
    return heads if fewer == ONE != heads else merged(fewer, axis(copies))


def _distances(op: Operation) -> list[Axes]:
    ours, theirs = op.axes("x1"), op.axes("x2")
    unify(ours[-1], theirs[-1])
    for mine, other in zip(ours[:-2], theirs[:-2], strict=True):
        unify(mine, other)
    return [[*ours[:-1], theirs[-2]]]


RULES: dict[str, Rule] = {
    **named(_mm, "mm addmm"),
    **named(_bmm, "bmm baddbmm"),
    **named(_mv, "mv addmv"),
    **named(_dot, "dot vdot"),
    **named(_linear, "linear"),
    **named(_trilinear, "_trilinear"),
    **named(_grouped_mm, "_grouped_mm"),
    **named(_convolution, "convolution _convolution"),
    **named(_embedding, "embedding"),
    **named(_embedding_bag, "_embedding_bag _embedding_bag_forward_only"),
    **named(
        _attention,
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_attention_math scaled_dot_product_attention",
    ),
    **named(_distances, "_cdist_forward _euclidean_dist"),
}
"""Rules by the names of operations."""
