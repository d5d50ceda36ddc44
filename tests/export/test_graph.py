import copy
import json

import pytest
import torch
from small_networks import Residual, Untraceable, quantized, trained
from torch import nn

from autoprune.errors import ArtifactError
from autoprune.export import graph


def stored(model: nn.Module) -> dict:
    return json.loads(json.dumps(graph.to_json(graph.trace(model))))


@pytest.fixture(scope="module")
def residual() -> dict:
    return stored(trained(Residual()))


@pytest.mark.parametrize("make", [lambda: trained(Residual()), quantized], ids=["float", "quantized"])
def test_a_graph_comes_back_with_the_same_outputs(make):
    model, x = make(), torch.randn(5, 1, 8, 8)
    again = graph.from_json(stored(model))
    again.load_state_dict(model.state_dict(), assign=True)
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


def test_a_graph_comes_back_as_the_same_json(residual):
    assert graph.to_json(graph.from_json(residual)) == residual


def test_reading_a_graph_takes_no_memory_for_values(residual):
    assert all(tensor.is_meta for tensor in graph.from_json(residual).state_dict().values())


def test_recurrent_layers_and_attention_are_stored():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = nn.GRU(6, 8, batch_first=True, bidirectional=True)
            self.attention = nn.MultiheadAttention(16, 4, bias=False, batch_first=True)

        def forward(self, x):
            y, _ = self.recurrent(x)
            return self.attention(y, y, y, need_weights=False)[0]

    model, x = trained(Mixed()), torch.randn(2, 5, 6)
    again = graph.from_json(stored(model))
    again.load_state_dict(model.state_dict(), assign=True)
    torch.testing.assert_close(again(x), model(x))


def test_an_untraceable_network_is_refused_with_the_reason():
    with pytest.raises(ArtifactError, match="cannot be traced"):
        graph.trace(Untraceable())


def test_a_function_from_outside_of_torch_is_refused_when_writing():
    def double(x):
        return x * 2

    network = torch.fx.symbolic_trace(nn.Identity())
    next(iter(network.graph.find_nodes(op="call_module", target="")), None)
    with network.graph.inserting_before(network.graph.output_node()):
        network.graph.call_function(double, (next(iter(network.graph.nodes)),))
    with pytest.raises(ArtifactError, match="double, which is no function of torch"):
        graph.to_json(network)


def with_node(data: dict, **changes) -> dict:
    """`data` with one node changed: the first that calls a function, unless `op` says otherwise."""
    changed = copy.deepcopy(data)
    of = changes.pop("of", "call_function")
    node = next(n for n in changed["nodes"] if n["op"] == of)
    node.update(changes)
    return changed


HOSTILE = {
    "a function that unpickles": {"target": "torch.load"},
    "a function that maps files": {"target": "torch.from_file"},
    "a function of the system": {"target": "os.system"},
    "an attribute that leads to code": {
        "target": "builtins.getattr",
        "args": {"tuple": [{"node": "x"}, "__class__"]},
    },
    "an attribute chosen at run time": {
        "target": "builtins.getattr",
        "args": {"tuple": [{"node": "x"}, {"node": "x"}]},
    },
    "a method that shares memory": {"of": "call_method", "target": "share_memory_"},
    "a method that is code": {
        "of": "call_method",
        "target": "sum() or __import__('os').system('true') or x.sum",
    },
    "code as the name of an argument": {"kwargs": {"dict": [["a=1); import os; f(b", 1]]}},
    "code as the name of an input": {"of": "placeholder", "target": "x=__import__('os').system('true')"},
    "code as the name of a layer": {"of": "call_module", "target": 'stem"); import os; ("'},
    "a layer that is not listed": {"of": "call_module", "target": "elsewhere"},
    "a layer read as a tensor": {"of": "get_attr", "target": "stem"},
    "a node from the future": {"args": {"tuple": [{"node": "output"}]}},
    "an unknown kind of node": {"op": "call_anything"},
    "an unknown constant": {"args": {"tuple": [{"pickle": "gASV"}]}},
    "arguments that are no tuple": {"args": 3},
    "a keyword as a name": {"name": "lambda"},
}


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_node_is_refused(residual, changes):
    with pytest.raises(ArtifactError):
        graph.from_json(with_node(residual, **changes))


@pytest.mark.parametrize(
    "layer",
    [
        {"class": "torch.nn.modules.module.Module", "arguments": {"dict": []}},
        {"class": "autoprune.Anything", "arguments": {"dict": []}},
        {"class": "torch.nn.Linear", "arguments": {"dict": [["in_features", -1], ["out_features", 2]]}},
        {"class": "torch.nn.Linear", "arguments": [1, 2]},
        {"class": "torch.nn.Linear"},
        {"class": ["torch.nn.Linear"], "arguments": {"dict": []}},
    ],
)
def test_a_hostile_layer_is_refused(residual, layer):
    with pytest.raises(ArtifactError):
        graph.from_json({**residual, "layers": {**residual["layers"], "stem": layer}})


def test_a_huge_layer_costs_nothing_until_its_values_are_there(residual):
    sizes = [["in_features", 2**20], ["out_features", 2**20]]
    huge = {"class": "torch.nn.Linear", "arguments": {"dict": sizes}}
    again = graph.from_json({**residual, "layers": {**residual["layers"], "head": huge}})
    assert again.get_submodule("head").weight.is_meta


@pytest.mark.parametrize("data", [None, {}, {"nodes": {}, "layers": {}, "tensors": {}}, {"nodes": []}])
def test_what_is_no_graph_is_refused(data):
    with pytest.raises(ArtifactError):
        graph.from_json(data)


@pytest.mark.parametrize(
    "tensor",
    [
        {},
        {"shape": [-1], "dtype": {"dtype": "float32"}, "parameter": True},
        {"shape": [1], "dtype": 1, "parameter": 1},
    ],
)
def test_a_malformed_tensor_is_refused(residual, tensor):
    with pytest.raises(ArtifactError):
        graph.from_json({**residual, "tensors": {"gain": tensor}})


def test_too_many_nodes_are_refused(residual, monkeypatch):
    monkeypatch.setattr(graph, "MOST_NODES", 3)
    with pytest.raises(ArtifactError, match="at most 3"):
        graph.from_json(residual)


def test_a_graph_without_an_output_is_refused(residual):
    malformed = copy.deepcopy(residual)
    malformed["nodes"][-1]["args"] = {"tuple": []}
    with pytest.raises(ArtifactError):
        graph.from_json(malformed)
