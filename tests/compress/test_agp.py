"""Gradual pruning of units: zeroed step by step, then cut, and the cut network is the zeroed one."""

from __future__ import annotations

import copy
from itertools import pairwise
from statistics import mean
from typing import Any

import pytest
import torch
from gradual_tasks import SETTINGS, TASKS, accuracy, context, made, point, recovery, same

from autoprune.compress.agp import ramp_up
from autoprune.compress.criteria import BUILT_IN
from autoprune.compress.gradual import SHAPING
from autoprune.compress.prune import Prune
from autoprune.compress.sparsify import Sparsify
from autoprune.compress.technique import Recovery
from autoprune.compress.zeroed_units import SCORING_BATCH_SIZE, ZeroedUnits, affordable, scored_by
from autoprune.space import Options
from autoprune.structure import Observed
from autoprune.task import example_inputs
from autoprune.tensors import call, tensors_in
from autoprune.train import steps_per_epoch

AGP = Options(("one_shot", "agp"), "agp")


def fresh() -> Prune:
    return Prune(schedule=AGP)


def inputs(where: Any) -> Any:
    return next(iter(where.data.val.batches(32))).inputs


@pytest.mark.parametrize("network", TASKS)
def test_the_cut_network_is_the_one_that_was_trained_with_zeros(network: str) -> None:
    where = context(network)
    model, example = copy.deepcopy(where.reference).requires_grad_(True), example_inputs(where.data)
    observed = Observed(model, example)
    wanted = {g.name: g.units // 2 for g in fresh().structure(model, example).free if g.units > 1}
    units = ZeroedUnits(observed, wanted, scored_by({"criterion": "l1"}, where))
    ramp_up(units, recovery(fresh(), where, 1.0))
    assert {name: len(gone) for name, gone in units.chosen.items()} == wanted
    with torch.no_grad():
        zeroed = tensors_in(call(model, inputs(where)))[0]
        observed.cut(units.chosen)
        cut = tensors_in(call(model, inputs(where)))[0]
    assert torch.allclose(zeroed, cut, atol=1e-4 * float(zeroed.abs().max()))


def test_units_go_little_by_little_and_none_comes_back() -> None:
    where = context("mlp")
    observed = Observed(copy.deepcopy(where.reference).requires_grad_(True), example_inputs(where.data))
    seen: list[set[int]] = []

    class Seen(ZeroedUnits):
        def zero(self) -> None:
            super().zero()
            seen.append(set(self.chosen["1"]))
            assert not bool(self.network[1].weight[list(seen[-1])].any())
            assert not bool(self.network[3].weight[:, list(seen[-1])].any())

    units = Seen(observed, {"1": 60}, scored_by({"criterion": "l2"}, where))
    ramp_up(units, recovery(fresh(), where, 2.0))
    assert len(seen) >= steps_per_epoch(where.data.train, SETTINGS.batch_size)
    assert all(one <= other for one, other in pairwise(seen))
    sizes = [len(gone) for gone in seen]
    assert 0 < sizes[0] < 15 and sizes[len(sizes) // 2] > 40 and sizes[-1] == 60


@pytest.mark.parametrize("network", TASKS)
@pytest.mark.parametrize("criterion", ["l1", "taylor"])
def test_ratios_are_reached_and_the_same_seed_repeats_it(network: str, criterion: str) -> None:
    found = []
    for _ in range(2):
        used, where = fresh(), context(network)
        model = made(used, point(used, network, 0.5, criterion=criterion), where, epochs=1)
        found.append((model, where.structure["prune"]))
    assert same(found[0][0], found[1][0]) and found[0][1] == found[1][1]
    assert set(found[0][1]["ratios"].values()) <= {0.5, 0.333333, 0.666667}
    once = context(network)
    made(used, point(used, network, 0.5, schedule="one_shot"), once, rest=False)
    assert once.structure["prune"]["widths"] == found[0][1]["widths"]


@pytest.mark.parametrize("network", TASKS)
def test_a_cut_is_repeated_from_its_record(network: str) -> None:
    used, where = fresh(), context(network)
    model = made(used, point(used, network, 0.5), where, epochs=1)
    torch.manual_seed(5)
    again = used.restore(where.task.model(), where)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        outputs = [tensors_in(call(m.eval(), inputs(where)))[0] for m in (model, again)]
    assert torch.equal(*outputs)


@pytest.mark.parametrize(("epochs", "examples"), [(0.1, 1000), (3, 1000), (3, 50_000), (100, 50_000)])
def test_scoring_takes_no_more_than_its_share_of_the_training(epochs: float, examples: int) -> None:
    training = Recovery(lambda *_: None, lambda _: 0.0, lambda _: torch.nn.Identity(), epochs)
    for criterion in BUILT_IN:
        times, batches = affordable(criterion, training, examples, 64)
        assert times >= 2 and batches >= 1
        if criterion == "taylor" and epochs > 1:
            assert times * batches * SCORING_BATCH_SIZE <= 0.1 * SHAPING * epochs * examples


def test_training_that_is_ended_by_time_ends_with_all_units_gone() -> None:
    where = context("mlp")
    observed = Observed(copy.deepcopy(where.reference).requires_grad_(True), example_inputs(where.data))
    units = ZeroedUnits(observed, {"1": 60}, scored_by({"criterion": "l1"}, where))
    ends_early = Recovery(
        lambda model, share, place, on_step: on_step(10, 100) if on_step else None,
        lambda _: 0.0,
        lambda _: torch.nn.Identity(),
        1.0,
    )
    ramp_up(units, ends_early)
    assert len(units.chosen["1"]) == 60 and not bool(units.network[1].weight[units.chosen["1"]].any())


def test_at_few_weights_it_beats_one_shot_in_equal_epochs() -> None:
    """The claim of Zhu & Gupta, which is about weights."""
    reached = {}
    for schedule in ("one_shot", "agp"):
        used, found = Sparsify(schedule=AGP), []
        for seed in range(3):
            where = context("mlp", seed=seed)
            model = made(used, point(used, "mlp", 0.97, schedule=schedule), where, epochs=8)
            found.append(accuracy(model, where))
        reached[schedule] = mean(found)
    assert reached["agp"] > reached["one_shot"] + 4.0
