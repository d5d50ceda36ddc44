"""Distances of features against their formulas, and the moving average that teaches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.compress.distill.attention_transfer import attention_distance, attention_map
from autoprune.compress.distill.features import Pair, aligned
from autoprune.compress.distill.hints import Projection, hint_distance
from autoprune.compress.distill.self_distillation import DECAY, MeanTeacher

GENERATOR = torch.Generator().manual_seed(0)
WIDE, NARROW = torch.randn(6, 8, 3, 3, generator=GENERATOR), torch.randn(6, 4, 3, 3, generator=GENERATOR)


def test_attention_maps_are_normalized_sums_of_squares() -> None:
    squares = (WIDE**2).sum(1).flatten(1)
    assert torch.allclose(attention_map(WIDE), squares / squares.norm(dim=1, keepdim=True), atol=1e-6)
    maps = [F.normalize((x**2).mean(1).flatten(1)) for x in (NARROW, WIDE)]
    expected = ((maps[0] - maps[1]) ** 2).sum() / 6
    assert attention_distance(NARROW, WIDE).item() == pytest.approx(expected.item(), rel=1e-5)


def test_maps_do_not_see_the_size_of_numbers_nor_the_order_of_channels() -> None:
    assert attention_distance(3 * WIDE.flip(1), WIDE).item() == pytest.approx(0.0, abs=1e-6)


def test_a_hint_is_a_share_of_what_the_teacher_gives() -> None:
    assert hint_distance(torch.zeros_like(WIDE), WIDE).item() == pytest.approx(1.0)
    assert hint_distance(WIDE, WIDE).item() == 0.0


def test_a_projection_starts_with_the_least_squares() -> None:
    mixed = torch.einsum("oc,nchw->nohw", torch.randn(8, 4, generator=GENERATOR), NARROW) + 2.0
    projection = Projection(4, 8)
    assert projection.distance(NARROW, mixed).item() < 1e-3
    first = projection.weight.clone()
    projection.distance(WIDE[:, :4], mixed)
    assert torch.equal(projection.weight, first)  # fitted once, and trained from there


def test_a_projection_is_learned_where_it_does_not_fit() -> None:
    projection = Projection(4, 8)
    start = projection.distance(NARROW, WIDE).item()
    optimizer = torch.optim.SGD(projection.parameters(), 0.5)
    other = torch.randn(6, 8, 3, 3, generator=GENERATOR)
    before = projection.distance(NARROW, other).item()
    for _ in range(50):
        optimizer.zero_grad()
        projection.distance(NARROW, other).backward()
        optimizer.step()
    assert start < 1.0 and projection.distance(NARROW, other).item() < before


def test_features_of_other_sizes_are_averaged_to_a_common_grid() -> None:
    one, other = aligned(torch.ones(2, 5, 5, 4), WIDE[:2].movedim(1, -1), Pair("a", "b", 0, 3, (4, 8)))
    assert one.shape == (2, 4, 3, 3) and torch.allclose(other, WIDE[:2])
    assert torch.allclose(one, torch.ones(()))


def test_the_mean_teacher_is_the_average_of_the_weights_so_far() -> None:
    student = nn.Linear(1, 1, bias=False)
    mean = MeanTeacher(student, steps=10)
    for step, value in enumerate((1.0, 3.0, 8.0), 1):
        student.weight.data.fill_(value)
        said = mean(torch.ones(1, 1))
        assert said.item() == pytest.approx(sum((1.0, 3.0, 8.0)[:step]) / step)
        assert not said.requires_grad
    for _ in range(200):
        mean(torch.ones(1, 1))
    student.weight.data.fill_(0.0)
    assert mean(torch.ones(1, 1)).item() == pytest.approx(8.0 * DECAY, rel=1e-3)


def test_trust_grows_over_an_epoch() -> None:
    mean = MeanTeacher(nn.Linear(1, 1), steps=4)
    trust = [mean.trust for _ in range(5) if mean(torch.ones(1, 1)) is not None]
    assert trust == sorted(trust) and trust[0] < 0.1 and trust[3] == trust[4] == 1.0


def test_trust_grows_over_half_of_a_stretch_that_is_longer_than_two_epochs() -> None:
    mean, short = (MeanTeacher(nn.Linear(1, 1), steps=4) for _ in range(2))
    mean.lasts(40)
    short.lasts(6)
    trust = [mean.trust for _ in range(21) if mean(torch.ones(1, 1)) is not None]
    assert trust == sorted(trust) and trust[4] < 0.1 and trust[18] < trust[19] == trust[20] == 1.0
    assert [short.trust for _ in range(4) if short(torch.ones(1, 1)) is not None][-1] == 1.0
