"""The operations that a stored graph may call, by name: everything on tensors, nothing beyond.

The list is torch's own of what can be overridden for tensors, so it grows with torch; functions that read
files, share memory or take code are no part of it. What lies below these functions, ATen's operations, has a list of
its own (`aten`). A name that is on neither is refused before anything runs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import get_overridable_functions

import autoprune.stored.aten as aten
from autoprune.errors import ArtifactError
from autoprune.references import nearest

Operation = Callable[..., Any]

# Attributes of a tensor that a forward may look at, and fields of what operations return (`x.max(1).values`).
TENSOR_ATTRIBUTES = ("shape", "dtype", "device", "ndim", "T", "mT", "H", "mH", "real", "imag")
RESULT_FIELDS = ("values", "indices", "Q", "R", "L", "U", "S", "V", "Vh", "eigenvalues", "eigenvectors")
ATTRIBUTES = (*TENSOR_ATTRIBUTES, *RESULT_FIELDS, "sign", "logabsdet", "mantissa", "exponent")

_OPERATORS = (
    *("abs", "add", "and_", "contains", "eq", "floordiv", "ge", "getitem", "gt", "iadd", "iand", "ifloordiv"),
    *("imod", "imul", "invert", "ior", "ipow", "isub", "itruediv", "ixor", "le", "lshift", "lt", "matmul"),
    *("mod", "mul", "ne", "neg", "not_", "or_", "pos", "pow", "rshift", "setitem", "sub", "truediv", "xor"),
)
# On tensors too, but made for nobody to override.
_MORE = {
    torch: (
        *("_assert", "arange", "empty", "eye", "full", "linspace", "ones", "tensor", "zeros"),
        *("sym_float", "sym_int", "sym_ite", "sym_max", "sym_min", "sym_not", "sym_sum"),
    ),
    F: (
        *("celu_", "elu_", "hardsigmoid", "hardswish", "hardtanh_", "leaky_relu_", "relu_", "rrelu_"),
        *("selu_", "sigmoid", "tanh", "threshold_", "upsample"),
    ),
}
_MORE_METHODS = {"new_empty", "new_full", "new_ones", "new_tensor", "new_zeros", "stride", "unflatten"}
# Methods that reach beyond the tensor: memory, files, other devices, code.
_REFUSED_METHODS = {
    *("apply_", "backward", "const_data_ptr", "cuda", "data_ptr", "map2_", "map_", "module_load", "numpy"),
    *("pin_memory", "record_stream", "register_hook", "register_post_accumulate_grad_hook", "set_"),
    *("share_memory_", "storage", "storage_offset", "storage_type", "untyped_storage"),
}


@cache
def functions() -> dict[str, Operation]:
    """Name -> function, for every function that a graph may call."""
    overridable = get_overridable_functions()
    found: dict[str, Operation] = {"builtins.getattr": getattr, **aten.operations()}
    for module in (torch, F, torch.linalg, torch.fft, torch.special):
        tensorial = {id(function) for function in overridable[module]}
        for name in vars(module):
            function = getattr(module, name)
            if id(function) in tensorial or name in _MORE.get(module, ()):
                found[f"{module.__name__}.{name}"] = function
    return {**found, **{f"operator.{name}": getattr(operator, name) for name in _OPERATORS}}


@cache
def _names() -> dict[int, str]:
    # Several names can lead to one function; the first is as good as any.
    return {id(function): name for name, function in reversed(functions().items())}


@cache
def methods() -> frozenset[str]:
    """Names of the methods of a tensor that a graph may call."""
    found = {getattr(method, "__name__", "") for method in get_overridable_functions()[torch.Tensor]}
    public = {name for name in found if name and not name.startswith("_")}
    return frozenset((public | _MORE_METHODS) - _REFUSED_METHODS)


def name_of(function: Operation) -> str:
    """The name under which `function` is stored.

    Raises:
        ArtifactError: it is not on the list.
    """
    if id(function) not in _names():
        shown = getattr(function, "__qualname__", repr(function))
        raise ArtifactError(
            f"the model calls {getattr(function, '__module__', '?')}.{shown}, which is no function of torch: "
            "it cannot be stored without code"
        )
    return _names()[id(function)]


def function_of(name: Any) -> Operation:
    """The function that is stored as `name`.

    Raises:
        ArtifactError: no such function is on the list.
    """
    if not isinstance(name, str) or name not in functions():
        raise ArtifactError(
            f"the structure calls the function {str(name)[:80]!r}, which is not accepted"
            f"{nearest(name, functions())}"
        )
    return functions()[name]


def check_method(name: Any) -> str:
    """`name`, if it is a method of a tensor that a graph may call.

    Raises:
        ArtifactError: it is not.
    """
    if not isinstance(name, str) or name not in methods():
        raise ArtifactError(f"the structure calls the method {str(name)[:80]!r}, which is not accepted")
    return name


def check_attribute(args: tuple[Any, ...]) -> None:
    """Refuse a call of `getattr` with anything but one of the attributes of a tensor that are accepted.

    Raises:
        ArtifactError: another attribute, or one that is only known when the graph runs.
    """
    if len(args) != 2 or not isinstance(args[1], str) or args[1] not in ATTRIBUTES:
        raise ArtifactError(
            f"the structure reads the attribute {str(args[1:])[:80]}; known: {', '.join(ATTRIBUTES)}"
        )
