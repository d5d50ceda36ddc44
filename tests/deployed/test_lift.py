"""Lifted graphs compute what the networks compute, call their layers, and share their tensors."""

from __future__ import annotations

import operator
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from autoprune.deployed import deploy, lift
from autoprune.errors import ModelError
from autoprune.tensors import call, concatenate, tensors_in

torch.set_num_threads(1)
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def ids(length: int = 7) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.arange(length)[None] + 3,
        "attention_mask": torch.ones(1, length, dtype=torch.long),
    }


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(vocab_size=40, max_position_embeddings=16, **SIZES))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, **sizes))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(vocab_size=40, num_key_value_heads=2, max_position_embeddings=16, **SIZES)
    )


def t5() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=40, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(20, 8), nn.LSTM(8, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, (hidden, cell) = self.lstm(self.embed(x))
        return self.head(torch.cat([hidden[-1], cell[-1]], -1))


class Skips(nn.Module):
    """Changes in place, sizes asked for, containers in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8)
        self.up, self.out = nn.ConvTranspose2d(8, 3, 3, stride=2, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor, more: list[torch.Tensor]) -> dict[str, Any]:
        y = self.up(torch.relu_(self.norm(self.down(x))), output_size=x.shape[-2:])
        y += more[0] * torch.tensor(0.5)
        return {"mask": self.out(torch.cat([x, y], 1)), "rest": (y.mean((1, 2, 3)), None, "text")}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


ENCODER = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
NETWORKS: dict[str, tuple[Any, Any]] = {
    "bert": (bert, ids()),
    "gpt2": (gpt2, ids()),
    "llama": (llama, ids()),
    "t5": (t5, ids()),
    "lstm": (Recurrent, torch.arange(5)[None]),
    "skips": (Skips, (torch.randn(1, 3, 8, 8), [torch.randn(1, 3, 8, 8)])),
    "attention": (Attention, torch.randn(1, 5, 16)),
    "encoder": (lambda: nn.TransformerEncoder(ENCODER, 2), torch.randn(1, 5, 16)),
}


def network(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    make, example = NETWORKS[name]
    return make().eval(), example


@cache
def lifted(name: str) -> tuple[nn.Module, Any, fx.GraphModule]:
    """A network, its example and its graph, for tests that only look."""
    model, example = network(name)
    return model, example, lift(model, example)


def calls(graph: fx.GraphModule) -> list[type]:
    return [type(graph.get_submodule(str(n.target))) for n in graph.graph.nodes if n.op == "call_module"]


def functions(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_graph_computes_what_the_network_does_for_any_batch(name: str) -> None:
    model, example, graph = lifted(name)
    batch = concatenate([example] * 3)
    keys_and_values = {"use_cache": False} if name in ("gpt2", "llama") else {}
    expected = tensors_in(call(model, {**batch, **keys_and_values} if keys_and_values else batch))
    found = tensors_in(call(graph, batch))
    assert not graph.meta["static_batch"]
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_shared_under_their_own_names(name: str) -> None:
    model, _, graph = lifted(name)
    own = dict(model.named_parameters(remove_duplicate=False))
    found = dict(graph.named_parameters(remove_duplicate=False))
    assert found and all(own[path] is parameter for path, parameter in found.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_but_layers_and_pure_functions_is_left(name: str) -> None:
    graph = lifted(name)[2]
    assert not any(node.op == "call_method" for node in graph.graph.nodes)
    for node in functions(graph):
        schema = getattr(node.target, "_schema", None)
        assert schema is None or not (schema.is_mutable or "assert" in schema.name)


def test_sizes_other_than_the_batch_are_plain_numbers() -> None:
    graph = lifted("llama")[2]
    views = [node for node in functions(graph) if node.target is torch.ops.aten.view.default]
    sizes = [size for node in views for size in node.args[1]]
    assert views and {type(size) for size in sizes} <= {int, fx.Node}
    assert {size.target for size in sizes if isinstance(size, fx.Node)} == {torch.ops.aten.sym_size.int}


def test_dataclass_outputs_come_as_dicts() -> None:
    graph = lifted("bert")[2]
    assert set(graph(**ids())) == {"logits"}


def test_outputs_keep_the_form_of_plain_containers() -> None:
    _, example, graph = lifted("skips")
    found = call(graph, example)
    assert set(found) == {"mask", "rest"} and found["rest"][1:] == (None, "text")


def test_changes_in_place_become_what_they_compute() -> None:
    graph = lifted("skips")[2]
    assert torch.ops.aten.add.Tensor in {node.target for node in functions(graph)}


def test_the_graph_is_trained_as_the_network() -> None:
    model, example = network("skips")
    graph = lift(model, example).train()
    before = model.norm.running_mean.clone()
    tensors_in(call(graph, concatenate([example] * 2)))[0].sum().backward()
    assert not torch.equal(model.norm.running_mean, before)
    assert model.down.weight.grad is not None


def test_tied_weights_stay_tied() -> None:
    graph = lifted("gpt2")[2]
    assert graph.get_parameter("lm_head.weight") is graph.get_parameter("transformer.wte.weight")


def test_a_layer_called_twice_is_called_twice() -> None:
    layer = nn.Linear(4, 4)
    graph = lift(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(1, 4))
    targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    assert targets == ["0", "1", "0"]


def test_attention_is_looked_into_and_its_scale_written_out() -> None:
    graph = lifted("attention")[2]
    (attention,) = [n for n in functions(graph) if "scaled_dot_product" in str(n.target)]
    assert attention.kwargs["scale"] == pytest.approx(0.5)
    assert calls(graph) == [nn.Linear]  # the projection of the output, which torch reads past its layer


def test_the_transposed_layers_of_gpt2_are_layers() -> None:
    assert "Conv1D" in {kind.__name__ for kind in calls(lifted("gpt2")[2])}


class Padded(nn.Conv2d):
    """A convolution that pads for itself, as libraries have it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(F.pad(input, (1, 0, 1, 0)), self.weight, self.bias)


class Activated(nn.BatchNorm2d):
    """A norm with its activation inside."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.relu(super().forward(input))


def test_subclasses_become_the_layers_that_they_are_beside_what_they_add() -> None:
    model = nn.Sequential(Padded(3, 4, 2), Activated(4), nn.Flatten()).eval()
    graph = lift(model, torch.randn(1, 3, 4, 4))
    assert calls(graph) == [nn.Conv2d, nn.BatchNorm2d]
    assert set(graph.state_dict()) == set(model.state_dict())
    before = model[1].running_mean.clone()
    graph.train()(torch.randn(8, 3, 4, 4))
    assert not torch.equal(model[1].running_mean, before)


def test_layers_with_computed_weights_are_looked_into() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    graph = lift(nn.Sequential(normed), torch.randn(1, 4))
    assert calls(graph) == []
    assert "0.parametrizations.weight.original0" in graph.state_dict()


def test_quantized_layers_stay_layers() -> None:
    model, example = network("bert")
    deployed = deploy(model, {"classifier": (4, 8)}, example)
    graph = lift(deployed, example)
    torch.testing.assert_close(graph(**ids())["logits"], deployed(**ids()).logits)
    assert graph.get_submodule("classifier") is deployed.get_submodule("classifier")


def test_the_network_is_left_as_it_was() -> None:
    model, example = network("gpt2")
    model.train()
    model.transformer.h[0].eval()
    lift(model, example)
    assert model.training and not model.transformer.h[0].training and model.config.use_cache
    assert all("forward" not in vars(module) for module in model.modules())


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


class Raises(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("scale")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Branches(), r"test_lift\.py:\d+ \(return x if x\.sum\(\) > 0.*depends on the values of the inputs"),
        (Random(), "draws random numbers or keeps a state"),
        (Raises(), r"test_lift\.py:\d+ .*raises KeyError: 'scale'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_is_no_graph_is_refused_in_one_sentence(model: nn.Module, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as refused:
        lift(model, torch.randn(1, 3))
    assert "\n" not in str(refused.value)


class OneByOne(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([row * 2 for row in x])


def test_a_batch_that_cannot_vary_is_said_to_be_fixed() -> None:
    graph = lift(OneByOne(), torch.randn(1, 3))
    assert graph.meta["static_batch"]
    assert operator.mul not in {node.target for node in functions(graph)}
