"""How long networks are looked at before units of them go."""

from __future__ import annotations

import copy

import pytest
import torch
from prunable_networks import Residual, make
from test_prune import context

from autoprune.compress import zeroed_units
from autoprune.compress.zeroed_units import LONG_BATCHES, SCORING_BATCHES, batches_of_a_look

torch.set_num_threads(1)


def test_the_uncompressed_network_is_looked_at_for_longer_than_others() -> None:
    network = make(Residual)
    other = copy.deepcopy(network)
    with torch.no_grad():
        next(other.parameters()).mul_(1.1)
    assert batches_of_a_look(copy.deepcopy(network), "taylor", context(network)) == LONG_BATCHES
    assert batches_of_a_look(other, "taylor", context(network)) == SCORING_BATCHES


def test_a_criterion_that_is_dear_is_not_asked_for_more() -> None:
    network = make(Residual)
    assert batches_of_a_look(network, "mrmr", context(network)) == SCORING_BATCHES


def test_a_long_look_at_a_large_network_keeps_to_what_it_may_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make(Residual)
    monkeypatch.setattr(zeroed_units, "LONG_MACS", 1.0)
    assert batches_of_a_look(network, "taylor", context(network)) == SCORING_BATCHES
