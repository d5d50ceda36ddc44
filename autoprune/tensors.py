"""Inputs and outputs of any form: one tensor, or tuples, dicts and dataclasses of them.

Everything that runs a network (training, checking, exporting, measuring) calls it through `call`, and handles what
comes back through `tensors_in`, `rebuild` and `named`: nobody else asks what a network's inputs and outputs are.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Inputs = Any
"""What a network takes: a tensor, a tuple or list of positional arguments, or a dict of keyword arguments."""


def call(model: Callable[..., Any], inputs: Inputs) -> Any:
    """What the network gives for these inputs: `model(x)`, `model(*inputs)` or `model(**inputs)`."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Inside, no statistics are updated and nothing is dropped; each module's mode is put back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors in nested tuples, lists, dicts and dataclasses, in order; anything else in them is skipped."""
    return [tensor for _, tensor in _walk(value, ())]


def named(value: Any, single: str) -> dict[str, torch.Tensor]:
    """The same tensors by name, in the same order: `single` for a tensor alone, `single_0` … for positions, the keys
    of a dict or dataclass, joined by `_` where they are nested."""
    found: dict[str, torch.Tensor] = {}
    for path, tensor in _walk(value, ()):
        parts = [str(part) for part in path]
        if not parts or parts[0].isdigit():
            parts.insert(0, single)
        found["_".join(parts)] = tensor
    return found


def _walk(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
        return
    for key, part in _parts(value):
        yield from _walk(part, (*path, key))


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """Names and parts of a container, empty for anything else. Mappings first: transformers' outputs are both."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return []


def map_tensors(function: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """The same nested value with `function` applied to each tensor in it."""
    return rebuild(value, [function(tensor) for tensor in tensors_in(value)])


def rebuild(template: Any, tensors: Sequence[Any]) -> Any:
    """A value of the form of `template` that holds these tensors (the inverse of `tensors_in`)."""
    remaining = iter(tensors)
    value = _rebuilt(template, remaining)
    if next(remaining, None) is not None:
        raise ValueError(f"{len(tensors)} tensors do not fit a value with {len(tensors_in(template))}")
    return value


def _rebuilt(template: Any, remaining: Iterator[Any]) -> Any:
    if isinstance(template, torch.Tensor):
        return next(remaining)
    parts = [_rebuilt(part, remaining) for _, part in _parts(template)]
    if isinstance(template, Mapping):
        fields = dict(zip(template, parts, strict=True))
        return fields if type(template) is dict else type(template)(**fields)
    if isinstance(template, tuple) and hasattr(template, "_fields"):
        return type(template)(*parts)
    if isinstance(template, tuple | list):
        return type(template)(parts)
    if dataclasses.is_dataclass(template) and not isinstance(template, type):
        return dataclasses.replace(
            template, **dict(zip((f.name for f in dataclasses.fields(template)), parts, strict=True))
        )
    return template


def batch_size(inputs: Inputs) -> int:
    """Examples in a batch: the length of its first tensor that has axes.

    Raises:
        ValueError: there is no such tensor.
    """
    for tensor in tensors_in(inputs):
        if tensor.dim() > 0:
            return len(tensor)
    raise ValueError("the inputs hold no tensor with a batch axis")


def rows(inputs: Inputs, chosen: slice | torch.Tensor) -> Inputs:
    """These examples of a batch; tensors without a batch axis of that length stay as they are."""
    size = batch_size(inputs)
    return map_tensors(lambda t: t[chosen] if t.dim() > 0 and len(t) == size else t, inputs)


def concatenate(batches: Sequence[Any]) -> Any:
    """Batches of one form as one, along the first axis; sequences of unequal length are padded with zeros."""
    if len(batches) == 1:
        return batches[0]
    columns = zip(*(tensors_in(batch) for batch in batches), strict=True)
    return rebuild(batches[0], [_joined(column) for column in columns])


def one_by_one(run: Callable[[Inputs], Any], inputs: Inputs) -> Any:
    """The outputs for a batch of what takes one example at a time.

    Args:
        run: called with batches of size 1.
        inputs: a batch of any size.
    """
    return concatenate([run(rows(inputs, slice(i, i + 1))) for i in range(batch_size(inputs))])


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    if parts[0].dim() == 0:
        return torch.stack(list(parts))
    longest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    joined = parts[0].new_zeros((sum(len(part) for part in parts), *longest))
    start = 0
    for part in parts:
        place = (slice(start, start + len(part)), *(slice(size) for size in part.shape[1:]))
        joined[place] = part
        start += len(part)
    return joined


def raw_bytes(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(plain.view(torch.uint8).numpy().tobytes())


def fingerprint(model: nn.Module) -> str:
    """The names and values of all weights and buffers of a network, in a few letters."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + raw_bytes(tensor))
    return digest.hexdigest()
