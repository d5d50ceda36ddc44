"""Weights that are computed from other weights (weight norm, spectral norm, any parametrization), made plain.

A cut, a bit width and an exported file are about the weight that the layer really uses. So that weight is computed
once and stored as an ordinary parameter before a candidate is worked on; it is then trained like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from autoprune.errors import AutopruneError, ModelError, NoNetwork, raised
from autoprune.task import Task


def make_model(task: Task, architecture: Mapping[str, Any]) -> nn.Module:
    """The task's network with these arguments; weights that it computes from others (weight norm) are made plain.

    Raises:
        ModelError: the task's `model` raises; the message has the arguments.
        NoNetwork: the same, where these are not the baseline's.
    """
    try:
        model = task.model(**architecture)
    except Exception as error:
        given = ", ".join(f"{name}={value!r}" for name, value in architecture.items())
        reason = f": {error}" if isinstance(error, AutopruneError) else f" {raised(error)}"
        kind = NoNetwork if architecture else ModelError
        raise kind(f"the task's model({given}){reason}") from error
    if isinstance(model, nn.Module):  # whatever else it gives is refused when the task is checked
        fold_parametrizations(model)
    return model


def fold_parametrizations(model: nn.Module) -> list[str]:
    """Replace every parametrized tensor of `model` by its value, in place.

    Returns:
        the names of the tensors, sorted.
    """
    folded = []
    for path, module in list(model.named_modules()):
        for name in list(getattr(module, "parametrizations", {})):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            folded.append(f"{path}.{name}".lstrip("."))
        for name in _hooked(module):
            folded.append(f"{path}.{name}".lstrip("."))
    return sorted(folded)


def is_parametrized(model: nn.Module) -> bool:
    """Whether any tensor of `model` is computed from others before it is used."""
    return any(
        hasattr(module, "parametrizations")
        or any(hasattr(hook, "name") for hook in module._forward_pre_hooks.values())
        for module in model.modules()
    )


def _hooked(module: nn.Module) -> list[str]:
    """Fold the older kind of weight and spectral norm, which is a hook before the forward pass."""
    names = []
    for key, hook in list(module._forward_pre_hooks.items()):
        name = getattr(hook, "name", None)
        stored = [f"{name}{end}" for end in ("_g", "_v", "_orig", "_u") if hasattr(module, f"{name}{end}")]
        if not isinstance(name, str) or not stored:
            continue
        with torch.no_grad():
            hook(module, None)
            value = getattr(module, name).detach().clone()
        del module._forward_pre_hooks[key]
        for other in stored:
            delattr(module, other)
        if hasattr(module, name):
            delattr(module, name)
        setattr(module, name, nn.Parameter(value))
        names.append(name)
    return names
