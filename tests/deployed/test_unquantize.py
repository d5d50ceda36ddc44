"""A deployed network becomes one that trains again, and computes what it did."""

from __future__ import annotations

import copy

import pytest
import torch
from small_networks import Residual, Untraceable, trained
from torch import nn

from autoprune.compress.calibrate import calibrate
from autoprune.deployed import ActivationQuantizer, QuantizedLayer, deploy
from autoprune.deployed.unquantize import unquantize


class Decoder(nn.Module):
    """Strided and grouped convolutions, and a transposed one that is told its output size."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.up = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(torch.relu(self.deep(torch.relu(self.down(x)))), output_size=[8, 8])


IMAGE = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
ROW = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
NETWORKS = {
    "residual": (Residual, IMAGE, ("stem", "branch", "head")),
    "decoder": (Decoder, IMAGE, ("down", "deep", "up")),
    "untraceable": (Untraceable, ROW, ("first", "second")),
}


def deployed(name: str, weight_bits: int, activation_bits: int) -> tuple[nn.Module, torch.Tensor]:
    make, inputs, layers = NETWORKS[name]
    model = deploy(trained(make()), dict.fromkeys(layers, (weight_bits, activation_bits)), inputs[:1])
    calibrate(model, [inputs])
    return model, inputs


@pytest.mark.parametrize("bits", [3, 8, 16])
@pytest.mark.parametrize("name", NETWORKS)
def test_with_float_activations_it_computes_the_same(name: str, bits: int) -> None:
    model, inputs = deployed(name, bits, 32)
    expected = model(inputs)
    with torch.no_grad():
        torch.testing.assert_close(unquantize(copy.deepcopy(model))(inputs), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_quantizer_is_left_and_everything_trains(name: str) -> None:
    model, inputs = deployed(name, 8, 8)
    expected = model(inputs)
    again = unquantize(copy.deepcopy(model))
    assert not any(isinstance(m, QuantizedLayer | ActivationQuantizer) for m in again.modules())
    outputs = again(inputs)
    assert 0 < (outputs - expected).abs().max() < 0.1 * expected.abs().max()
    outputs.square().mean().backward()
    assert all(parameter.grad is not None for parameter in again.parameters())


def test_it_can_be_deployed_again() -> None:
    model, inputs = deployed("residual", 4, 8)
    again, _ = unquantize(copy.deepcopy(model)), None
    twice = deploy(again, {"stem": (4, 32), "branch": (4, 32), "head": (4, 32)}, inputs[:1])
    # Weights that lie on a grid of four bits already stay where they are.
    with torch.no_grad():
        torch.testing.assert_close(twice(inputs), again(inputs), rtol=1e-4, atol=1e-5)
