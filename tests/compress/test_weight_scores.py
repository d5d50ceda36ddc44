"""Scores of single weights: finite for every weight of any network, as their papers define them, better than chance."""

from __future__ import annotations

import copy
from statistics import mean
from types import SimpleNamespace

import pytest
import torch
from prunable_networks import Grouped, GroupedTransposed, Residual, make
from sequence_networks import Recurrent, Separate, TorchAttention, sequence_example
from torch import nn
from trained_digits import accuracy, digits, trained

from autoprune.compress.criteria import Evidence
from autoprune.compress.criteria.hessian import curvature
from autoprune.compress.criteria.magnitude import survivors_share
from autoprune.compress.sparsify import Sparsify, shares_of
from autoprune.compress.technique import Context
from autoprune.compress.weight_scores import BUILT_IN, score
from autoprune.space import Choices, Options
from autoprune.task import Batch

SEEDS = range(3)
NETWORKS = (Residual, Grouped, Separate, TorchAttention, Recurrent)


class Sums:
    """A task whose loss depends on all outputs."""

    def loss(self, outputs, batch):
        return (outputs - batch.targets[:, None]).square().mean()


def made(kind):
    """A network and a batch for it."""
    if kind in (Residual, Grouped, GroupedTransposed):
        inputs = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        return make(kind), Batch(inputs, torch.arange(6.0))
    torch.manual_seed(0)
    return kind().eval(), Batch(sequence_example(kind).repeat(6, 1), torch.arange(6.0))


def weights_of(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.dim() > 1}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_weight_gets_a_finite_score_that_is_the_same_again(name, kind):
    model, batch = made(kind)
    weights = weights_of(model)
    state = copy.deepcopy(model.state_dict())
    first, again = (score(name, Evidence(model, Sums(), [batch]), weights) for _ in range(2))
    assert {key: values.shape for key, values in first.items()} == {
        key: w.shape for key, w in weights.items()
    }
    assert all(values.isfinite().all() and torch.equal(values, again[key]) for key, values in first.items())
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_lamp_is_that_of_squared_weights():
    model, batch = made(Residual)
    found = score("lamp", Evidence(model, Sums(), [batch]), weights_of(model))
    assert torch.equal(found["linear.weight"], survivors_share(model.linear.weight.detach().square()))


def test_hessian_is_half_of_curvature_times_square():
    model, batch = made(Residual)
    weights = weights_of(model)
    bends, _ = curvature(model, weights, Sums(), [batch], seed=0)
    seen = Evidence(model, Sums(), [batch])
    found = score("hessian", seen, weights)["linear.weight"]
    expected = 0.5 * bends["linear.weight"].abs() * model.linear.weight.detach().square()
    assert torch.allclose(found, expected) and seen.notes == {"curvature": "hutchinson"}


def test_activation_is_magnitude_times_the_size_of_the_input_feature():
    model, x = nn.Linear(3, 2), torch.randn(8, 3)
    found = score("activation", Evidence(model, Sums(), [Batch(x, torch.zeros(8))]), weights_of(model))
    size = x.square().mean(0).sqrt()
    assert torch.allclose(found["weight"], model.weight.detach().abs() * size)


def test_activation_of_a_convolution_in_groups_takes_the_features_of_each_group():
    model, batch = made(Grouped)
    found = score("activation", Evidence(model, Sums(), [batch]), weights_of(model))["grouped.0.weight"]
    with torch.no_grad():
        sizes = model.stem(batch.inputs).square().mean((0, 2, 3)).sqrt().view(2, 4)
        expected = model.grouped[0].weight.abs() * sizes.repeat_interleave(6, 0)[:, :, None, None]
    assert torch.allclose(found, expected, rtol=1e-4)


def test_activation_of_a_transposed_convolution_goes_along_its_first_axis():
    model, batch = made(GroupedTransposed)
    batch = Batch(batch.inputs, torch.zeros(6))
    task = SimpleNamespace()
    found = score("activation", Evidence(model, task, [batch]), {"up": model.up.weight})["up"]
    with torch.no_grad():
        sizes = torch.relu(model.down(batch.inputs)).square().mean((0, 2, 3)).sqrt()
        expected = model.up.weight.abs() * sizes[:, None, None, None]
    assert torch.allclose(found, expected, rtol=1e-4)


def test_what_no_product_reads_is_scored_by_l1_and_that_is_noted():
    model, batch = made(Separate)
    seen = Evidence(model, Sums(), [batch])
    found = score("activation", seen, weights_of(model))
    assert torch.equal(found["embed.weight"], model.embed.weight.detach().abs())
    assert seen.notes == {"by_l1": {"embed.weight": "no product was seen that reads it"}}


def after_zeroing(name, seed, scope):
    """Accuracy of a trained network of which 80 % of the weights were zeroed, before any training."""
    model, (task, data) = trained(seed), digits()
    technique = Sparsify(criterion=Options((name,), name), scope=scope)
    target = SimpleNamespace(channel_multiple=1)
    space = technique.choices(model, None, target)
    point = {choice: 0.8 if choice.endswith("sparsity") else value.neutral for choice, value in space.items()}
    where = Context(task, data, target, model, seed=seed)
    return accuracy(technique.apply(copy.deepcopy(model), Choices(point), where))


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"random"}))
def test_it_is_better_than_chance(name, scope):
    by_chance = mean(after_zeroing("random", seed, scope) for seed in SEEDS)
    assert mean(after_zeroing(name, seed, scope) for seed in SEEDS) > by_chance + 30.0


@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"random"}))
def test_one_sparsity_for_the_network_is_better_than_the_same_for_each_layer(name):
    shared, alone = (
        mean(after_zeroing(name, seed, scope) for seed in SEEDS) for scope in ("global", "layer")
    )
    assert shared > alone + 3.0


def test_lowest_scores_of_all_layers_go_and_one_of_each_stays():
    low = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    high = torch.arange(1.0, 13.0).view(3, 4)
    assert shares_of({"low": low, "high": high}, 0.0) == {"low": 0.0, "high": 0.0}
    assert shares_of({"low": low, "high": high}, 0.125) == {"low": 0.5, "high": 0.0}
    assert shares_of({"low": low, "high": high}, 0.5) == {"low": 0.75, "high": 5 / 12}
    assert shares_of({"low": low, "high": high}, 0.99) == {"low": 0.75, "high": 11 / 12}
