"""The check that every cut must pass: it sees through zeros, and says what it cannot see."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from prunable_networks import Normed, Plain, Residual, conv_bn, example, make
from torch import nn

from autoprune.structure import Observed, check_cut
from autoprune.structure.proof import DIFFERENT, INVISIBLE, NOT_IN_TIME, OUTPUTS, proven, redraw, some_of


class Miscounted(Plain):
    """Six of the channels are taken by a number that no cut can change."""

    def forward(self, x):
        x = self.one(x)
        x = torch.cat([x.narrow(1, 0, 6), x.narrow(1, x.shape[1] - 2, 2)], 1)
        return self.linear(self.two(F.pad(x, (0, 0, 0, 0, 0, 8 - x.shape[1]))).mean((2, 3)))


class RootScaled(nn.Module):
    """Attention that divides by the root of a width that the code reads off an attribute."""

    def __init__(self):
        super().__init__()
        self.width = 6
        self.q, self.k, self.v, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        query = self.q(x).view(*x.shape[:-1], self.width)
        return self.out((query @ self.k(x).mT / math.sqrt(self.width)).softmax(-1) @ self.v(x))


def groups(network, inputs):
    return Observed(network, inputs).groups


def test_a_right_cut_has_nothing_to_say():
    assert check_cut(make(Residual), example(), {"stem.0": [0, 3], "inner.0": [5]}) == ""
    assert check_cut(make(Residual), example(), {}) == ""


def test_a_wrong_cut_is_found():
    assert check_cut(make(Miscounted), example(), {"one.0": [0, 1, 2]}) != ""


def test_a_factor_that_follows_the_width_is_found_however_small_its_effect():
    torch.manual_seed(0)
    network = RootScaled()
    with torch.no_grad():
        network.q.weight.mul_(0.01)  # as after an initialisation by 0.02: attention is almost even
        network.k.weight.mul_(0.01)
    found = proven(network, torch.randn(1, 4, 6), groups(network, torch.randn(1, 4, 6)), 10.0)
    assert [group.reason for group in found if group.name == "q.head_dim"] == [DIFFERENT]


def test_the_check_sees_through_zero_weights():
    network = make(Miscounted)
    nn.init.zeros_(network.two[0].weight)
    nn.init.zeros_(network.linear.weight)
    assert check_cut(network, example(), {"one.0": [0, 1, 2]}) not in ("", INVISIBLE)


def test_the_check_says_when_a_cut_does_not_show():
    class Deaf(Plain):
        def forward(self, x):
            return super().forward(x) * 0.0 + x.mean((2, 3)).sum(1, keepdim=True)

    assert check_cut(make(Deaf), example(), {"one.0": [1, 2]}) == INVISIBLE
    assert check_cut(make(Deaf), example(), {"one.0": [1, 2]}, visible=False) == ""


def test_a_dead_end_is_brought_to_life():
    class Depth(Plain):
        """Distances from the camera are never negative."""

        def forward(self, x):
            return F.relu(super().forward(x))

    network = make(Depth)
    nn.init.constant_(network.linear.bias, -2.0)
    assert network(example()).abs().sum() == 0.0
    assert check_cut(network, example(), {"one.0": [1, 2]}) == ""


def test_outputs_of_another_shape_are_outputs():
    class Exposed(Plain):
        def forward(self, x):
            return self.linear(self.two(self.one(x)).mean((2, 3))), x.new_zeros(self.one[0].out_channels)

    network = make(Exposed)
    assert check_cut(network, example(), {"one.0": [0]}) == OUTPUTS


def test_a_network_that_fails_on_fewer_units_is_named_with_its_line():
    class Strict(Plain):
        def forward(self, x):
            x = self.one(x)
            if x.shape[1] != 8:
                raise ValueError("eight or nothing")
            return self.linear(self.two(x).mean((2, 3)))

    reason = check_cut(make(Strict), example(), {"one.0": [0]})
    assert reason.startswith(
        "the model does not run without some of its units: ValueError: eight or nothing (test_proof"
    )


def test_units_over_which_a_norm_is_taken_only_have_to_run():
    network = make(Normed)
    doubted = next(group for group in groups(network, example()) if group.unproven)
    assert check_cut(network, example(), {doubted.name: [0]}) == ""


def test_the_check_leaves_the_model_alone():
    network = make(Plain)
    before = copy.deepcopy(network.state_dict())
    check_cut(network, example(), {"one.0": [1, 2]})
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_networks_in_half_precision_are_checked_in_single():
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).bfloat16()
    assert check_cut(network, torch.randn(1, 6, dtype=torch.bfloat16), {"0": [1, 2]}) == ""
    assert network[0].weight.dtype == torch.bfloat16


def test_redrawn_weights_are_all_different_and_always_the_same():
    one, other = make(Plain), make(Plain)
    for network in (one, other):
        nn.init.zeros_(network.one[0].weight)
        nn.init.ones_(network.linear.weight)
        redraw(network, example(), 0.1)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
        assert not tensor.is_floating_point() or len(tensor.unique()) == tensor.numel()


def test_only_the_wrong_group_gets_a_reason():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = Miscounted(), conv_bn(3, 6)
            self.linear = nn.Linear(6, 5)

        def forward(self, x):
            return self.one(x) + self.linear(self.two(x).mean((2, 3)))

    network = make(Mixed)
    found = proven(network, example(), groups(network, example()), 10.0)
    assert {group.name for group in found if not group.reason} == {"one.two.0", "two.0"}


class Stack(nn.Module):
    """Six blocks of one kind, each with a size in its code, and a head."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(4, 6), "down": nn.Linear(6, 4)}) for _ in range(6)
        )

    def forward(self, x):
        for block in self.blocks:
            x = x + block["down"](F.relu(block["up"](x)).view(-1, 6))
        return x


