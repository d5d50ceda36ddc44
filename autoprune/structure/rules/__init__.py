"""What each ATen operation does to axes: which become equal, which are merged, taken apart, or must stay whole.

A rule gets an operation that has just run and returns the axes of its outputs. Operations without a rule are not
guessed at: the axes of all their tensors are pinned. https://pytorch.org/docs/stable/torch.compiler_ir.html lists
the operations.
"""

from __future__ import annotations

from autoprune.structure.rules import lookups, products, reductions, shapes, windows
from autoprune.structure.rules.operation import Axes, Operation, Rule, named, same_shape

__all__ = ["RULES", "Axes", "Operation", "Rule", "same_shape"]

RULES: dict[str, Rule] = {
    # Operations that torch tags as pointwise need no mention; these are elementwise without the tag.
    **named(
        same_shape,
        "clone detach alias lift_fresh lift _to_copy contiguous copy dropout native_dropout bernoulli where "
        "masked_fill zeros_like ones_like full_like empty_like rand_like randn_like fill zero _prelu_kernel "
        "rrelu_with_noise _conj_physical _conj resolve_conj real imag angle polar feature_dropout "
        "_reshape_copy isnan isinf isfinite gelu elu silu mish celu selu hardswish hardsigmoid hardtanh "
        "leaky_relu softplus softshrink hardshrink threshold log_sigmoid_forward clamp pow nan_to_num floor_divide "
        "bitwise_not logical_not lerp addcmul addcdiv _foreach_add",
    ),
    **shapes.RULES,
    **products.RULES,
    **reductions.RULES,
    **windows.RULES,
    **lookups.RULES,
}
"""The rule of each operation, by its name without namespace, overload and the `_` of those that work in place."""
