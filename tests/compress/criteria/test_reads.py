"""What a weight is multiplied with is seen, whatever it is that multiplies."""

from __future__ import annotations

import pytest
import torch
from evidence import batches_of, evidence, groups, images, recurrent
from prunable_networks import Flattened, Grouped, Plain, Separable, make
from sequence_networks import TorchAttention, sequence_example
from torch import nn
from torch.nn import functional

from autoprune.compress.criteria import score
from autoprune.compress.criteria.reads import Reads


def means(model, inputs, measure=torch.abs):
    reads = Reads(model, measure)
    reads.watch(inputs)
    return reads.means()


def test_a_linear_layer_reads_its_inputs():
    model, x = nn.Linear(3, 3), torch.randn(5, 7, 3)
    found = means(model, x)
    assert list(found) == [("weight", 1)]
    assert torch.allclose(found["weight", 1], x.abs().mean((0, 1))[None])


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_in_groups_reads_each_group_apart(bias):
    model, x = nn.Conv2d(6, 4, 3, groups=2, bias=bias), torch.randn(5, 6, 8, 8)
    expected = x.abs().mean((0, 2, 3)).view(2, 3)
    assert torch.allclose(means(model, x)["weight", 1], expected, atol=1e-6)


def test_a_transposed_convolution_reads_along_its_first_axis():
    model, x = nn.ConvTranspose1d(6, 4, 3, groups=2), torch.randn(5, 6, 8)
    assert torch.allclose(means(model, x)["weight", 0], x.abs().mean((0, 2))[None], atol=1e-6)


class Products(nn.Module):
    """Weights without a layer, on either side of a product, in batches, and of a single vector."""

    def __init__(self) -> None:
        super().__init__()
        self.right, self.left = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(2, 7))
        self.batched, self.vector = nn.Parameter(torch.randn(7, 5, 3)), nn.Parameter(torch.randn(6, 3))

    def forward(self, x):
        y = x @ self.right
        return self.left @ y, torch.bmm(y[:, None], self.batched), self.vector @ x[0, :3]


def test_weights_need_no_layer():
    model, x = Products(), torch.randn(7, 4)
    found = means(model, x)
    y = (x @ model.right).detach().abs()
    expected = {
        ("right", 0): x.abs().mean(0), ("left", 1): y.mean(1), ("batched", 1): y.mean(0),
        ("vector", 1): x[0, :3].abs(),
    }  # fmt: skip
    assert set(found) == set(expected)
    assert all(torch.allclose(found[place], expected[place][None], atol=1e-6) for place in expected)


def test_a_recurrent_layer_reads_its_inputs_and_its_own_states():
    model, ids = recurrent()
    found = means(model, ids, torch.square)
    with torch.no_grad():
        states = model.read(model.embed(ids))[0]
    before = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1)
    assert torch.allclose(found["read.weight_ih_l0", 1][0], model.embed(ids).square().mean((0, 1)), atol=1e-6)
    assert torch.allclose(found["read.weight_hh_l0", 1][0], before.square().mean((0, 1)), atol=1e-6)


def test_the_projections_of_torchs_attention_are_seen():
    torch.manual_seed(0)
    found = means(TorchAttention().eval(), sequence_example(TorchAttention))
    assert {("attends.in_proj_weight", 1), ("attends.out_proj.weight", 1)} <= set(found)


def test_averages_run_over_all_batches_and_start_anew():
    model, one, two = nn.Linear(3, 2), torch.randn(2, 3), torch.randn(6, 3)
    reads = Reads(model, torch.abs)
    reads.watch(one)
    reads.watch(two)
    assert torch.allclose(reads.means()["weight", 1][0], torch.cat([one, two]).abs().mean(0))
    assert reads.means() == {}


def test_a_channel_counts_behind_norm_and_activation():
    network = make(Plain)
    (batch,) = images(1)
    with torch.no_grad():
        seen = network.one(batch.inputs).mean((0, 2, 3))
    found = score("activation", evidence(network, [batch]))["one.0"]
    assert torch.allclose(found, seen / seen.mean(), rtol=1e-4)


def test_a_channel_that_is_flattened_counts_at_all_of_its_positions():
    network = make(Flattened)
    (batch,) = images(1)
    with torch.no_grad():
        seen = functional.max_pool2d(network.conv(batch.inputs), 2).mean((0, 2, 3))
    assert torch.allclose(
        score("activation", evidence(network, [batch]))["conv.0"], seen / seen.mean(), rtol=1e-4
    )


@pytest.mark.parametrize("kind", [Grouped, Separable])
def test_units_of_grouped_and_depthwise_convolutions_are_all_seen(kind):
    network = make(kind)
    seen = evidence(network, images(1))
    assert set(score("activation", seen)) == set(groups(network)) and seen.notes == {}


def test_batches_of_dicts_are_read():
    model = nn.Linear(2, 2)
    named = nn.Module()
    named.layer, named.forward = model, lambda x, scale: model(x) * scale
    inputs = {"x": torch.randn(6, 2), "scale": torch.ones(6, 1)}
    (batch,) = batches_of(inputs, 1)
    assert torch.allclose(means(named, batch.inputs)["layer.weight", 1][0], inputs["x"].abs().mean(0))
