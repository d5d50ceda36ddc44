"""Criteria of the weights alone give what their papers define."""

from __future__ import annotations

import pytest
import torch
from evidence import CrossEntropy, groups, scores
from prunable_networks import Gate, Plain, Residual, Transposed, make
from sequence_networks import Separate, sequence_example

from autoprune.compress.criteria import Evidence, score
from autoprune.compress.criteria.magnitude import survivors_share
from autoprune.structure import Observed


def test_norms_are_relative_to_the_layers_mean():
    network = make(Plain)
    rows = network.one[0].weight.detach().flatten(1)
    assert torch.allclose(scores("l1", network)["one.0"], rows.abs().sum(1) / rows.abs().sum(1).mean())
    assert torch.allclose(scores("l2", network)["one.0"], rows.norm(dim=1) / rows.norm(dim=1).mean())


@pytest.mark.parametrize("name", ["l1", "l2", "lamp", "fpgm"])
def test_no_layer_of_a_group_outvotes_the_others(name):
    network, scaled = make(Residual), make(Residual)
    with torch.no_grad():
        scaled.outer.weight *= 1000.0
    assert torch.allclose(scores(name, network)["stem.0"], scores(name, scaled)["stem.0"], atol=1e-5)


def test_lamp_is_the_square_over_the_sum_of_all_that_go_no_sooner():
    squares = torch.tensor([[4.0, 1.0], [9.0, 2.0]])
    expected = torch.tensor([[4 / 13, 1 / 16], [1.0, 2 / 15]])
    assert torch.allclose(survivors_share(squares), expected)


def test_lamp_tells_equals_apart_and_lives_with_zeros():
    assert torch.allclose(survivors_share(torch.tensor([1.0, 1.0])), torch.tensor([0.5, 1.0]))
    assert survivors_share(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_lamp_of_units_is_that_of_their_squared_norms():
    network = make(Plain)
    squares = network.one[0].weight.detach().flatten(1).square().sum(1)
    assert torch.allclose(scores("lamp", network)["one.0"], survivors_share(squares))


def test_channels_of_a_transposed_convolution_are_its_second_axis():
    network = make(Transposed)
    expected = network.up.weight.detach().abs().sum((0, 2, 3))
    assert torch.allclose(scores("l1", network)["up"], expected / expected.mean())


@pytest.mark.parametrize("name", ["l1", "l2", "lamp"])
def test_a_head_is_scored_by_all_of_its_channels(name):
    torch.manual_seed(0)
    network = Separate()
    with torch.no_grad():
        for layer in (network.q, network.k, network.v):
            layer.weight[4:8] *= 0.01
    (heads,) = [g for g in Observed(network, sequence_example(Separate)).groups if g.kind == "heads"]
    found = score(name, Evidence(network, CrossEntropy(), (), [heads]))[heads.name]
    assert found.shape == (3,) and found.argmin() == 1


def test_the_geometric_median_goes_first():
    network = make(Plain)
    with torch.no_grad():
        network.one[0].weight[2] = network.one[0].weight[[0, 1, 3, 4, 5, 6, 7]].mean(0)
        network.one[0].weight[6] *= 5.0
    found = scores("fpgm", network)["one.0"]
    assert found.argmin() == 2 and found.argmax() == 6


def test_fewer_units_are_scored_among_themselves():
    network = make(Plain)
    rows = network.one[0].weight.detach().flatten(1)[[1, 5, 6]]
    some = groups(network)["one.0"].only([1, 5, 6])
    found = score("fpgm", Evidence(network, CrossEntropy(), (), [some]))["one.0"]
    assert torch.equal(found.argsort(), torch.cdist(rows, rows).sum(1).argsort())


def test_bn_scale_reads_the_norm_or_else_the_weights():
    network = make(Plain)
    scale = network.one[1].weight.detach().abs()
    assert torch.allclose(scores("bn_scale", network)["one.0"], scale / scale.mean())
    gate = make(Gate)
    assert torch.equal(scores("bn_scale", gate)["conv"], scores("l1", gate)["conv"])


def test_random_depends_on_the_seed_alone():
    first, second = scores("random", make(Plain))["one.0"], scores("random", make(Plain))["one.0"]
    assert torch.equal(first, second)
    assert not torch.equal(first, scores("random", make(Plain), seed=1)["one.0"])
