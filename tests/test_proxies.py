"""Training-free proxies: each does what its paper says on networks small enough to reckon by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tiny_task import TinyNet, TinyTask
from torch import nn

from autoprune.proxies import PROXIES, jacob_cov, scores, synflow
from autoprune.spec.sections import PROXIES as NAMES
from autoprune.study.evidence import rank_correlations, worthwhile
from autoprune.task import Batch

TASK = TinyTask()
BATCH = next(iter(TASK.data().train.batches(16)))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return TinyNet()


def test_all_are_finite_and_leave_the_network_alone(network: nn.Module) -> None:
    before = copy.deepcopy(network.state_dict())
    found = scores(network, TASK, BATCH)
    assert set(found) == set(PROXIES) and all(map(math.isfinite, found.values()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert scores(network, TASK, BATCH) == found


def test_a_spec_can_ask_for_each_but_the_baseline() -> None:
    assert ("params", *NAMES) == tuple(PROXIES)


def test_synflow_is_the_sum_over_all_paths_for_each_layer() -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0]]))
        model[1].weight.copy_(torch.tensor([[-1.0], [3.0]]))
    batch = Batch(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))
    assert synflow(model, TASK, batch) == pytest.approx(math.log(2 * (1 + 2) * (1 + 3)))


def test_gradients_of_a_linear_loss_are_its_inputs() -> None:
    class Linear:
        def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
            return outputs.sum()

    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
    batch = Batch(torch.tensor([[3.0, 4.0]]), torch.zeros(1))
    assert PROXIES["grad_norm"](model, Linear(), batch) == pytest.approx(5.0)  # type: ignore[arg-type]
    assert PROXIES["snip"](model, Linear(), batch) == pytest.approx(3.0 + 8.0)  # type: ignore[arg-type]


def test_a_network_that_treats_all_inputs_alike_scores_low(network: nn.Module) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))  # every example has the same Jacobian
    assert jacob_cov(linear, TASK, BATCH) < jacob_cov(network, TASK, BATCH)


def test_tokens_have_no_jacobian() -> None:
    words = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    batch = Batch(torch.tensor([[1, 2], [3, 4]]), torch.tensor([0, 1]))
    found = scores(words, TASK, batch)
    assert math.isnan(found["jacob_cov"]) and math.isfinite(found["synflow"])


def test_only_what_beats_the_parameter_count_is_worthwhile() -> None:
    rows = [{**dict.fromkeys(PROXIES, float(p)), "synflow": s} for p, s in [(2, 1), (1, 2), (3, 3)]]
    found = rank_correlations(rows, [1.0, 2.0, 3.0])
    assert found["synflow"] == pytest.approx(1.0) and found["params"] == pytest.approx(0.5)
    assert worthwhile(found) == ["synflow"]
    assert worthwhile({"params": 0.9, "synflow": 0.9, "snip": math.nan}) == []
