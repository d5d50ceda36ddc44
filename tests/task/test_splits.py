"""Splits give the same batches under the same seed, and never write to what they were given."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from autoprune.errors import TaskError
from autoprune.task import ArraySplit, Batch, CropAndFlip, LoaderSplit, Split


def images(count: int = 10) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (count, 6, 6), np.uint8), np.arange(count, dtype=np.uint8)


def joined(split: Split, batch_size: int, shuffle: int | None = None) -> Batch:
    batches = list(split.batches(batch_size, shuffle=shuffle))
    return Batch(torch.cat([b.inputs for b in batches]), torch.cat([b.targets for b in batches]))


def test_batches_come_in_order_with_a_smaller_last_one() -> None:
    split = ArraySplit(*images())
    assert [len(batch.targets) for batch in split.batches(4)] == [4, 4, 2]
    assert joined(split, 4).targets.tolist() == list(range(10))


def test_a_seed_shuffles_the_same_way_every_time() -> None:
    split = ArraySplit(*images())
    one, same, other = (joined(split, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(one.inputs, same.inputs)
    assert one.targets.tolist() != other.targets.tolist()
    assert sorted(one.targets.tolist()) == list(range(10))


def test_inputs_stay_with_their_targets() -> None:
    x, y = images()
    batch = joined(ArraySplit(x, y), 3, shuffle=4)
    assert np.array_equal((batch.inputs[:, 0] * 255).round().numpy(), x[batch.targets.numpy()])


def test_only_shuffled_batches_are_augmented() -> None:
    split = ArraySplit(*images(), augment=CropAndFlip(padding=2))
    plain = ArraySplit(*images())
    assert torch.equal(joined(split, 10).inputs, joined(plain, 10).inputs)
    assert not torch.equal(joined(split, 10, 1).inputs, joined(plain, 10, 1).inputs)


def test_rows_make_up_the_split() -> None:
    x, y = images()
    split = ArraySplit(x, y, rows=np.array([7, 2]))
    assert len(split) == 2
    assert joined(split, 5).targets.tolist() == [7, 2]
    assert split.targets.tolist() == [7, 2]
    assert split.x is x


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_writing_to_a_batch_leaves_shared_memory_alone(dtype: type) -> None:
    x = np.ones((4, 3), dtype)
    y = np.zeros(4, np.int64)
    x.flags.writeable = y.flags.writeable = False
    for shuffle in (None, 0):
        for batch in ArraySplit(x, y).batches(2, shuffle=shuffle):
            batch.inputs.fill_(-1)
            batch.targets.fill_(9)
    assert x.min() == 1
    assert y.max() == 0


def test_tensors_are_taken_as_arrays() -> None:
    split = ArraySplit(torch.ones(3, 2), torch.tensor([0.5, 1.0, 2.0]))  # type: ignore[arg-type]
    assert joined(split, 3).targets.dtype == torch.float32


def test_an_array_split_survives_pickling() -> None:
    split = ArraySplit(*images(), augment=CropAndFlip())
    again = pickle.loads(pickle.dumps(split))
    assert torch.equal(joined(again, 4, 3).inputs, joined(split, 4, 3).inputs)


def test_lengths_must_agree() -> None:
    with pytest.raises(TaskError, match="x has 3 examples and y has 2"):
        ArraySplit(np.zeros((3, 2)), np.zeros(2))


def test_nan_is_found_and_located() -> None:
    x = np.zeros((5, 2))
    x[3, 1] = np.nan
    with pytest.raises(TaskError, match="NaN or infinity, first in example 3"):
        ArraySplit(x, np.zeros(5))


def test_text_is_no_array_of_numbers() -> None:
    with pytest.raises(TaskError, match="x: got <U1 of shape"):
        ArraySplit(np.array(["a", "b"]), np.zeros(2))


def loader(shuffle: bool = False) -> DataLoader:
    return DataLoader(TensorDataset(torch.arange(10.0)[:, None], torch.arange(10)), 4, shuffle=shuffle)


def test_a_loader_is_cut_and_joined_to_the_batch_size() -> None:
    for size, expected in ((3, [3, 3, 3, 1]), (7, [7, 3]), (100, [10])):
        batches = list(LoaderSplit(loader()).batches(size))
        assert [len(batch.targets) for batch in batches] == expected
        assert torch.cat([batch.targets for batch in batches]).tolist() == list(range(10))


def test_a_shuffling_loader_repeats_its_order_under_a_seed() -> None:
    split = LoaderSplit(loader(shuffle=True))
    one, same, other = (joined(split, 4, seed).targets.tolist() for seed in (1, 1, 2))
    assert one == same != other


def test_a_list_of_batches_is_a_loader() -> None:
    split = LoaderSplit([(torch.zeros(2, 3), torch.zeros(2)), (torch.zeros(1, 3), torch.zeros(1))])
    assert len(split) == 3


def test_a_loader_that_can_be_read_only_once_is_refused() -> None:
    with pytest.raises(TaskError, match="can be read only once"):
        LoaderSplit(iter([(torch.zeros(2, 3), torch.zeros(2))]))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(2), "yields Tensor, expected a pair"),
        ((torch.zeros(2), torch.zeros(3)), "2 inputs with 3 targets"),
    ],
)
def test_a_loader_must_yield_pairs(batch: object, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        LoaderSplit([batch])
