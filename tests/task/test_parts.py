"""Train, validation and test from whatever there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoprune.errors import TaskError
from autoprune.task import ArraySplit, LoaderSplit, make_data, split_rows


def classes(count: int = 100) -> tuple[np.ndarray, np.ndarray]:
    y = np.random.default_rng(1).integers(0, 4, count)
    return np.arange(count, dtype=np.float32)[:, None], y


def test_arrays_are_split_without_overlap_and_by_the_seed() -> None:
    data, same, other = (make_data(classes(), seed=seed) for seed in (0, 0, 1))
    rows = [set(split.rows) for split in (data.train, data.val, data.test)]
    assert [len(r) for r in rows] == [60, 20, 20]
    assert set.union(*rows) == set(range(100))
    assert np.array_equal(data.val.rows, same.val.rows)
    assert not np.array_equal(data.val.rows, other.val.rows)


def test_every_split_has_each_class_in_its_share() -> None:
    y = np.repeat(np.arange(10), 50)
    for rows in split_rows(y, (0.2, 0.3), seed=3):
        counts = np.bincount(y[rows], minlength=10)
        assert counts.max() - counts.min() <= 3


def test_real_targets_are_split_at_random() -> None:
    train, val = split_rows(np.random.default_rng(0).normal(size=50), (0.2,), seed=0)
    assert (len(train), len(val)) == (40, 10)
    assert not set(train) & set(val)


def test_splits_share_one_array() -> None:
    x, y = classes()
    data = make_data((x, y))
    assert data.train.x is data.val.x is data.test.x is x


def test_a_given_test_set_is_kept_and_only_validation_set_aside() -> None:
    data = make_data(classes(), test=classes(7), shares=(0.1, 0.0))
    assert [len(split) for split in (data.train, data.val, data.test)] == [90, 10, 7]


def test_pairs_tensors_and_loaders_go_together() -> None:
    batches = [(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long))]
    data = make_data(batches, (torch.zeros(3, 1), torch.zeros(3, dtype=torch.long)), ArraySplit(*classes(4)))
    assert isinstance(data.train, LoaderSplit)
    assert [len(split) for split in (data.train, data.val, data.test)] == [2, 3, 4]


def test_a_loader_cannot_be_split() -> None:
    with pytest.raises(TaskError, match=r"no val and no test split given; only arrays can be split"):
        make_data([(torch.zeros(2, 1), torch.zeros(2))])


def test_anything_else_is_refused() -> None:
    with pytest.raises(TaskError, match="data: got int"):
        make_data(classes(), val=3, test=classes())


def test_too_few_examples_cannot_be_split() -> None:
    with pytest.raises(TaskError, match="data: 2 examples cannot be split"):
        make_data(classes(2))
