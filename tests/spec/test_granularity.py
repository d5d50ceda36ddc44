"""Shapes of holes by name: `space.granularity` turns on the techniques that make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.compress.prune import Prune
from autoprune.errors import SpecError
from autoprune.spec import Spec
from autoprune.targets import load_target


def space_of(given: Any, **sections: Any) -> Any:
    spec = {"task": "digits", "budget": {"trials": 1}, "space": {"granularity": given, **sections}}
    return Spec.parse(spec, Path.cwd()).space


def test_a_single_shape_turns_on_its_technique_alone() -> None:
    space = space_of("block")
    assert space.depth is not None
    assert space.prune is None and space.sparsify is None


def test_shapes_in_a_list_are_searched_together() -> None:
    space = space_of(["channel", "unstructured", "n_m"])
    assert space.prune.granularity == ("channel",)
    assert space.sparsify.pattern.values == ("unstructured", "2:4", "4:8")


def test_a_section_keeps_its_own_settings() -> None:
    space = space_of(["head"], prune={"ratio": 0.5})
    assert space.prune.granularity == ("head",)
    assert space.prune.ratio.at(1.0) == 0.5


def test_what_was_expanded_is_written_and_read_back() -> None:
    spec = Spec.parse(
        {"task": "digits", "budget": {"trials": 1}, "space": {"granularity": ["head", "n_m"]}}, Path.cwd()
    )
    assert Spec.from_yaml(spec.to_yaml()) == spec


@pytest.mark.parametrize("wrong", ["row", [], ["channel", "row"], 3])
def test_an_unknown_shape_is_refused_with_those_that_there_are(wrong: Any) -> None:
    with pytest.raises(SpecError, match=r"granularity.*channel, head, block, unstructured, n_m"):
        space_of(wrong)


def test_heads_alone_leave_channels_whole() -> None:
    model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    example = torch.zeros(1, 5, 16)
    target = load_target("onnxruntime")
    heads = Prune(granularity=("head",)).choices(model, example, target)
    channels = Prune(granularity=("channel",)).choices(model, example, target)
    both = Prune().choices(model, example, target)
    ratios = [{name for name in found if name.endswith(".ratio")} for found in (heads, channels, both)]
    assert ratios[0] and ratios[1]
    assert ratios[0] | ratios[1] == ratios[2]
    assert not ratios[0] & ratios[1]


def test_tied_groups_and_unproven_ones_can_be_asked_for() -> None:
    spec = {
        "task": "digits",
        "budget": {"trials": 1},
        "space": {"prune": {"tie": ["stages.*"], "unproven": True}},
    }
    space: Any = Spec.parse(spec, Path.cwd()).space
    assert space.prune.tie == ("stages.*",) and space.prune.unproven
