"""What holds for every criterion: on any kind of network, of a channel that does nothing, against chance."""

from __future__ import annotations

import copy
from statistics import mean
from types import SimpleNamespace

import pytest
import torch
from evidence import FAMILIES, CrossEntropy, batches_of, free_groups, groups, images, residual
from prunable_networks import Functional, Plain, make
from torch import nn
from trained_digits import accuracy, digits, trained

from autoprune.compress.criteria import BUILT_IN, Evidence, load_criterion, score
from autoprune.compress.prune import Prune
from autoprune.compress.technique import Context
from autoprune.errors import BadInput
from autoprune.space import Choices, Options
from autoprune.task import Batch
from autoprune.train import recalibrate

SEEDS = range(3)
NOT_RANDOM = sorted(set(BUILT_IN) - {"random"})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_unit_gets_a_finite_score_that_is_the_same_again(name, family):
    network, inputs = family()
    found = list(free_groups(network, inputs).values())
    first, again = (
        score(name, Evidence(network, CrossEntropy(), batches_of(inputs), found)) for _ in range(2)
    )
    assert [first[group.name].shape for group in found] == [(group.units,) for group in found]
    assert all(values.isfinite().all() for values in first.values())
    assert all(torch.equal(first[group], again[group]) for group in first)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"bn_scale"}))
def test_no_group_needs_another_criterion(name, family):
    network, inputs = family()
    seen = Evidence(network, CrossEntropy(), batches_of(inputs), list(free_groups(network, inputs).values()))
    score(name, seen)
    assert seen.notes == ({"curvature": "hutchinson"} if name == "hessian" else {})


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_network_stays_as_it_was(name):
    network, inputs = residual()
    found = list(free_groups(network, inputs).values())
    network.train()
    network.inner.eval().requires_grad_(False)
    state = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    flags = [parameter.requires_grad for parameter in network.parameters()]
    score(name, Evidence(network, CrossEntropy(), batches_of(inputs), found))
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    assert modes == [module.training for module in network.modules()]
    assert flags == [parameter.requires_grad for parameter in network.parameters()]
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("name", sorted(set(NOT_RANDOM) - {"fpgm"}))
def test_a_channel_that_does_nothing_scores_lowest(name):
    network = make(Plain)
    with torch.no_grad():
        for parameter in (network.one[0].weight, network.one[1].weight, network.one[1].bias):
            parameter[5] = 0.0
    labelled = [Batch(inputs, torch.arange(4) % 2) for inputs, _ in images(2)]
    found = score(name, Evidence(network, CrossEntropy(), labelled, list(groups(network).values())))["one.0"]
    assert found.shape == (8,) and found.argmin() == 5


@pytest.mark.parametrize("name", ["activation", "mrmr"])
def test_a_group_of_which_nothing_is_seen_is_scored_by_l1_and_that_is_noted(name):
    network = make(Functional)
    with torch.no_grad():
        network.weight.data = network.weight.data.double()  # a product of doubles: what is read is a copy
    network.forward = lambda x: (
        nn.functional.relu(nn.functional.conv2d(x, network.kernel * network.scale, network.offset)).sum(
            (2, 3)
        )
        @ network.weight.float()
    )
    batches = [Batch(inputs, torch.arange(4) % 2) for inputs, _ in images(1)]
    seen = Evidence(network, CrossEntropy(), batches, list(groups(network).values()))
    assert torch.equal(score(name, seen)["kernel"], score("l1", seen)["kernel"])
    assert seen.notes == {"by_l1": {"kernel": "no product was seen that reads it"}}


def after_pruning(name, seed, normed=False):
    """Accuracy of a trained network of which 60 % of each group were cut, when only BatchNorm was recalibrated."""
    model, (task, data) = trained(seed, normed), digits()
    technique = Prune(criterion=Options((name,), name))
    target = SimpleNamespace(channel_multiple=1)
    space = technique.choices(model, torch.zeros(1, 64), target)
    point = {choice: 0.6 if choice.endswith(".ratio") else value.neutral for choice, value in space.items()}
    where = Context(task, data, target, model, seed=seed)
    pruned = technique.apply(copy.deepcopy(model), Choices(point), where)
    return accuracy(recalibrate(pruned, data.train, batch_size=64, batches=8))


@pytest.mark.parametrize("name", sorted(set(NOT_RANDOM) - {"bn_scale"}))
def test_it_is_better_than_chance(name):
    by_chance = mean(after_pruning("random", seed) for seed in SEEDS)
    assert mean(after_pruning(name, seed) for seed in SEEDS) > by_chance + 20.0


def test_scales_of_batchnorm_are_better_than_chance():
    by_chance = mean(after_pruning("random", seed, normed=True) for seed in SEEDS)
    assert mean(after_pruning("bn_scale", seed, normed=True) for seed in SEEDS) > by_chance + 5.0


def test_an_unknown_criterion_names_the_nearest():
    with pytest.raises(BadInput, match=r"got 'tailor', expected one of l1, .*did you mean 'taylor'"):
        load_criterion("tailor")
