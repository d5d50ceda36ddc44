"""The ways into a network: as it is, as a graph, or layer by layer; each with what it frees."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
import torch.nn.functional as F
from prunable_networks import Hardcoded, Normed, Plain, Residual, example, make
from sequence_networks import Separate, TorchAttention, sequence_example
from torch import fx, nn

from autoprune.compress.prune import Prune
from autoprune.errors import ModelError
from autoprune.structure import Observed, analyse, check_cut, prepared
from autoprune.structure.proof import NOT_IN_TIME


def test_a_network_whose_code_follows_is_taken_as_it_is():
    found = analyse(make(Residual), example())
    assert (found.way, [way["way"] for way in found.tried]) == ("module", ["module"])
    assert [group.name for group in found.free] == ["stem.0", "inner.0", "wide.0"]
    assert prepared(make(Plain), example(), "layers").__class__ is Plain


def test_the_attributes_of_attention_follow_so_that_no_graph_is_needed():
    assert analyse(make(Separate), sequence_example(Separate)).way == "module"


@pytest.mark.parametrize(
    ("kind", "inputs"), [(Hardcoded, example()), (TorchAttention, sequence_example(TorchAttention))]
)
def test_sizes_written_into_the_code_are_free_in_the_graph(kind, inputs):
    network = make(kind)
    found = analyse(network, inputs)
    module, graph = found.tried
    assert found.way == "graph" and graph["share"] > module["share"]
    assert "sizes in its code" in module["reason"]
    lifted = prepared(network, inputs, found.way)
    assert isinstance(lifted, fx.GraphModule)
    removed = {group.name: [0] for group in found.free}
    assert check_cut(lifted, inputs, removed) == ""
    Observed(lifted, inputs).cut(removed)
    assert lifted(torch.cat([inputs, inputs])).shape[0] == 2


def test_a_graph_that_cannot_be_made_is_said_and_the_module_stays():
    class Both(Hardcoded):
        def forward(self, x):
            return super().forward(x) if bool(x.mean() < 9.0) else x.sum((2, 3))

    found = analyse(make(Both), example())
    assert found.way == "module" and [group.name for group in found.free] == ["hidden"]
    assert "cannot be written as a graph" in found.tried[1]["reason"]


def test_without_structure_layers_are_left():
    found = analyse(make(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5))), example())
    assert (found.way, found.free) == ("layers", [])


def test_what_a_norm_is_taken_over_stays_unless_asked_for():
    network = make(Normed)
    assert "embed" not in [group.name for group in analyse(network, example()).free]
    found = analyse(network, example(), unproven=True)
    embedding = next(group for group in found.free if "embed" in group.layers)
    assert embedding.unproven == "a norm is taken over it"


def test_the_budget_of_time_freezes_what_is_left_and_makes_no_graph():
    found = analyse(make(Hardcoded), example(), seconds=0.0)
    assert found.way == "layers" and len(found.tried) == 1
    assert {group.reason for group in found.groups if group.name != "linear"} == {NOT_IN_TIME}


def test_a_model_that_does_not_run_is_refused():
    with pytest.raises(ModelError, match="does not run on its example inputs"):
        analyse(make(Plain), torch.randn(1, 4, 8, 8))


def test_a_busy_machine_does_not_change_what_a_search_may_prune(monkeypatch):
    clock = itertools.count(0, 50)  # each look at it comes fifty seconds after the one before
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    network = make(Residual)
    assert NOT_IN_TIME in {group.reason for group in analyse(network, example()).groups}
    assert Prune().structure(network, example()).free


def test_standardised_weights_are_free_where_they_are_computed_once():
    """Over inputs of a weight a statistic is taken in each pass, so that only a graph can let go of them."""

    class Standardised(nn.Conv2d):
        def forward(self, x):
            apart = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, apart / apart.std((1, 2, 3), keepdim=True), self.bias)

    model = nn.Sequential(
        Standardised(3, 8, 3), nn.ReLU(), Standardised(8, 8, 3), nn.Flatten(), nn.Linear(32, 2)
    )
    structure = analyse(model, torch.randn(1, 3, 6, 6))
    assert structure.way == "graph"
    assert {"0", "2"} <= {layer for group in structure.free for layer in group.layers}
