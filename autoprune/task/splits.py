"""Splits of data as batches, from arrays, tensors or loaders.

Arrays stay as they are given: images as `uint8`, a memory map on disk, read-only memory that several workers
of a node share. Every batch is a copy, made by NumPy's indexing and only then turned into tensors, because
torch would write through a shared array without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from autoprune.errors import TaskError
from autoprune.task.contract import Batch
from autoprune.task.inputs import Array, Augment, InputFormat


class ArraySplit:
    """A split that lies in arrays, or in some rows of them.

    Args:
        x: inputs, examples first.
        y: targets, one row per example; integers become `int64`, anything else `float32`.
        rows: indices of the examples that make up this split, None for all; several splits can share an
            array.
        format: how inputs are converted.
        augment: called with a raw batch (a copy) and a random generator, when batches are shuffled.

    Raises:
        TaskError: x and y differ in length, or x holds NaN or infinity.
    """

    def __init__(
        self,
        x: Array,
        y: Array,
        *,
        rows: Array | None = None,
        format: InputFormat | None = None,
        augment: Augment | None = None,
    ) -> None:
        self.x, self.y = _as_array(x, "x"), _as_array(y, "y")
        _check_arrays(self.x, self.y)
        self.rows = np.arange(len(self.x)) if rows is None else np.asarray(rows)
        self.format = format or InputFormat()
        self.augment = augment

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def targets(self) -> Array:
        """All targets of the split, as they were given."""
        return np.asarray(self.y[self.rows])

    def batches(self, batch_size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        """Batches in order, or shuffled and augmented by the seed `shuffle`."""
        rng = None if shuffle is None else np.random.default_rng(shuffle)
        rows = self.rows if rng is None else rng.permutation(self.rows)
        layout = self.format.layout_of(self.x)
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            x = self.x[chosen]  # a copy, because the index is an array: never a slice here
            if rng is not None and self.augment is not None:
                x = self.augment(x, rng)
            yield Batch(self.format.convert(x, layout), _targets(self.y[chosen]))


def _targets(y: Array) -> torch.Tensor:
    tensor = torch.from_numpy(np.asarray(y))
    return tensor.long() if np.issubdtype(y.dtype, np.integer) else tensor.float()


def _as_array(values: Any, name: str) -> Array:
    array: Array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise TaskError(f"{name}: got {array.dtype} of shape {array.shape}, expected an array of numbers")
    return array


def _check_arrays(x: Array, y: Array) -> None:
    if len(x) != len(y):
        raise TaskError(f"x has {len(x)} examples and y has {len(y)}: every input needs one target")
    if x.dtype.kind == "f" and x.size and not np.isfinite([x.min(), x.max()]).all():
        broken = next(i for i in range(len(x)) if not np.isfinite(x[i]).all())
        raise TaskError(f"x holds NaN or infinity, first in example {broken}: remove or replace it")


class LoaderSplit:
    """A split read from a `DataLoader` of torch, or anything that can be iterated over again and again.

    Args:
        loader: yields `(inputs, targets)` as tensors. Its batches are cut and joined to the size asked for.
            Whether it shuffles and augments is its own affair; torch's global generator is seeded before each
            pass.

    Raises:
        TaskError: the loader is an iterator (it could be read only once), or yields something else than
            pairs.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        if iter(loader) is loader:
            raise TaskError(
                "the loader can be read only once (it is an iterator): give a DataLoader or a list of batches"
            )
        self.loader = loader
        dataset: Any = getattr(loader, "dataset", None)
        self._length = (
            len(dataset) if hasattr(dataset, "__len__") else sum(len(b.targets) for b in self._read())
        )

    def __len__(self) -> int:
        return self._length

    def batches(self, batch_size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        """The loader's examples in batches of `batch_size`; a shuffling one repeats its order by the seed."""
        inputs, targets = torch.empty(0), torch.empty(0)
        for batch in self._read(shuffle or 0):
            inputs = torch.cat([inputs, batch.inputs]) if len(targets) else batch.inputs
            targets = torch.cat([targets, batch.targets]) if len(targets) else batch.targets
            while len(targets) >= batch_size:
                yield Batch(inputs[:batch_size], targets[:batch_size])
                inputs, targets = inputs[batch_size:], targets[batch_size:]
        if len(targets):
            yield Batch(inputs, targets)

    def _read(self, seed: int = 0) -> Iterator[Batch]:
        torch.manual_seed(seed)
        return map(_pair, self.loader)


def _pair(batch: Any) -> Batch:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise TaskError(f"a loader yields {type(batch).__name__}, expected a pair (inputs, targets)")
    inputs, targets = (torch.as_tensor(part) for part in batch)
    if len(inputs) != len(targets):
        raise TaskError(f"a loader yields {len(inputs)} inputs with {len(targets)} targets")
    return Batch(inputs, targets)
