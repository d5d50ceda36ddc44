"""Who goes on to the next rung: the best share of what is known, highest rung first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.search.rungs import Orders, Result, best_first, next_promotion, relaxed


def results(*losses: float) -> dict[int, Result]:
    return {trial: Result([loss], []) for trial, loss in enumerate(losses)}


def test_one_of_three_goes_on() -> None:
    assert next_promotion([results(3.0, 1.0)], [set()], 3) is None
    assert next_promotion([results(3.0, 1.0, 2.0)], [set()], 3) == (1, 1)
    assert next_promotion([results(3.0, 1.0, 2.0)], [{1}], 3) is None


def test_the_highest_rung_comes_first() -> None:
    rungs = [
        results(3.0, 1.0, 2.0, 4.0, 5.0, 6.0),
        {1: Result([1.0], []), 2: Result([0.5], []), 0: Result([2.0], [])},
    ]
    assert next_promotion(rungs, [{1}, set()], 3) == (2, 2)
    assert next_promotion(rungs, [{1}, {2}], 3) == (2, 1)


def test_a_rung_that_is_closed_for_now_lets_nobody_go_on_whatever_is_remembered_of_it() -> None:
    orders, open_rungs = Orders(), [results(3.0, 1.0, 2.0), {1: Result([1.0], [])}]
    assert next_promotion(open_rungs, [{1}, set()], 1, orders=orders) == (1, 2)
    assert next_promotion([open_rungs[0], {}], [{0, 1, 2}, set()], 1, orders=orders) is None


def test_a_late_better_result_still_goes_on() -> None:
    assert next_promotion([results(3.0, 1.0, 2.0, 0.5)], [{1}], 3) == (3, 1)


def test_at_the_end_one_goes_on_from_each_rung() -> None:
    assert next_promotion([results(3.0, 1.0)], [set()], 3, at_least=1) == (1, 1)
    assert next_promotion([{}], [set()], 3, at_least=1) is None


def test_what_dominates_goes_before_what_is_dominated() -> None:
    table = {
        0: Result([2.0, 2.0], []),
        1: Result([1.0, 3.0], []),
        2: Result([3.0, 3.0], []),
        3: Result([0.5, 9.0], []),
    }
    assert best_first(table)[-1] == 2


def test_feasible_trials_go_first() -> None:
    table = {0: Result([1.0], [0.5]), 1: Result([2.0], [-0.1]), 2: Result([0.5], [0.2])}
    assert best_first(table) == [1, 2, 0]


def test_what_training_may_mend_is_held_against_the_better_half() -> None:
    violations = np.array([[0.1, 0.0], [0.3, 0.0], [0.5, 0.2], [0.9, 0.0]])
    eased = relaxed(violations, [True, False])
    assert (eased[:, 0] <= 0).tolist() == [True, True, False, False]
    assert eased[:, 1].tolist() == violations[:, 1].tolist()
    # Two that are not dominated are equals, though only one of them is accurate enough already.
    table = {i: Result([v, 1.0 - v], [v, 0.0]) for i, v in enumerate((0.0, 0.3, 0.5, 0.9))}
    assert set(best_first(table, [True, False])[:2]) == {0, 1}


def test_limits_that_are_kept_are_not_tightened() -> None:
    kept = np.array([[-0.5], [-0.1]])
    assert relaxed(kept, [True]).tolist() == kept.tolist()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.integers(2, 5))
def test_promotions_end_and_reach_a_share_at_least(losses: list[float], reduction: int) -> None:
    promoted: set[int] = set()
    while (found := next_promotion([results(*losses)], [promoted], reduction)) is not None:
        assert found[0] not in promoted
        promoted.add(found[0])
    assert len(promoted) == len(losses) // reduction


@pytest.mark.parametrize("reduction", [2, 3, 4])
def test_arrival_in_any_order_promotes_the_best_in_the_end(reduction: int) -> None:
    losses = np.random.default_rng(0).permutation(30).astype(float)
    promoted: set[int] = set()
    for count in range(1, 31):
        while (found := next_promotion([results(*losses[:count])], [promoted], reduction)) is not None:
            promoted.add(found[0])
    best = set(np.argsort(losses)[: 30 // reduction].tolist())
    assert best <= promoted and len(promoted) < 25


def test_an_order_that_is_remembered_is_that_of_all_results_so_far() -> None:
    orders, table = Orders([True]), {}
    for trial, loss in enumerate((3.0, 1.0, 2.0, 0.5, 4.0)):
        table[trial] = Result([loss], [0.1 * loss - 0.2])
        for _ in range(2):
            assert orders.best_first(0, table) == best_first(table, [True])
    assert orders.best_first(1, {7: Result([1.0], [0.0])}) == [7]


def test_an_order_of_many_results_holds_until_there_are_a_fiftieth_more() -> None:
    orders = Orders()
    table = {trial: Result([float(trial)], []) for trial in range(100)}
    assert len(orders.best_first(0, table)) == 100
    table[100] = Result([-1.0], [])
    assert orders.best_first(0, table)[0] == 0
    assert next_promotion([table], [set()], 3, orders=orders) == (0, 1)
    assert orders.best_first(0, table, anew=True)[0] == 100
    table |= {101: Result([-3.0], []), 102: Result([-2.0], []), 103: Result([0.0], [])}
    assert orders.best_first(0, table)[:3] == [101, 102, 100]


def test_who_is_left_of_the_best_is_found_without_looking_at_all_that_went_on() -> None:
    orders, table, promoted = Orders(), results(*range(90)), set[int]()
    for _ in range(30):
        found = next_promotion([table], [promoted], 3, orders=orders)
        assert found is not None and found[0] == len(promoted)
        promoted.add(found[0])
    assert next_promotion([table], [promoted], 3, orders=orders) is None
