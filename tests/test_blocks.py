"""Alternatives: a network has what was chosen and nothing else, and every technique can work on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn

from autoprune.blocks import Add, Cell, one_of, repeated
from autoprune.references import resolve
from autoprune.structure import analyse

KINDS = {"conv3": lambda: nn.Conv2d(4, 4, 3, padding=1), "linear": lambda: nn.Conv2d(4, 4, 1)}
CHAIN = {(0, 1): "conv3", (1, 2): "linear"}
X = torch.rand(2, 4, 6, 6)


@pytest.mark.parametrize("chosen", ["none", "skip"])
def test_a_block_may_be_left_out(chosen: str) -> None:
    assert torch.equal(one_of(chosen, KINDS)(X), X)


def test_an_alternative_has_weights_under_its_own_name() -> None:
    assert set(one_of("conv3", KINDS).state_dict()) == {"conv3.weight", "conv3.bias"}


def test_an_unknown_alternative_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="got 'conv33', expected one of .*did you mean 'conv3'"):
        one_of("conv33", KINDS)


def test_repeated_blocks_are_numbered() -> None:
    blocks = repeated(3, lambda number: nn.Linear(2, number + 1))
    assert [block.out_features for block in blocks] == [1, 2, 3]  # type: ignore[union-attr]
    assert len(repeated(0, lambda _: nn.Identity())) == 0
    with pytest.raises(ValueError, match="got -1 blocks"):
        repeated(-1, lambda _: nn.Identity())


def test_inputs_are_picked_and_added() -> None:
    inputs = [X, 2 * X, 4 * X]
    assert torch.equal(Add("0+2", among=3)(inputs), 5 * X)
    assert torch.equal(Add("1", among=3)(inputs), 2 * X)


@pytest.mark.parametrize("picked", ["", "3", "0+0", "a", "-1"])
def test_picks_that_make_no_sense_are_refused(picked: str) -> None:
    with pytest.raises(ValueError, match="Add: got "):
        Add(picked, among=3)


def test_a_cell_adds_what_reaches_each_node() -> None:
    cell = Cell({(0, 1): "skip", (0, 2): "conv3", (1, 2): "skip"}, KINDS)
    assert torch.equal(cell(X), cell.edges["from0to2"](X) + X)


def test_what_leads_nowhere_is_not_there() -> None:
    cell = Cell({(0, 1): "conv3", (0, 2): "none", (1, 2): "none", (0, 3): "linear", (2, 3): "conv3"}, KINDS)
    assert list(cell.edges) == ["from0to3"]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ({(0, 1): "none"}, "nothing leads from the input to the output .0-1 none."),
        ({(1, 0): "skip"}, "expected pairs of a node and a later one"),
        ({}, "expected pairs of a node and a later one"),
    ],
)
def test_impossible_cells_are_refused(edges: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cell(edges, KINDS)


def cells(**arguments: Any) -> nn.Module:
    """A tiny network of cells."""
    network: nn.Module = resolve("cell_cnn.py:CellCNN")(channels=4, classes=3, **arguments)
    return network.eval()


@pytest.mark.parametrize(
    "arguments",
    [{}, {"edge01": "none", "edge03": "pool3", "edge23": "skip"}, {"depth": 2, "edge02": "conv1"}],
)
def test_networks_of_cells_trace_and_can_be_pruned(arguments: dict[str, Any]) -> None:
    model, images = cells(**arguments), torch.rand(1, 1, 16, 16)
    assert torch.equal(fx.symbolic_trace(model)(images), model(images))
    assert len(analyse(model, images).free) >= 3


def test_cells_without_a_way_through_are_refused_with_what_was_chosen() -> None:
    edges = {f"edge{pair}": "none" for pair in ("03", "13", "23")}
    with pytest.raises(ValueError, match="nothing leads .*0-3 none"):
        cells(**edges)
