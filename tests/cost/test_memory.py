"""Peak memory of activations, against sums on paper."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.cost import count
from autoprune.cost.memory import peak_memory_bytes
from autoprune.deployed import deploy


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 50), nn.ReLU(), nn.Linear(50, 10)
    ).eval()


class Shortcut(nn.Module):
    """Its input is needed until the end."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.back = nn.Linear(100, 300), nn.Linear(300, 100)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.back(self.wide(x))


def test_a_chain_needs_the_input_and_output_of_its_widest_step() -> None:
    assert peak_memory_bytes(chain(), torch.zeros(1, 100)) == 4 * (100 + 200)


def test_a_shortcut_is_kept_meanwhile() -> None:
    assert peak_memory_bytes(Shortcut().eval(), torch.zeros(1, 100)) == 4 * (100 + 300 + 100)


def test_rounded_activations_are_counted_with_their_bits() -> None:
    bits = dict.fromkeys(("0", "2", "4"), (8, 8))
    assert peak_memory_bytes(deploy(chain(), bits, torch.zeros(1, 100)), torch.zeros(1, 100)) == 100 + 200


def test_weights_are_not_counted_and_the_network_is_left_alone() -> None:
    model = chain().train()
    found = count(model, torch.zeros(1, 100), {"0": (4, 8)})
    assert 200 < found["peak_memory_bytes"] <= 4 * 300
    assert model.training


def test_what_is_looked_up_and_dict_inputs_are_followed() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(1000, 32), nn.Linear(32, 4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(ids).mean(1))

    ids = torch.zeros(1, 16, dtype=torch.long)
    # The ids (8 bytes each) are read once; the rows that were looked up are the widest.
    assert peak_memory_bytes(Words().eval(), {"ids": ids}) == 8 * 16 + 4 * 16 * 32
