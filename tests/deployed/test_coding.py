"""What is coded comes back to the bit, is near what it must take, and damaged bytes are refused."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.deployed.coding import Item, decode, encode
from autoprune.errors import ArtifactError

CODED = ("sparse", "huffman", "entropy")


def item(values: np.ndarray, name: str = "weight") -> Item:
    rows = np.ascontiguousarray(values).reshape(-1)
    matrix = rows.view(np.uint8).reshape(rows.size, rows.itemsize)
    return Item(name, str(rows.dtype), values.shape, matrix)


def sparse(share: float, size: int = 20_000, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    values = np.clip(np.abs(np.round(draw.normal(size=size) * 4)), 1, 14).astype(np.uint8)
    return np.where(draw.random(size) < share, 0, values).astype(np.uint8)


def entropy_bytes(values: np.ndarray) -> float:
    share = np.unique(values, return_counts=True)[1] / values.size
    return float(-(share * np.log2(share)).sum() * values.size / 8)


def same(one: list[Item], other: list[Item]) -> bool:
    return all(a[:3] == b[:3] and np.array_equal(a.values, b.values) for a, b in zip(one, other, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 700),
    st.floats(0, 1),
    st.sampled_from([np.uint8, np.float16, np.float32, np.int64]),
    st.sampled_from(CODED),
)
def test_any_values_come_back_to_the_bit(size: int, share: float, dtype: type, coding: str) -> None:
    draw = np.random.default_rng(size)
    values = np.where(draw.random(size) < share, 0, draw.normal(size=size) * 50).astype(dtype)
    items = [item(values), item(values[: size // 2], "half"), item(np.array(7, dtype), "scalar")]
    assert same(decode(encode(items, coding)), items)


@pytest.mark.parametrize("zeros", [254, 255, 256, 509, 510, 511, 3000])
def test_long_distances_between_values_come_back(zeros: int) -> None:
    values = np.zeros(4 * zeros, np.uint8)
    values[[zeros, 2 * zeros + 1]] = 5
    assert same(decode(encode([item(values)], "huffman")), [item(values)])


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(("coding", "above"), [("huffman", 1.09), ("entropy", 1.06)])
def test_coded_values_take_little_more_than_their_entropy(share: float, coding: str, above: float) -> None:
    values = sparse(share)
    assert len(encode([item(values)], coding)) < above * entropy_bytes(values) + 90


def test_each_coding_is_at_least_as_dense_as_the_one_before() -> None:
    sizes = [len(encode([item(sparse(0.8))], coding)) for coding in CODED]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] < 20_000 * (1 / 8 + 0.2 * 4 / 8) + 200


@pytest.mark.parametrize("coding", CODED)
def test_cut_or_changed_bytes_are_refused_or_decode_to_the_same_sizes(coding: str) -> None:
    content = encode([item(sparse(0.7, 300))], coding)
    draw = np.random.default_rng(0)
    for place in draw.integers(0, len(content), 150):
        with pytest.raises(ArtifactError):
            decode(content[:place])
        changed = bytearray(content)
        changed[place] ^= 1 << int(draw.integers(8))
        try:
            found = decode(bytes(changed))
        except ArtifactError:
            continue
        assert found[0].values.shape == (300, 1)


def forged(*entry: object) -> bytes:
    text = zlib.compress(json.dumps([entry]).encode())
    return b"\x01" + len(text).to_bytes(4, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x02\x00\x00\x00\x00",
        forged("bomb", "float32", [2**33], 4, "b", 0, [2**30], [[0, 0]] * 5),
        forged("bomb", "float32", [2**62, 2**62], 4, "d", 2**124, [], [[0, 0]] * 4),
        forged("negative", "uint8", [-4], 1, "d", -4, [], [[0, 0]]),
        forged("streams", "uint8", [4], 1, "d", 4, [], []),
        forged("coder", "uint8", [4], 1, "d", 4, [], [[9, 0]]),
        forged("kept", "uint8", [4], 1, "d", 3, [], [[0, 0]]),
        forged("form", "uint8", [4], 1, "z", 4, [], [[0, 0]]),
        forged("classes", "uint8", [4, 4], 1, "c", 4, [4, 0, 4, 5], [[0, 0]] * 7),
        forged("short"),
        forged(1, 2, 3, 4, 5, 6, 7, 8),
        b"\x01\x04\x00\x00\x00{}{}",
    ],
)
def test_forged_content_is_refused_before_memory_is_taken(content: bytes) -> None:
    with pytest.raises(ArtifactError, match="coded weights"):
        decode(content)


def test_a_small_text_that_inflates_to_a_huge_index_is_refused() -> None:
    text = zlib.compress(b" " * (40 * 2**20))
    with pytest.raises(ArtifactError, match="too large"):
        decode(b"\x01" + len(text).to_bytes(4, "little") + text)


def test_positions_that_cluster_in_rows_and_columns_take_less_by_entropy_coding() -> None:
    draw = np.random.default_rng(0)
    density = np.outer(draw.random(120) ** 3, draw.random(200) ** 3)
    values = (draw.random((120, 200)) < density).astype(np.uint8)
    items = [item(values)]
    assert same(decode(encode(items, "entropy")), items)
    assert len(encode(items, "entropy")) < 0.93 * len(encode(items, "huffman"))
