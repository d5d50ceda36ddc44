"""Weights that are computed from parameters alone are computed once in a lifted network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from autoprune.deployed import lift

torch.set_num_threads(1)


class Adapted(nn.Linear):
    """A weight with a gain for each output and an update of low rank."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.gain = nn.Parameter(torch.rand(outputs, 1) + 0.5)
        self.down, self.up = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.randn(outputs, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight * self.gain + self.up @ self.down, self.bias)


class Standardised(nn.Conv2d):
    """A weight of mean 0 and variance 1 for each output (Qiao et al. 2019)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) * torch.rsqrt(variance + 1e-6), self.bias, padding=1)


class Tied(nn.Module):
    """A weight that is read as it is, and scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(self.encode(x), 0.5 * self.encode.weight.T)


def test_computed_weights_become_those_of_plain_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Standardised(3, 4, 3), nn.ReLU(), nn.Flatten(), Adapted(64, 5)).eval()
    x = torch.randn(3, 3, 4, 4)
    graph = lift(model, x[:1])
    assert [(type(module), name) for name, module in graph.named_children() if name in "03"] == [
        (nn.Conv2d, "0"),
        (nn.Linear, "3"),
    ]
    weight = graph.get_submodule("0").weight
    assert weight.mean((1, 2, 3)).abs().max() < 1e-6 and not torch.equal(weight, model[0].weight)
    torch.testing.assert_close(graph(x), model(x))


def test_a_computed_weight_can_be_trained_and_the_model_keeps_its_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Adapted(4, 5), nn.Linear(5, 2)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = lift(model, torch.randn(1, 4))
    layer = graph.get_submodule("0")
    graph(torch.randn(3, 4)).sum().backward()
    assert isinstance(layer, nn.Linear) and layer.weight.grad is not None
    with torch.no_grad():
        layer.weight.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_parameter_that_is_also_read_as_it_is_stays() -> None:
    model, x = Tied().eval(), torch.randn(3, 4)
    graph = lift(model, x[:1])
    assert graph.get_parameter("encode.weight") is model.encode.weight
    torch.testing.assert_close(graph(x), model(x))
