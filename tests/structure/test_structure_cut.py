"""Cutting: the right positions of every tensor, the sizes in the code, and nothing at all when it cannot be done."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from prunable_networks import Flattened, Plain, Separable, Tied, Transposed, Volume, example, make
from sequence_networks import BothWays, Separate, TiedEmbedding, sequence_example
from torch import nn

from autoprune.errors import ModelError
from autoprune.structure import Observed


def cut(kind, removed, inputs=None):
    network = make(kind)
    Observed(network, example(kind) if inputs is None else inputs).cut(removed)
    return network


def test_cut_units_are_gone_and_the_rest_is_unchanged():
    network, whole = cut(Plain, {"one.0": [0, 3], "two.0": [11]}), make(Plain)
    kept = [1, 2, 4, 5, 6, 7]
    assert torch.equal(network.two[0].weight, whole.two[0].weight[:11, kept])
    assert torch.equal(network.one[1].running_mean, whole.one[1].running_mean[kept])


def test_by_hand_the_outputs_are_those_of_a_network_with_silenced_filters():
    network, silenced = cut(Flattened, {"conv.0": [1, 4]}), make(Flattened)
    with torch.no_grad():
        silenced.conv[1].weight[[1, 4]] = 0.0
        silenced.conv[1].bias[[1, 4]] = 0.0
    assert torch.allclose(network(example()), silenced(example()), atol=1e-6)


def test_zeroing_silences_a_unit_everywhere():
    network = make(Plain)
    Observed(network, example()).zero({"one.0": [2]})
    zeroed = [network.one[0].weight[2], network.one[1].bias[2], network.two[0].weight[:, 2]]
    assert all(tensor.abs().sum() == 0.0 for tensor in zeroed) and network.one[0].weight[3].abs().sum() > 0


@pytest.mark.parametrize(
    ("kind", "removed", "layer", "attributes"),
    [
        (Plain, {"one.0": [0]}, "one.0", {"in_channels": 3, "out_channels": 7}),
        (Plain, {"one.0": [0]}, "one.1", {"num_features": 7}),
        (Plain, {"two.0": [0, 1]}, "linear", {"in_features": 10, "out_features": 5}),
        (Separable, {"stem.0": [0, 1]}, "depthwise.0", {"in_channels": 6, "out_channels": 6, "groups": 6}),
        (Transposed, {"up": [5]}, "up", {"in_channels": 8, "out_channels": 5}),
        (Volume, {"one": [5]}, "norm", {"num_features": 5}),
    ],
)
def test_layers_say_how_wide_they_are_now(kind, removed, layer, attributes):
    module = cut(kind, removed).get_submodule(layer)
    assert {name: getattr(module, name) for name in attributes} == attributes


def test_recurrent_layers_say_how_wide_they_are_now():
    words = sequence_example(BothWays)
    network = cut(BothWays, {"embed": [0], "read": [1, 2]}, words)
    assert (network.read.input_size, network.read.hidden_size) == (7, 4)
    with torch.no_grad():
        network(words)


def test_the_heads_that_the_code_counts_follow():
    words = sequence_example(Separate)
    network = cut(Separate, {"q.heads": [1], "q.head_dim": [0]}, words)
    assert (network.heads, network.head_dim, tuple(network.q.weight.shape)) == (2, 3, (6, 12))
    with torch.no_grad():
        network(torch.cat([words, words]))


@pytest.mark.parametrize(("kind", "names"), [(Tied, ("one", "two")), (TiedEmbedding, ("embed", "head"))])
def test_ties_stay_tied(kind, names):
    removed, inputs = (
        ({"stem": [0]}, example()) if kind is Tied else ({"q.heads": [0]}, sequence_example(kind))
    )
    network = cut(kind, removed, inputs)
    one, other = (network.get_submodule(name) for name in names)
    assert one.weight is other.weight


def test_a_frozen_parameter_stays_frozen():
    network = make(Plain)
    network.two[0].weight.requires_grad_(False)
    Observed(network, example()).cut({"one.0": [0]})
    assert not network.two[0].weight.requires_grad and network.one[0].weight.requires_grad


def test_nothing_to_cut_changes_nothing():
    network = make(Plain)
    before = network.one[0].weight
    Observed(network, example()).cut({"one.0": []})
    assert network.one[0].weight is before


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({"tow.0": [0]}, "the model has no group 'tow.0'; it has one.0, two.0, linear"),
        ({"one.0": [8]}, r"one.0: units go from 0 to 7, got \[8\]"),
        ({"one.0": range(8)}, "cannot cut all 8 channels of group 'one.0': nothing would be left"),
    ],
)
def test_an_impossible_cut_is_refused_and_nothing_is_cut(removed, message):
    network = make(Plain)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ModelError, match=message):
        Observed(network, example()).cut({"two.0": [0], **removed})
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_network_that_does_not_run_is_refused_with_its_line():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no such luck")

    with pytest.raises(
        ModelError, match=r"does not run on its example inputs: .*no such luck \(test_structure_cut"
    ):
        Observed(Broken(), example())


def test_the_share_of_units_is_told_without_cutting():
    network = make(Plain)
    observed = Observed(network, example())
    removed = {"one.0": [0, 1, 2, 3]}
    share, before = observed.share(removed), sum(p.numel() for p in network.parameters())
    observed.cut(removed)
    assert share == pytest.approx(1 - sum(p.numel() for p in network.parameters()) / before)


def test_a_cut_network_keeps_none_of_the_old_tensors():
    network = make(Plain)
    old = weakref.ref(network.two[0].weight)
    observed = Observed(network, example())
    observed.cut({"one.0": [0, 1]})
    gc.collect()
    assert old() is None
