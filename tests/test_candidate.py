"""Candidates as modules and as bytes."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest
import torch
from tiny_task import TinyNet, TinyTask, bars
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from autoprune.candidate import build, inherit, read_header, restore, save_checkpoint
from autoprune.compress.prune import Prune
from autoprune.compress.technique import Context
from autoprune.errors import RunFolderError
from autoprune.space import Choices
from autoprune.structure.parametrize import make_model
from autoprune.targets import load_target
from autoprune.task import ClassificationTask, example_inputs


@pytest.fixture
def context() -> Context:
    torch.manual_seed(1)
    task = TinyTask()
    return Context(task, task.data(), load_target("onnxruntime"), task.model().eval())


def test_the_baselines_architecture_is_the_reference(context: Context) -> None:
    model = build(Choices({"architecture.width": 8, "architecture.depth": 2}), context)
    example = example_inputs(context.data)
    with torch.no_grad():
        assert torch.equal(model(example), context.reference(example))
    assert context.structure["architecture"] == {"width": 8, "depth": 2}


def test_a_narrower_model_takes_the_leading_channels() -> None:
    wide, narrow = nn.Linear(6, 4), nn.Linear(3, 2)
    inherit(narrow, wide)
    assert torch.equal(narrow.weight, wide.weight[:2, :3])
    assert torch.equal(narrow.bias, wide.bias[:2])


def test_a_smaller_kernel_is_the_middle_of_the_larger_one() -> None:
    large, small = nn.Conv2d(1, 1, 5), nn.Conv2d(1, 1, 3)
    inherit(small, large)
    assert torch.equal(small.weight, large.weight[:, :, 1:4, 1:4])


def test_a_larger_model_keeps_what_the_reference_does_not_have() -> None:
    small, large = nn.Linear(2, 2), nn.Linear(3, 3)
    fresh = large.weight.clone()
    inherit(large, small)
    assert torch.equal(large.weight[:2, :2], small.weight)
    assert torch.equal(large.weight[2], fresh[2])


def test_a_checkpoint_gives_the_pruned_candidate_back(context: Context) -> None:
    prune = Prune()
    choices = Choices({"architecture.depth": 2, "prune.stem.0.ratio": 0.5, "prune.block.0.ratio": 0.25})
    model = prune.apply(build(choices, context), choices, context)
    saved = save_checkpoint(model, context.structure, rung=1)
    fresh = Context(context.task, context.data, context.target, context.reference)
    again, rung = restore(saved, [prune], fresh)
    example = example_inputs(context.data)
    with torch.no_grad():
        assert torch.equal(again(example), model(example))
    assert rung == 1 and fresh.structure == context.structure
    assert read_header(saved)["rung"] == 1


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\x00" * 8,
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2**60),
    ],
    ids=["empty", "zeros", "null", "no header", "beyond the end"],
)
def test_what_is_no_checkpoint_is_refused(context: Context, damage: bytes) -> None:
    with pytest.raises(RunFolderError, match="checkpoint is damaged"):
        restore(damage, [], context)


def test_weights_of_another_network_are_refused(context: Context) -> None:
    saved = save_checkpoint(TinyNet(width=4), {"architecture": {"width": 8}}, rung=0)
    with pytest.raises(RunFolderError, match="size mismatch"):
        restore(saved, [], context)


def normed(width: int = 8) -> nn.Module:
    """A network with a weight that is computed from a direction and a length."""
    network = TinyNet(width)
    weight_norm(network.stem[0])
    return network


def test_weights_that_are_computed_from_others_are_made_plain_and_start_from_the_reference() -> None:
    task = ClassificationTask(normed, bars)
    reference = make_model(task, {}).eval()
    model = build(Choices({}), Context(task, task.data(), load_target("onnxruntime"), reference))
    assert torch.equal(model.state_dict()["stem.0.weight"], reference.state_dict()["stem.0.weight"])


def test_a_model_that_is_no_module_is_left_to_the_check_of_the_task() -> None:
    assert make_model(SimpleNamespace(model=lambda: "a network"), {}) == "a network"
