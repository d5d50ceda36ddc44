"""Sparse and entropy coding of what a model stores: bit-exact, and never larger than it has to be.

A tensor is a matrix of bytes here, one row for each value. It is written in whichever form is the smallest:

    d   all values
    b   a bitmap of those that are not zero, and these
    g   the zeros between them instead of the bitmap (as in Han et al., "Deep compression", 2016,
        https://arxiv.org/abs/1510.00149)
    c   the bitmap, row by column in classes of like density, each class coded by its own (`entropy` only): what
        training leaves of a layer is not spread evenly over its inputs and outputs

Each form is made of streams of bytes, one for each byte of a value (exponents compress, mantissas do not), and
each stream is again the smallest of what the coding allows (see `streams`).

The result describes itself: nothing but the bytes is needed to decode it, every size is checked before anything
is unpacked, and bytes that ask for far more than they hold are refused.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import autoprune.deployed.streams as streams
from autoprune.deployed.streams import HUFFMAN, MASK, RANS, Bytes, Coder, Stream
from autoprune.errors import ArtifactError

CODINGS = ("none", "sparse", "huffman", "entropy")
VERSION = 1
DENSE, BITMAP, GAPS, CLASSES = "d", "b", "g", "c"
# A distance of 255 zeros or more is written as that many 255s and the rest.
SKIP = 255
# Into how many classes rows and columns are sorted; the best is taken.
CLASS_COUNTS = (2, 4, 8)
LARGEST_INDEX = 16 * 2**20
# How much more than its own size coded content may decode to: no network that works comes near.
MOST_EXPANSION, FREE_BYTES = 4096, 64 * 2**20

Mask = np.ndarray[Any, np.dtype[np.bool_]]


class Item(NamedTuple):
    """A tensor to be stored.

    Attributes:
        name, dtype, shape: plain data for whoever decodes it.
        values: uint8, shape (values, bytes of a value), row-major over `shape`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    values: Bytes


class _Form(NamedTuple):
    """A tensor as it is written.

    Attributes:
        form: see the module.
        kept: how many values are written.
        sizes: of what says where they belong: bytes of bitmap or distances; rows, then columns in each class.
        parts: the streams, first of places and then of values.
    """

    form: str
    kept: int
    sizes: list[int]
    parts: list[Stream]

    @property
    def taken(self) -> float:
        return sum(part.taken for part in self.parts)


