"""Operations that look at many positions at once: norms, sums, softmax, sorting."""

from __future__ import annotations

from autoprune.structure.dimensions import ONE, axis, doubt, pin, unify
from autoprune.structure.rules.operation import Axes, Operation, Rule, merged, named

# Zeroed units add nothing to these; of any other reduction (a mean, a maximum) the result would be another.
EXACT_SUMS = ("sum", "nansum", "linalg_vector_norm", "norm")
# Said where weights are standardised in each pass; in a graph they are computed once (`deployed.computed`).
OF_WEIGHTS = "a statistic of its weights runs over it"


def _first_like_input(op: Operation) -> list[Axes]:
    """The first output has the axes of the input, whatever else comes out is not followed."""
    return [op.of(op.x), *(op.pinned(out) for out in op.outs[1:])]


def _batch_norm(op: Operation) -> list[Axes]:
    channels = op.axes("input")[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if op.arg(name) is not None:
            unify(op.axes(name)[0], channels)
    return _first_like_input(op)


def _layer_norm(op: Operation) -> list[Axes]:
    x, shape = op.axes("input"), op.arg("normalized_shape")
    normed = x[-len(shape) :]
    doubt(normed, "a norm is taken over it", op.line())
    op.require(shape, normed)
    for name in ("weight", "bias"):
        if op.arg(name) is not None:
            for mine, other in zip(op.axes(name), normed, strict=True):
                unify(mine, other)
    return _first_like_input(op)


def _group_norm(op: Operation) -> list[Axes]:
    x, groups = op.axes("input"), op.arg("group")
    blocks, inner = axis(groups), axis(op.x.shape[1] // groups)
    unify(x[1], merged(blocks, inner))
    doubt([inner], "a norm is taken over it", op.line())
    op.require([groups], [blocks])
    for name in ("weight", "bias"):
        if op.arg(name) is not None:
            unify(op.axes(name)[0], x[1])
    return _first_like_input(op)


def _softmax(op: Operation) -> list[Axes]:
    axes = op.of(op.x)
    pin([axes[op.dim()]], "a softmax runs over it", op.line())
    return [axes]


def _reduce(op: Operation) -> list[Axes]:
    axes, dims = op.of(op.x), op.dims()
    if op.name in ("argmax", "argmin", "kthvalue", "mode"):
        pin([axes[dim] for dim in dims], "its positions are told by number", op.line())
    elif op.name not in EXACT_SUMS:
        reason = OF_WEIGHTS if op.watcher.is_weight(op.x) else f"a {op.name} runs over it"
        doubt([axes[dim] for dim in dims], reason, op.line())
    keepdim = len(op.outs) > 0 and op.outs[0].dim() == op.x.dim()
    left = [ONE if dim in dims else ax for dim, ax in enumerate(axes) if keepdim or dim not in dims]
    return [list(left) for _ in op.outs]


def _along(op: Operation) -> list[Axes]:
    """Positions along an axis depend on each other, or change places."""
    axes = op.of(op.x)
    dims = op.dims("dims" if op.arg("dims") is not None else "dim")
    pin([axes[dim] for dim in dims], f"{op.name} runs along it", op.line())
    return [
        [
            ax if out.shape[i] == op.x.shape[i] else axis(out.shape[i], f"{op.name} runs along it")
            for i, ax in enumerate(axes)
        ]
        for out in op.outs
    ]


def _counted(op: Operation) -> list[Axes]:
    """Counts of values: nothing of the input's axes is left."""
    for tensor in op.tensors:
        pin(op.of(tensor), "its values are counted", op.line())
    return [op.pinned(out, "it counts values") for out in op.outs]


def _triangle(op: Operation) -> list[Axes]:
    axes = op.of(op.x)
    pin(axes[-2:], "a triangle of it is kept", op.line())
    return [axes]


RULES: dict[str, Rule] = {
    **named(
        _batch_norm,
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
        "_batch_norm_no_update _batch_norm_with_update batch_norm",
    ),
    **named(_layer_norm, "native_layer_norm layer_norm _fused_rms_norm rms_norm"),
    **named(_group_norm, "native_group_norm"),
    **named(_softmax, "_softmax softmax _log_softmax log_softmax _safe_softmax"),
    **named(
        _reduce,
        "sum mean amax amin aminmax max min var std var_mean std_mean prod any all argmax argmin logsumexp "
        "linalg_vector_norm norm median nanmedian nansum kthvalue mode",
    ),
    **named(
        _along, "cumsum cumprod roll flip sort topk cummax logcumsumexp argsort _fft_c2c _fft_r2c _fft_c2r"
    ),
    **named(_counted, "histc bincount count_nonzero nonzero _unique2 unique_dim unique_consecutive"),
    **named(_triangle, "tril triu"),
}
"""Rules by the names of operations."""
