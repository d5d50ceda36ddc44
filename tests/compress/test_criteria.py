"""Each criterion gives the score that its paper defines, and finds a channel that does nothing."""

from __future__ import annotations

import pytest
import torch
from prunable_networks import Gate, Grouped, Plain, Residual, Transposed, example, make
from sequence_networks import Separate, sequence_example

from autoprune.compress.criteria import BUILT_IN, load_criterion, score
from autoprune.errors import BadInput
from autoprune.structure import Group, Observed
from autoprune.task import Batch

torch.set_num_threads(1)


class Squares:
    """A task whose loss is half the squared distance to the targets."""

    def loss(self, outputs, batch):
        return 0.5 * (outputs - batch.targets).square().sum()


def batches(count):
    draw = torch.Generator().manual_seed(3)
    return [
        Batch(torch.randn(4, 3, 8, 8, generator=draw), torch.randn(4, 5, generator=draw))
        for _ in range(count)
    ]


def groups(network):
    return {group.name: group for group in Observed(network, example()).groups if not group.reason}


def scores(name, network, count=2):
    torch.manual_seed(0)
    return score(name, list(groups(network).values()), network, Squares(), batches(count))


@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"random", "fpgm"}))
def test_a_channel_that_does_nothing_scores_lowest(name):
    network = make(Plain)
    with torch.no_grad():
        for parameter in (network.one[0].weight, network.one[1].weight, network.one[1].bias):
            parameter[5] = 0.0
    found = scores(name, network)["one.0"]
    assert found.shape == (8,) and found.argmin() == 5


def test_norms_are_relative_to_the_layers_mean():
    network = make(Plain)
    rows = network.one[0].weight.detach().flatten(1)
    assert torch.allclose(scores("l1", network)["one.0"], rows.abs().sum(1) / rows.abs().sum(1).mean())
    assert torch.allclose(scores("l2", network)["one.0"], rows.norm(dim=1) / rows.norm(dim=1).mean())


def test_no_layer_of_a_group_outvotes_the_others():
    network, scaled = make(Residual), make(Residual)
    with torch.no_grad():
        scaled.outer.weight *= 1000.0
    assert torch.allclose(scores("l1", network)["stem.0"], scores("l1", scaled)["stem.0"], atol=1e-5)


def test_the_geometric_median_goes_first():
    network = make(Plain)
    with torch.no_grad():
        network.one[0].weight[2] = network.one[0].weight[[0, 1, 3, 4, 5, 6, 7]].mean(0)
        network.one[0].weight[6] *= 5.0
    found = scores("fpgm", network)["one.0"]
    assert found.argmin() == 2 and found.argmax() == 6


def gated(network, inputs, gate):
    """`Plain` with a gate behind the activations of `two`."""
    return network.linear((network.two(network.one(inputs)) * gate).mean((2, 3)))


def test_taylor_is_the_squared_gradient_of_a_gate_added_up_over_batches():
    network, expected = make(Plain), torch.zeros(12)
    for batch in batches(3):
        gate = torch.ones(1, 12, 1, 1, requires_grad=True)
        (gradient,) = torch.autograd.grad(Squares().loss(gated(network, batch.inputs, gate), batch), gate)
        expected += gradient.flatten().square()
    assert torch.allclose(scores("taylor", network, 3)["two.0"], expected, rtol=1e-3)


def test_taylor_adds_up_the_columns_of_a_grouped_reader():
    network = make(Grouped)
    (batch,) = batches(1)
    gate = torch.ones(1, 2, 4, 1, 1, requires_grad=True)  # two groups of four channels
    stem = network.stem(batch.inputs).unflatten(1, (2, 4))
    outputs = network.linear(network.grouped((stem * gate).flatten(1, 2)).mean((2, 3)))
    (gradient,) = torch.autograd.grad(Squares().loss(outputs, batch), gate)
    (inner,) = [group for group in groups(network).values() if group.units == 4]
    expected = gradient.sum(1).flatten().square()  # a unit is one channel of each group
    assert torch.allclose(scores("taylor", network, 1)[inner.name], expected, rtol=1e-3)


def test_taylor_leaves_no_gradients_behind_and_reads_frozen_parameters():
    network = make(Plain).requires_grad_(False)
    assert scores("taylor", network)["one.0"].sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_taylor_skips_what_gets_no_gradient():
    network = make(Plain)
    assert BUILT_IN["taylor"](groups(network)["one.0"], network).tolist() == [0.0] * 8


def test_bn_scale_reads_the_norm_or_else_the_weights():
    network = make(Plain)
    scale = network.one[1].weight.detach().abs()
    assert torch.allclose(scores("bn_scale", network)["one.0"], scale / scale.mean())
    gate = make(Gate)
    assert torch.equal(scores("bn_scale", gate)["conv"], scores("l1", gate)["conv"])


def test_channels_of_a_transposed_convolution_are_its_second_axis():
    network = make(Transposed)
    expected = network.up.weight.detach().abs().sum((0, 2, 3))
    assert torch.allclose(scores("l1", network)["up"], expected / expected.mean())


def test_random_depends_on_the_seed_alone():
    assert torch.equal(scores("random", make(Plain))["one.0"], scores("random", make(Plain))["one.0"])


@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"random", "taylor"}))
def test_a_head_is_scored_by_all_of_its_channels(name):
    torch.manual_seed(0)
    network = Separate()
    with torch.no_grad():
        for layer in (network.q, network.k, network.v):
            layer.weight[4:8] *= 0.01
            layer.bias[4:8] *= 0.01
    (heads,) = [g for g in Observed(network, sequence_example(Separate)).groups if g.kind == "heads"]
    found = BUILT_IN[name](heads, network)
    assert found.shape == (3,) and (name == "fpgm" or found.argmin() == 1)


def test_fewer_units_are_scored_among_themselves():
    network = make(Plain)
    group: Group = groups(network)["one.0"]
    rows = network.one[0].weight.detach().flatten(1)[[1, 5, 6]]
    assert torch.allclose(
        BUILT_IN["fpgm"](group.only([1, 5, 6]), network).argsort(), torch.cdist(rows, rows).sum(1).argsort()
    )


def test_an_unknown_criterion_names_the_nearest():
    with pytest.raises(BadInput, match=r"got 'tailor', expected one of l1, .*did you mean 'taylor'"):
        load_criterion("tailor")
