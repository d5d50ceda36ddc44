"""Stored weights: a state dict from a safetensors file or a torch file without code in it, put into a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.errors import ModelError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")


def is_weights_file(value: Any) -> bool:
    """Whether an argument `weights` is a file of ours to load, not a word for the factory (torchvision's `DEFAULT`)."""
    return isinstance(value, str) and value.endswith(SUFFIXES)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors in a file by name, on the CPU.

    A dict around the state dict (`{"state_dict": ...}`), and what `DataParallel` or `torch.compile` put before all
    names, are taken off.

    Raises:
        ModelError: it cannot be read without running code from it, or holds no tensors by name.
    """
    found = _read(path)
    for wrapper in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not found:
        raise ModelError(
            f"weights: {path} holds {type(found).__name__}, expected a state dict (tensors by name)"
        )
    tensors = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle, zip and torch each have their own
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"weights: {path} cannot be read as plain tensors ({reason}); save model.state_dict() as safetensors"
        ) from error


def fill(model: nn.Module, weights: Mapping[str, torch.Tensor], name: str) -> None:
    """Put all weights into the network.

    Raises:
        ModelError: names are missing or unexpected, or shapes differ; one sentence with all of it.
    """
    own = model.state_dict()
    given = {key for key in weights if key in own}
    shapes = [
        f"{key} has shape {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in given and weights[key].shape != own[key].shape
    ]
    filled = {own[key].data_ptr() for key in given}  # a tied weight is stored once
    missing = [
        key
        for key, value in own.items()
        if key not in given and not key.endswith("num_batches_tracked") and value.data_ptr() not in filled
    ]
    unexpected = [key for key in weights if key not in own]
    problems = [*_listed("missing", missing), *_listed("unexpected", unexpected), *_listed("", shapes)]
    if problems:
        raise ModelError(f"weights: they do not fit {name}: {'; '.join(problems)}")
    model.load_state_dict(dict(weights), strict=False)


def _listed(what: str, names: Sequence[str]) -> list[str]:
    """`["missing a, b and 7 more"]`, or nothing."""
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{what} {', '.join(names[:3])}{more}".strip()]
