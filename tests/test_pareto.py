"""Dominance, fronts, hypervolumes and the order in which rungs promote."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoprune.pareto import (
    contributions,
    dominates,
    front_mask,
    hypervolume,
    knee,
    order,
    ranks,
    reference_point,
)

NAN, INF = math.nan, math.inf
#   4 | a . . .      a (0, 4), b (1, 2), c (3, 1) are the front; d (3, 3) and e (4, 4) are behind it
LOSSES = np.array([[0, 4], [1, 2], [3, 1], [3, 3], [4, 4]], dtype=float)

some_losses = st.integers(1, 4).flatmap(
    lambda m: st.integers(0, 12).flatmap(
        lambda n: arrays(float, (n, m), elements=st.sampled_from([0.0, 1.0, 2.0, 3.0, NAN, INF]))
    )
)


def test_dominance_needs_one_better_value_and_no_worse_one():
    assert dominates([1, 1], [1, 2])
    assert not dominates([1, 1], [1, 1])
    assert not dominates([0, 3], [1, 2])


def test_what_was_not_measured_is_dominated_by_everything_measured():
    assert dominates([9, 9], [0, NAN])
    assert not dominates([0, NAN], [9, 9])
    assert not dominates([0, INF], [0, NAN])


def test_the_front_keeps_the_first_of_equal_rows():
    assert front_mask(LOSSES).tolist() == [True, True, True, False, False]
    assert front_mask([[1, 1], [1, 1]]).tolist() == [True, False]
    assert front_mask([[2], [1], [1]]).tolist() == [False, True, False]


def test_rows_that_were_not_measured_are_never_on_the_front():
    assert front_mask([[NAN, 0], [1, 1], [-INF, 0]]).tolist() == [False, True, False]
    assert ranks([[NAN, 0], [1, 1], [2, 2]]).tolist() == [2, 0, 1]


def test_ranks_peel_one_front_after_the_other():
    assert ranks(LOSSES).tolist() == [0, 0, 0, 1, 2]
    assert ranks([[NAN]]).tolist() == [0]


@given(some_losses)
def test_the_front_is_what_no_row_dominates(losses):
    mask = front_mask(losses)
    for i, row in enumerate(losses):
        beaten = any(dominates(other, row) for other in losses)
        copies = any(np.array_equal(losses[j], row) for j in range(i))
        assert mask[i] == (np.isfinite(row).all() and not beaten and not copies)


def test_hypervolume_of_a_staircase():
    assert hypervolume(LOSSES, [4, 5]) == 11.0
    assert hypervolume([[1]], [4]) == 3.0


def test_points_beyond_the_reference_and_empty_tables_have_no_volume():
    assert hypervolume([[5, 0]], [4, 5]) == 0.0
    assert hypervolume([], [4, 5]) == 0.0
    assert hypervolume([[NAN, 0]], [4, 5]) == 0.0


@given(some_losses)
def test_a_contribution_is_what_the_front_loses_without_the_row(losses):
    reference = np.full(losses.shape[1], 4.0)
    front = losses[front_mask(losses)]
    given_back = contributions(front, reference)
    for i in range(len(front)):
        lost = hypervolume(front, reference) - hypervolume(np.delete(front, i, axis=0), reference)
        assert given_back[i] == pytest.approx(lost)


def test_of_equal_rows_the_first_has_the_whole_contribution():
    assert contributions([[1, 1], [1, 1], [2, 2]], [3, 3]).tolist() == [4.0, 0.0, 0.0]
    assert contributions([[2], [1], [1]], [3]).tolist() == [0.0, 2.0, 0.0]


def test_the_reference_point_lies_beyond_every_measured_row():
    assert reference_point([[0, 5], [10, 5], [NAN, 99]]).tolist() == [11.0, 5.1]
    assert reference_point(np.empty((0, 2))).tolist() == [0.0, 0.0]


def test_the_knee_is_the_point_of_the_front_nearest_to_the_ideal():
    assert knee(LOSSES) == 1
    assert knee(LOSSES * [1000.0, 1e-6]) == 1
    assert knee([[NAN, 0], [7, 7]]) == 1
    with pytest.raises(ValueError, match="no row"):
        knee([[NAN, 0]])


def test_feasible_rows_come_first_then_the_least_violating():
    assert order([[9, 9], [0, 0], [1, 1]], [0.0, 0.5, 0.1]).tolist() == [0, 2, 1]
    assert order([[9, 9], [0, 0], [1, 1]], [[-5, -1], [0.2, 0.3], [0.1, -9]]).tolist() == [0, 2, 1]


def test_among_feasible_rows_rank_decides_then_contribution():
    assert order(LOSSES, np.zeros(5), [5, 6]).tolist()[3:] == [3, 4]
    assert order([[0, 10], [5, 5], [5.1, 4.9], [10, 0]], np.zeros(4)).tolist()[-1] in (1, 2)


def test_an_infeasible_row_does_not_push_back_those_it_dominates():
    assert order([[3, 3], [2, 4], [0, 0]], [0, 0, 1], [5, 5]).tolist() == [0, 1, 2]


def test_unmeasured_rows_come_last_and_ties_keep_their_order():
    assert order([[NAN, 1], [1, 1], [2, 2]], [0, NAN, 3]).tolist() == [2, 1, 0]
    assert order(np.ones((3, 2)), np.zeros(3)).tolist() == [0, 1, 2]
    assert order([], []).tolist() == []


@given(some_losses, st.randoms(use_true_random=False))
def test_the_order_is_a_permutation_that_respects_dominance(losses, random):
    violations = np.array([random.choice([0.0, 0.0, 1.0]) for _ in losses])
    indices = order(losses, violations).tolist()
    assert sorted(indices) == list(range(len(losses)))
    place = {row: position for position, row in enumerate(indices)}
    for i, a in enumerate(losses):
        for j, b in enumerate(losses):
            if np.isfinite(b).all() and violations[i] == violations[j] and dominates(a, b):
                assert place[i] < place[j]


def test_a_table_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"expected \(candidates, objectives\)"):
        ranks([1.0, 2.0])