@dataclass(frozen=True)
class _Entry:
    """What the index says of a tensor; `coded` is the coder and length of each stream."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    width: int
    form: str
    kept: int
    sizes: tuple[int, ...]
    coded: tuple[tuple[Coder, int], ...]

    @property
    def count(self) -> int:
        """How many values the tensor has."""
        return math.prod(self.shape)

    @property
    def lengths(self) -> list[int]:
        """How many bytes each stream decodes to."""
        values = [self.kept] * self.width
        if self.form != CLASSES:
            return [*self.sizes, *values]
        rows, columns = self.sizes[: len(self.sizes) // 2], self.sizes[len(self.sizes) // 2 :]
        return [sum(rows), sum(columns), *(-(-r * c // 8) for r in rows for c in columns), *values]


def encode(items: Sequence[Item], coding: str) -> bytes:
    """All tensors in one text of bytes.

    Args:
        items: the tensors, each name once.
        coding: `sparse` (positions of zeros, nothing else), `huffman` or `entropy`.
    """
    coders = {"sparse": ("",), "huffman": (HUFFMAN,), "entropy": (HUFFMAN, HUFFMAN + RANS + MASK)}[coding]
    return min((_encoded(items, allowed) for allowed in coders), key=len)


def _encoded(items: Sequence[Item], coders: str) -> bytes:
    index: list[Any] = []
    parts: list[Stream] = []
    for item in items:
        form, kept, sizes, own = _smallest_form(item, coders)
        coded = [[stream.coder, len(stream.content)] for stream in own]
        width = item.values.shape[1]
        index.append([item.name, item.dtype, list(item.shape), width, form, kept, sizes, coded])
        parts.extend(own)
    text = zlib.compress(json.dumps(index, separators=(",", ":")).encode(), 9)
    body = (stream.content for stream in parts)
    return b"".join([bytes([VERSION]), len(text).to_bytes(4, "little"), text, *body, streams.tail_of(parts)])


def decode(content: bytes) -> list[Item]:
    """The tensors that `encode` was given.

    Raises:
        ArtifactError: the content was cut, changed, or asks for more memory than it can be worth.
    """
    try:
        index, start = _read_index(content)
        _check_sizes(index, len(content), start)
        coded: list[tuple[Coder, bytes, int]] = []
        for entry in index:
            for (coder, length), count in zip(entry.coded, entry.lengths, strict=True):
                coded.append((coder, content[start : start + length], count))
                start += length
        decoded = iter(streams.decode(coded, content[start:]))
        found = [(entry, [next(decoded) for _ in entry.lengths]) for entry in index]
        return [Item(entry.name, entry.dtype, entry.shape, _values(entry, own)) for entry, own in found]
    except (ValueError, TypeError, IndexError, OverflowError, zlib.error) as error:
        raise ArtifactError(f"coded weights cannot be read: {error}") from None


def is_bounded(decoded: int, stored: int) -> bool:
    """Whether content of `stored` bytes may decode to so many."""
    return decoded <= FREE_BYTES + MOST_EXPANSION * stored


# -- forms -------------------------------------------------------------------------------------------------------


def _smallest_form(item: Item, coders: str) -> _Form:
    values = item.values
    is_kept: Mask = np.asarray(values.any(axis=1))
    kept = values[is_kept]
    found = [_Form(DENSE, len(values), [], [streams.smallest(plane, coders) for plane in values.T])]
    if len(kept) < len(values):
        # Single bytes that are not zero start at one.
        planes = (kept - 1).T if kept.shape[1] == 1 else kept.T
        rest = [streams.smallest(plane, coders) for plane in planes]
        bitmap = streams.smallest_mask(is_kept, coders)
        gaps = streams.smallest(_gaps(is_kept), coders)
        found.append(_Form(BITMAP, len(kept), [len(bitmap.values)], [bitmap, *rest]))
        found.append(_Form(GAPS, len(kept), [len(gaps.values)], [gaps, *rest]))
        if MASK in coders and len(item.shape) > 1 and len(kept):
            table = is_kept.reshape(item.shape[0], -1)
            for count in CLASS_COUNTS:
                sizes, parts = _in_classes(table, count, coders)
                found.append(_Form(CLASSES, len(kept), sizes, [*parts, *rest]))
    return min(found, key=lambda form: form.taken)


def _gaps(is_kept: Mask) -> Bytes:
    """The zeros before each value that is kept, in bytes; those after the last are left out."""
    zeros = np.diff(np.flatnonzero(is_kept), prepend=-1) - 1
    ends = np.cumsum(zeros // SKIP + 1) - 1
    gaps = np.full(int(ends[-1]) + 1 if len(ends) else 0, SKIP, np.uint8)
    gaps[ends] = zeros % SKIP
    return gaps


def _in_classes(table: Mask, count: int, coders: str) -> tuple[list[int], list[Stream]]:
    """Rows and columns in each of `count` classes, and the streams: class of each row and column, and masks."""
    rows, columns = (_classes(table.sum(axis), count) for axis in (1, 0))
    masks = [
        streams.smallest_mask(table[np.ix_(r, c)].ravel(), coders) for r, c in _blocks(rows, columns, count)
    ]
    sizes = [*np.bincount(rows, minlength=count).tolist(), *np.bincount(columns, minlength=count).tolist()]
    return sizes, [streams.smallest(rows, coders), streams.smallest(columns, coders), *masks]


def _classes(kept: np.ndarray[Any, Any], count: int) -> Bytes:
    """The class of each row by how many values it keeps, equally many in each."""
    edges = np.unique(np.quantile(kept, np.linspace(0, 1, count + 1)[1:-1]))
    classes: Bytes = np.digitize(kept, edges).astype(np.uint8)
    return classes


def _blocks(rows: Bytes, columns: Bytes, count: int) -> Iterator[tuple[Any, Any]]:
    """Rows and columns of each pair of classes."""
    for r in range(count):
        for c in range(count):
            yield np.flatnonzero(rows == r), np.flatnonzero(columns == c)


def _values(entry: _Entry, parts: list[Bytes]) -> Bytes:
    """The values of a tensor from its decoded streams."""
    kept = np.stack(parts[-entry.width :], axis=1)
    if entry.form == DENSE:
        return kept
    values = np.zeros((entry.count, entry.width), np.uint8)
    values[_places(entry, parts)] = kept + 1 if entry.width == 1 else kept
    return values


def _places(entry: _Entry, parts: list[Bytes]) -> np.ndarray[Any, Any]:
    """Where the values that were kept belong."""
    if entry.form == BITMAP:
        places = np.flatnonzero(_unpacked(parts[0], entry.count))
    elif entry.form == GAPS:
        steps = np.where(parts[0] == SKIP, SKIP, parts[0].astype(np.int64) + 1)
        places = (np.cumsum(steps) - 1)[parts[0] != SKIP]
    else:
        rows, columns, *masks = parts[: -entry.width]
        table = np.zeros((len(rows), len(columns)), np.bool_)
        for mask, (r, c) in zip(masks, _blocks(rows, columns, len(entry.sizes) // 2), strict=True):
            table[np.ix_(r, c)] = _unpacked(mask, len(r) * len(c)).reshape(len(r), len(c))
        places = np.flatnonzero(table)
    if len(places) != entry.kept or (len(places) and places[-1] >= entry.count):
        raise ValueError(f"{entry.name!r} keeps other values than its index says")
    return places


def _unpacked(mask: Bytes, count: int) -> Mask:
    return np.unpackbits(mask, count=count, bitorder="little").astype(np.bool_)


# -- the index ---------------------------------------------------------------------------------------------------


def _read_index(content: bytes) -> tuple[list[_Entry], int]:
    """The entries, and where the streams start."""
    if len(content) < 5 or content[0] != VERSION:
        raise ValueError(f"expected coded weights of version {VERSION}")
    start = 5 + int.from_bytes(content[1:5], "little")
    inflate = zlib.decompressobj()
    text = inflate.decompress(content[5:start], LARGEST_INDEX)
    if not inflate.eof:
        raise ValueError("the index is cut, or too large")
    entries = [_entry(*fields) for fields in json.loads(text)]
    if len({entry.name for entry in entries}) < len(entries):
        raise ValueError("a name stands in the index twice")
    return entries, start


def _entry(
    name: Any, dtype: Any, shape: Any, width: Any, form: Any, kept: Any, sizes: Any, coded: Any
) -> _Entry:
    numbers = [width, kept, *shape, *sizes, *(length for _, length in coded)]
    if not all(isinstance(text, str) for text in (name, dtype, form)):
        raise ValueError("the index names no tensor")
    if not all(type(number) is int and number >= 0 for number in numbers) or not 1 <= width <= 16:
        raise ValueError(f"the index gives {name!r} no size")
    if not all(streams.is_coder(coder) for coder, _ in coded):
        raise ValueError(f"the index gives {name!r} a coder that is not known")
    coders = tuple((coder, length) for coder, length in coded)
    return _Entry(name, dtype, tuple(shape), width, form, kept, tuple(sizes), coders)


def _check_sizes(index: Sequence[_Entry], stored: int, start: int) -> None:
    """Every length fits, before a byte is decoded."""
    if start + sum(length for entry in index for _, length in entry.coded) > stored:
        raise ValueError("it is cut")
    decoded = sum(entry.count * entry.width + sum(entry.lengths) for entry in index)
    if not is_bounded(decoded, stored):
        raise ValueError(f"{stored} bytes would decode to {decoded}")
    for entry in index:
        if entry.kept > entry.count or not _is_consistent(entry):
            raise ValueError(f"the index gives {entry.name!r} sizes that do not fit each other")


def _is_consistent(entry: _Entry) -> bool:
    """Whether what says where values belong has the size that the tensor's shape asks for."""
    if entry.form == DENSE:
        return not entry.sizes and entry.kept == entry.count
    if entry.form == BITMAP:
        return entry.sizes == (-(-entry.count // 8),)
    if entry.form == GAPS:
        return len(entry.sizes) == 1
    half = len(entry.sizes) // 2
    rows, columns = sum(entry.sizes[:half]), sum(entry.sizes[half:])
    is_table = len(entry.shape) > 1 and half in CLASS_COUNTS and len(entry.sizes) == 2 * half
    return entry.form == CLASSES and is_table and rows == entry.shape[0] and rows * columns == entry.count
