"""What a cut changed in a network that is no graph is repeated on a fresh one."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from autoprune.errors import ArtifactError
from autoprune.stored.replay import (
    layers_to_json,
    rebuild,
    repeat_sizes,
    repeat_unsaved,
    sizes_to_json,
    unsaved_to_json,
)

torch.set_num_threads(1)


class Heads(nn.Module):
    """Its code splits by numbers that it holds, and scales by a buffer that it does not save."""

    def __init__(self, heads: int = 4, width: int = 8) -> None:
        super().__init__()
        self.heads, self.parts, self.name = heads, (heads * width, heads), "heads"
        self.project = nn.Linear(6, heads * width + heads)
        self.register_buffer("scales", torch.arange(1.0, width + 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values, gates = self.project(x).split(self.parts, -1)
        return (values.view(len(x), self.heads, -1) * self.scales).sum(-1) * gates


def test_sizes_and_unsaved_buffers_are_repeated() -> None:
    narrow, wide = Heads(2, 3), Heads()
    wide.project = narrow.project
    narrow.scales.mul_(0.5)
    repeat_sizes(wide, json.loads(json.dumps(sizes_to_json(narrow))))
    repeat_unsaved(wide, json.loads(json.dumps(unsaved_to_json(narrow))))
    x = torch.randn(5, 6)
    torch.testing.assert_close(wide(x), narrow(x), rtol=0, atol=0)
    assert wide.parts == (6, 2) and "scales" not in wide.state_dict()


def test_only_whole_numbers_are_written_and_only_over_such() -> None:
    model = Heads()
    repeat_sizes(
        model, {"": {"name": 3, "heads": "5", "forward": 1, "parts": 7, "other": 2}, "no": {"heads": 1}}
    )
    assert (model.name, model.heads, model.parts) == ("heads", 4, (32, 4))
    assert not hasattr(model, "other") and callable(model.forward)


@pytest.mark.parametrize("sizes", [[], {"": 3}])
def test_malformed_sizes_are_refused(sizes: object) -> None:
    with pytest.raises(ArtifactError, match="sizes"):
        repeat_sizes(Heads(), sizes)


def test_a_buffer_that_the_network_lacks_is_refused() -> None:
    with pytest.raises(ArtifactError, match="no buffer 'more'"):
        repeat_unsaved(Heads(), {"more": unsaved_to_json(Heads())["scales"]})


class Shared(nn.Module):
    """One table of words for both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.write.weight = self.read.weight


def test_what_is_tied_stays_tied() -> None:
    model = Shared()
    again = rebuild(Shared, {}, layers_to_json(model), model.state_dict())
    assert again.write.weight is again.read.weight
    assert [name for name, _ in again.named_parameters()] == ["read.weight"]
