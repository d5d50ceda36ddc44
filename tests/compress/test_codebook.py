"""Weights that share values: which they are, that they stay shared, and what they save with few bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from digits_quantized import accuracy_after
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import nn

from autoprune.compress.codebook import SharedValues, SharedWeight
from autoprune.deployed.codebook import CodebookLayer, quantized_layer, shared_values
from autoprune.deployed.quantizers import Widths, weight_scale


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(2, 8), st.floats(0, 1), st.integers(0, 99))
def test_zeros_stay_zeros_and_nothing_else_becomes_one(size: int, bits: int, share: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(size, generator=draw) * (torch.rand(size, generator=draw) >= share)
    centroids, indices = shared_values(weight, bits)
    found = centroids[indices.int()]
    assert torch.equal(found == 0, weight == 0)
    if bool((weight == 0).any()):
        assert torch.equal(indices == 0, weight == 0)
    if len(weight.unique()) <= 2**bits:
        assert torch.equal(found, weight)


def test_values_are_those_of_k_means() -> None:
    weight = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    centroids, indices = shared_values(weight, 3)
    start = np.linspace(float(weight.min()), float(weight.max()), 8)[:, None]
    known = KMeans(8, init=start, n_init=1, tol=0.0, max_iter=2000).fit(weight[:, None].double().numpy())
    error = float((centroids[indices.int()] - weight).square().sum())
    assert error == pytest.approx(known.inertia_, rel=1e-3)


def test_no_value_is_idle_where_zeros_left_a_gap() -> None:
    weight = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    weight[weight.abs() < 2] = 0.0
    centroids, indices = shared_values(weight, 4)
    assert len(indices.unique()) == len(centroids.unique()) == 16


@pytest.mark.parametrize("bits", [2, 3])
def test_shared_values_round_better_than_even_ones(bits: int) -> None:
    layer = nn.Linear(500, 8)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(8, 500, generator=torch.Generator().manual_seed(0)).sign() * 0.5)
        layer.weight += 0.2 * torch.randn(8, 500, generator=torch.Generator().manual_seed(1)) ** 3
    errors = [
        float((quantized_layer(layer, Widths(bits, 32, form)).dequantized() - layer.weight).square().sum())
        for form in ("per_tensor", "codebook")
    ]
    assert errors[1] < 0.8 * errors[0]


def test_gradients_are_shared_and_who_shares_stays_equal() -> None:
    layer = nn.Linear(40, 30, bias=False)
    with torch.no_grad():
        layer.weight.masked_fill_(torch.rand(30, 40) < 0.6, 0.0)
    rounding = SharedValues()
    shared = rounding.weight("layer", layer, (3, 32), None)
    assert isinstance(shared, SharedWeight)
    rounding.on_step(0.75)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    groups, before = shared.groups.clone(), layer.weight.detach().clone()
    for step in range(5):
        optimizer.zero_grad()
        direct = torch.randn(30, 40, generator=torch.Generator().manual_seed(step))
        (shared(layer.weight) * direct).sum().backward()
        for group in groups.unique():
            members = (groups == group).view(30, 40)
            expected = direct[members & (before != 0)].mean() if group else torch.tensor(0.0)
            assert layer.weight.grad is not None
            assert torch.allclose(layer.weight.grad[members], expected, atol=1e-5)
        optimizer.step()
        rounding.on_step(0.8)
    values = layer.weight.detach()
    assert not torch.equal(values, before)
    assert torch.equal(values == 0, before == 0)
    assert all(len(values.view(-1)[groups == group].unique()) == 1 for group in groups.unique())


def test_every_weight_learns_by_itself_before_the_last_quarter() -> None:
    layer = nn.Linear(40, 30, bias=False)
    before = layer.weight.detach().clone()
    rounding = SharedValues()
    shared = rounding.weight("layer", layer, (2, 32), None)
    rounding.on_step(0.74)
    assert torch.equal(shared(layer.weight), before)
    rounding.on_step(0.75)
    assert len(layer.weight.unique()) <= 4


def test_what_a_schedule_zeroes_in_between_does_not_count() -> None:
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.0, -1.0, -1.0]]))
    rounding = SharedValues()
    shared = rounding.weight("layer", layer, (2, 32), None)
    rounding.on_step(0.75)
    with torch.no_grad():
        layer.weight[0, 0] = 0.0
    (shared(layer.weight) * torch.tensor([[100.0, 3.0, 5.0, 7.0]])).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[3.0, 3.0, 6.0, 6.0]]
    rounding.on_step(1.0)
    assert layer.weight.tolist() == [[0.0, 1.0, -1.0, -1.0]]


def test_a_layer_is_made_again_from_its_arguments() -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)
    scale = torch.rand(3)
    made = CodebookLayer.sharing(layer, (4, 8), True, (layer.weight.detach(), scale))
    again = CodebookLayer(**made.arguments())
    again.load_state_dict(made.state_dict())
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(made(x), again(x))
    with pytest.raises(ValueError, match="at most 8"):
        CodebookLayer("Linear", (2, 2), {}, False, 16, 8)


def test_a_small_layer_stores_no_more_values_than_entries() -> None:
    assert len(quantized_layer(nn.Linear(3, 4), Widths(8, 32, "codebook")).get_buffer("centroids")) == 12


def test_the_scale_of_a_uniform_weight_is_not_touched() -> None:
    weight = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    assert weight_scale(weight, 8, 0).shape == (3,)
    assert weight_scale(weight, 8, 0, "per_tensor").shape == (1,)


def test_two_bits_of_shared_values_beat_two_even_bits_on_digits() -> None:
    assert accuracy_after("codebook", 2, epochs=4) > accuracy_after("ptq", 2, epochs=4) + 1.0
