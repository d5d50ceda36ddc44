"""Stand-ins for layers: how `torch.export` looks through a network and sees its layers as single steps.

While a network is exported, the forward of each layer is replaced by an operation of our own, which says what shapes
come out. The calls are written down, so that `rewrite` can put the layers back in its place.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

from autoprune.deployed.kinds import is_transposed_linear
from autoprune.deployed.quantizers import ActivationQuantizer, QuantizedLayer
from autoprune.tensors import Inputs, call, rebuild, tensors_in

# Containers and composites of torch.nn: what they are made of is looked into.
_OPENED = (
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict, nn.MultiheadAttention,
    nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder, nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer, nn.Flatten, nn.Unflatten,
)  # fmt: skip
# Where torch keeps the layers that return what they take in shape and type.
_ALIKE = frozenset(
    f"torch.nn.modules.{name}"
    for name in ("activation", "batchnorm", "dropout", "instancenorm", "normalization")
)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one step of a lifted graph: a layer of torch.nn itself, one of our own, a `Conv1D` of GPT-2.

    Subclasses are looked into, and so is anything with hooks or parametrizations, which is more than its class.
    """
    if isinstance(module, ActivationQuantizer | QuantizedLayer) or is_transposed_linear(module):
        return True
    own = type(module).__module__.startswith("torch.nn.modules.") and not isinstance(module, _OPENED)
    # Linear layers that attention reads past their forward.
    public = getattr(nn, type(module).__name__, None) is type(module)
    return own and public and not (module._forward_hooks or module._forward_pre_hooks)


class Place:
    """The place of a tensor among the arguments of a call."""


class Call(NamedTuple):
    """One call of a layer: which, and its arguments with a `Place` where each tensor stands."""

    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Flat(nn.Module):
    """A network that takes and returns tensors one by one."""

    def __init__(self, lifting: Lifting) -> None:
        super().__init__()
        self.model = lifting.model
        self.lifting = lifting

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.lifting.returned = call(self.model, rebuild(self.lifting.template, tensors))
        return tuple(tensors_in(self.lifting.returned))


class Lifting:
    """A network whose layers are stood in for, and what is learned of their calls on the way.

    No module itself, for torch.export puts the attributes of modules back to what they were.

    Attributes:
        settle: whether weights that are computed from parameters alone are computed once.
        calls: of layers, by the number that the stand-in operation carries.
        results: what each call returned, in its own form.
        template: the inputs, in their form.
        returned: what the network returned, in its form.
    """

    def __init__(self, model: nn.Module, settle: bool) -> None:
        self.model, self.settle = model, settle
        self.layers = {path: module for path, module in model.named_modules() if path and is_leaf(module)}
        self.begin(None)

    def begin(self, template: Inputs) -> None:
        """Forget what was learned; `template` are the inputs of the next attempt."""
        self.calls: list[Call] = []
        self.results: dict[int, Any] = {}
        self.template = template
        self.returned: Any = None

    @contextlib.contextmanager
    def standing_in(self) -> Iterator[None]:
        """The layers' forwards are replaced, on the objects themselves, and put back in the end."""
        token = _lifting.set(self)
        for path, layer in self.layers.items():
            layer.forward = functools.partial(self._stand_in, path)
        try:
            yield
        finally:
            for layer in self.layers.values():
                vars(layer).pop("forward", None)
            _lifting.reset(token)

    def _stand_in(self, path: str, *args: Any, **kwargs: Any) -> Any:
        parts, form = pytree.tree_flatten((args, kwargs))
        layer = self.layers[path]
        known_late = any(isinstance(part, torch.SymInt | torch.SymFloat | torch.SymBool) for part in parts)
        if known_late or any(isinstance(part, nn.utils.rnn.PackedSequence) for part in args):
            return type(layer).forward(layer, *args, **kwargs)  # sizes that are only known when it runs
        places = [Place() if isinstance(part, torch.Tensor) else part for part in parts]
        self.calls.append(Call(path, *pytree.tree_unflatten(places, form)))
        number = len(self.calls) - 1
        results = _layer([part for part in parts if isinstance(part, torch.Tensor)], number)
        return rebuild(self.results[number], results)

    def imagine(self, tensors: list[torch.Tensor], number: int) -> list[torch.Tensor]:
        """What a call gives, as tensors without values, each one fresh."""
        path, args, kwargs = self.calls[number]
        layer = self.layers[path]
        args, kwargs = filled(args, kwargs, tensors)
        if _returns_alike(layer) and len(tensors) == 1:
            result: Any = tensors[0]
        elif isinstance(layer, QuantizedLayer):
            # Rounding looks at values, and changes no shapes.
            sizes = [*args[1:], kwargs.get("output_size")]
            result = layer.multiply(tensors[0], tensors[0].new_empty(layer.shape), sizes[0])
        else:
            result = type(layer).forward(layer, *args, **kwargs)
        self.results[number] = result
        return [torch.empty_like(tensor) for tensor in tensors_in(result)]


def filled(args: Any, kwargs: Any, values: Any) -> tuple[Any, Any]:
    """The arguments of a call with values in their places."""
    remaining = iter(values)
    pair: tuple[Any, Any] = pytree.tree_map(
        lambda part: next(remaining) if isinstance(part, Place) else part, (args, kwargs)
    )
    return pair


def _returns_alike(layer: nn.Module) -> bool:
    kind = type(layer)
    return kind in (nn.Identity, ActivationQuantizer) or (kind.__module__ in _ALIKE and kind is not nn.GLU)


_lifting: ContextVar[Lifting] = ContextVar("lifting")


@torch.library.custom_op(
    "autoprune::layer", mutates_args=(), schema="(Tensor[] inputs, int number) -> Tensor[]"
)
def _layer(inputs: list[torch.Tensor], number: int) -> list[torch.Tensor]:
    """Stands for a call of a layer in an exported program; never run."""
    raise NotImplementedError("autoprune::layer stands for a layer while a network is lifted")


@_layer.register_fake
def _(inputs: list[torch.Tensor], number: int) -> list[torch.Tensor]:
    return _lifting.get().imagine(inputs, number)
