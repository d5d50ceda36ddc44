"""Integers that know which attribute they came from, and can write another one there."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import torch
from torch import fx, nn

from autoprune.structure.calls import Calls
from autoprune.structure.known import Known, Source, attributes_known, integers_in


class Sized(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.sizes, self.name, self.flag = 4, (2, 8), "sized", True
        self.config = SimpleNamespace(width=32)
        self.inner = nn.Linear(2, 3)

    def forward(self, x):
        return x


def test_attributes_are_known_inside_and_plain_again_outside():
    model = Sized()
    with attributes_known(model):
        assert isinstance(model.heads, Known) and model.heads.source.label == "heads"
        assert model.sizes[1].source.path == (1,)
        assert model.config.width.source.label == "config.width"
        assert model.inner.out_features.source.label == "inner.out_features"
        assert type(model.flag) is bool
    assert type(model.heads) is int and type(model.config.width) is int


def test_a_source_writes_where_it_read():
    model = Sized()
    with attributes_known(model):
        heads, second, width = model.heads.source, model.sizes[1].source, model.config.width.source
    for source in (heads, second, width):
        source.set(6)
        assert source.get() == 6
    assert (model.heads, model.sizes, model.config.width) == (6, (2, 6), 6)


def test_a_source_writes_into_the_arguments_of_a_node():
    graph = fx.Graph()
    node = graph.call_function(torch.ops.aten.view.default, (graph.placeholder("x"), [1, 4, 8]))
    source = Source(node, "args", (1, 2), node.name)
    source.set(5)
    assert node.args[1] == [1, 4, 5]


def test_arithmetic_forgets_the_source_unless_it_changes_nothing():
    four = Known(4, Source(Sized(), "heads", (), "heads"))
    for computed in (four + 1, 3 * four, four // 2, 9 - four, four % 3):
        assert isinstance(computed, Known) and computed.source is None
    for same in (1 * four, four * 1, four + 0, four // 1):
        assert same.source is four.source
    assert four / 2 == 2.0 and four == 4 and [10, 11, 12, 13, 14][four] == 14


def test_copies_and_pickles_are_plain():
    four = Known(4, None)
    assert type(copy.deepcopy(four)) is int and type(pickle.loads(pickle.dumps(four))) is int


def test_integers_are_found_in_nested_arguments_in_order():
    assert list(integers_in(([1, (2, True)], {"a": 3}, slice(4, None), "x", 1.0))) == [1, 2, 3, 4]


def test_sizes_of_a_call_are_traced_to_their_attributes():
    calls, four = Calls(lambda *_: None), Known(4, Source(Sized(), "heads", (), "heads"))
    calls.integers = [2, four, -1]
    found = [calls.sources(sizes) for sizes in ([2, 4, 8], [4], [5])]
    assert [[s and s.label for s in sources] for sources in found] == [
        [None, "heads", None],
        ["heads"],
        [None],
    ]
