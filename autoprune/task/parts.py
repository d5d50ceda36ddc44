"""Train, validation and test from arrays, tensors or loaders; what is missing is set aside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from autoprune.errors import TaskError
from autoprune.task.contract import Data, Split
from autoprune.task.inputs import Array, Augment, InputFormat
from autoprune.task.splits import ArraySplit, LoaderSplit


def make_data(
    train: Any,
    val: Any = None,
    test: Any = None,
    *,
    format: InputFormat | None = None,
    augment: Augment | None = None,
    shares: tuple[float, float] = (0.2, 0.2),
    seed: int = 0,
) -> Data:
    """The three splits from what there is.

    Args:
        train, val, test: each a pair `(x, y)` of arrays or tensors, a loader, or a `Split`; in a pair, x may be a
            tuple or dict of arrays, and y None. What is None is set aside from a train pair: at random, and in equal
            shares of each class where y holds classes.
        format, augment: for the pairs; only `train` is augmented.
        shares: shares of the examples to set aside for val and for test.
        seed: of the draw; the same seed, the same splits.

    Raises:
        TaskError: a pair that does not fit together, or val or test missing where train is no pair of arrays.
    """
    given = {"val": val, "test": test}
    aside = {name: share for name, share in zip(given, shares, strict=True) if given[name] is None}
    if aside and not _is_pair(train):
        raise TaskError(
            f"data: no {' and no '.join(aside)} split given; only arrays can be split automatically"
        )
    splits = {name: _split(part, format) for name, part in given.items() if part is not None}
    if not _is_pair(train):
        return Data(_split(train, format), **splits)
    whole = ArraySplit(*train, format=format)
    rows, *held_out = split_rows(whole.y, tuple(aside.values()), seed=seed)
    for name, chosen in zip(aside, held_out, strict=True):
        splits[name] = ArraySplit(whole.x, whole.y, rows=chosen, format=format)
    return Data(ArraySplit(whole.x, whole.y, rows=rows, format=format, augment=augment), **splits)


def _is_pair(given: Any) -> bool:
    arrays = np.ndarray | torch.Tensor
    if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[1], arrays | None):
        return False
    x = given[0]
    parts = x.values() if isinstance(x, Mapping) else x if isinstance(x, tuple) else [x]
    return all(isinstance(part, arrays) for part in parts)


def _split(given: Any, format: InputFormat | None) -> Split:
    if _is_pair(given):
        return ArraySplit(*given, format=format)
    if isinstance(given, Split):
        return given
    if isinstance(given, Iterable):
        return LoaderSplit(given)
    raise TaskError(
        f"data: got {type(given).__name__}, accepted: a pair (x, y) of arrays or tensors, a loader, a Split"
    )


def split_rows(y: Array, shares: Sequence[float], *, seed: int) -> list[Array]:
    """Row numbers of what remains, then of each share; of each class alike where `y` holds classes.

    Raises:
        TaskError: a share is empty or nothing remains.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    if y.ndim == 1 and np.issubdtype(y.dtype, np.integer):
        # Stable sort by class, then deal like cards: any evenly spaced subset has every class in its share.
        order = order[np.argsort(y[order], kind="stable")]
    position = np.empty(len(y))
    position[order] = (np.arange(len(y)) * 0.6180339887498949) % 1.0
    ranks = np.argsort(position, kind="stable")
    ends = np.cumsum([round(share * len(y)) for share in shares]).astype(int)
    parts = np.split(ranks, ends)
    if any(len(part) == 0 for part in parts):
        raise TaskError(
            f"data: {len(y)} examples cannot be split into shares of {tuple(shares)} and a remainder"
        )
    return [np.sort(part) for part in (parts[-1], *parts[:-1])]
