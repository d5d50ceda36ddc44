"""The coupled groups of networks wired in many ways: right, or frozen with a reason."""

from __future__ import annotations

import pytest
import torch
from prunable_networks import (
    HAZARDS,
    SOUND,
    Averaged,
    Dense,
    Gate,
    Grouped,
    Hardcoded,
    Inception,
    Normed,
    Padded,
    Plain,
    Residual,
    Separable,
    Shuffle,
    Tied,
    conv_bn,
    example,
    make,
)
from torch import nn

from autoprune.compress.cut import check_cut
from autoprune.compress.groups import Group, Member, check_group, find_groups, trace_groups

torch.set_num_threads(1)


def found(kind):
    return {group.name: group for group in find_groups(make(kind), example())}


@pytest.mark.parametrize("kind", SOUND, ids=lambda kind: kind.__name__)
def test_only_the_outputs_of_a_sound_network_stay(kind):
    stay = {name: group.reason for name, group in found(kind).items() if group.reason}
    assert list(stay.values()) == ["its channels are outputs of the model"]


@pytest.mark.parametrize("kind", HAZARDS, ids=lambda kind: kind.__name__)
def test_what_is_left_of_a_hazard_is_cut_rightly(kind):
    free = [group for group in found(kind).values() if not group.reason]
    removed = {group.name: group.channels_of(range(1, group.units, 3)) for group in free}
    assert check_cut(make(kind), example(), removed) == ""


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        (Shuffle, "stem.0", "coupled in part only"),
        (Padded, "stem.0", "indices cannot be followed"),
        (Averaged, "one.0", "gives other outputs than zeroing"),
        (Hardcoded, "stem.0", "does not run without some of its channels"),
        (Normed, "embed", "norm (LayerNorm) computes across these channels"),
        (Tied, "one", "shared with another layer"),
    ],
)
def test_a_hazard_freezes_its_own_group_with_the_reason(kind, name, reason):
    assert reason in found(kind)[name].reason


def test_layers_added_up_are_one_group_named_after_the_first():
    groups = found(Residual)
    assert groups["stem.0"].layers == ("stem.0", "outer")
    assert groups["wide.0"].layers == ("wide.0", "shortcut")
    assert groups["inner.0"].layers == ("inner.0",)
    assert [norm.layer for norm in groups["stem.0"].norms] == ["stem.1"]


def test_a_layer_added_to_a_concatenation_is_shared_among_its_parts():
    groups = found(Inception)
    assert groups["narrow.0"].members[1] == Member("mix", (0, 1, 2, 3), (0, 1, 2, 3))
    assert groups["wide.0"].members[1] == Member("mix", (4, 5, 6, 7, 8, 9), (0, 1, 2, 3, 4, 5))


def test_a_channel_is_known_in_every_norm_behind_it():
    (first, second) = found(Dense)["conv1"].norms
    assert (first.layer, first.rows) == ("bn2", (8, 9, 10, 11))
    assert (second.layer, second.rows) == ("bn3", (8, 9, 10, 11))


def test_channels_that_go_together_are_one_unit():
    grouped, gate = found(Grouped)["stem.0"], found(Gate)["conv"]
    assert (grouped.together, grouped.units, grouped.channels_of([1])) == (2, 4, [1, 5])
    assert (gate.together, gate.units, gate.channels_of([0, 5])) == (2, 6, [0, 5, 6, 11])


def test_depthwise_layers_belong_to_what_they_read():
    assert found(Separable)["stem.0"].layers == ("stem.0", "depthwise.0")


def test_channels_of_the_input_stay():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.depthwise, self.linear = conv_bn(3, 3, groups=3), nn.Linear(3, 2)

        def forward(self, x):
            return self.linear(self.depthwise(x).mean((2, 3)))

    assert found(First)["depthwise.0"].reason == "depthwise only: its channels are those of the model's input"


def test_single_channels_attention_and_unused_layers_stay():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.embed, self.unused = nn.Linear(3, 1), nn.Linear(1, 8), nn.Linear(2, 2)
            self.attention, self.linear = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2)

        def forward(self, x):
            x = self.embed(self.one(x.flatten(2).transpose(1, 2)))
            return self.linear(self.attention(x, x, x)[0].mean(1))

    groups = found(Mixed)
    assert groups["one"].reason == "its channels only go all together"
    assert groups["embed"].reason == "attention (MultiheadAttention) computes across these channels"
    assert groups["unused"].reason.startswith("unused")
    assert groups["attention.out_proj"].reason


class Coupled(nn.Module):
    """Twelve channels, of which `parts` are used."""

    def __init__(self, parts):
        super().__init__()
        self.conv, self.parts = nn.Conv2d(3, 12, 1), parts
        self.halves, self.thirds = nn.Conv2d(12, 12, 1, groups=2), nn.Conv2d(12, 12, 1, groups=3)
        self.multiplied, self.linear = nn.Conv2d(12, 24, 1, groups=12), nn.LazyLinear(2)

    def forward(self, x):
        return self.linear(self.parts(self, self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (
            lambda m, x: m.halves(x) + m.thirds(x),
            "its channels are coupled among themselves in no regular pattern",
        ),
        (
            lambda m, x: x[:, :4] * x[:, 4:8],
            "its channels are coupled among themselves in no regular pattern",
        ),
        (lambda m, x: m.multiplied(x), "its channels only go all together"),
    ],
)
def test_channels_that_are_coupled_otherwise_stay(parts, reason):
    network = Coupled(parts).eval()
    network(example())
    assert find_groups(network, example())[0].reason == reason


def test_outputs_that_autograd_does_not_see_keep_their_channels():
    class Features(Plain):
        def forward(self, x):
            x = self.one(x)
            return self.linear(self.two(x).mean((2, 3))), x.detach()

    groups = found(Features)
    assert groups["one.0"].reason == "its channels are outputs of the model"
    assert groups["two.0"].reason == ""


def test_the_check_can_be_asked_for_another_fraction():
    network = make(Residual)
    group = trace_groups(network, example())[0]
    assert [check_group(network, example(), group, fraction) for fraction in (0.01, 0.25, 1.0)] == [
        "",
        "",
        "",
    ]


def test_finding_groups_is_repeatable_and_leaves_the_model_alone():
    network = make(Residual)
    before = network(example())
    assert find_groups(network, example()) == find_groups(network, example())
    assert torch.equal(network(example()), before)


def test_a_group_prints_as_a_line():
    members = (Member("stem", (0, 1), (0, 1)), Member("outer", (0, 1), (0, 1)))
    assert str(Group("stem", 2, members)) == "stem: 2 channels with outer"
    assert str(Group("stem", 2, members[:1], reason="why")) == "stem: 2 channels [stays: why]"
