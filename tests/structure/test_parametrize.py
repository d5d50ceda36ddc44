"""Weights that are computed from others become plain weights of the same value."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

from autoprune.structure.parametrize import fold_parametrizations


class Doubled(nn.Module):
    """A parametrization of the user's own."""

    def forward(self, weight):
        return 2.0 * weight


WAYS = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "older weight norm": weight_norm,
    "older spectral norm": spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "own": lambda layer: (parametrize.register_parametrization(layer, "weight", Doubled()), layer)[1],
}


@pytest.mark.parametrize("way", WAYS)
def test_the_weight_is_stored_as_it_is_used(way):
    torch.manual_seed(0)
    network, x = nn.Sequential(WAYS[way](nn.Linear(5, 4)), nn.ReLU()).eval(), torch.randn(2, 5)
    expected = network(x)
    assert fold_parametrizations(network) == ["0.weight"]
    assert torch.allclose(network(x), expected, atol=1e-6)
    assert dict(network.named_parameters()).keys() == {"0.weight", "0.bias"}
    assert network[0].weight.requires_grad and not list(network.buffers())


def test_a_plain_network_has_nothing_to_fold():
    assert fold_parametrizations(nn.Sequential(nn.Linear(5, 4))) == []


def test_a_weight_norm_of_a_recurrent_layer_is_folded():
    network, x = weight_norm(nn.LSTM(3, 4), "weight_hh_l0"), torch.randn(5, 1, 3)
    expected = network(x)[0]
    assert fold_parametrizations(network) == ["weight_hh_l0"]
    assert torch.allclose(network(x)[0], expected, atol=1e-6)
