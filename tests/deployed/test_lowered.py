"""A network in half precision: everything between its inputs and outputs has 16 bits, and rounding stays what it is."""

from __future__ import annotations

import pytest
import torch
from quantizable_networks import NETWORKS, network
from torch import nn

from autoprune.compress.calibrate import calibrate
from autoprune.deployed import deploy, layer_kind
from autoprune.deployed.lowered import Lowered, lowered, rounds_anything, why_not_in
from autoprune.space.precision import HALF_PRECISIONS

MOST_ERROR = {"bfloat16": 0.02, "float16": 0.003}


class Sharp(nn.Module):
    """Squares a large number on the way, and takes a root of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((self.layer(x) + 1000.0) ** 2).sqrt()


class Mixed(nn.Module):
    """Makes a float of 32 bits of its own, and multiplies a layer's outputs by it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.after = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.layer(x) * torch.full((4,), 0.5))


def rounded(name: str, bits: tuple[int, int]) -> tuple[nn.Module, torch.Tensor]:
    model, inputs = network(name)
    made = deploy(model, {n: bits for n, m in model.named_modules() if layer_kind(m)}, inputs[:1])
    calibrate(made, [inputs])
    return made, inputs


@pytest.mark.parametrize("precision", HALF_PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_floats_of_32_bits_and_hardly_move(name: str, precision: str) -> None:
    model, inputs = network(name)
    with torch.no_grad():
        expected, found = model(inputs), Lowered(model, precision)(inputs)
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < MOST_ERROR[precision]


def test_the_network_itself_stays_as_it_was() -> None:
    model, _ = network("mlp")
    Lowered(model, "float16")
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_everything_between_layers_has_16_bits() -> None:
    model, inputs = network("residual")
    low, seen = Lowered(model, "bfloat16"), set()
    for module in low.network.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _m, _given, output: seen.add(output.dtype))
    low(inputs)
    assert seen == {torch.bfloat16}


def test_codes_and_grids_stay_exact() -> None:
    model, inputs = rounded("residual", (4, 4))
    low = Lowered(model, "bfloat16")
    before, after = model.state_dict(), low.network.state_dict()
    exact = [n for n in before if n.rpartition(".")[2] in ("codes", "scale", "grid")]
    assert exact
    assert all(torch.equal(after[n], before[n]) and after[n].dtype == before[n].dtype for n in exact)
    assert low(inputs[:2]).dtype == torch.float32


def test_float32_is_the_network_itself() -> None:
    model, _ = network("mlp")
    assert lowered(model, "float32") is model


def test_numbers_that_half_precision_cannot_hold_are_a_reason() -> None:
    assert why_not_in("float16", Sharp().eval(), torch.zeros(1, 4)) == "outputs of the network are not finite"
    assert not why_not_in("bfloat16", Sharp().eval(), torch.zeros(1, 4))


def test_a_network_that_mixes_types_is_a_reason() -> None:
    assert "same dtype" in why_not_in("bfloat16", Mixed().eval(), torch.zeros(1, 4))


def test_what_is_rounded_to_few_bits_is_told_from_floats() -> None:
    assert rounds_anything(rounded("mlp", (8, 32))[0])
    assert rounds_anything(rounded("mlp", (32, 8))[0])
    assert not rounds_anything(rounded("mlp", (16, 32))[0])
    assert not rounds_anything(network("mlp")[0])
