"""What one forward pass shows: axes, roles of weights, sizes in the code, and other paths."""

from __future__ import annotations

import prunable_networks
import torch
import torch.nn.functional as F
from prunable_networks import Auxiliary, DataDependent, Plain, example, make
from torch import nn

from autoprune.structure.dimensions import leaves
from autoprune.structure.observe import observe, state_of
from autoprune.structure.running import plain_execution


def reasons(seen, name, place=0):
    return {leaf.pinned for leaf in leaves(seen.axes[name][place])}


def test_weights_are_written_on_one_side_and_read_on_the_other():
    seen = observe(make(Plain), example())
    assert ("one.0.weight", 0) in seen.writes and ("one.0.weight", 1) in seen.reads
    assert ("linear.weight", 0) in seen.writes and ("linear.weight", 1) in seen.reads
    assert not any(name.endswith(("bias", "running_mean")) for name, _ in seen.writes | seen.reads)


def test_inputs_and_outputs_stay():
    seen = observe(make(Plain), example())
    assert reasons(seen, "linear.weight") == {"its channels are outputs of the model"}
    assert reasons(seen, "one.0.weight", 1) == {"it is an axis of the model's inputs"}
    assert reasons(seen, "two.0.weight") == {""}


def test_the_size_that_an_attribute_gives_is_a_requirement():
    class Headed(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads, self.enter, self.leave = 4, nn.Linear(6, 12), nn.Linear(12, 2)

        def forward(self, x):
            return self.leave(self.enter(x).view(len(x), self.heads, -1).flatten(1))

    (requirement,) = observe(Headed(), torch.randn(1, 6)).requirements
    assert (requirement.source.label, requirement.value) == ("heads", 4)
    assert requirement.line.startswith("test_observe.py:")


def test_one_attribute_for_two_axes_ties_them():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.width, self.one, self.two = 8, nn.Linear(3, 8), nn.Linear(3, 8)
            self.leave = nn.Linear(8, 2)

        def forward(self, x):
            a, b = self.one(x).reshape(-1, self.width), self.two(x).reshape(-1, self.width)
            return self.leave(a), self.leave(b)

    seen = observe(Twice(), torch.randn(1, 3))
    assert list(leaves(seen.axes["one.weight"][0])) == list(leaves(seen.axes["two.weight"][0]))
    assert not seen.held


def test_an_attribute_that_also_gives_the_size_of_an_output_holds_an_axis():
    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.width, self.one, self.two = 8, nn.Linear(3, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.two(F.relu(self.one(x).view(-1, self.width))).view(-1, self.width)

    assert observe(Held(), torch.randn(1, 3)).held


def test_an_operation_without_a_rule_pins_its_tensors_and_names_the_line():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.leave = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.leave(torch.linalg.inv(self.enter(x)))

    seen = observe(Odd(), torch.eye(4))
    (line,) = set(seen.unknown.values())
    assert line.startswith("test_observe.py:")
    assert "is not followed" in reasons(seen, "enter.weight").pop()


def test_a_path_that_other_inputs_take_keeps_what_it_may_meet():
    seen = observe(make(DataDependent), example(DataDependent))
    untaken = "other inputs may take a path through dark.weight, which this example did not reach"
    assert reasons(seen, "stem.0.weight") == reasons(seen, "bright.weight") == {untaken}
    assert reasons(seen, "hidden.weight") == {""}


def test_an_output_that_only_training_sees_is_followed():
    network = make(Auxiliary)
    seen = observe(network, example())
    assert list(leaves(seen.axes["early.weight"][1])) == list(leaves(seen.axes["stem.0.weight"][0]))
    assert not network.training and not network.stem.training


def test_parameters_that_nothing_reads_hold_nothing():
    class Spare(prunable_networks.Plain):
        def __init__(self):
            super().__init__()
            self.spare = nn.Parameter(torch.zeros(8))

    assert reasons(observe(make(Spare), example()), "one.0.weight") == {""}


def test_observing_changes_nothing():
    network = make(Plain)
    network.two.train()
    before = {name: tensor.clone() for name, tensor in state_of(network).items()}
    observe(network, example())
    assert network.two.training and not network.one.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(network).items())


def test_fused_kernels_are_off_inside_and_on_again_outside():
    before = torch.backends.mha.get_fastpath_enabled()
    with plain_execution(make(Plain)):
        assert not torch.backends.mha.get_fastpath_enabled() and not torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_weights_that_are_computed_keep_their_layer():
    """Normed as a batch, or one expert's out of many: the units that they make are still those of the layer."""

    class Computed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)
            self.experts = nn.Parameter(torch.randn(4 * 8, 8))

        def forward(self, x):
            weight = self.conv.weight.reshape(1, 8, -1)
            weight = F.batch_norm(weight, None, None, training=True).reshape_as(self.conv.weight)
            x = F.conv2d(x, weight).mean((2, 3))
            return self.head(x @ self.experts.view(4, 8, 8)[2])

    seen = observe(Computed(), torch.randn(1, 3, 6, 6))
    assert ("conv.weight", 0) in seen.writes and ("conv.weight", 1) in seen.reads
    assert ("experts", 1) in seen.writes and ("experts", 0) in seen.reads
