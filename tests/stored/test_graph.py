import base64
import copy
import json
import zlib

import pytest
import torch
from small_networks import Residual, Untraceable, quantized, trained
from torch import nn

from autoprune.deployed import deploy, pack_state
from autoprune.errors import ArtifactError
from autoprune.stored import aten, graph

EXAMPLE = torch.zeros(1, 1, 8, 8)


def stored(model: nn.Module) -> dict:
    return json.loads(json.dumps(graph.store(model, EXAMPLE)))


@pytest.fixture(scope="module")
def residual() -> dict:
    return stored(trained(Residual()))


@pytest.mark.parametrize("make", [lambda: trained(Residual()), quantized], ids=["float", "quantized"])
def test_a_graph_comes_back_with_the_same_outputs(make):
    model, x = make(), torch.randn(5, 1, 8, 8)
    again = graph.restore(stored(model), pack_state(model))
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


def test_a_graph_comes_back_as_the_same_json(residual):
    again = graph.from_json(residual)
    assert graph.to_json(again, again) == residual


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
    again = graph.restore(graph.store(model, x[:1]), pack_state(model))
    torch.testing.assert_close(again(x), model(x))


def test_an_untraceable_network_is_refused_with_the_reason():
    with pytest.raises(ArtifactError, match="depends on the values of the inputs"):
        graph.store(Untraceable(), torch.ones(1, 6))


def test_a_function_from_outside_of_torch_is_refused_when_writing():
    def double(x):
        return x * 2

    network = torch.fx.symbolic_trace(nn.Identity())
    next(iter(network.graph.find_nodes(op="call_module", target="")), None)
    with network.graph.inserting_before(network.graph.output_node()):
        network.graph.call_function(double, (next(iter(network.graph.nodes)),))
    with pytest.raises(ArtifactError, match="double, which is no function of torch"):
        graph.to_json(network, network)


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


class Scored(nn.Module):
    """A graph of ATen operations only: an argument left out, a tie, a buffer that is not saved, a constant."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("position", torch.arange(8.0)[:, None], persistent=False)

    def forward(self, ids, scale=None):
        x = self.embed(ids) + self.position[: ids.shape[1]]
        return {"scores": self.head(x * torch.tensor(0.5)), "mean": x.mean()}


def test_a_lifted_network_comes_back_without_its_code():
    model = trained(Scored())
    data = json.loads(json.dumps(graph.store(model, {"ids": torch.tensor([[1, 2, 3]])})))
    again = graph.restore(data, pack_state(model))
    batch = {"ids": torch.tensor([[1, 2, 3], [4, 5, 0]])}
    torch.testing.assert_close(again(**batch), model(**batch), rtol=0, atol=0)
    assert set(data["values"]) == {"position", "constants.c0"}
    assert data["aliases"] == {"head.weight": "embed.weight"}


def test_a_quantized_transformer_comes_back_without_its_library():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8, "bos_token_id": 0, "eos_token_id": 0}
    model = trained(GPT2LMHeadModel(GPT2Config(vocab_size=20, use_cache=False, **sizes)))
    example = {"input_ids": torch.tensor([[1, 2, 3]])}
    deployed = deploy(model, {"transformer.h.0.attn.c_attn": (4, 8)}, example)
    data = json.loads(json.dumps(graph.store(deployed, example)))
    again = graph.restore(data, pack_state(deployed))
    torch.testing.assert_close(again(**example)["logits"], deployed(**example).logits, rtol=0, atol=1e-6)
    assert {layer["class"] for layer in data["layers"].values()} >= {
        "autoprune.QuantizedLayer",
        "autoprune.TransposedLinear",
    }


VALUE = {
    "shape": [2],
    "dtype": {"dtype": "float32"},
    "zlib": base64.b64encode(zlib.compress(bytes(8))).decode(),
}


@pytest.mark.parametrize(
    "value",
    [
        {},
        {**VALUE, "shape": [3]},
        {**VALUE, "shape": [2**30]},
        {**VALUE, "zlib": base64.b64encode(zlib.compress(bytes(2**20))).decode()},
        {**VALUE, "zlib": "no base64"},
        {**VALUE, "zlib": base64.b64encode(b"no zlib").decode()},
        {**VALUE, "dtype": {"dtype": "os"}},
    ],
)
def test_a_malformed_constant_is_refused(residual, value):
    model = trained(Residual())
    with pytest.raises(ArtifactError):
        graph.restore({**residual, "values": {"gain": value}}, pack_state(model))


def test_an_alias_of_nothing_is_refused(residual):
    with pytest.raises(ArtifactError, match="which is not stored"):
        graph.restore({**residual, "aliases": {"gain": "lost"}}, pack_state(trained(Residual())))


@pytest.mark.parametrize(
    "target",
    [
        "aten.add_.Tensor",
        "aten.set_.source_Tensor",
        "aten.rand.default",
        "aten.from_file.default",
        "aten.add",
        "aten.x.y",
    ],
)
def test_operations_with_side_effects_or_randomness_are_refused(residual, target):
    with pytest.raises(ArtifactError, match="not accepted"):
        graph.from_json(with_node(residual, target=target))


def test_the_list_of_aten_holds_pure_functions_only():
    assert len(aten.operations()) > 500
    assert not any(operation._schema.is_mutable for operation in aten.operations().values())


def test_layer_names_with_a_hyphen_are_kept():
    model = nn.Sequential()
    model.add_module("block-1", nn.Linear(2, 2))
    data = json.loads(json.dumps(graph.store(trained(model), torch.zeros(1, 2))))
    again = graph.restore(data, pack_state(model))
    torch.testing.assert_close(again(torch.ones(1, 2)), model(torch.ones(1, 2)))


class Fields(nn.Module):
    """What an operation returns, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x.max(dim=1).values + x.sort(dim=1).values[:, 0])


def test_fields_of_results_are_stored():
    model, x = trained(Fields()), torch.randn(2, 5, 4)
    again = graph.restore(graph.store(model, x[:1]), pack_state(model))
    torch.testing.assert_close(again(x), model(x))


def test_a_network_that_reads_other_attributes_is_lifted_instead():
    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(x) * (1.0 if x.is_sparse else 2.0)

    model, x = trained(Memory()), torch.randn(2, 4)
    again = graph.restore(graph.store(model, x[:1]), pack_state(model))
    torch.testing.assert_close(again(x), model(x))
