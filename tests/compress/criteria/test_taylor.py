"""First-order importance is the gradient of gates, squared."""

from __future__ import annotations

import torch
from evidence import Squares, evidence, groups, images, scores
from prunable_networks import Grouped, Plain, make

from autoprune.compress.criteria import score


def gated(network, inputs, gate):
    """`Plain` with a gate behind the activations of `two`."""
    return network.linear((network.two(network.one(inputs)) * gate).mean((2, 3)))


def test_it_is_the_squared_gradient_of_a_gate_added_up_over_batches():
    network, expected = make(Plain), torch.zeros(12)
    for batch in images(3):
        gate = torch.ones(1, 12, 1, 1, requires_grad=True)
        (gradient,) = torch.autograd.grad(Squares().loss(gated(network, batch.inputs, gate), batch), gate)
        expected += gradient.flatten().square()
    assert torch.allclose(scores("taylor", network, 3)["two.0"], expected, rtol=1e-3)


def test_it_adds_up_the_columns_of_a_grouped_reader():
    network = make(Grouped)
    (batch,) = images(1)
    gate = torch.ones(1, 2, 4, 1, 1, requires_grad=True)  # two groups of four channels
    stem = network.stem(batch.inputs).unflatten(1, (2, 4))
    outputs = network.linear(network.grouped((stem * gate).flatten(1, 2)).mean((2, 3)))
    (gradient,) = torch.autograd.grad(Squares().loss(outputs, batch), gate)
    (inner,) = [group for group in groups(network).values() if group.units == 4]
    expected = gradient.sum(1).flatten().square()  # a unit is one channel of each group
    assert torch.allclose(scores("taylor", network, 1)[inner.name], expected, rtol=1e-3)


def test_it_reads_frozen_parameters():
    assert scores("taylor", make(Plain).requires_grad_(False))["one.0"].sum() > 0


def test_what_gets_no_gradient_is_scored_by_l1():
    network = make(Plain)
    seen = evidence(network, ())
    assert torch.equal(score("taylor", seen)["one.0"], scores("l1", network)["one.0"])
    assert seen.notes["by_l1"]["one.0"] == "no gradient reaches the weights that read it"
