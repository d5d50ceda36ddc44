"""Blocks that give what they take: found, dropped, and the network without them still the same network."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.compress.depth import Depth, drop_blocks, find_blocks
from autoprune.compress.technique import Context
from autoprune.errors import RunFolderError
from autoprune.space import Choices, Range
from autoprune.task import ClassificationTask

TARGET = SimpleNamespace(channel_multiple=1)


class Block(nn.Module):
    """A residual block; `outputs` as libraries for transformers return them."""

    def __init__(self, width: int, out: int | None = None, form: str = "tensor") -> None:
        super().__init__()
        self.inner, self.skip, self.form = nn.Linear(width, out or width), nn.Identity(), form
        self.out = out

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
        found = self.inner(hidden) if self.out else self.skip(hidden) + self.inner(hidden).relu()
        forms = {
            "tensor": found,
            "passed": (found, None, bias),
            "made": (found, found.mean()),
        }
        return forms[self.form]


class Row(nn.Module):
    def __init__(self, form: str = "tensor", blocks: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(6, form=form) for _ in range(blocks))
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias: Any = torch.ones(1)
        for layer in self.layers:
            found = layer(hidden=x, bias=bias)
            x, bias = (found[0], found[-1]) if isinstance(found, tuple) else (found, bias)
            assert layer.form
        return self.head(x)


class Narrowing(nn.Module):
    """The second block narrows, the third and fourth do not; one more is called twice, and one looked into."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(Block(6), Block(6, 4), Block(4), Block(4))
        self.pair = nn.ModuleList([Block(4), Block(4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pair[1](self.pair[0](self.pair[0](self.stage(x))))
        return x @ self.pair[1].inner.weight


def make(kind: Any, *args: Any) -> nn.Module:
    torch.manual_seed(0)
    return kind(*args).eval()


EXAMPLE = torch.randn(1, 6, generator=torch.Generator().manual_seed(0))


def context(model: nn.Module) -> Context:
    x = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    task = ClassificationTask(lambda: model, (x, np.arange(64) % 3))
    return Context(task, task.data(), TARGET, model)


def test_a_row_is_one_choice_of_how_many_go() -> None:
    assert Depth(most=0.5).choices(make(Row), EXAMPLE, TARGET) == {
        "depth.layers.drop": Range(0, 2, neutral=0, step=1)
    }
    assert Depth(most=0.2).choices(make(Row), EXAMPLE, TARGET) == {}


def test_blocks_that_cannot_go_have_a_reason() -> None:
    reasons = {block.name: block.reason for block in find_blocks(make(Narrowing), EXAMPLE)}
    assert reasons["stage.0"] == reasons["stage.2"] == reasons["stage.3"] == ""
    assert reasons["stage.1"] == "it takes shape (1, 6) and gives (1, 4)"
    assert reasons["pair.0"] == "called 2 times in one run, expected once"
    assert reasons["pair.1"].startswith("without it the model raises AttributeError")
    described = Depth().describe(make(Narrowing), EXAMPLE)
    assert json.loads(json.dumps(described)) == described


def test_a_block_that_makes_more_than_it_passes_on_stays() -> None:
    assert (
        find_blocks(make(Row, "made"), EXAMPLE)[0].reason == "part 1 of what it returns is made by it alone"
    )


def test_only_blocks_that_the_spec_names_go() -> None:
    technique = Depth(("layers.3",), most=1.0)
    assert technique.choices(make(Row), EXAMPLE, TARGET)["depth.layers.drop"].high == 1
    assert technique.blocks(make(Row), EXAMPLE)[0].reason == "not included by the spec"


@pytest.mark.parametrize("form", ["tensor", "passed"])
def test_the_network_without_a_block_is_the_one_in_which_it_changes_nothing(form: str) -> None:
    model = make(Row, form)
    where = context(model)
    without = Depth().apply(copy.deepcopy(model), Choices({"depth.layers.drop": 1}), where)
    (name,) = where.structure["depth"]["dropped"]
    block = model.get_submodule(name)
    with torch.no_grad():
        block.inner.weight.zero_()
        block.inner.bias.zero_()
        assert torch.equal(without(EXAMPLE), model(EXAMPLE))
    assert sum(p.numel() for p in without.parameters()) == sum(p.numel() for p in model.parameters()) - 42


def test_the_block_goes_that_changes_the_least() -> None:
    model = make(Row)
    with torch.no_grad():
        model.layers[2].inner.weight.mul_(0.01)
        model.layers[2].inner.bias.mul_(0.01)
    where = context(model)
    Depth().apply(model, Choices({"depth.layers.drop": 1}), where)
    assert list(where.structure["depth"]["dropped"]) == ["layers.2"]


def test_what_was_dropped_is_dropped_again_from_the_record() -> None:
    model = make(Row, "passed")
    where = context(model)
    made = Depth().apply(copy.deepcopy(model), Choices({"depth.layers.drop": 2}), where)
    again = context(model)
    again.structure.update(json.loads(json.dumps(where.structure)))
    restored = Depth().restore(copy.deepcopy(model), again)
    restored.load_state_dict(made.state_dict())
    assert torch.equal(restored(EXAMPLE), made(EXAMPLE))


def test_nothing_dropped_leaves_no_record_and_the_choice_read() -> None:
    model, choices = make(Row), Choices({"depth.layers.drop": 0})
    where = context(model)
    assert Depth().apply(model, choices, where) is model
    assert where.structure == {} and choices.read == {"depth.layers.drop": 0}


def test_rows_within_a_dropped_block_are_not_read() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList(nn.Sequential(Block(6), Block(6)) for _ in range(2))
            self.head = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for stage in self.stages:
                x = stage(x)
            return self.head(x)

    model = make(Deep)
    choices = Choices({"depth.stages.drop": 1, "depth.stages.0.drop": 1, "depth.stages.1.drop": 1})
    where = context(model)
    Depth().apply(model, choices, where)
    (outer,) = (name for name in where.structure["depth"]["dropped"] if name.count(".") == 1)
    assert len(choices.read) == 2 and f"depth.{outer}.drop" not in choices.read


def test_a_record_of_another_network_is_refused() -> None:
    with pytest.raises(RunFolderError, match="no block 'layers.9'"):
        drop_blocks(make(Row), {"layers.9": {"given": 0, "returned": None}})


@pytest.mark.parametrize("name", ["BertModel", "GPT2Model", "LlamaModel", "T5EncoderModel", "ViTModel"])
def test_layers_of_transformers_can_go(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    try:
        kind = getattr(transformers, name)
    except ModuleNotFoundError as error:
        pytest.skip(f"transformers cannot be used here: {error}")
    sizes = {
        "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16,
        "vocab_size": 20, "image_size": 8, "patch_size": 4, "num_key_value_heads": 1, "num_channels": 3,
    }  # fmt: skip
    if name == "GPT2Model":
        sizes = {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 20}
    if name == "T5EncoderModel":
        sizes = {"d_model": 16, "num_layers": 3, "num_heads": 2, "d_ff": 16, "d_kv": 8, "vocab_size": 20}
    model = kind(kind.config_class(**sizes)).eval()
    example = (
        {"pixel_values": torch.randn(1, 3, 8, 8)}
        if name == "ViTModel"
        else {"input_ids": torch.arange(6)[None]}
    )
    if name != "ViTModel" and name != "T5EncoderModel":
        model.config.use_cache = False
    blocks = [block for block in find_blocks(model, example) if block.kind.endswith(("Layer", "Block"))]
    assert len(blocks) == 3
    free = [block.name for block in blocks if not block.reason]
    assert len(free) >= 2, [block.reason for block in blocks]
