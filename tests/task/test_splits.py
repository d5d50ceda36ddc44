"""Splits give the same batches under the same seed, and never write to what they were given."""

from __future__ import annotations

import pickle
from collections import UserDict
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from autoprune.errors import TaskError
from autoprune.task import ArraySplit, Batch, CropAndFlip, LoaderSplit, Split
from autoprune.tensors import concatenate


def images(count: int = 10) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (count, 6, 6), np.uint8), np.arange(count, dtype=np.uint8)


def joined(split: Split, batch_size: int, shuffle: int | None = None) -> Batch:
    batches = list(split.batches(batch_size, shuffle=shuffle))
    return Batch(torch.cat([b.inputs for b in batches]), torch.cat([b.targets for b in batches]))


def joined_inputs(batches: Iterator[Batch]) -> Any:
    return concatenate([batch.inputs for batch in batches])


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
        ("text", "yields str in the inputs, expected tensors"),
        ({"ids": torch.zeros(2), "names": ["a", "b"]}, r"yields str in the inputs\['names'\]\[0\]"),
        ((), "yields tuple, expected a pair"),
        ((torch.zeros(2), torch.zeros(3)), "2 inputs with 3 targets"),
    ],
)
def test_what_a_loader_cannot_yield_is_named(batch: object, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        next(LoaderSplit([batch]).batches(1))


IDS, MASK = torch.arange(8).reshape(4, 2), torch.ones(4, 2)


@pytest.mark.parametrize(
    "given",
    [
        {"ids": IDS, "mask": MASK, "labels": torch.arange(4)},
        {"ids": IDS.numpy(), "mask": MASK, "label": [0, 1, 2, 3]},
        ({"ids": IDS, "mask": MASK}, torch.arange(4)),
        UserDict(ids=IDS, mask=MASK, target=torch.arange(4)),
    ],
)
def test_a_dict_from_a_loader_is_keyword_arguments(given: object) -> None:
    first, second = LoaderSplit([given]).batches(3)
    assert type(first.inputs) is dict
    assert torch.equal(first.inputs["ids"], IDS[:3])
    assert torch.equal(second.inputs["mask"], MASK[3:])
    assert torch.cat([first.targets, second.targets]).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "given", [(IDS, MASK, torch.arange(4)), ((IDS, MASK), torch.arange(4)), [[IDS, MASK], torch.arange(4)]]
)
def test_several_tensors_from_a_loader_are_positional_arguments(given: object) -> None:
    (batch,) = LoaderSplit([given]).batches(4)
    assert isinstance(batch.inputs, tuple)
    assert torch.equal(batch.inputs[1], MASK)
    assert batch.targets.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("given", [IDS, [IDS], (IDS, None), {"ids": IDS}])
def test_a_loader_needs_no_targets(given: object) -> None:
    (batch,) = LoaderSplit([given]).batches(4)
    assert batch.targets.shape == (4, 0)


def test_targets_of_any_form_are_one_for_each_example() -> None:
    boxes = [{"boxes": torch.ones(count, 4)} for count in (1, 0, 2)]
    loader = [(torch.zeros(2, 3), boxes[:2]), (torch.zeros(1, 3), boxes[2:])]
    assert [len(batch.targets) for batch in LoaderSplit(loader).batches(2)] == [2, 1]
    (batch,) = LoaderSplit(loader).batches(3)
    assert [len(target["boxes"]) for target in batch.targets] == [1, 0, 2]


def test_sequences_of_unequal_length_are_padded() -> None:
    loader = [
        {"ids": torch.ones(2, length, dtype=torch.long), "labels": torch.ones(2, length, dtype=torch.long)}
        for length in (3, 1)
    ]
    (batch,) = LoaderSplit(loader).batches(4)
    assert batch.inputs["ids"][2].tolist() == [1, 0, 0]
    assert batch.targets[2].tolist() == [1, -100, -100]


class Stream(IterableDataset):
    """Numbers without a known length, and perhaps without an end; counts what was read."""

    def __init__(self, end: int | None) -> None:
        self.end, self.read = end, 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        for number in count() if self.end is None else range(self.end):
            self.read += 1
            yield torch.tensor([float(number)]), number


def test_the_length_of_a_stream_is_counted_when_it_is_asked_for() -> None:
    stream = Stream(10)
    split = LoaderSplit(DataLoader(stream, 4))
    next(split.batches(2))
    assert stream.read <= 4
    assert len(split) == 10
    assert joined(split, 3).targets.tolist() == list(range(10))


def test_a_stream_without_an_end_is_read_as_far_as_asked() -> None:
    stream = Stream(None)
    split = LoaderSplit(DataLoader(stream, 4), examples=6)
    assert len(split) == 6
    assert joined(split, 5).targets.tolist() == list(range(6))
    assert stream.read <= 8


@pytest.mark.parametrize(("drop_last", "expected"), [(False, 10), (True, 8)])
def test_a_loader_knows_its_length(drop_last: bool, expected: int) -> None:
    numbers = TensorDataset(torch.arange(20.0)[:, None], torch.arange(20))
    loader = DataLoader(numbers, 4, sampler=range(10), drop_last=drop_last)
    assert len(LoaderSplit(loader)) == expected == len(joined(LoaderSplit(loader), 3).targets)


def test_arrays_come_by_name_or_position() -> None:
    x, y = images()
    ids, mask = np.arange(20, dtype=np.int32).reshape(10, 2), np.ones((10, 2), np.uint8)
    named = ArraySplit({"ids": ids, "mask": mask, "pixels": x, "used": mask > 0}, y)
    batch = joined_inputs(named.batches(4, shuffle=1))
    assert batch["ids"].dtype == batch["mask"].dtype == torch.int64
    assert batch["used"].dtype == torch.bool
    assert batch["pixels"].shape == (10, 1, 6, 6)
    assert batch["pixels"].max() <= 1
    assert torch.equal(batch["ids"][:, 0] * 0 + 1, batch["mask"][:, 0])
    placed = next(ArraySplit((ids, mask), y).batches(3))
    assert [part.shape for part in placed.inputs] == [(3, 2), (3, 2)]


def test_arrays_without_targets_have_empty_ones() -> None:
    assert next(ArraySplit(np.zeros((3, 2)), None).batches(2)).targets.shape == (2, 0)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            {"ids": np.zeros((3, 2)), "mask": np.zeros((2, 2))},
            np.zeros(3),
            r"x\['mask'\] has 2 examples, expected 3",
        ),
        ((np.zeros(3), np.full(3, np.nan)), np.zeros(3), r"x\[1\] holds NaN or infinity"),
        ({"ids": np.zeros(3)}, np.zeros(2), "y has 2 examples, expected 3"),
        ({}, np.zeros(2), "x is empty"),
    ],
)
def test_the_array_that_does_not_fit_is_named(x: object, y: np.ndarray, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        ArraySplit(x, y)
