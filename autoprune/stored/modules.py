"""A layer as its class and the arguments of its constructor: enough to make it again, without code.

Only layers of `torch.nn` and autoprune's own modules can be written down or read. They are made
without memory (on torch's `meta` device); their values come from the artifact's weights.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

import autoprune.stored.literals as literals
from autoprune.deployed import ActivationQuantizer, CodebookLayer, QuantizedLayer
from autoprune.deployed.kinds import TransposedLinear, is_transposed_linear
from autoprune.errors import ArtifactError

OURS: dict[str, type[nn.Module]] = {
    "autoprune.ActivationQuantizer": ActivationQuantizer,
    "autoprune.CodebookLayer": CodebookLayer,
    "autoprune.QuantizedLayer": QuantizedLayer,
    "autoprune.TransposedLinear": TransposedLinear,
}
TORCH = "torch.nn."
# Arguments that the class does not keep under their own name.
_RECURRENT = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
_BY_NAME: dict[type[nn.Module], tuple[str, ...]] = {
    nn.GRU: _RECURRENT,
    nn.LSTM: (*_RECURRENT, "proj_size"),
    nn.RNN: (*_RECURRENT, "nonlinearity"),
}
_KEPT_AS: dict[type[nn.Module], dict[str, str]] = {
    nn.MultiheadAttention: {"bias": "in_proj_bias", "add_bias_kv": "bias_k"},
}


def describe(module: nn.Module) -> dict[str, Any]:
    """Class and constructor arguments of a layer.

    Raises:
        ArtifactError: it is of another class, or its arguments do not tell how it was made.
    """
    if is_transposed_linear(module):
        arguments = literals.to_json(TransposedLinear.arguments_of(module))
        return {"class": "autoprune.TransposedLinear", "arguments": arguments}
    for name, cls in OURS.items():
        if type(module) is cls:
            return {"class": name, "arguments": literals.to_json(module.arguments())}  # type: ignore[operator]
    name = TORCH + type(module).__name__
    if _torch_class(name) is not type(module):
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        raise ArtifactError(f"a layer of class {kind} cannot be stored without code")
    described = {"class": name, "arguments": literals.to_json(_arguments(module))}
    _check_same(module, build(described), name)
    return described


def build(described: Any) -> nn.Module:
    """The layer that `describe` described: right in shape, without memory and values.

    Raises:
        ArtifactError: another class, or arguments that it does not take.
    """
    if not isinstance(described, dict) or set(described) != {"class", "arguments"}:
        raise ArtifactError("the structure holds a layer that is not a class with its arguments")
    name, arguments = described["class"], literals.from_json(described["arguments"])
    cls = OURS.get(name) or _torch_class(name) if isinstance(name, str) else None
    if cls is None:
        raise ArtifactError(f"the structure holds a layer of class {str(name)[:80]!r}, which is not accepted")
    if not isinstance(arguments, dict):
        raise ArtifactError(f"the structure gives no named arguments for {name}")
    try:
        with torch.device("meta"):
            return cls(**arguments).eval()
    except Exception as error:  # any constructor of torch, called with whatever stands in the file
        problem = f"{type(error).__name__}: {error}"
        raise ArtifactError(f"{name} cannot be made from its arguments: {problem}") from None


def _torch_class(name: str) -> type[nn.Module] | None:
    """The public layer class of torch with this name."""
    found = getattr(nn, name.removeprefix(TORCH), None) if name.startswith(TORCH) else None
    is_layer = isinstance(found, type) and issubclass(found, nn.Module)
    return found if is_layer and found.__module__.startswith("torch.nn.modules.") else None


def _arguments(module: nn.Module) -> dict[str, Any]:
    parameters = inspect.signature(type(module).__init__).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = _BY_NAME.get(type(module), named)
    kept_as = _KEPT_AS.get(type(module), {})
    wanted = [n for n in names if n not in ("self", "device", "dtype") and not n.startswith("_")]
    kept = {name: kept_as.get(name, name) for name in wanted}
    return {name: _value(module, name, kept[name]) for name in wanted if hasattr(module, kept[name])}


def _value(module: nn.Module, name: str, kept_as: str) -> Any:
    value = getattr(module, kept_as)
    # A layer keeps the tensor where its constructor asks whether there shall be one.
    is_switch = kept_as != name or (name == "bias" and not isinstance(value, bool))
    if is_switch:
        return value is not None
    return tuple(value) if isinstance(value, torch.Size) else value


def _check_same(module: nn.Module, again: nn.Module, name: str) -> None:
    shapes, made = ({n: t.shape for n, t in m.state_dict().items()} for m in (module, again))
    if shapes != made or module.training != again.training:
        raise ArtifactError(f"a {name} cannot be made again from its constructor's arguments")
