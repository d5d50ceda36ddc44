"""Where a small network's tensors lie in a large one's: attention, concatenation, kernels."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.references import resolve
from autoprune.structure import Observed
from autoprune.structure.overlap import places, put, taken

ViT = resolve("vit.py:ViT")


class Joined(nn.Module):
    """A layer reads two others, one behind the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, width), nn.Linear(3, width), nn.Linear(2 * width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.a(x).relu(), self.b(x).relu()], 1))


def found(small: nn.Module, large: nn.Module, example: torch.Tensor, name: str) -> torch.Tensor:
    """What of the large network's tensor the small one has."""
    own, other = (Observed(model.eval(), example).seen.axes[name] for model in (small, large))
    tensor = large.state_dict()[name]
    return taken(tensor, places(small.state_dict()[name].shape, tensor.shape, own, other))


def test_half_of_each_head_is_not_the_first_half_of_all() -> None:
    large, small = (ViT(size=8, depth=1, width=16, heads=2, head_dim=size) for size in (8, 4))
    query = "blocks.0.attention.query.weight"
    rows = large.state_dict()[query]
    assert torch.equal(found(small, large, torch.rand(1, 1, 8, 8), query), torch.cat([rows[:4], rows[8:12]]))


def test_one_of_two_heads_is_the_first() -> None:
    large, small = (ViT(size=8, depth=1, width=16, heads=heads, head_dim=8) for heads in (2, 1))
    query = "blocks.0.attention.query.weight"
    rows = large.state_dict()[query]
    assert torch.equal(found(small, large, torch.rand(1, 1, 8, 8), query), rows[:8])


def test_a_concatenation_keeps_the_first_of_each_part() -> None:
    large, small = Joined(6), Joined(2)
    columns = large.head.weight
    expected = torch.cat([columns[:, :2], columns[:, 6:8]], 1)
    assert torch.equal(found(small, large, torch.rand(1, 3), "head.weight"), expected)


def test_a_kernel_lies_in_the_middle_of_a_larger_one() -> None:
    whole = torch.arange(2 * 3 * 5 * 5.0).reshape(2, 3, 5, 5)
    where = places((1, 3, 3, 3), whole.shape, kernel_from=2)
    assert torch.equal(taken(whole, where), whole[:1, :, 1:4, 1:4])


def test_what_is_put_is_what_is_taken() -> None:
    large, small = Joined(6), Joined(2)
    own, other = (
        Observed(model.eval(), torch.rand(1, 3)).seen.axes["head.weight"] for model in (small, large)
    )
    where = places((2, 4), (2, 12), own, other)
    tensor, values = torch.zeros(2, 12), torch.rand(2, 4)
    put(tensor, where, values)
    assert torch.equal(taken(tensor, where), values)
    assert int((tensor != 0).sum()) == 8
