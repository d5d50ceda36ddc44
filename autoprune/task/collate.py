"""What loaders yield, as batches; batches cut and joined.

Loaders come with their own habits: pairs, flat tuples, dicts with the labels among the inputs, no labels at all.
Everything behind this module sees `Batch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from autoprune.errors import TaskError
from autoprune.task.contract import IGNORED, Batch
from autoprune.tensors import batch_size, concatenate, rows, tensors_in

TARGET_KEYS = ("labels", "label", "targets", "target")


def as_batch(given: Any) -> Batch:
    """A batch from what a loader yields.

    Accepted are `(inputs, targets)`; `(x1, x2, ..., targets)` for networks with several positional inputs; a dict
    with targets under one of `TARGET_KEYS`, of which the rest are keyword arguments; inputs alone, or targets of
    None, where the loss needs none. Lists of tensors are taken for tuples, as torch's collate function makes them.

    Raises:
        TaskError: it is none of these, holds text, or its inputs and targets differ in length.
    """
    inputs, targets = _parted(given)
    inputs = _plain(inputs, "the inputs")
    try:
        count = batch_size(inputs)
    except ValueError:
        raise TaskError(
            f"a loader yields {type(given).__name__}, expected a pair (inputs, targets) or a dict of tensors"
        ) from None
    targets = _plain_targets(targets, count)
    if length(targets) != count:
        raise TaskError(f"a loader yields {count} inputs with {length(targets)} targets")
    return Batch(inputs, targets)


def _parted(given: Any) -> tuple[Any, Any]:
    if isinstance(given, Batch):
        return given
    if isinstance(given, Mapping):
        key = next((name for name in TARGET_KEYS if name in given), None)
        return {name: part for name, part in given.items() if name != key}, given[key] if key else None
    if isinstance(given, tuple | list) and len(given) > 1:
        return given[0] if len(given) == 2 else tuple(given[:-1]), given[-1]
    return (given[0] if isinstance(given, tuple | list) and given else given), None


def _plain(given: Any, where: str) -> Any:
    """Tensors in tuples and plain dicts; numbers and arrays become tensors."""
    if given is None or isinstance(given, torch.Tensor | bool):
        return given
    if isinstance(given, Mapping):
        return {name: _plain(part, f"{where}[{name!r}]") for name, part in given.items()}
    if isinstance(given, tuple | list) and not _is_numbers(given):
        return tuple(_plain(part, f"{where}[{place}]") for place, part in enumerate(given))
    if isinstance(given, np.ndarray | np.generic | int | float | tuple | list):
        return torch.as_tensor(given)
    raise TaskError(
        f"a loader yields {type(given).__name__} in {where}, expected tensors: turn it into numbers, or leave it out, "
        "in the loader's collate_fn"
    )


def _is_numbers(values: Sequence[Any]) -> bool:
    return len(values) > 0 and all(isinstance(value, int | float | np.generic) for value in values)


def _plain_targets(given: Any, count: int) -> Any:
    """Targets as tensors; a list with one entry for each example, as detection has it, stays a list."""
    if given is None:
        return torch.empty(count, 0)
    if isinstance(given, tuple | list) and len(given) == count and not _is_numbers(given):
        parts = [_plain(part, "the targets") for part in given]
        columns = all(isinstance(part, torch.Tensor) and part.dim() and len(part) == count for part in parts)
        return tuple(parts) if columns else parts
    return _plain(given, "the targets")


def length(targets: Any) -> int:
    """For how many examples there are targets."""
    return len(targets) if isinstance(targets, list) else batch_size(targets)


def part(batch: Batch, chosen: slice) -> Batch:
    """Some examples of a batch."""
    targets = batch.targets
    return Batch(
        rows(batch.inputs, chosen), targets[chosen] if isinstance(targets, list) else rows(targets, chosen)
    )


def join(batches: Sequence[Batch]) -> Batch:
    """Several batches as one; what is shorter is padded, inputs with 0 and targets as `join_targets` says."""
    if len(batches) == 1:
        return batches[0]
    return Batch(
        concatenate([batch.inputs for batch in batches]), join_targets([batch.targets for batch in batches])
    )


def join_targets(parts: Sequence[Any]) -> Any:
    """Targets of several batches; whole numbers are padded with `IGNORED`, real numbers with 0."""
    if isinstance(parts[0], list):
        return [target for part in parts for target in part]
    if isinstance(parts[0], torch.Tensor) and parts[0].dim() > 1 and not parts[0].is_floating_point():
        sizes = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
        parts = [_padded(part, sizes) for part in parts]
    return concatenate(parts)


def _padded(targets: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    missing = [size - found for size, found in zip(sizes, targets.shape[1:], strict=True)]
    if not any(missing):
        return targets
    # torch counts the sides of the last axis first.
    return F.pad(targets, [side for gap in reversed(missing) for side in (0, gap)], value=IGNORED)


def as_array(targets: Any) -> Any:
    """Targets as NumPy holds them where they are one tensor; anything else as it is."""
    return targets.numpy() if isinstance(targets, torch.Tensor) else targets


def is_finite(value: Any) -> bool:
    """Whether no tensor in a nested value holds NaN or infinity."""
    return all(torch.isfinite(t).all() for t in tensors_in(value) if t.is_floating_point())
