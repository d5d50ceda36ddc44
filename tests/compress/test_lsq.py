"""Learned steps: where they start, which gradient they get, and what they save with few bits."""

from __future__ import annotations

import math

import pytest
import torch
from digits_quantized import accuracy_after
from torch import nn

from autoprune.compress.lsq import LearnedQuantizer, LearnedSteps, LearnedWeight, carry_steps, drop_steps
from autoprune.deployed import Widths
from autoprune.deployed.quantizers import STEP


def test_a_step_starts_where_the_paper_says() -> None:
    layer = nn.Linear(64, 5)
    LearnedWeight(layer, (3, 32))
    expected = 2 * layer.weight.detach().abs().mean(1) / math.sqrt(3)
    torch.testing.assert_close(layer.get_buffer(STEP), expected)
    whole = nn.Linear(64, 5)
    LearnedWeight(whole, Widths(3, 32, "per_tensor"))
    torch.testing.assert_close(
        whole.get_buffer(STEP), 2 * whole.weight.detach().abs().mean()[None] / math.sqrt(3)
    )


def test_what_was_pruned_says_nothing_of_the_step() -> None:
    layer, dense = nn.Linear(64, 2), nn.Linear(64, 2)
    with torch.no_grad():
        layer.weight.fill_(0.5)
        layer.weight[:, ::2] = 0.0
        layer.weight[1] = 0.0
        dense.weight.fill_(0.5)
    LearnedWeight(layer, (4, 32))
    LearnedWeight(dense, (4, 32))
    assert torch.equal(layer.get_buffer(STEP), dense.get_buffer(STEP))


def test_the_gradient_of_a_step_is_that_of_the_paper() -> None:
    layer = nn.Linear(6, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.30, -0.26, 0.9, -2.0, 0.04, 0.0]]))
    layer.register_buffer(STEP, torch.tensor([0.25]))
    learned = LearnedWeight(layer, (3, 32))
    learned(layer.weight).sum().backward()
    # Eq. 3: -v/s + round(v/s) within the range of -3 to 3, the last code beyond it.
    ratios = [0.30 / 0.25, -0.26 / 0.25, 3.6, -8.0, 0.04 / 0.25, 0.0]
    expected = sum(round(r) - r if abs(r) < 3 else math.copysign(3, r) for r in ratios)
    assert learned.step.grad is not None
    assert float(learned.step.grad) == pytest.approx(expected / math.sqrt(6 * 3), rel=1e-4)
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[1.0, 1.0, 0.0, 0.0, 1.0, 1.0]]


@pytest.mark.parametrize(("low", "zero"), [(0.0, 0.0), (-1.0, 128.0)])
def test_what_is_never_negative_has_the_zero_point_zero(low: float, zero: float) -> None:
    quantizer = LearnedQuantizer(8).train()
    x = torch.linspace(low, 1.0, 1001)[:, None]
    quantizer(x)
    assert quantizer.grid()[1] == pytest.approx(zero, abs=1)
    top = 255 if low == 0 else 128
    assert quantizer.grid()[0] == pytest.approx(2 * float(x.abs().mean()) / math.sqrt(top), rel=0.01)
    assert float(quantizer(torch.zeros(1, 1))) == 0.0


def test_nothing_is_rounded_before_something_was_seen() -> None:
    quantizer = LearnedQuantizer(8).eval()
    x = torch.tensor([[0.1234]])
    assert torch.equal(quantizer(x), x)
    quantizer.train()
    assert torch.equal(quantizer(torch.zeros(2, 2)), torch.zeros(2, 2))
    assert not quantizer.is_known


def test_a_step_that_crosses_zero_stays_a_step() -> None:
    layer = nn.Linear(8, 2)
    rounding = LearnedSteps()
    learned = rounding.weight("layer", layer, (4, 32), None)
    with torch.no_grad():
        learned.get_parameter("step").copy_(torch.tensor([-0.5, 0.0]))
    rounding.on_step(0.5)
    assert (layer.get_buffer(STEP) > 0).all()
    assert learned(layer.weight).isfinite().all()


def test_room_for_steps_is_made_and_taken_away() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    names = set(model.state_dict())
    carry_steps(model, {"weights": {"0": 3}, "activations": {}})
    assert set(model.state_dict()) == {*names, f"0.{STEP}"}
    drop_steps(model)
    assert set(model.state_dict()) == names
    with pytest.raises(KeyError):
        carry_steps(model, {"weights": {"7": 3}})


@pytest.mark.parametrize("bits", [2, 3])
def test_learned_steps_beat_rounding_afterwards_on_digits(bits: int) -> None:
    assert accuracy_after("lsq", bits, epochs=4) > accuracy_after("ptq", bits, epochs=4) + 1.0
