"""The algebra of axes: refined by views, joined by equality, and right about where each unit lies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autoprune.structure.dimensions import (
    ONE,
    axis,
    concatenation,
    doubt,
    kept,
    leaves,
    pin,
    positions,
    product,
    root,
    size_of,
    split,
    unify,
)

sizes = st.integers(2, 6)


@st.composite
def axes(draw, depth=2):
    """Sums of products of factors, nested."""
    if depth == 0:
        return axis(draw(sizes))
    parts = draw(st.lists(axes(depth - 1), min_size=1, max_size=3))
    return concatenation(parts) if draw(st.booleans()) else product(parts[:2])


def laid_out(ax):
    """The unit of the leaf at each position, by leaf: what `positions` says, turned around."""
    found = {}
    for leaf in dict.fromkeys(leaves(ax)):
        where = positions(ax, leaf)
        if where is not None:
            found[leaf] = where
    return found


@given(axes())
def test_the_units_of_a_leaf_lie_at_different_positions(ax):
    for leaf, where in laid_out(ax).items():
        assert where.shape[0] == leaf.size
        assert len(np.unique(where)) == where.size
        assert where.min() >= 0 and where.max() < size_of(ax)


@given(axes())
def test_every_position_belongs_to_some_leaf(ax):
    covered = np.concatenate([where.reshape(-1) for where in laid_out(ax).values()])
    assert set(covered.tolist()) == set(range(size_of(ax)))


@given(axes())
def test_nothing_removed_keeps_everything(ax):
    assert kept(ax, {}).all() and len(kept(ax, {})) == size_of(ax)


@given(axes(), st.data())
def test_removing_units_removes_their_positions_and_no_others(ax, data):
    leaf = data.draw(st.sampled_from(list(dict.fromkeys(leaves(ax)))))
    unit = data.draw(st.integers(0, leaf.size - 1))
    mask = np.arange(leaf.size) != unit
    where = positions(ax, leaf)
    assert set(np.flatnonzero(~kept(ax, {leaf: mask}))) == set(where[unit].tolist())


def outcome(a, b):
    """What is left to decide after two axes were unified, as plain data."""
    return [(leaf.size, bool(leaf.pinned)) for leaf in leaves(a)], [
        (leaf.size, bool(leaf.pinned)) for leaf in leaves(b)
    ]


@st.composite
def twin_axes(draw):
    """Two axes of equal length, each cut up in its own way: sums of products."""
    total = draw(st.sampled_from([6, 8, 12, 16, 24]))

    def one():
        if draw(st.booleans()):
            at = draw(st.integers(1, total - 1))
            return [[at], [total - at]]
        divisor = draw(st.sampled_from([d for d in range(1, total + 1) if total % d == 0]))
        return [[divisor, total // divisor]]

    return one(), one()


def built(description):
    return concatenation(product(axis(size) for size in term) for term in description)


@given(twin_axes())
def test_equality_does_not_depend_on_the_order_and_makes_both_sides_agree(pair):
    one, other = (built(part) for part in pair)
    unify(one, other)
    mirrored, original = (built(part) for part in pair)
    unify(original, mirrored)
    assert outcome(one, other) == outcome(mirrored, original)
    for leaf in dict.fromkeys([*leaves(one), *leaves(other)]):
        mask = np.arange(leaf.size) % 2 == 0
        if not leaf.pinned:
            assert np.array_equal(kept(one, {leaf: mask}), kept(other, {leaf: mask}))


@st.composite
def chains(draw):
    """A shape of several axes and steps that rearrange it."""
    shape = draw(st.lists(st.sampled_from([2, 3, 4, 6]), min_size=1, max_size=3))
    return shape, draw(
        st.lists(st.tuples(st.sampled_from(["view", "permute", "cat", "split"]), st.randoms()), max_size=4)
    )


def divisors(number):
    return [d for d in range(1, number + 1) if number % d == 0]


def step(kind, random, array, ax):
    """The same rearrangement on numbers (NumPy) and on axes (the algebra)."""
    if kind == "permute":
        order = random.sample(range(array.ndim), array.ndim)
        return array.transpose(order), [ax[i] for i in order]
    place = random.randrange(array.ndim)
    size = array.shape[place]
    if kind == "cat":
        doubled = concatenation([ax[place], ax[place]])
        return np.concatenate([array, array], place), [*ax[:place], doubled, *ax[place + 1 :]]
    if kind == "split" and size > 1:
        at = random.randrange(1, size)
        piece = split(ax[place], at, size)
        return np.take(array, range(at, size), place), [*ax[:place], piece, *ax[place + 1 :]]
    if kind == "view" and place + 1 < array.ndim:
        merged = product(a for a in ax[place : place + 2] if a != ONE)
        shape = (*array.shape[:place], -1, *array.shape[place + 2 :])
        return array.reshape(shape), [*ax[:place], merged, *ax[place + 2 :]]
    if kind == "view":
        outer = random.choice(divisors(size))
        pieces = [axis(outer), axis(size // outer)]
        unify(ax[place], product(a for a in pieces if a != ONE))
        shape = (*array.shape[:place], outer, size // outer, *array.shape[place + 1 :])
        return array.reshape(shape), [*ax[:place], *pieces, *ax[place + 1 :]]
    return array, ax


@settings(max_examples=150)
@given(chains())
def test_a_chain_of_rearrangements_moves_units_as_it_moves_numbers(chain):
    shape, steps = chain
    first = [axis(size) for size in shape]
    tags, ax = np.arange(math.prod(shape)).reshape(shape), list(first)
    for kind, random in steps:
        tags, ax = step(kind, random, tags, ax)
        assume(tags.size < 4000)
    assert tuple(size_of(a) for a in ax) == tags.shape
    free = [leaf for leaf in dict.fromkeys(leaf for a in first for leaf in leaves(a)) if not leaf.pinned]
    for leaf in free:
        masks = {leaf: np.arange(leaf.size) > 0}
        stays = np.ones(1, dtype=bool)
        for a in first:
            stays = np.multiply.outer(stays, kept(a, masks)).reshape(-1)
        left = tags[np.ix_(*(np.flatnonzero(kept(a, masks)) for a in ax))]
        assert stays[left.reshape(-1)].all()
        gone = np.setdiff1d(tags, left)
        assert not stays[gone].any()


def test_axes_of_other_lengths_are_pinned():
    one, other = axis(4), axis(6)
    unify(one, other)
    assert all(leaf.pinned == "it meets an axis of another length" for leaf in [*leaves(one), *leaves(other)])


def test_a_pinned_factor_pins_what_it_is_equal_to_and_the_first_reason_stays():
    one, other = axis(4, "an input", "net.py:3"), axis(4)
    unify(other, one)
    pin([other], "something else")
    (leaf,) = leaves(other)
    assert (leaf.pinned, leaf.line) == ("an input", "net.py:3")


def test_doubt_reaches_what_is_equal_later():
    one, other = axis(4), axis(4)
    doubt([one], "a norm")
    unify(one, other)
    assert next(leaves(other)).unproven == "a norm"


def test_a_refined_factor_hands_its_reason_down():
    whole = axis(12, "an input")
    unify(whole, product([axis(3), axis(4)]))
    assert [(leaf.size, leaf.pinned) for leaf in leaves(whole)] == [(3, "an input"), (4, "an input")]


def test_units_laid_out_irregularly_are_pinned():
    one, other = product([axis(2), axis(9)]), product([axis(3), axis(6)])
    unify(one, other)
    assert all(leaf.pinned for leaf in leaves(one) if leaf.size > 1)


def test_heads_of_fused_projections_are_one_factor():
    heads, whole = axis(4), axis(3 * 4 * 8)
    unify(whole, product([axis(3), heads, axis(8)]))
    (leaf,) = leaves(heads)
    assert positions(whole, root(leaf)).shape == (4, 24)


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (4, 10), (0, 10)])
def test_a_slice_between_parts_is_made_of_these_parts(start, stop):
    ax = concatenation([axis(4), axis(6)])
    assert size_of(split(ax, start, stop)) == stop - start
    assert not any(leaf.pinned for leaf in leaves(ax))
