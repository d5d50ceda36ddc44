"""Every family of networks: what `analyse` lets go is right, told by the values of the weights alone.

All weights differ, so the values that are left in a cut network say which positions were kept; the dense network
with the other positions zeroed must give the same outputs. Nothing of autoprune.structure takes part in that.
"""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import prunable_networks
import pytest
import sequence_networks
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from autoprune.structure import Observed, Structure, analyse, prepared
from autoprune.structure.parametrize import fold_parametrizations

FAMILIES = (*prunable_networks.FAMILIES, *sequence_networks.FAMILIES)
# What little is free in these is less than a tenth: the rest is averaged over, or on a path not taken.
MOSTLY_WHOLE = (prunable_networks.Averaged, prunable_networks.DataDependent)


def inputs_of(kind):
    chosen = (
        sequence_networks.sequence_example
        if kind in sequence_networks.FAMILIES
        else prunable_networks.example
    )
    inputs = chosen(kind)
    return inputs.double() if inputs.is_floating_point() else inputs


def dense(kind) -> nn.Module:
    """A network in double precision of which no two weights are equal."""
    torch.manual_seed(0)
    network = kind().double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer.add_(0.1 * torch.rand_like(buffer))
    return network


@cache
def analysed(kind) -> tuple[nn.Module, Structure, nn.Module]:
    """A network, its structure, and the network to cut: itself or its graph."""
    network = dense(kind)
    found = analyse(network, inputs_of(kind))
    return network, found, prepared(network, inputs_of(kind), found.way)


def cut(kind, removed) -> nn.Module:
    smaller = copy.deepcopy(analysed(kind)[2])
    Observed(smaller, inputs_of(kind)).cut(removed)
    return smaller


@torch.no_grad()
def zeroed_like(network, smaller) -> nn.Module:
    """The network with zeros wherever the values of a position are gone from the smaller one."""
    zeroed, left = copy.deepcopy(network), smaller.state_dict()
    for name, tensor in zeroed.state_dict().items():
        if name in left and left[name].shape != tensor.shape:
            stays = np.isin(tensor.numpy(), left[name].numpy())
            for axis in range(tensor.dim()):
                others = tuple(i for i in range(tensor.dim()) if i != axis)
                gone = np.flatnonzero(~stays.any(axis=others))
                assert tensor.shape[axis] - len(gone) == left[name].shape[axis]
                tensor.index_fill_(axis, torch.from_numpy(gone), 0.0)
    return zeroed


@torch.no_grad()
def equal(kind, removed) -> bool:
    network = analysed(kind)[0]
    smaller = cut(kind, removed)
    expected = zeroed_like(network, smaller)(inputs_of(kind))
    found = smaller(inputs_of(kind))
    return torch.allclose(found, expected, rtol=0.0, atol=1e-9 * expected.abs().max().item())


def drawn(group, seed, share):
    rng = np.random.default_rng(seed)
    count = min(max(1, round(share * group.units)), group.units - 1)
    return rng.choice(group.units, count, replace=False).tolist()


@pytest.mark.parametrize("kind", FAMILIES, ids=lambda kind: kind.__name__)
def test_each_group_alone_is_cut_as_it_is_zeroed(kind):
    found = analysed(kind)[1]
    assert found.unknown == {}
    for seed, group in enumerate(found.free):
        for share in (0.2, 0.7):
            assert equal(kind, {group.name: drawn(group, seed, share)}), group


@pytest.mark.parametrize("kind", FAMILIES, ids=lambda kind: kind.__name__)
def test_all_groups_together_are_cut_as_they_are_zeroed_and_the_network_shrinks(kind):
    network, found, _ = analysed(kind)
    rng = np.random.default_rng(7)
    removed = {group.name: drawn(group, i, rng.uniform(0.3, 0.7)) for i, group in enumerate(found.free)}
    assert equal(kind, removed)
    assert not torch.allclose(cut(kind, removed)(inputs_of(kind)), network(inputs_of(kind)), rtol=1e-3)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (network, cut(kind, removed)))
    assert after <= (1.0 if kind in MOSTLY_WHOLE else 0.9) * before


def test_weight_norm_is_cut_once_it_is_folded():
    torch.manual_seed(0)
    network = nn.Sequential(weight_norm(nn.Linear(6, 10)), nn.ReLU(), weight_norm(nn.Linear(10, 3))).eval()
    fold_parametrizations(network)
    assert [group.name for group in analyse(network, torch.randn(1, 6)).free] == ["0"]
