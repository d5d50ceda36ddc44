"""Groups: what goes together, by which name, and where it lies in each tensor."""

from __future__ import annotations

import numpy as np
import torch
from prunable_networks import Dense, Flattened, Gate, Grouped, Plain, Residual, Tied, example, make
from sequence_networks import BothWays, Fused, GroupedQueries, sequence_example
from torch import nn

from autoprune.structure import Observed, frozen_layers


def groups(kind, inputs=None):
    network = make(kind)
    return {g.name: g for g in Observed(network, example(kind) if inputs is None else inputs).groups}


def test_layers_whose_outputs_are_added_up_are_one_group():
    found = groups(Residual)
    assert found["stem.0"].layers == ("stem.0", "outer")
    assert found["wide.0"].layers == ("wide.0", "shortcut")
    assert [name for name, group in found.items() if group.reason] == ["linear"]


def test_a_group_says_where_its_units_are_written_read_and_followed():
    group = groups(Plain)["one.0"]
    assert [(part.tensor, part.axis) for part in group.role("writes")] == [("one.0.weight", 0)]
    assert [(part.tensor, part.axis) for part in group.role("reads")] == [("two.0.weight", 1)]
    norm = [f"one.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    assert [part.tensor for part in group.role("follows")] == norm


def test_a_flattened_channel_is_many_columns():
    (columns,) = groups(Flattened)["conv.0"].role("reads")
    assert np.array_equal(columns.positions, np.arange(96).reshape(6, 16))


def test_concatenated_channels_lie_behind_each_other():
    assert groups(Dense)["conv1"].role("reads")[-1].positions[:, 0].tolist() == [8, 9, 10, 11]


def test_a_gate_couples_each_channel_with_its_partner():
    group = groups(Gate)["conv"]
    assert (group.units, group.together, group.channels) == (6, 2, 12)
    assert group.role("writes")[0].positions[2].tolist() == [2, 8]


def test_grouped_convolutions_have_groups_and_channels_in_each():
    found = groups(Grouped)
    assert sorted(group.units for name, group in found.items() if name.startswith("stem.0")) == [2, 4]


def test_heads_are_cut_out_of_all_three_parts_of_a_fused_projection():
    found = groups(Fused, sequence_example(Fused))
    heads = next(group for group in found.values() if group.kind == "heads")
    assert (heads.name, heads.units, heads.together) == ("qkv.heads", 3, 12)
    assert heads.role("writes")[0].positions[1].tolist() == [
        12 * part + i for part in range(3) for i in range(4, 8)
    ]


def test_shared_key_heads_and_the_queries_of_each_are_two_groups():
    found = groups(GroupedQueries, sequence_example(GroupedQueries))
    assert {name: found[name].units for name in ("q.heads", "q.heads.2")} == {"q.heads": 3, "q.heads.2": 2}
    assert found["q.heads"].layers == ("q", "k", "v") and found["q.heads.2"].layers == ("q",)


def test_units_of_a_recurrent_layer_are_rows_of_each_gate_and_columns():
    found = groups(BothWays, sequence_example(BothWays))
    first = found["read"]
    parts = {(p.tensor, p.axis): p.positions for p in first.slices}
    assert parts["read.weight_hh_l0", 0][2].tolist() == [2, 8, 14, 20]
    assert parts["read.weight_hh_l0", 1][2].tolist() == [2]


def test_a_tied_tensor_appears_once_by_its_first_name():
    tensors = [part.tensor for group in groups(Tied).values() for part in group.slices]
    assert "one.weight" in tensors and "two.weight" not in tensors


def test_a_group_of_fewer_units_keeps_where_these_lie():
    group = groups(Flattened)["conv.0"].only([1, 4])
    (columns,) = group.role("reads")
    assert group.units == 2 and columns.positions[:, 0].tolist() == [16, 64]


def test_groups_print_as_a_sentence():
    found = groups(Residual)
    assert str(found["stem.0"]) == "stem.0: 8 channels with outer"
    assert str(found["linear"]) == "linear: 5 channels [stays: its channels are outputs of the model]"


def test_units_that_meet_themselves_in_one_axis_stay():
    class Squared(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.leave = nn.Linear(3, 4), nn.Linear(16, 2)

        def forward(self, x):
            x = self.enter(x)
            return self.leave((x[:, :, None] * x[:, None]).flatten(1))

    observed = Observed(Squared(), torch.randn(1, 3))
    assert observed.group("enter").reason == "it meets itself in one axis"


def test_layers_of_which_nothing_can_go_are_frozen():
    frozen = frozen_layers(groups(Fused, sequence_example(Fused)).values())
    assert {layer: reason for layer, (reason, _) in frozen.items()} == {
        "embed": "a norm is taken over it",
        "out": "a norm is taken over it",
        "down": "a norm is taken over it",
        "head": "its channels are outputs of the model",
    }
