"""Costs are exact, and known before any training."""

from __future__ import annotations

import pytest
import torch
from quantizable_networks import NETWORKS, network
from safetensors.torch import save
from torch import nn

from autoprune.compress.calibrate import calibrate
from autoprune.cost import count, layer_table
from autoprune.deployed import deploy, layer_kind, pack_state


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
