"""The zeroed-channel check sees a right cut as right and wrong ones as wrong."""

from __future__ import annotations

import copy

import pytest
import torch
import zeroed
from torch import nn


@pytest.fixture
def dense() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 5)
    ).eval()
    zeroed.redraw(network)
    return network


def cut(dense: nn.Sequential, written: list[int], read: list[int]) -> nn.Sequential:
    """The first convolution reduced to the channels `written`, the second to the inputs `read`."""
    pruned = copy.deepcopy(dense)
    for layer, names in ((pruned[0], ("weight", "bias")), (pruned[1], ("weight", "bias"))):
        for name in names:
            setattr(layer, name, nn.Parameter(getattr(layer, name)[written]))
    pruned[1].running_mean, pruned[1].running_var = (
        pruned[1].running_mean[written],
        pruned[1].running_var[written],
    )
    pruned[3].weight = nn.Parameter(pruned[3].weight[:, read])
    return pruned


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_right_cut_is_the_zeroed_network(dense):
    found = zeroed.compare(dense, cut(dense, [0, 2, 5], [0, 2, 5]), IMAGE)
    assert found.apart < 1e-5
    assert found.moved > 0.01


def test_inputs_of_other_channels_are_found_out(dense):
    assert zeroed.compare(dense, cut(dense, [0, 2, 5], [0, 2, 6]), IMAGE).apart > zeroed.TOLERANCE


def test_inputs_in_another_order_are_found_out(dense):
    assert zeroed.compare(dense, cut(dense, [0, 2, 5], [2, 0, 5]), IMAGE).apart > zeroed.TOLERANCE


def test_other_values_are_named(dense):
    pruned = cut(dense, [0, 2, 5], [0, 2, 5])
    with torch.no_grad():
        pruned[3].weight.mul_(1.1)
    with pytest.raises(ValueError, match=r"3\.weight: .* values that the dense network lacks"):
        zeroed.compare(dense, pruned, IMAGE)


def test_fewer_outputs_are_named(dense):
    pruned = copy.deepcopy(dense)
    pruned[5].weight, pruned[5].bias = nn.Parameter(pruned[5].weight[:3]), nn.Parameter(pruned[5].bias[:3])
    with pytest.raises(ValueError, match="outputs have the shapes"):
        zeroed.compare(dense, pruned, IMAGE)


def test_a_norm_over_lost_channels_cannot_be_compared():
    dense = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8))
    pruned = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6))
    assert zeroed.is_comparable(dense, dense)
    assert not zeroed.is_comparable(dense, pruned)


def test_positions_of_large_tensors_are_found_along_each_axis():
    dense, kept = torch.randn(1280, 80, 1, 1), list(range(1, 80, 2))
    rows, columns, _, _ = zeroed.kept_positions(dense, dense[:, kept])
    assert rows.tolist() == list(range(1280))
    assert columns.tolist() == kept


def test_values_that_occur_twice_tell_nothing():
    dense = torch.tensor([1.0, 2.0, 2.0, 3.0])
    assert zeroed.kept_positions(dense, dense[[0, 3]])[0].tolist() == [0, 3]
    assert zeroed.kept_positions(dense, dense[[0, 1]]) is None
