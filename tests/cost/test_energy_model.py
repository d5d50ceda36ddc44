"""Modelled energy: fewer bits, fewer channels and fewer bytes take less of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.cost import count
from autoprune.cost.energy import mac_pj

EXAMPLE = torch.zeros(1, 3, 8, 8)


def network(width: int) -> nn.Module:
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(width * 64, 10)]
    return nn.Sequential(*layers).eval()


def energy(width: int, bits: tuple[int, int] | None = None) -> float:
    chosen = {} if bits is None else {"0": bits, "3": bits}
    return count(network(width), EXAMPLE, chosen)["energy_uj"]


def test_a_multiplication_takes_what_the_paper_says() -> None:
    assert mac_pj(32, 32) == pytest.approx(4.6)
    assert mac_pj(8, 8) == pytest.approx(0.3)
    assert mac_pj(16, 16) == pytest.approx(1.5)


def test_the_energy_of_a_linear_layer_by_hand() -> None:
    found = count(nn.Sequential(nn.Linear(10, 4)).eval(), torch.zeros(1, 10))["energy_uj"]
    picojoules = 40 * 4.6 + (10 + 4) * 4 * 12.5 + 40 * 4 * 162.5
    assert found == pytest.approx(picojoules * 1e-6)


def test_less_of_anything_takes_less_energy() -> None:
    assert energy(4) < energy(8)
    assert energy(8, (4, 8)) < energy(8, (8, 8)) < energy(8)
