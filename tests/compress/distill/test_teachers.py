"""What a teacher keeps of what it said."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.compress.distill.teachers import IN_VAIN, Said, Teacher


class Counting(nn.Module):
    """Counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.passes = nn.Linear(4, 3), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        said: torch.Tensor = self.layer(x)
        return said


def test_what_was_asked_before_is_answered_without_a_pass_to_the_bit() -> None:
    network = Counting()
    teacher, batches = Teacher(network), [torch.randn(8, 4) for _ in range(3)]
    first = [teacher(batch)[0] for batch in batches]
    again = [teacher(batch.clone())[0] for batch in batches]
    assert network.passes == 3
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    teacher(batches[0] + 1e-6)
    teacher(batches[0].double().float()[:4])
    assert network.passes == 5


def test_features_are_always_asked_for_anew() -> None:
    network = Counting()
    teacher, batch = Teacher(network), torch.randn(8, 4)
    assert all(set(teacher(batch, ["layer"])[1]) == {"layer"} for _ in range(2))
    assert network.passes == 2


def test_named_inputs_are_told_apart_by_all_their_tensors() -> None:
    said, mask = Said(), torch.ones(2, 4)
    keys = [said.key({"x": torch.zeros(2, 4), "mask": mask * k}) for k in (0, 1, 1)]
    assert keys[0] != keys[1] == keys[2] and None not in keys


def test_only_what_there_is_room_for_is_kept_and_the_first_stay() -> None:
    answer, questions = torch.zeros(10), [torch.full((2,), float(i)) for i in range(5)]
    said = Said(most=100)  # two answers
    for question in questions:
        said.keep(said.key(question), answer)
    assert [said.get(said.key(question)) is not None for question in questions] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_it_is_given_up_where_nobody_asks_twice() -> None:
    said = Said(most=100)
    for number in range(2 * IN_VAIN + 3):
        key = said.key(torch.tensor([float(number)]))
        said.get(key)
        said.keep(key, torch.zeros(10))
    assert said.key(torch.tensor([0.0])) is None