def test_the_same_layer_of_many_blocks_fails_as_one():
    found = proven(Stack(), torch.randn(1, 4), groups(Stack(), torch.randn(1, 4)), 30.0)
    reasons = [group.reason for group in found if group.name.endswith("up")]
    assert len(reasons) == 6 and all("does not run" in reason for reason in reasons)
    assert [reason.startswith("as blocks.0.up: ") for reason in reasons] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]


def test_what_is_not_checked_in_time_stays():
    network = make(Residual)
    found = proven(network, example(), groups(network, example()), 0.0)
    assert [group.reason for group in found if group.name != "linear"] == [NOT_IN_TIME] * 3


def test_unproven_groups_are_tried_when_asked_for():
    class Norms(Normed):
        def forward(self, x):
            return super().forward(x).view(-1, 5)

    found = groups(make(Norms), example())
    tried = proven(make(Norms), example(), found, 10.0, unproven=True)
    assert [group.reason for group in tried] == [group.reason for group in found]


@pytest.mark.parametrize("units", [2, 3, 12, 64])
def test_some_units_are_tried_never_all(units):
    group = replace(groups(make(Plain), example())[0], units=units)
    chosen = some_of(group)
    assert chosen == sorted(set(chosen)) == some_of(group)
    assert 1 <= len(chosen) < units and max(chosen) < units
    assert some_of(replace(group, name="another")) != chosen or units < 12


def test_what_is_divided_by_is_not_zeroed():
    """Zeroing the scale that an activation is divided by would give no numbers; the weights alone say enough."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.leave = nn.Linear(3, 8), nn.Linear(8, 2)
            self.scale = nn.Parameter(torch.rand(8) + 0.5)
            self.register_buffer("spread", torch.rand(8) + 0.5)

        def forward(self, x):
            return self.leave(torch.tanh(self.enter(x) / self.scale) / self.spread)

    assert check_cut(Scaled(), torch.randn(1, 3), {"enter": [1, 5]}) == ""
