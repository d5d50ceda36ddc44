"""The dependency graph: models that cannot be traced are refused with the layer."""

from __future__ import annotations

import pytest
import torch
from prunable_networks import Plain, example, make
from torch import nn

from autoprune.compress.dependency import gradients_everywhere, tensors_in, traced
from autoprune.errors import ModelError

torch.set_num_threads(1)


def test_an_untraceable_model_names_its_layer():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 6, 3))
    with (
        pytest.raises(ModelError, match=r"fails at or after layer '1'.*leave 'prune' out"),
        traced(network, example()),
    ):
        pass


def test_a_model_whose_trace_alone_fails_is_refused_too():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.calls = nn.Conv2d(3, 4, 3), 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 1:
                raise RuntimeError("only the first time")
            return self.conv(x)

    with (
        pytest.raises(ModelError, match="although it runs: RuntimeError: only the first time"),
        traced(Odd(), example()),
    ):
        pass


def test_frozen_parameters_are_traced_and_stay_frozen():
    network = make(Plain).requires_grad_(False)
    with traced(network, example()) as graph:
        assert len(graph.module2node) > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_gradients_reach_everything_also_under_no_grad():
    network = make(Plain).requires_grad_(False)
    with torch.no_grad(), gradients_everywhere(network):
        network(example()).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_batch_of_one_is_not_taken_apart():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    with traced(network, example()) as graph:
        assert network[0] in graph.module2node


def test_tensors_are_found_in_nested_outputs():
    one, two = torch.ones(1), torch.ones(2)
    assert [t.numel() for t in tensors_in({"a": one, "b": (two, [one], "text")})] == [1, 2, 1]
