"""Folding changes nothing, and quantizers stand where integer kernels want them."""

from __future__ import annotations

import pytest
import torch
from quantizable_networks import NETWORKS, Residual, network
from torch import fx, nn

from autoprune.compress.calibrate import calibrate
from autoprune.compress.fake_quantize import FakeQuantizedLayer, RoundedWeight
from autoprune.deployed import (
    ActivationQuantizer,
    QuantizedLayer,
    deploy,
    layer_kind,
    lift,
    quantized_sums,
    trace,
)
from autoprune.deployed.fold import fold_batch_norm
from autoprune.deployed.placement import place
from autoprune.deployed.quantizers import weight_scale


def layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if layer_kind(module)]


def placed(model: nn.Module, bits: dict[str, tuple[int, int]], example: torch.Tensor) -> dict[str, int]:
    graph = fx.symbolic_trace(model.eval())
    fold_batch_norm(graph, example)
    return {placement.tensor.name: placement.bits for placement in place(graph, bits)}


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "untraceable"])
def test_folding_leaves_the_outputs_unchanged(name: str) -> None:
    model, inputs = network(name)
    graph = fx.symbolic_trace(model)
    with torch.no_grad():
        expected = model(inputs)
        fold_batch_norm(graph, inputs[:1])
        assert torch.allclose(graph(inputs), expected, atol=1e-5)


def test_batch_norm_on_a_sequence_is_not_folded_into_a_linear_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)).eval()
    graph = fx.symbolic_trace(model)
    fold_batch_norm(graph, torch.zeros(1, 6, 4))
    assert any(isinstance(module, nn.BatchNorm1d) for module in graph.modules())


def test_every_tensor_between_integer_layers_is_quantized_once() -> None:
    model, inputs = network("residual")
    found = placed(model, dict.fromkeys(layers(model), (8, 8)), inputs[:1])
    assert found == dict.fromkeys(
        ["x", "relu", "relu_1", "two_0", "relu_2", "down_0", "shortcut_0", "relu_3", "adaptive_avg_pool2d"], 8
    )


def test_sums_of_quantized_tensors_are_found_with_what_they_are_made_of() -> None:
    model, inputs = network("residual")
    deployed = deploy(model, dict.fromkeys(layers(model), (8, 8)), inputs[:1])
    assert [[path.partition(".")[2] for path in one] for one in quantized_sums(deployed)] == [
        ["relu", "two_0", "relu_2"],
        ["down_0", "shortcut_0", "relu_3"],
    ]
    assert quantized_sums(deploy(model, {"head": (8, 8)}, inputs[:1])) == quantized_sums(model) == []


def test_what_the_network_returns_is_not_quantized() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    assert placed(model, {"0": (8, 8)}, torch.zeros(1, 3, 8, 8)) == {"input_1": 8}


def test_float_layers_read_unrounded_tensors() -> None:
    model, inputs = network("concat")
    graph = deploy(model, {"wide.0": (8, 8)}, inputs[:1])
    assert isinstance(graph, fx.GraphModule)
    readers = {
        node.name: node.args[0].name for node in graph.graph.nodes if node.name in ("wide_0", "narrow_0")
    }
    assert readers["wide_0"] != readers["narrow_0"] == "max_pool2d"


def test_a_float_layer_behind_an_integer_one_reads_integers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    assert placed(model, {"0": (8, 8)}, torch.zeros(1, 3, 8, 8)) == {"input_1": 8, "_1": 8}


def test_two_readers_with_different_bits_get_a_quantizer_each() -> None:
    model, inputs = network("concat")
    graph = deploy(model, {"wide.0": (8, 4), "narrow.0": (8, 8)}, inputs[:1])
    names = {name for name, module in graph.named_modules() if isinstance(module, ActivationQuantizer)}
    assert {"activations.max_pool2d", "activations.max_pool2d_4"} <= names


def test_a_network_that_cannot_be_traced_rounds_layer_by_layer() -> None:
    model, inputs = network("untraceable")
    deployed = deploy(model, {"one": (8, 8), "head": (4, 32)}, inputs[:1])
    assert not isinstance(deployed, fx.GraphModule)
    one, head = deployed.get_submodule("one"), deployed.get_submodule("head")
    assert isinstance(one, QuantizedLayer) and isinstance(one.input, ActivationQuantizer)
    assert isinstance(head, QuantizedLayer) and head.input is None


def test_layers_that_this_architecture_lacks_are_passed_over() -> None:
    deployed = deploy(Residual().eval(), {"head": (8, 8), "layer9.conv": (8, 8)}, torch.zeros(1, 3, 16, 16))
    assert [name for name, module in deployed.named_modules() if isinstance(module, QuantizedLayer)] == [
        "head"
    ]


def test_arguments_make_the_same_module_again() -> None:
    layer = QuantizedLayer.of(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), 4, 8, rounds_input=True)
    again = QuantizedLayer(**layer.arguments())
    again.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(layer(x), again(x))
    assert ActivationQuantizer(**ActivationQuantizer(4).arguments()).bits == 4
    assert "bits=4/8" in repr(layer)


