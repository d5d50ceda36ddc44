"""Masks have the shape that was asked for, and each schedule does what its paper says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.compress.agp import GradualPruning
from autoprune.compress.dynamic_surgery import DynamicSurgery
from autoprune.compress.movement import Movement
from autoprune.compress.sparsity import Fixed, Hole, Renewal, cubic, zeros_in

SCHEDULES = (Fixed, GradualPruning, DynamicSurgery, Movement)


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def trained(schedule: type, weight: nn.Parameter, hole: Hole, wanted: torch.Tensor, total: int = 200) -> None:
    """Gradient descent of the weight to `wanted`, under a schedule."""
    running = schedule({"w": weight}, {"w": hole})
    for step in range(1, total + 1):
        weight.grad = weight.detach() - wanted
        with torch.no_grad():
            weight -= 0.1 * weight.grad
        running.step(step, total)


@pytest.mark.parametrize(("sparsity", "zeros"), [(0.0, 0), (0.1, 2), (0.5, 12), (0.9, 22), (0.999, 23)])
def test_the_share_is_rounded_and_one_value_stays(sparsity: float, zeros: int) -> None:
    assert int(Hole(sparsity).lowest(torch.rand(4, 6)).sum()) == zeros


def test_the_lowest_go_and_of_equals_the_first() -> None:
    scores = torch.tensor([[3.0, 1.0, 1.0], [0.0, 5.0, 1.0]])
    assert Hole(0.5).lowest(scores).tolist() == [[False, True, True], [True, False, False]]


@pytest.mark.parametrize(("pattern", "shape", "axis"), [("2:4", (5, 8), 1), ("4:8", (16, 3, 3, 3), 0)])
def test_of_each_block_along_the_axis_as_many_stay_as_the_pattern_says(
    pattern: str, shape: tuple[int, ...], axis: int
) -> None:
    stay, of = map(int, pattern.split(":"))
    scores = torch.rand(shape)
    goes = Hole(1 - stay / of, pattern, axis).lowest(scores)
    blocks = goes.movedim(axis, -1).reshape(-1, of)
    assert (blocks.sum(1) == of - stay).all()
    rows = scores.movedim(axis, -1).reshape(-1, of)
    assert (rows.masked_fill(blocks, 9).amin(1) >= rows.masked_fill(~blocks, -9).amax(1)).all()


def test_the_ramp_is_cubic_and_ends_where_it_should() -> None:
    assert cubic(0.0, 0.2, 0.8) == pytest.approx(0.2)
    assert cubic(0.5, 0.0, 0.8) == pytest.approx(0.7)
    assert cubic(1.0, 0.2, 0.8) == 0.8


@pytest.mark.parametrize("total", [1, 2, 7, 1000])
def test_the_end_of_the_ramp_is_always_reached_once(total: int) -> None:
    renewal = Renewal()
    shares = [share for step in range(1, total + 1) if (share := renewal.share(step, total)) is not None]
    assert shares[-1] == 1.0 and shares.count(1.0) == 1 and len(shares) <= 60


def test_the_end_is_reached_where_only_the_last_step_is_reported() -> None:
    assert Renewal().share(100, 100) == 1.0


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("hole", [Hole(0.7), Hole(0.5, "2:4")])
def test_every_schedule_ends_with_exactly_its_zeros(schedule: type, hole: Hole) -> None:
    weight = parameter(8, 20)
    trained(schedule, weight, hole, parameter(8, 20, seed=1).detach())
    assert zeros_in(weight) == pytest.approx(hole.sparsity)
    assert not bool(torch.signbit(weight[weight == 0]).any())


def test_agp_takes_most_of_what_goes_early() -> None:
    weight, seen = parameter(10, 100), []
    running = GradualPruning({"w": weight}, {"w": Hole(0.9)})
    for step in range(1, 101):
        running.step(step, 100)
        seen.append(zeros_in(weight))
    assert seen == sorted(seen)
    assert seen[24] == pytest.approx(cubic(25 / 75, 0.0, 0.9), abs=0.02)
    assert seen[74] == seen[99] == pytest.approx(0.9)


def test_surgery_splices_what_turns_out_to_be_needed_and_agp_does_not() -> None:
    """Half of the weights start small and have to become large, while the others have to vanish."""
    wanted = torch.cat([torch.full((50,), 2.0), torch.zeros(50)])[None]
    start = torch.cat([torch.full((50,), 0.2), torch.full((50,), 1.0)])[None]
    kept = {}
    for schedule in (DynamicSurgery, GradualPruning):
        weight = nn.Parameter(start.masked_fill(start < 0.5, 0.0))
        trained(schedule, weight, Hole(0.5), wanted)
        kept[schedule] = float((weight[:, :50] != 0).float().mean())
    assert kept[DynamicSurgery] == 1.0
    assert kept[GradualPruning] == 0.0


def test_surgery_swaps_only_what_is_clearly_larger() -> None:
    """Two of four weights stay; a cut one that grows just past a kept one does not take its place yet."""
    weight, seen = nn.Parameter(torch.tensor([[1.0, 1.0, 0.2, 0.1]])), {}
    running = DynamicSurgery({"w": weight}, {"w": Hole(0.5)})
    running.step(30, 80)
    for step, grown in ((31, 0.9), (32, 1.2)):
        with torch.no_grad():
            weight[0, 2] += grown
        running.step(step, 80)
        seen[step] = (weight != 0).tolist()[0]
    assert seen == {31: [True, True, False, False], 32: [False, True, True, False]}
    assert float(weight.detach()[0, 2]) == pytest.approx(2.3)


def test_movement_keeps_what_grows_though_it_is_small() -> None:
    wanted = torch.cat([torch.full((50,), 0.5), torch.full((50,), 0.9)])[None]
    weight = nn.Parameter(torch.cat([torch.full((50,), 0.1), torch.full((50,), 2.0)])[None])
    running = Movement({"w": weight}, {"w": Hole(0.5)})
    for step in range(1, 9):  # all of the large ones shrink, and are still larger
        weight.grad = weight.detach() - wanted
        with torch.no_grad():
            weight -= 0.05 * weight.grad
        running.step(step, 10)
    assert bool((weight[:, :50] != 0).all()) and not bool(weight[:, 50:].any())


def test_movement_without_gradients_goes_by_magnitude() -> None:
    weight = nn.Parameter(torch.arange(1.0, 11.0)[None])
    Movement({"w": weight}, {"w": Hole(0.5)}).step(1, 1)
    assert weight.tolist() == [[0, 0, 0, 0, 0, 6, 7, 8, 9, 10]]
