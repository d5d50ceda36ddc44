"""Each criterion gives the score that its paper defines, and finds a channel that does nothing."""

from __future__ import annotations

import pytest
import torch
from prunable_networks import Gate, Grouped, Plain, Residual, Transposed, example, make

from autoprune.compress.criteria import BUILT_IN, load_criterion, score
from autoprune.compress.groups import Group, Member, trace_groups
from autoprune.errors import BadInput
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


def scores(name, network, count=2):
    groups = [group for group in trace_groups(network, example()) if not group.reason]
    torch.manual_seed(0)
    return score(name, groups, network, Squares(), batches(count))


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
    gate = torch.ones(1, 8, 1, 1, requires_grad=True)
    outputs = network.linear(network.grouped(network.stem(batch.inputs) * gate).mean((2, 3)))
    (gradient,) = torch.autograd.grad(Squares().loss(outputs, batch), gate)
    assert torch.allclose(scores("taylor", network, 1)["stem.0"], gradient.flatten().square(), rtol=1e-3)


def test_taylor_leaves_no_gradients_behind_and_reads_frozen_parameters():
    network = make(Plain).requires_grad_(False)
    assert scores("taylor", network)["one.0"].sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_taylor_skips_what_gets_no_gradient():
    group = Group("one.0", 8, (Member("one.0", tuple(range(8)), tuple(range(8))),))
    assert BUILT_IN["taylor"](group, make(Plain)).tolist() == [0.0] * 8


def test_bn_scale_reads_the_norm_or_else_the_weights():
    network = make(Plain)
    scale = network.one[1].weight.detach().abs()
    assert torch.allclose(scores("bn_scale", network)["one.0"], scale / scale.mean())
    gate = make(Gate)
    assert torch.equal(scores_of_gate("bn_scale", gate), scores_of_gate("l1", gate))


def scores_of_gate(name, network):
    return BUILT_IN[name](trace_groups(network, example())[0], network)


def test_channels_of_a_transposed_convolution_are_its_second_axis():
    network = make(Transposed)
    group = next(group for group in trace_groups(network, example()) if group.name == "up")
    expected = network.up.weight.detach().abs().sum((0, 2, 3))
    assert torch.allclose(BUILT_IN["l1"](group, network), expected / expected.mean())


def test_random_depends_on_the_seed_alone():
    assert torch.equal(scores("random", make(Plain))["one.0"], scores("random", make(Plain))["one.0"])


def test_a_channel_without_a_score_gets_the_mean():
    partly = Group("one.0", 8, (Member("one.0", (0, 1), (0, 1)),))
    assert BUILT_IN["l1"](partly, make(Plain))[2:].tolist() == [1.0] * 6


def test_an_unknown_criterion_names_the_nearest():
    with pytest.raises(BadInput, match=r"got 'tailor', expected one of l1, .*did you mean 'taylor'"):
        load_criterion("tailor")