def test_a_quantizer_has_an_exact_zero() -> None:
    quantizer = ActivationQuantizer(8)
    x = torch.tensor([-0.37, 0.0, 1.1])
    assert torch.equal(quantizer(x), x)
    quantizer.set_range(-0.37, 1.1)
    assert float(quantizer(x)[1]) == 0.0
    assert torch.allclose(quantizer(x), x, atol=0.003)


def test_few_bits_cut_off_the_tails_of_a_weight() -> None:
    weight = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
    assert weight_scale(weight, 8, 0).item() == pytest.approx(weight.abs().max().item() / 127)
    assert weight_scale(weight, 3, 0).item() < 0.9 * weight.abs().max().item() / 3


class Keywords(nn.Module):
    """A layer called by keyword, one held twice, one whose weight is read elsewhere, a size asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Linear(8, 8), nn.ConvTranspose1d(8, 8, 3, stride=2)
        self.again, self.embed = self.first, nn.Embedding(5, 8)
        self.head = nn.Linear(8, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(input=self.embed(x)) + self.again(self.embed(x))
        x = self.up(x.mT, output_size=[8])
        return self.head(x.mT) @ self.first.weight[:5]


class Branching(Keywords):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 0 else -x)


EVERY_LAYER = {"first": (8, 8), "up": (8, 8), "head": (8, 8)}


@pytest.mark.parametrize("way", ["symbolic", "layers", "lifted"])
def test_layers_are_quantized_however_they_are_held_and_called(way: str) -> None:
    torch.manual_seed(0)
    model, x = (Branching() if way == "layers" else Keywords()).eval(), torch.tensor([[0, 1, 2]])
    deployed = deploy(lift(model, x) if way == "lifted" else model, EVERY_LAYER, x)
    kinds = {name for name, module in deployed.named_modules() if isinstance(module, QuantizedLayer)}
    assert kinds == {"first", "up", "head"}
    assert isinstance(deployed, fx.GraphModule) == (way != "layers")
    torch.testing.assert_close(deployed(x), model(x), rtol=0.05, atol=0.05)
    assert deployed.get_submodule("embed").weight.dtype == torch.float32


def test_a_lifted_network_gets_the_quantizers_of_a_traced_one() -> None:
    model, inputs = network("residual")
    bits = dict.fromkeys(layers(model), (8, 8))
    traced, lifted = deploy(model, bits, inputs[:1]), deploy(lift(model, inputs[:1]), bits, inputs[:1])
    assert count_of(ActivationQuantizer, lifted) == count_of(ActivationQuantizer, traced) > 5
    assert count_of(nn.BatchNorm2d, lifted) == 0


def count_of(kind: type[nn.Module], model: nn.Module) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def test_layers_hidden_in_a_composite_round_their_own_inputs() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)).eval()
    deployed = deploy(model, {"0.linear1": (8, 8)}, torch.randn(1, 3, 8))
    assert not isinstance(deployed, fx.GraphModule)
    quantizer = deployed.get_submodule("0.linear1.input")
    seen: list[torch.Tensor] = []
    quantizer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        deployed(torch.randn(1, 3, 8))
    assert seen


def test_a_forward_with_more_arguments_than_inputs_is_not_traced() -> None:
    class Optional(nn.Linear):
        def forward(self, input: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
            y = super().forward(input)
            return y if mask is None else y * mask

    assert trace(Optional(2, 2), torch.randn(1, 2)) is None
    assert trace(Optional(2, 2), {"input": torch.randn(1, 2)}) is None


def test_a_quantizer_of_a_tensor_called_like_a_method_has_another_name() -> None:
    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.to(torch.float32))

    deployed = deploy(Casts(), {"head": (8, 8)}, torch.zeros(1, 3))
    assert "activations.to_" in dict(deployed.named_modules())


def test_the_weight_of_a_quantized_layer_can_be_read() -> None:
    layer = nn.Linear(4, 3)
    quantized = QuantizedLayer.of(layer, 8, 8)
    torch.testing.assert_close(quantized.weight, layer.weight.detach(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(4, 6), nn.Conv1d(4, 6, 3, stride=2, groups=2), nn.ConvTranspose2d(4, 6, 2, groups=2)],
    ids=lambda layer: type(layer).__name__,
)
def test_a_quantized_layer_answers_what_the_float_layer_does(layer: nn.Module) -> None:
    made = [QuantizedLayer.of(layer, 8, 8), FakeQuantizedLayer(layer, RoundedWeight(layer, (8, 32)))]
    names = ["in_features", "out_features", "in_channels", "out_channels", "kernel_size", "stride", "groups"]
    for name in filter(lambda name: hasattr(layer, name), names):
        assert [getattr(one, name) for one in made] == [getattr(layer, name)] * 2
    with pytest.raises(AttributeError):
        _ = made[0].unheard_of


def test_a_dict_of_tensors_is_taken_apart_before_it_is_rounded() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.head(batch["numbers"])

    inputs = {"batch": {"numbers": torch.randn(1, 4)}}
    deployed = deploy(Nested().eval(), {"head": (8, 8)}, inputs)
    calibrate(deployed, [inputs])
    assert [type(m) for m in deployed.modules()].count(ActivationQuantizer) == 1
    assert deployed(**inputs).shape == (1, 2)
