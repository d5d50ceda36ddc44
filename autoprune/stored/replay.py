"""For networks whose `forward` cannot be traced: what changed in their layers, to be repeated on a fresh one.

The artifact of such a network holds no graph. Whoever loads it gives the function that makes the uncompressed
network; its layers are then replaced by the stored ones, narrower or quantized as they were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

import autoprune.stored.modules as modules
from autoprune.deployed import QuantizedLayer
from autoprune.errors import ArtifactError
from autoprune.stored.graph import value_from_json, value_to_json


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


def sizes_to_json(model: nn.Module) -> dict[str, Any]:
    """The whole numbers (and rows of them) that modules and their configurations hold as attributes, by path.

    The code of such a network splits and reshapes by them, and a cut has changed some.
    """
    held = {path: {n: v for n, v in vars(owner).items() if _is_size(n, v)} for path, owner in _owners(model)}
    return {path: sizes for path, sizes in held.items() if sizes}


def unsaved_to_json(model: nn.Module) -> dict[str, Any]:
    """The buffers that a network does not save (frequencies, masks), by path: a cut may have shortened them.

    Raises:
        ArtifactError: one of them is too large.
    """
    saved = model.state_dict()
    return {name: value_to_json(buffer) for name, buffer in model.named_buffers() if name not in saved}


def repeat_unsaved(model: nn.Module, values: Any) -> None:
    """Put back what `unsaved_to_json` gave, in place.

    Raises:
        ArtifactError: it is malformed, or the network has no such buffer.
    """
    if not isinstance(values, dict):
        raise ArtifactError("structure.json holds buffers that are not listed by name")
    buffers = dict(model.named_buffers())
    for name, value in values.items():
        if name not in buffers:
            raise ArtifactError(f"the model given has no buffer {str(name)[:80]!r}: it is another one")
        owner, _, own = name.rpartition(".")
        setattr(model.get_submodule(owner), own, value_from_json(value))


def repeat_sizes(model: nn.Module, sizes: Any) -> None:
    """Write sizes that `sizes_to_json` gave into a network, where it holds such numbers itself; in place.

    Raises:
        ArtifactError: they are malformed.
    """
    if not isinstance(sizes, dict) or not all(isinstance(held, dict) for held in sizes.values()):
        raise ArtifactError("structure.json holds sizes that are not listed by layer")
    for path, owner in _owners(model):
        for name, value in sizes.get(path, {}).items():
            own = vars(owner).get(name)
            if not _is_size(name, value) or not _is_size(name, own):
                continue
            if isinstance(own, int) == isinstance(value, int):
                vars(owner)[name] = tuple(value) if isinstance(own, tuple) else value


def _owners(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Modules without those that are stored as layers, and their configurations."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        if not type(module).__module__.startswith(("torch.", "autoprune.")):
            yield path, module
        config = vars(module).get("config")
        if config is not None and hasattr(config, "__dict__") and id(config) not in seen:
            seen.add(id(config))
            yield f"{path}:config", config


def _is_size(name: str, value: Any) -> bool:
    parts = value if isinstance(value, list | tuple) else [value]
    return bool(parts) and not name.startswith("__") and all(type(part) is int for part in parts)


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
    tied = _tied(model)
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
    _tie(model, tied)
    return model


def _tied(model: nn.Module) -> list[list[str]]:
    """The names of each parameter that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [several for several in names.values() if len(several) > 1]


def _tie(model: nn.Module, tied: list[list[str]]) -> None:
    """Give these names one parameter again, as far as each still is a parameter of the same shape; in place."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for names in tied:
        first, *others = [name for name in names if name in parameters] or [""]
        for name in others:
            if parameters[name].shape == parameters[first].shape:
                owner, _, own = name.rpartition(".")
                setattr(model.get_submodule(owner), own, parameters[first])


def _make_room(model: nn.Module, layers: Mapping[Any, Any]) -> None:
    """Put an empty row of two in place of each layer that was stored as two (`compress.factorize`)."""
    known = dict(model.named_modules())
    for path in map(str, layers):
        whole, _, place = path.rpartition(".")
        if place == "0" and path not in known and whole in known and not list(known[whole].children()):
            model.set_submodule(whole, nn.Sequential(nn.Identity(), nn.Identity()))
