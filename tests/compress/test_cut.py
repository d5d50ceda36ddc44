"""Cutting channels equals zeroing them, and what cannot be cut is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from prunable_networks import SOUND, Dense, Flattened, Grouped, Padded, Plain, Separable, example, make
from torch import nn

from autoprune.compress.cut import check_cut, cut, widths
from autoprune.compress.groups import trace_groups
from autoprune.errors import ModelError

torch.set_num_threads(1)


def half_of_everything(network):
    groups = [group for group in trace_groups(network, example()) if not group.reason]
    return {group.name: group.channels_of(range(0, group.units, 2)) for group in groups}


@pytest.mark.parametrize("kind", SOUND, ids=lambda kind: kind.__name__)
def test_all_groups_cut_together_equal_the_same_channels_zeroed(kind):
    network = make(kind)
    assert check_cut(network, example(), half_of_everything(network)) == ""


def test_cut_channels_are_gone_and_the_rest_is_unchanged():
    network, whole = make(Plain), make(Plain)
    cut(network, example(), {"one.0": [0, 3], "two.0": [11]})
    assert widths(network) == {"one.0": 6, "two.0": 11, "linear": 5}
    kept = [1, 2, 4, 5, 6, 7]
    assert torch.equal(network.two[0].weight, whole.two[0].weight[:11, kept])
    assert torch.equal(network.one[1].running_mean, whole.one[1].running_mean[kept])


def test_by_hand_the_outputs_are_those_of_a_network_with_silenced_filters():
    network, silenced = make(Flattened), make(Flattened)
    with torch.no_grad():
        silenced.conv[1].weight[[1, 4]] = 0.0
        silenced.conv[1].bias[[1, 4]] = 0.0
    cut(network, example(), {"conv.0": [1, 4]})
    assert torch.allclose(network(example()), silenced(example()), atol=1e-6)


def test_a_flattened_channel_takes_all_its_columns_along():
    network, whole = make(Flattened), make(Flattened)
    cut(network, example(), {"conv.0": [2]})
    kept = [column for column in range(96) if column // 16 != 2]
    assert torch.equal(network.hidden.weight, whole.hidden.weight[:, kept])


def test_concatenated_channels_move_up():
    network, whole = make(Dense), make(Dense)
    cut(network, example(), {"conv1": [0], "stem": [7]})
    kept = [i for i in range(16) if i not in (7, 8)]
    assert torch.equal(network.linear.weight, whole.linear.weight[:, kept])


def test_depthwise_layers_shrink_with_what_they_read():
    network = make(Separable)
    cut(network, example(), {"stem.0": [0, 1, 2]})
    depthwise = network.depthwise[0]
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (5, 5, 5)


def test_nothing_to_cut_changes_nothing():
    network = make(Plain)
    before = network.one[0].weight
    cut(network, example(), {"one.0": []})
    assert network.one[0].weight is before
    assert check_cut(network, example(), {}) == ""


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({"tow.0": [0]}, "no layer 'tow.0' to cut; it has one.0, two.0, linear"),
        ({"one.0": [8]}, r"one.0: channels go from 0 to 7, got \[8\]"),
        ({"one.0": range(8)}, "cannot cut 8 channels of group 'one.0': nothing would be left of one.0"),
    ],
)
def test_an_impossible_cut_is_refused(removed, message):
    with pytest.raises(ModelError, match=message):
        cut(make(Plain), example(), removed)


def test_an_uneven_cut_of_a_grouped_convolution_is_refused():
    with pytest.raises(ModelError, match=r"the groups of grouped\.0 .* would be uneven"):
        cut(make(Grouped), example(), {"stem.0": [0]})


def test_the_check_sees_through_zero_weights():
    network = make(Padded)
    nn.init.zeros_(network.wide[1].weight)  # the branch is silent now, and will not be after training
    nn.init.zeros_(network.linear.weight)
    assert "their indices cannot be followed" in check_cut(network, example(), {"stem.0": [0, 5]})


def test_the_check_leaves_the_model_alone():
    network = make(Plain)
    before = copy.deepcopy(network.state_dict())
    check_cut(network, example(), {"one.0": [1, 2]})
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_check_says_when_a_cut_does_not_show():
    class Deaf(Plain):
        def forward(self, x):
            return super().forward(x) * 0.0 + x.mean((2, 3)).sum(1, keepdim=True)

    assert "do not show" in check_cut(make(Deaf), example(), {"one.0": [1, 2]}, visible=1e-4)


def test_embeddings_are_cut_with_what_is_added_to_them():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.position = nn.Embedding(20, 8), nn.Parameter(torch.randn(6, 8))
            self.mix, self.linear = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = self.words(x) + self.position
            return self.linear((x + self.mix(x)).mean(1))

    network, words = make(Words), torch.arange(6)[None]
    assert check_cut(network, words, {"mix": [0, 5]}) == ""
    cut(network, words, {"mix": [0, 5]})
    assert (network.words.embedding_dim, tuple(network.position.shape)) == (6, (6, 6))
