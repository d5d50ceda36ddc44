"""Pruning as a technique: choices in, realised widths out, and the same again from the record."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from prunable_networks import (
    CONVOLUTIONAL,
    Averaged,
    Grouped,
    Hardcoded,
    Normed,
    Plain,
    Residual,
    example,
    make,
)

from autoprune.compress.prune import Prune, units_to_cut
from autoprune.compress.technique import Context
from autoprune.errors import BadInput
from autoprune.space import Choices, Options, Range
from autoprune.structure import Group, Slice
from autoprune.task import ClassificationTask

torch.set_num_threads(1)

CRITERIA = Options(("l1", "l2", "fpgm", "taylor", "bn_scale", "random"), "l1")
SCHEDULES = Options(("one_shot", "iterative"), "one_shot")  # what needs no training
TARGET = SimpleNamespace(channel_multiple=1)


def technique():
    return Prune(Range(0.0, 0.8, 0.0), CRITERIA, SCHEDULES)


def context(network, seed=0):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(160, 3, 8, 8)).astype(np.float32), np.arange(160) % 5
    task = ClassificationTask(network, (x, y))
    return Context(task, task.data(), TARGET, network, seed=seed)


def point(network, ratio, **rest):
    space = technique().choices(network, example(), TARGET)
    ratios = {name: ratio for name in space if name.endswith(".ratio")}
    return Choices({**ratios, "prune.criterion": "l1", "prune.schedule": "one_shot", **rest})


def pruned(network, choices, seed=0):
    where = context(network, seed)
    return technique().apply(copy.deepcopy(network), choices, where), where.structure["prune"]


def test_there_is_one_ratio_for_each_prunable_group():
    space = technique().choices(make(Residual), example(), TARGET)
    ratios = ["prune.stem.0.ratio", "prune.inner.0.ratio", "prune.wide.0.ratio"]
    assert list(space) == [*ratios, "prune.criterion", "prune.schedule"]
    assert space["prune.criterion"] == CRITERIA


def test_a_model_of_which_nothing_can_be_cut_has_no_choices():
    assert technique().choices(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1)), example(), TARGET) == {}


def test_the_description_lists_every_group_with_its_reason():
    described = technique().describe(make(Normed), example())
    assert json.loads(json.dumps(described)) == described
    assert {group["name"]: group["reason"] for group in described["groups"]} == {
        "embed": "a norm is taken over it",
        "inner": "",
        "linear": "its channels are outputs of the model",
    }
    inner = next(group for group in described["groups"] if group["name"] == "inner")
    assert (inner["kind"], inner["layers"], inner["channels"], inner["proven"]) == (
        "channels",
        ["inner"],
        16,
        True,
    )
    assert {layer["layer"] for layer in described["frozen"]} == {"embed", "outer", "linear"}
    assert described["way"] == described["ways"][0]["way"] == "module"


@pytest.mark.parametrize(
    ("patterns", "stays"),
    [
        ({"exclude": ("inner*",)}, {"inner.0": "excluded by the spec"}),
        (
            {"include": ("outer",)},
            {"inner.0": "not included by the spec", "wide.0": "not included by the spec"},
        ),
        ({"include": ("*",)}, {}),
    ],
)
def test_the_user_includes_and_excludes_groups_by_their_layers(patterns, stays):
    groups = Prune(**patterns).structure(make(Residual), example()).groups
    assert {g.name: g.reason for g in groups if g.reason and g.name != "linear"} == stays


def test_realised_widths_are_recorded():
    network, record = pruned(make(Residual), point(make(Residual), 0.5))
    expected = {"stem.0": 4, "inner.0": 3, "outer": 4, "wide.0": 6, "shortcut": 6, "linear": 5}
    assert record["widths"] == expected == {n: p.shape[0] for n, p in weights(network)}
    assert {name: len(gone) for name, gone in record["removed"].items()} == {
        "stem.0": 4,
        "inner.0": 3,
        "wide.0": 6,
    }
    assert (record["criterion"], record["schedule"]) == ("l1", "one_shot")


def weights(network):
    names = {name.removesuffix(".weight"): p for name, p in network.named_parameters() if p.dim() > 1}
    return names.items()


def test_the_smallest_filters_go():
    network = make(Plain)
    with torch.no_grad():
        network.two[0].weight[[2, 9]] *= 0.01
    choices = Choices({"prune.two.0.ratio": 2 / 12})
    assert pruned(network, choices)[1]["removed"] == {"two.0": [2, 9]}


def test_neutral_choices_read_no_criterion_and_change_nothing():
    network, choices = make(Residual), point(make(Residual), 0.0)
    same, record = pruned(network, choices)
    assert torch.equal(same(example()), network(example()))
    assert record["removed"] == {} and "criterion" not in record
    assert set(choices.read) == {"prune.stem.0.ratio", "prune.inner.0.ratio", "prune.wide.0.ratio"}


def test_without_any_ratio_the_model_is_not_even_traced():
    _, record = pruned(torch.nn.Linear(3, 2), Choices({"prune.criterion": "l1"}))
    assert record == {"removed": {}, "widths": {"": 2}}


@pytest.mark.parametrize("schedule", SCHEDULES.values)
@pytest.mark.parametrize("criterion", ["l1", "taylor", "random"])
def test_the_same_seed_cuts_the_same_channels(criterion, schedule):
    network = make(Residual)
    choices = point(network, 0.6, **{"prune.criterion": criterion, "prune.schedule": schedule})
    (one, first), (other, second) = pruned(network, choices, seed=4), pruned(network, choices, seed=4)
    assert first == second
    assert torch.equal(one(example()), other(example()))


def test_another_seed_draws_other_channels_and_leaves_the_global_generator_alone():
    network = make(Plain)
    choices = point(network, 0.5, **{"prune.criterion": "random"})
    torch.manual_seed(7)
    before = torch.get_rng_state()
    records = [pruned(network, choices, seed)[1]["removed"] for seed in (0, 1)]
    assert records[0] != records[1]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("schedule", SCHEDULES.values)
@pytest.mark.parametrize("kind", CONVOLUTIONAL, ids=lambda kind: kind.__name__)
def test_restoring_repeats_a_cut_to_the_bit(kind, schedule):
    network, where = make(kind), context(make(kind))
    choices = point(network, 0.7, **{"prune.criterion": "fpgm", "prune.schedule": schedule})
    cut_once = technique().apply(copy.deepcopy(network), choices, where)
    where.structure = json.loads(json.dumps(where.structure))
    again = technique().restore(copy.deepcopy(network), where)
    states = cut_once.state_dict(), again.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_last_channel_of_a_layer_stays():
    record = pruned(make(Plain), Choices({"prune.one.0.ratio": 0.99, "prune.two.0.ratio": 1.0}))[1]
    assert record["widths"] == {"one.0": 1, "two.0": 1, "linear": 5}


def test_grouped_convolutions_stay_even():
    choices = Choices({"prune.stem.0.2.ratio": 0.5, "prune.grouped.0.ratio": 0.5})
    network, record = pruned(make(Grouped), choices)
    assert record["widths"] == {"stem.0": 4, "grouped.0": 6, "linear": 5}
    assert network.grouped[0].weight.shape == (6, 2, 3, 3) and network.grouped[0].groups == 2


def test_whole_groups_of_a_convolution_can_go():
    network, record = pruned(make(Grouped), Choices({"prune.stem.0.ratio": 0.5}))
    assert record["widths"] == {"stem.0": 4, "grouped.0": 6, "linear": 5}
    assert network.grouped[0].weight.shape == (6, 4, 3, 3) and network.grouped[0].groups == 1


def test_groups_of_one_pattern_share_a_ratio():
    tied = Prune(Range(0.0, 0.8, 0.0), tie=("*.0",))
    space = tied.choices(make(Residual), example(), TARGET)
    assert [name for name in space if name.endswith("ratio")] == ["prune.*.0.ratio"]
    where = context(make(Residual))
    tied.apply(make(Residual), Choices({"prune.*.0.ratio": 0.5}), where)
    assert [len(gone) for gone in where.structure["prune"]["removed"].values()] == [4, 3, 6]


def test_a_network_with_sizes_in_its_code_is_pruned_and_restored_as_a_graph():
    network, where = make(Hardcoded), context(make(Hardcoded))
    cut_once = technique().apply(copy.deepcopy(network), point(network, 0.5), where)
    record = where.structure["prune"]
    assert (record["way"], record["widths"]["stem.0"], record["widths"]["hidden"]) == ("graph", 2, 4)
    again = technique().restore(copy.deepcopy(network), where)
    assert torch.equal(cut_once(example()), again(example()))


def test_what_a_norm_is_taken_over_is_pruned_when_the_user_says_so():
    where = context(make(Normed))
    choices = Choices({"prune.embed.ratio": 0.5})
    network = Prune(Range(0.0, 0.8, 0.0), unproven=True).apply(make(Normed), choices, where)
    assert network.norm.normalized_shape == (4,) and network(example()).isfinite().all()


def test_ratios_of_groups_that_this_architecture_lacks_are_not_read():
    choices = Choices({"prune.layer9.conv.ratio": 0.5, "prune.one.0.ratio": 0.5})
    assert pruned(make(Plain), choices)[1]["widths"]["one.0"] == 4
    assert "prune.layer9.conv.ratio" not in choices.read


def test_rounds_end_at_the_width_that_one_shot_reaches():
    network = make(Residual)
    widths = [
        pruned(network, point(network, 0.7, **{"prune.schedule": name}))[1]["widths"]
        for name in SCHEDULES.values
    ]
    assert widths[0] == widths[1]


def test_later_rounds_score_what_is_left_among_itself():
    """Points on a line: once some are gone, others are in the middle."""
    network = make(Plain)
    with torch.no_grad():
        network.one[0].weight.zero_()
        network.one[0].weight[:, 0, 0, 0] = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 9.0, 10.0, 11.0])
    found = {}
    for schedule in SCHEDULES.values:
        choices = {"prune.one.0.ratio": 0.5, "prune.criterion": "fpgm", "prune.schedule": schedule}
        found[schedule] = pruned(network, Choices(choices))[1]["removed"]["one.0"]
    assert found == {"one_shot": [1, 2, 3, 4], "iterative": [2, 3, 4, 5]}


def test_a_ratio_of_a_group_that_stays_is_not_read():
    choices = Choices({"prune.one.0.ratio": 0.5})
    assert pruned(make(Averaged), choices)[1]["removed"] == {} and choices.read == {}


@pytest.mark.parametrize(
    ("channels", "together", "ratio", "multiple", "left"),
    [
        (16, 1, 0.0, 8, 16),
        (16, 1, 0.25, 1, 12),
        (16, 1, 0.25, 8, 8),  # 12 lies between 8 and 16: a tie goes down
        (16, 1, 0.1, 8, 16),  # and 14 is nearer to 16: the record shows the full width
        (16, 1, 0.99, 8, 8),
        (16, 1, 0.99, 1, 1),
        (6, 1, 0.5, 8, 3),
        (16, 2, 0.5, 8, 8),
        (12, 4, 0.9, 1, 4),
    ],
)
def test_a_ratio_is_rounded_to_units_and_to_what_the_target_likes(channels, together, ratio, multiple, left):
    places = np.arange(channels).reshape(-1, together)
    group = Group("layer", "channels", len(places), (Slice("layer.weight", 0, places, "writes"),))
    assert channels - together * units_to_cut(group, ratio, multiple) == left


def test_a_group_that_no_ratio_changes_is_no_choice_and_says_why():
    """Multiples of eight: of four or eight channels nothing can go, of twelve some can."""
    used, target = technique(), SimpleNamespace(channel_multiple=8)
    space = used.choices(make(Plain), example(), target)
    assert [name for name in space if name.endswith(".ratio")] == ["prune.two.0.ratio"]
    described = used.describe(make(Plain), example())
    reasons = {group["name"]: group["reason"] for group in described["groups"]}
    why = "a ratio of 0.8 leaves all of its 8 channels, in multiples of 8"
    assert (reasons["one.0"], reasons["two.0"]) == (why, "")
    assert {"layer": "one.0", "reason": why, "line": ""} in described["frozen"]


def test_a_ratio_that_takes_nothing_is_recorded_with_its_reason():
    network, where = make(Plain), context(make(Plain))
    where.target = SimpleNamespace(channel_multiple=4)
    choices = Choices({"prune.one.0.ratio": 0.1, "prune.two.0.ratio": 0.5})
    technique().apply(network, choices, where)
    record = where.structure["prune"]
    assert record["unchanged"] == {"one.0": "a ratio of 0.1 leaves all of its 8 channels, in multiples of 4"}
    assert record["widths"] == {"one.0": 8, "two.0": 4, "linear": 5} and record["ratios"] == {
        "two.0": 0.666667
    }


def test_unknown_names_are_refused_at_once():
    with pytest.raises(BadInput, match="criterion: got 'l3'"):
        Prune(criterion=Options(("l3",), "l3"))
    with pytest.raises(
        BadInput,
        match=r"schedule: got 'oneshot', expected one of one_shot, iterative, agp, lottery_ticket; did you",
    ):
        Prune(schedule=Options(("oneshot",), "oneshot"))


@pytest.mark.parametrize("criterion", CRITERIA.values)
def test_scores_kept_for_others_change_no_candidate(criterion):
    network = make(Residual)
    first = point(network, 0.0, **{"prune.inner.0.ratio": 0.5, "prune.criterion": criterion})
    then = point(network, 0.5, **{"prune.criterion": criterion})

    def made(*candidates, scored):
        where = context(network)
        where.scored = scored
        for choices in candidates:
            where.structure = {}
            technique().apply(copy.deepcopy(network), choices, where)
        return where.structure["prune"]

    assert made(first, then, scored={}) == made(then, scored={})
    if criterion != "random":  # which draws for as many groups as are scored
        assert made(first, then, scored={}) == made(then, scored=None)
