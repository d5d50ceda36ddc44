"""For networks whose `forward` cannot be traced: what changed in their layers, to be repeated on a fresh one.

The artifact of such a network holds no graph. Whoever loads it gives the function that makes the uncompressed
network; its layers are then replaced by the stored ones, narrower or quantized as they were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from autoprune.deployed import QuantizedLayer
from autoprune.errors import ArtifactError
from autoprune.export import modules


def layers_to_json(model: nn.Module) -> dict[str, Any]:
    """Every layer that can be described, by path."""
    described: dict[str, Any] = {}
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules():
        is_layer = isinstance(module, QuantizedLayer) or not list(module.children())
        if not path or not is_layer or path.startswith(inside):
            continue
        try:
            described[path] = modules.describe(module)
        except ArtifactError:
            continue  # a layer of the user's own, which only the user's code can make
        if isinstance(module, QuantizedLayer):
            inside += (f"{path}.",)
    return described


def rebuild(
    factory: Callable[..., nn.Module], architecture: Any, layers: Any, state: Mapping[str, torch.Tensor]
) -> nn.Module:
    """The network that `factory` makes, with its layers replaced by the stored ones; without their values.

    Args:
        factory: makes the uncompressed network.
        architecture: the arguments that it was called with.
        layers: what `layers_to_json` gave.
        state: the stored tensors: parameters outside of layers take their shapes.

    Raises:
        ArtifactError: the factory makes another network than the one that was stored.
    """
    if not isinstance(architecture, dict) or not isinstance(layers, dict):
        raise ArtifactError("structure.json holds neither a graph nor layers to repeat")
    try:
        model = factory(**architecture).eval().requires_grad_(False)
    except Exception as error:  # whatever a user's factory raises
        raise ArtifactError(f"model(**{architecture}) raises {type(error).__name__}: {error}") from None
    _make_room(model, layers)
    for path, layer in layers.items():
        if not isinstance(path, str) or path not in dict(model.named_modules()):
            raise ArtifactError(f"the model given has no layer {str(path)[:80]!r}: it is another one")
        model.set_submodule(path, modules.build(layer))
    for path, parameter in list(model.named_parameters()):
        if path in state and state[path].shape != parameter.shape:
            owner, _, name = path.rpartition(".")
            resized = nn.Parameter(torch.empty_like(state[path]), requires_grad=False)
            setattr(model.get_submodule(owner), name, resized)
    return model


def _make_room(model: nn.Module, layers: Mapping[Any, Any]) -> None:
    """Put an empty row of two in place of each layer that was stored as two (`compress.factorize`)."""
    known = dict(model.named_modules())
    for path in map(str, layers):
        whole, _, place = path.rpartition(".")
        if place == "0" and path not in known and whole in known and not list(known[whole].children()):
            model.set_submodule(whole, nn.Sequential(nn.Identity(), nn.Identity()))
