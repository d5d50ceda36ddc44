"""Costs are exact, and known before any training."""

from __future__ import annotations

import pytest
import torch
from quantizable_networks import NETWORKS, network
from safetensors.torch import save
from torch import nn

from autoprune.compress.calibrate import calibrate
from autoprune.cost import count, layer_table
from autoprune.deployed import Widths, deploy, layer_kind, pack_state


def layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if layer_kind(module)]


def test_counts_of_a_small_network_are_those_on_paper() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))
    found = count(model, torch.zeros(1, 3, 4, 4), {"0": (4, 8)})
    conv, linear = 3 * 8 * 9 * 16, 8 * 16 * 10
    assert found["macs"] == conv + linear
    assert found["params"] == 3 * 8 * 9 + 8 + 8 * 16 * 10 + 10
    assert found["bops"] == conv * 4 * 8 + linear * 32 * 32


def test_the_resnet20_of_the_paper_has_the_macs_of_the_paper() -> None:
    from search_spaces.resnet import resnet

    found = count(resnet(), torch.zeros(1, 3, 32, 32))
    # 40.55 million (He et al. 2016, option A), and its two shortcuts written as 1x1 convolutions.
    assert found["macs"] == 40_551_040 + 16 * 16 * 16 * 32 + 8 * 8 * 32 * 64


@pytest.mark.parametrize("bits", [(2, 8), (3, 8), (4, 32), (5, 8), (6, 8), (7, 8), (8, 8), (16, 32)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_size_known_before_training_is_that_of_the_file(name: str, bits: tuple[int, int]) -> None:
    model, inputs = network(name)
    widths = dict.fromkeys(layers(model), bits)
    known = count(model, inputs[:1], widths)["size_bytes"]
    deployed = deploy(model, widths, inputs[:1])
    calibrate(deployed, [inputs])
    assert len(save(pack_state(deployed))) == known


@pytest.mark.parametrize("form", ["per_tensor", "codebook"])
@pytest.mark.parametrize("name", ["residual", "tokens", "untraceable"])
def test_the_size_of_every_form_is_known_before_training(name: str, form: str) -> None:
    model, inputs = network(name)
    widths = dict.fromkeys(layers(model), Widths(3, 8, form))
    known = count(model, inputs[:1], widths)["size_bytes"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    deployed = deploy(model, widths, inputs[:1])
    calibrate(deployed, [inputs])
    assert len(save(pack_state(deployed))) == known < count(model, inputs[:1])["size_bytes"]


def test_one_scale_for_a_weight_saves_the_others() -> None:
    model, inputs = network("residual")
    sizes = [
        sum(
            row["bytes"]
            for row in layer_table(deploy(model, {"head": Widths(4, 8, form)}, inputs[:1]), inputs[:1])
        )
        for form in ("per_channel", "per_tensor")
    ]
    assert sizes[0] - sizes[1] == 4 * (10 - 1)


def test_counting_leaves_the_network_alone() -> None:
    model, inputs = network("residual")
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    count(model, inputs[:1], {"head": (8, 8)})
    assert model.training
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_the_table_has_each_layer_as_it_is_deployed() -> None:
    model, inputs = network("residual")
    rows = layer_table(deploy(model, {"stem.0": (4, 8), "one.0": (16, 32)}, inputs[:1]), inputs[:1])
    by_name = {row["name"]: row for row in rows}
    assert list(by_name) == layers(model)
    stem, one, head = by_name["stem.0"], by_name["one.0"], by_name["head"]
    assert (stem["weight_bits"], stem["activation_bits"], stem["kind"], stem["channels"]) == (
        4,
        8,
        "Conv2d",
        16,
    )
    assert stem["bytes"] == 16 * 27 // 2 + 16 * 4 + 16 * 4
    assert one["bytes"] == 16 * 16 * 9 * 2 + 16 * 4
    assert (head["weight_bits"], head["bytes"]) == (32, 330 * 4)
    assert sum(row["macs"] for row in rows) == count(model, inputs[:1])["macs"]


def test_a_transposed_convolution_in_groups_has_the_channels_of_all() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(8, 12, 2, groups=4))
    example = torch.zeros(1, 8, 4, 4)
    (row,) = layer_table(deploy(model, {"0": (8, 8)}, example), example)
    assert row["channels"] == 12


@pytest.mark.parametrize(
    ("model", "example", "macs"),
    [
        (nn.LSTM(8, 16, num_layers=2), torch.zeros(5, 1, 8), 5 * (8 * 64 + 16 * 64 + 16 * 64 + 16 * 64)),
        (nn.GRU(8, 16), torch.zeros(5, 1, 8), 5 * (8 * 48 + 16 * 48)),
        (nn.MultiheadAttention(16, 4), (torch.zeros(5, 1, 16),) * 3, 5 * 4 * 16 * 16 + 2 * 5 * 5 * 16),
        (nn.Bilinear(4, 5, 6), (torch.zeros(1, 4), torch.zeros(1, 5)), 6 * (4 * 5 + 5)),
        (nn.Embedding(9, 4), torch.zeros(1, 3, dtype=torch.long), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_layer_is_counted(model: nn.Module, example: object, macs: int) -> None:
    assert count(model, example)["macs"] == macs


def test_attention_on_a_cpu_is_counted() -> None:
    class Attends(nn.Module):
        def forward(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(query, key, key, enable_gqa=True)

    example = {"query": torch.zeros(1, 4, 10, 8), "key": torch.zeros(1, 2, 10, 8)}
    assert count(Attends(), example)["macs"] == 2 * 4 * 10 * 10 * 8


def test_tied_weights_are_counted_and_stored_once() -> None:
    model = nn.Sequential(nn.Embedding(40, 16), nn.Linear(16, 40, bias=False))
    untied = count(model, torch.zeros(1, 3, dtype=torch.long))
    model[1].weight = model[0].weight
    tied = count(model, torch.zeros(1, 3, dtype=torch.long))
    assert tied["params"] == untied["params"] / 2
    assert tied["size_bytes"] < 0.6 * untied["size_bytes"]
    assert tied["macs"] == untied["macs"]


def test_layers_that_look_up_or_recur_are_listed() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.body, self.head = nn.Embedding(9, 4), nn.LSTM(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(self.embed(x))[0])

    rows = layer_table(Reads(), torch.zeros(1, 3, dtype=torch.long))
    assert [(row["kind"], row["channels"]) for row in rows] == [("Embedding", 4), ("LSTM", 6), ("Linear", 2)]
    assert rows[0]["macs"] == 0 and rows[1]["macs"] > 0


def test_a_module_inside_of_a_layer_is_not_counted_for_it() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.inner = nn.Parameter(torch.zeros(4, 4)), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x @ self.weight)

    rows = layer_table(nn.Sequential(Outer()), torch.zeros(1, 4))
    assert [row["macs"] for row in rows] == [16, 16]


def test_counting_waits_for_no_gradients_of_a_parameter_that_a_module_is_given() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.head = nn.Parameter(torch.zeros(1, 4)), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.query) + self.head(x)

    model = Asks()
    assert count(model, torch.zeros(1, 4))["macs"] == 16
    assert model.query.requires_grad
