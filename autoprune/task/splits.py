"""Splits of data as batches, from arrays, tensors or loaders.

Arrays stay as they are given: images as `uint8`, a memory map on disk, read-only memory that several workers
of a node share. Every batch is a copy, made by NumPy's indexing and only then turned into tensors, because
torch would write through a shared array without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from autoprune.errors import TaskError
from autoprune.task.collate import as_batch, join, length, part
from autoprune.task.contract import Batch
from autoprune.task.inputs import Array, Arrays, Augment, InputFormat


class ArraySplit:
    """A split that lies in arrays, or in some rows of them.

    Args:
        x: inputs, examples first: an array, a tuple of arrays for networks with several positional inputs, or a
            dict of arrays by the names of the network's arguments (token ids and their mask).
        y: targets, one row per example; integers become `int64`, anything else `float32`. A tuple or dict of arrays
            where there are several, None where the loss needs none.
        rows: indices of the examples that make up this split, None for all; several splits can share an
            array.
        format: how inputs are converted. In a tuple or dict it holds for every array, except that `uint8` of one or
            two axes are whole numbers and `bool` is left alone: masks, not images.
        augment: called with a raw batch (a copy, of the form of `x`) and a random generator, when batches are
            shuffled.

    Raises:
        TaskError: x and y differ in length, or x holds NaN or infinity.
    """

    def __init__(
        self,
        x: Arrays,
        y: Arrays | None,
        *,
        rows: Array | None = None,
        format: InputFormat | None = None,
        augment: Augment | None = None,
    ) -> None:
        self.x = _as_arrays(x, "x")
        count = len(_first(self.x))
        self.y = np.empty((count, 0), np.float32) if y is None else _as_arrays(y, "y")
        _check_lengths(self.x, self.y, count)
        _each(_check_finite, self.x, "x")
        self.rows = np.arange(count) if rows is None else np.asarray(rows)
        self.format = format or InputFormat()
        self.augment = augment

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def targets(self) -> Any:
        """All targets of the split, as they were given."""
        return _taken(self.y, self.rows)

    def batches(self, batch_size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        """Batches in order, or shuffled and augmented by the seed `shuffle`."""
        rng = None if shuffle is None else np.random.default_rng(shuffle)
        rows = self.rows if rng is None else rng.permutation(self.rows)
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            x = _taken(self.x, chosen)
            if rng is not None and self.augment is not None:
                x = self.augment(x, rng)
            yield Batch(self._converted(x), _each(lambda y, _: _targets(y), _taken(self.y, chosen)))

    def _converted(self, x: Arrays) -> Any:
        if isinstance(x, np.ndarray):
            return self.format.convert(x, self.format.layout_of(x))
        return _each(lambda array, _: self._named(array), x)

    def _named(self, array: Array) -> torch.Tensor:
        if array.dtype == np.bool_:
            return torch.from_numpy(array)
        if array.dtype == np.uint8 and array.ndim < 3:
            return torch.from_numpy(array).long()
        return self.format.convert(array, self.format.layout_of(array))


def _each(function: Callable[[Any, str], Any], arrays: Any, name: str = "") -> Any:
    """`function` of each array and its name, in the form of `arrays`."""
    if isinstance(arrays, Mapping):
        return {key: function(array, f"{name}[{key!r}]") for key, array in arrays.items()}
    if isinstance(arrays, tuple):
        return tuple(function(array, f"{name}[{place}]") for place, array in enumerate(arrays))
    return function(arrays, name)


def _taken(arrays: Any, rows: Array) -> Any:
    """Copies of some rows; copies because the index is an array: never a slice here."""
    return _each(lambda array, _: array[rows], arrays)


def _first(arrays: Arrays) -> Array:
    parts = (
        arrays.values() if isinstance(arrays, Mapping) else arrays if isinstance(arrays, tuple) else [arrays]
    )
    first = next(iter(parts), None)
    if first is None:
        raise TaskError("x is empty, expected an array, or a tuple or dict of at least one")
    return first


def _targets(y: Array) -> torch.Tensor:
    tensor = torch.from_numpy(np.asarray(y))
    return tensor.long() if np.issubdtype(y.dtype, np.integer) else tensor.float()


def _as_arrays(values: Any, name: str) -> Any:
    return _each(_as_array, values, name)


def _as_array(values: Any, name: str) -> Array:
    array: Array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise TaskError(f"{name}: got {array.dtype} of shape {array.shape}, expected an array of numbers")
    return array


def _check_lengths(x: Arrays, y: Arrays, count: int) -> None:
    def check(array: Array, name: str) -> None:
        if len(array) != count:
            raise TaskError(f"{name} has {len(array)} examples, expected {count} as in the first array of x")

    _each(check, x, "x")
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and len(y) != count:
        raise TaskError(f"x has {count} examples and y has {len(y)}: every input needs one target")
    _each(check, y, "y")


def _check_finite(x: Array, name: str) -> None:
    if x.dtype.kind == "f" and x.size and not np.isfinite([x.min(), x.max()]).all():
        broken = next(i for i in range(len(x)) if not np.isfinite(x[i]).all())
        raise TaskError(f"{name} holds NaN or infinity, first in example {broken}: remove or replace it")


class LoaderSplit:
    """A split read from a `DataLoader` of torch, or anything that can be iterated over again and again.

    It is read as it goes, never held: a data set may be larger than memory.

    Args:
        loader: yields batches of any size in one of the forms that `collate.as_batch` knows: `(inputs, targets)`,
            `(x1, x2, ..., targets)`, a dict with `labels`, inputs alone. They are cut and joined to the size asked
            for; sequences of unequal length are padded. Whether it shuffles and augments is its own affair; torch's
            global generator is seeded before each pass.
        examples: how many examples a pass reads at most. Needed for a stream without an end. Without it the length
            is that of the loader's data set, and where this has none (an `IterableDataset`), it is counted in a pass
            of its own when it is first asked for.

    Raises:
        TaskError: the loader is an iterator (it could be read only once), or yields something else.
    """

    def __init__(self, loader: Iterable[Any], examples: int | None = None) -> None:
        if isinstance(loader, Iterator):
            raise TaskError(
                "the loader can be read only once (it is an iterator): give a DataLoader or a list of batches"
            )
        self.loader = loader
        self.examples = examples
        self._length: int | None = None

    def __len__(self) -> int:
        if self._length is None:
            known = _known_length(self.loader)
            most = float("inf") if self.examples is None else self.examples
            # With an end set, a stream is believed to reach it: counting would read all of it.
            self._length = self.examples if known is None else int(min(known, most))
        if self._length is None:
            self._length = sum(length(batch.targets) for batch in self._read(0))
        return self._length

    def batches(self, batch_size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        """The loader's examples in batches of `batch_size`; a shuffling one repeats its order by the seed."""
        held: list[Batch] = []
        count = 0
        for batch in self._read(shuffle or 0):
            held.append(batch)
            count += length(batch.targets)
            if count >= batch_size:
                whole, end = join(held), count - count % batch_size
                for start in range(0, end, batch_size):
                    yield part(whole, slice(start, start + batch_size))
                held, count = ([part(whole, slice(end, count))] if end < count else []), count - end
        if held:
            yield join(held)

    def _read(self, seed: int) -> Iterator[Batch]:
        torch.manual_seed(seed)
        left = self.examples
        for given in self.loader:
            batch = as_batch(given)
            if left is not None:
                batch = part(batch, slice(left))
                left -= length(batch.targets)
            yield batch
            if left == 0:
                return


def _known_length(loader: Any) -> int | None:
    """Examples of one pass, None where only reading would tell."""
    sampler: Any = getattr(loader, "sampler", None)
    dataset: Any = getattr(loader, "dataset", None)
    size = getattr(loader, "batch_size", None)
    if size is None:
        return None
    if hasattr(type(sampler), "__len__"):
        count = len(sampler)
        return count - count % size if getattr(loader, "drop_last", False) else count
    return len(dataset) if hasattr(type(dataset), "__len__") else None
