"""Bytes in as few bytes as a coder can: the streams that coded weights are made of.

    0 ... 8   packed at so many bits, the bits of the largest byte
    h         Huffman codes: Deflate without its matches
    r         range coding with the frequencies of this stream (see `rans`)
    m         the same for a mask, whose frequencies follow from how many of its bits are set

LZMA was tried and is left out: weights do not repeat themselves, and it was larger than Huffman codes throughout.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import autoprune.deployed.rans as rans

HUFFMAN, RANS, MASK = "h", "r", "m"
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Coder = int | str


class Stream(NamedTuple):
    """A stream as it is coded: `taken` is how many bytes that comes to, `content` what stands in its place.

    What range coding gives off is shared by all streams and stands behind them (`tail_of`).
    """

    coder: Coder
    content: bytes
    taken: float
    values: Bytes


def is_coder(coder: Any) -> bool:
    """Whether a stream can be coded so."""
    return coder in (HUFFMAN, RANS, MASK) or (type(coder) is int and 0 <= coder <= 8)


def smallest(values: Bytes, coders: str) -> Stream:
    """The stream coded by whichever takes the fewest bytes: packing, or one of `coders`."""
    bits = int(values.max(initial=0)).bit_length()
    packed = pack_bits(values, bits).tobytes()
    found = [Stream(bits, packed, len(packed), values)]
    if bits and HUFFMAN in coders:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
        text = deflate.compress(values.tobytes()) + deflate.flush()
        found.append(Stream(HUFFMAN, text, len(text), values))
    if bits and RANS in coders:
        shares = rans.frequencies(values)
        table = rans.pack_table(shares)
        found.append(Stream(RANS, table, len(table) + rans.bytes_of(values, shares), values))
    return min(found, key=lambda stream: stream.taken)


def smallest_mask(mask: np.ndarray[Any, np.dtype[np.bool_]], coders: str) -> Stream:
    """The same for true and false, eight to a byte."""
    values = np.packbits(mask, bitorder="little")
    packed = smallest(values, coders)
    if not mask.any() or RANS not in coders:
        return packed
    density = min(max(1, round(float(mask.mean()) * rans.TOTAL)), rans.TOTAL - 1)
    taken = 2 + rans.bytes_of(values, rans.mask_frequencies(density))
    return min(packed, Stream(MASK, density.to_bytes(2, "little"), taken, values), key=lambda s: s.taken)


def tail_of(streams: Sequence[Stream]) -> bytes:
    """What the range-coded ones among all streams share."""
    shared = [stream for stream in streams if stream.coder in (RANS, MASK)]
    tables = [_table(stream.coder, stream.content) for stream in shared]
    return rans.encode([stream.values for stream in shared], tables) if shared else b""


def decode(coded: Sequence[tuple[Coder, bytes, int]], tail: bytes) -> list[Bytes]:
    """The values of all streams.

    Args:
        coded: of each its coder, its content, and how many bytes it decodes to.
        tail: what `tail_of` gave.

    Raises:
        ValueError, zlib.error: they do not decode to that.
    """
    shared = {at: stream for at, stream in enumerate(coded) if stream[0] in (RANS, MASK) and stream[2]}
    found = [np.empty(0, np.uint8) if at in shared else _decoded(*stream) for at, stream in enumerate(coded)]
    if shared:
        tables = [_table(coder, content) for coder, content, _ in shared.values()]
        sizes = [count for _, _, count in shared.values()]
        for at, values in zip(shared, rans.decode(tail, sizes, tables), strict=True):
            found[at] = values
    elif tail:
        raise ValueError("there is something behind the last stream")
    return found


def _table(coder: Coder, content: bytes) -> rans.Numbers:
    if coder == RANS:
        return rans.unpack_table(content)
    return rans.mask_frequencies(int.from_bytes(content[:2], "little"))


def _decoded(coder: Coder, content: bytes, count: int) -> Bytes:
    if isinstance(coder, int):
        planes = np.frombuffer(content, np.uint8).reshape(coder, -(-count // 8))
        return unpack_bits(planes, count)
    text = zlib.decompressobj(-15).decompress(content, count + 1) if coder == HUFFMAN else b""
    if len(text) != count:
        raise ValueError(f"a stream does not have the {count} bytes that it should")
    return np.frombuffer(text, np.uint8)


def pack_bits(values: np.ndarray[Any, Any], bits: int) -> Bytes:
    """Values below 2^bits, of unsigned integers, as bit planes: uint8, shape (bits, ceil(values / 8))."""
    planes = ((values[None, :] >> np.arange(bits, dtype=values.dtype)[:, None]) & 1).astype(np.uint8)
    return np.packbits(planes, axis=1, bitorder="little")


def unpack_bits(planes: Bytes, count: int) -> np.ndarray[Any, Any]:
    """The values that `pack_bits` packed: uint8, or uint16 where they have more than eight bits."""
    dtype = np.dtype(np.uint8 if len(planes) <= 8 else np.uint16)
    bits = np.unpackbits(planes, axis=1, count=count, bitorder="little").astype(dtype)
    values: np.ndarray[Any, Any] = (bits << np.arange(len(planes), dtype=dtype)[:, None]).sum(0, dtype=dtype)
    return values
