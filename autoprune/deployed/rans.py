"""Range coding of bytes with fractions of a bit: what Huffman codes, a bit at least for each symbol, cannot do.

Asymmetric numeral systems (Duda, "Asymmetric numeral systems: entropy coding combining speed of Huffman coding
with compression rate of arithmetic coding", 2013, https://arxiv.org/abs/1311.2540), in the variant that moves 16
bits at a time, with many states side by side so that NumPy does the work: one step codes a symbol in each lane.
All streams share the lanes; each has frequencies of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Frequencies add up to 2^PRECISION; states stay in [2^16, 2^32).
PRECISION, WORD = 16, 16
TOTAL, LOWEST = 1 << PRECISION, 1 << WORD
# A lane costs two to four bytes, a step some 30 µs: few steps where they are worth half a per cent, never very many.
STEPS, MOST_STEPS, BYTES_PER_LANE, MOST_LANES = 2048, 32768, 600, 65535

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]


def frequencies(stream: Bytes) -> Numbers:
    """How often each of the 256 bytes is in a stream that is not empty, out of `TOTAL`; at least once if at all."""
    counts = np.bincount(stream, minlength=256).astype(np.int64)
    is_there = counts > 0
    shares: Numbers = is_there + counts * (TOTAL - is_there.sum()) // counts.sum()
    shares[np.argmax(shares)] += TOTAL - shares.sum()
    return shares


def bytes_of(stream: Bytes, shares: Numbers) -> float:
    """How many bytes a stream takes with these frequencies, its share of the lanes included."""
    counts = np.bincount(stream, minlength=256)
    seen = counts > 0
    return float(-(counts[seen] * np.log2(shares[seen] / TOTAL)).sum()) / 8 * (1 + 3 / BYTES_PER_LANE)


def mask_frequencies(density: int) -> Numbers:
    """Those of eight independent bits, each set `density` times out of `TOTAL` (1 to `TOTAL` - 1).

    Raises:
        ValueError: no such density.
    """
    if not 0 < density < TOTAL:
        raise ValueError(f"a density of {density} is none")
    ones = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.int64)
    share = density / TOTAL
    shares: Numbers = 1 + np.floor(share**ones * (1 - share) ** (8 - ones) * (TOTAL - 256)).astype(np.int64)
    shares[np.argmax(shares)] += TOTAL - shares.sum()
    return shares


def pack_table(shares: Numbers) -> bytes:
    """Frequencies up to the largest byte that occurs, each in one to three bytes, seven bits in each."""
    text = bytearray()
    for share in shares[: int(np.flatnonzero(shares)[-1]) + 1].tolist():
        while share >= 128:
            text.append(128 | (share & 127))
            share >>= 7
        text.append(share)
    return bytes(text)


def unpack_table(text: bytes) -> Numbers:
    """The frequencies that `pack_table` packed.

    Raises:
        ValueError: they do not add up.
    """
    shares, share, shift = [], 0, 0
    for byte in text:
        share |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            shares.append(share)
            share = shift = 0
    if len(text) > 3 * 256 or len(shares) > 256 or sum(shares) != TOTAL:
        raise ValueError("frequencies of a stream do not add up")
    return np.array([*shares, *[0] * (256 - len(shares))], dtype=np.int64)


def encode(streams: Sequence[Bytes], tables: Sequence[Numbers]) -> bytes:
    """All streams, none of them empty, as one text: how many lanes, their states, the words that they gave off."""
    taken = sum(bytes_of(stream, table) for stream, table in zip(streams, tables, strict=True))
    symbols, owners = _laid_out(streams, _lanes(sum(map(len, streams)), taken))
    shares, starts = np.stack(tables), _starts(tables)
    state = np.full(symbols.shape[1], LOWEST, np.int64)
    words: list[Numbers] = []
    for row, owner in zip(symbols[::-1], owners[::-1], strict=True):
        share, start = shares[owner, row], starts[owner, row]
        is_full = state >= share << (32 - PRECISION)
        words.append(state[is_full] & (LOWEST - 1))
        state = np.where(is_full, state >> WORD, state)
        state = (state // share << PRECISION) + state % share + start
    told = np.concatenate(words[::-1]).astype("<u2")
    return len(state).to_bytes(2, "little") + state.astype("<u4").tobytes() + told.tobytes()


def decode(content: bytes, sizes: Sequence[int], tables: Sequence[Numbers]) -> list[Bytes]:
    """The streams of these sizes that `encode` was given.

    Raises:
        ValueError: the text is not one of theirs.
    """
    lanes = int.from_bytes(content[:2], "little")
    if not lanes or len(content) < 2 + 4 * lanes or len(content) % 2:
        raise ValueError("a coded stream is cut")
    owners = _rows(np.repeat(np.arange(len(sizes)), sizes), lanes)
    shares, starts = np.stack(tables), _starts(tables)
    symbol_at = np.stack([np.repeat(np.arange(256, dtype=np.uint8), table) for table in tables])
    state = np.frombuffer(content, "<u4", lanes, 2).astype(np.int64)
    words, place = np.frombuffer(content, "<u2", offset=2 + 4 * lanes).astype(np.int64), 0
    symbols = np.empty(owners.shape, np.uint8)
    for row, owner in enumerate(owners):
        slot = state & (TOTAL - 1)
        found = symbols[row] = symbol_at[owner, slot]
        state = shares[owner, found] * (state >> PRECISION) + slot - starts[owner, found]
        (is_low,) = np.nonzero(state < LOWEST)
        state[is_low] = (state[is_low] << WORD) | words[place : place + len(is_low)]
        place += len(is_low)
    if place != len(words) or (state != LOWEST).any():
        raise ValueError("a coded stream does not end where it should")
    return np.split(symbols.reshape(-1)[: sum(sizes)], np.cumsum(sizes)[:-1])


def _lanes(symbols: int, taken: float) -> int:
    lanes = max(symbols // MOST_STEPS, min(symbols // STEPS, int(taken / BYTES_PER_LANE)), 1)
    return min(lanes, MOST_LANES)


def _laid_out(streams: Sequence[Bytes], lanes: int) -> tuple[Bytes, Numbers]:
    """Symbols and the stream of each, one row a step; the last row is filled up with what the last stream holds."""
    sizes = [len(stream) for stream in streams]
    owners = _rows(np.repeat(np.arange(len(sizes)), sizes), lanes)
    symbols = np.full(owners.size, streams[-1][-1], np.uint8)
    symbols[: sum(sizes)] = np.concatenate(list(streams))
    return symbols.reshape(owners.shape), owners


def _rows(owners: Numbers, lanes: int) -> Numbers:
    filled = np.full(-(-len(owners) // lanes) * lanes, owners[-1])
    filled[: len(owners)] = owners
    return filled.reshape(-1, lanes)


def _starts(tables: Sequence[Numbers]) -> Numbers:
    starts: Numbers = np.cumsum(np.stack(tables), axis=1) - np.stack(tables)
    return starts
