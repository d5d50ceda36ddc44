"""Iterative pruning: step by step, recovered in between, and undone where the quality does not hold."""

from __future__ import annotations

import json
from statistics import mean
from typing import Any

import pytest
import torch
from gradual_tasks import accuracy, context, made, point, recovery, same

from autoprune.compress.gradual import Gradual, alike
from autoprune.compress.prune import Prune
from autoprune.compress.sparsify import Sparsify
from autoprune.compress.sparsity import Hole, zeros_in
from autoprune.compress.zeroed_weights import ZeroedWeights
from autoprune.space import Choices, Options

ITERATIVE = Options(("one_shot", "iterative"), "iterative")
TECHNIQUES = {"prune": Prune, "sparsify": Sparsify}


def technique(kind: str, **gradual: Any) -> Any:
    return TECHNIQUES[kind](schedule=ITERATIVE, gradual=Gradual(**gradual))


@pytest.mark.parametrize("kind", TECHNIQUES)
@pytest.mark.parametrize("network", ["mlp", "residual", "encoder"])
def test_the_record_says_what_each_step_came_to_and_the_same_seed_repeats_it(kind: str, network: str) -> None:
    used, found = technique(kind, steps=2, guard=100.0), []
    for _ in range(2):
        where = context(network)
        found.append((made(used, point(used, network, 0.6), where, epochs=1), where.structure[kind]))
    record = found[0][1]["iterative"]
    assert (record["steps"], record["of"], len(record["quality"])) == (2, 2, 2) and "stopped" not in record
    assert record["dense_quality"] == accuracy(context(network).reference, context(network))
    assert same(found[0][0], found[1][0]) and found[0][1] == found[1][1]
    assert json.loads(json.dumps(found[0][1])) == found[0][1]


@pytest.mark.parametrize("kind", TECHNIQUES)
def test_nobody_looks_at_the_quality_without_a_guard(kind: str) -> None:
    used, where = technique(kind, steps=2), context("mlp")
    where.recovery = recovery(used, where, 1.0)
    where.recovery.quality = lambda _: pytest.fail("looked at")
    used.apply(where.task.model(), Choices(point(used, "mlp", 0.6)), where)
    assert where.structure[kind]["iterative"] == {"steps": 2, "of": 2}


def test_half_of_the_stretch_is_left_for_what_came_out() -> None:
    used, where = technique("sparsify"), context("mlp")
    where.recovery = recovery(used, where, 1.0)
    used.apply(where.task.model(), Choices(point(used, "mlp", 0.6)), where)
    assert where.recovery.left == pytest.approx(0.5)


@pytest.mark.parametrize("kind", TECHNIQUES)
def test_a_guard_that_no_step_passes_returns_the_untouched_network_and_says_so(kind: str) -> None:
    used, where = technique(kind, guard=-1000.0), context("mlp")
    model = made(used, point(used, "mlp", 0.6), where, epochs=1, rest=False)
    record = where.structure[kind]
    assert same(model, where.reference)
    assert record["iterative"]["steps"] == 0 and len(record["iterative"]["quality"]) == 1
    assert record["iterative"]["stopped"].endswith("nothing was pruned")
    if kind == "prune":
        assert record["removed"] == {} and set(record["ratios"].values()) == {0.0}
    else:
        assert {plan["sparsity"] for plan in record["layers"].values()} == {0.0}


@pytest.mark.parametrize("kind", TECHNIQUES)
def test_a_guard_keeps_the_last_good_step(kind: str) -> None:
    """Almost everything goes in the end: the first steps do no harm, the last ones do."""
    used, where = technique(kind, guard=4.0, steps=6), context("mlp")
    values = {name: 0.99 if value == 0.5 else value for name, value in point(used, "mlp", 0.5).items()}
    model = made(used, values, where, epochs=4, rest=False)
    record = where.structure[kind]["iterative"]
    assert 0 < record["steps"] < 6 and len(record["quality"]) == record["steps"] + 1
    assert record["quality"][-1] < record["dense_quality"] - 4.0 <= min(record["quality"][:-1])
    assert f"what step {record['steps']} left was kept" in record["stopped"]
    assert accuracy(model, where) == pytest.approx(record["quality"][-2], abs=0.4)
    if kind == "prune":
        assert all(0 < ratio < 0.9 for ratio in where.structure[kind]["ratios"].values())
    else:
        plans = where.structure[kind]["layers"].values()
        assert all(plan["sparsity"] == pytest.approx(plan["realised"], abs=1e-5) for plan in plans)
        assert all(0 < plan["sparsity"] < 0.99 and "guard" in plan["reason"] for plan in plans)


def test_what_the_guard_let_pass_is_what_stays_zero() -> None:
    used, where = technique("sparsify", guard=4.0, steps=6), context("mlp")
    values = {name: 0.99 if value == 0.5 else value for name, value in point(used, "mlp", 0.5).items()}
    model = made(used, values, where, epochs=4)
    plans = where.structure["sparsify"]["layers"]
    for layer, plan in plans.items():
        assert zeros_in(model.get_submodule(layer).weight) == pytest.approx(plan["sparsity"], abs=1e-6)


def test_without_recovery_weights_go_in_one_shot_and_channels_in_rounds() -> None:
    sparsify, where = technique("sparsify"), context("mlp")
    iterative = sparsify.apply(where.task.model(), Choices(point(sparsify, "mlp", 0.6)), where)
    torch.manual_seed(0)
    once = context("mlp")
    one_shot = sparsify.apply(
        where.task.model(), Choices(point(sparsify, "mlp", 0.6, schedule="one_shot")), once
    )
    assert "iterative" not in where.structure["sparsify"]
    assert zeros_in(iterative[1].weight) == zeros_in(one_shot[1].weight) == pytest.approx(0.6)


def test_what_went_stays_away_also_under_a_pattern() -> None:
    weight = torch.nn.Linear(16, 8)
    scores = iter([torch.rand(8, 16), torch.rand(8, 16), torch.rand(8, 16)])
    zeros = ZeroedWeights(
        weight, {"w": weight.weight}, {"w": Hole(0.5, "2:4")}, lambda _: {"w": next(scores)}
    )
    seen = []
    for done in (1 / 3, 2 / 3, 1.0):
        zeros.choose(alike(done))
        seen.append(zeros.chosen["w"])
    assert bool((seen[1] >= seen[0]).all()) and bool((seen[2] >= seen[1]).all())
    assert seen[2].view(8, 4, 4).sum(-1).eq(2).all() and 0 < int(seen[0].sum()) < int(seen[1].sum())


def test_it_is_gradual_only_where_something_goes_in_rounds() -> None:
    used = technique("prune")
    for values, expected in (({"prune.a.ratio": 0.0}, False), ({"prune.a.ratio": 0.3}, True)):
        choices = Choices({**values, "prune.schedule": "iterative"})
        assert used.is_gradual(choices) is expected and choices.read == {}
    assert not used.is_gradual(Choices({"prune.a.ratio": 0.3, "prune.schedule": "one_shot"}))


def test_steps_with_recovery_beat_one_shot_at_few_weights_in_equal_epochs() -> None:
    reached = {}
    for schedule in ("one_shot", "iterative"):
        used, found = technique("sparsify"), []
        for seed in range(3):
            where = context("mlp", seed=seed)
            model = made(used, point(used, "mlp", 0.97, schedule=schedule), where, epochs=8)
            found.append(accuracy(model, where))
        reached[schedule] = mean(found)
    assert reached["iterative"] > reached["one_shot"] + 2.0
