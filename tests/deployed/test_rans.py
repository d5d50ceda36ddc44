"""Range coding: exact, close to the entropy that Huffman codes cannot reach, and strict about what it reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.deployed import rans


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=4), st.integers(1, 255), st.integers(0, 9))
def test_streams_come_back(sizes: list[int], largest: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    streams = [(draw.random(size) ** 3 * largest).astype(np.uint8) for size in sizes]
    tables = [rans.unpack_table(rans.pack_table(rans.frequencies(stream))) for stream in streams]
    found = rans.decode(rans.encode(streams, tables), sizes, tables)
    assert all(np.array_equal(a, b) for a, b in zip(found, streams, strict=True))


def test_symbols_take_a_fraction_of_a_bit() -> None:
    stream = (np.random.default_rng(0).random(200_000) < 0.02).astype(np.uint8)
    share = rans.frequencies(stream)
    counted = rans.bytes_of(stream, share)
    assert len(rans.encode([stream], [share])) < 1.01 * counted < 200_000 / 8 * 0.15


@pytest.mark.parametrize("density", [1, 300, 40_000, 65_535])
def test_frequencies_of_a_mask_follow_from_its_density(density: int) -> None:
    shares = rans.mask_frequencies(density)
    assert shares.sum() == rans.TOTAL and shares.min() >= 1
    expected = (density / rans.TOTAL) ** 8
    assert shares[255] / rans.TOTAL == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("damage", [lambda t: t[:-2], lambda t: t[:3], lambda t: t + b"\0\0", lambda t: b""])
def test_a_text_of_another_length_is_refused(damage: object) -> None:
    stream = np.arange(200, dtype=np.uint8)
    table = rans.frequencies(stream)
    with pytest.raises((ValueError, IndexError)):
        rans.decode(damage(rans.encode([stream], [table])), [200], [table])  # type: ignore[operator]


def test_frequencies_that_do_not_add_up_are_refused() -> None:
    for table in (b"", b"\x05", b"\x80" * 900, rans.pack_table(rans.frequencies(np.zeros(3, np.uint8)))[:-1]):
        with pytest.raises(ValueError, match="do not add up"):
            rans.unpack_table(table)
