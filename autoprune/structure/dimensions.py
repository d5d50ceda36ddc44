"""What an axis of a tensor is made of, symbolically: sums of products of factors.

A linear layer with 12 heads of 64 channels writes an axis of 768. A reshape shows it to be a product (12, 64), a
concatenation shows another axis to be a sum (a + b), a grouped convolution a product (groups, channels of each).
`unify` says that two axes are the same; both are then refined until they agree factor by factor. A factor that no
refinement takes apart is one decision: whoever removes its third unit removes the same positions everywhere the
factor occurs.

    Axis    a sum of terms        concatenated in order
    Term    a product of factors  from the slowest to the fastest varying; the empty product has size 1
    Factor  a number of units     alone, equal to another factor, or refined into an axis

What does not fit is pinned, with a reason: a pinned factor keeps all of its units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

Term = tuple["Factor", ...]
Axis = tuple[Term, ...]
ONE: Axis = ((),)
MOST_COPIES = 64  # a pinned factor of up to so many units is written out as a sum where nothing else fits


class Factor:
    """So many units that belong together in order.

    Attributes:
        size: number of units, 2 or more.
        pinned: why no unit may go; empty if any may.
        unproven: why a removal cannot be checked against zeroing (a norm is taken over the units); empty if it can.
        kind: `heads` or `head_dim` where attention was seen to use it so, else `channels`.
        line: the line of the model (`file:line`) that stands behind `pinned` or `unproven`.
    """

    __slots__ = ("kind", "line", "parts", "pinned", "same", "size", "unproven")

    def __init__(self, size: int, pinned: str = "", line: str = "") -> None:
        self.size, self.pinned, self.line = size, pinned, line
        self.unproven, self.kind = "", "channels"
        self.same: Factor | None = None
        self.parts: Axis | None = None

    def __repr__(self) -> str:
        return f"<{self.size}{' pinned' if self.pinned else ''}>"


def axis(size: int, pinned: str = "", line: str = "") -> Axis:
    """A fresh axis of one factor (none for size 1)."""
    return ONE if size == 1 else ((Factor(size, pinned, line),),)


def root(factor: Factor) -> Factor:
    """The factor that stands for all that are equal to this one."""
    while factor.same is not None:
        factor = factor.same
    return factor


def size_of(ax: Axis) -> int:
    """Positions along an axis."""
    return sum(_term_size(term) for term in ax)


def _term_size(term: Term) -> int:
    return math.prod(factor.size for factor in term)


def leaves(ax: Axis) -> Iterator[Factor]:
    """The factors that an axis is finally made of, in order, with repetitions."""
    for term in ax:
        for factor in term:
            base = root(factor)
            if base.parts is None:
                yield base
            else:
                yield from leaves(base.parts)


def product(axes: Iterable[Axis]) -> Axis:
    """The axes merged into one, the first varying slowest, as a reshape merges them."""
    term: list[Factor] = []
    for ax in axes:
        if len(ax) == 1:
            term += ax[0]
        else:
            whole = Factor(size_of(ax))
            whole.parts = ax
            term.append(whole)
    return (tuple(term),)


def concatenation(axes: Iterable[Axis]) -> Axis:
    """The axes one behind the other."""
    return tuple(term for ax in axes for term in ax)


def pin(axes: Iterable[Axis], reason: str, line: str = "") -> None:
    """Keep all units of these axes, for a reason; an earlier reason stays."""
    for ax in axes:
        for leaf in leaves(ax):
            if not leaf.pinned:
                leaf.pinned, leaf.line = reason, line


def doubt(axes: Iterable[Axis], reason: str, line: str = "") -> None:
    """Say why removing units of these axes is not the same as zeroing them."""
    for ax in axes:
        for leaf in leaves(ax):
            if not leaf.unproven:
                leaf.unproven = reason
                leaf.line = leaf.line or line


def unify(some: Axis, other: Axis) -> None:
    """Make two axes of equal size the same, refining both as far as needed; what cannot agree is pinned."""
    if size_of(some) != size_of(other):
        pin((some, other), "it meets an axis of another length")
        return
    ours, theirs = _flat(some), _flat(other)
    while ours and theirs:
        ours, theirs = _front(ours), _front(theirs)
        a, b = _term_size(ours[0]), _term_size(theirs[0])
        if a == b:
            _unify_terms(ours.pop(0), theirs.pop(0))
            continue
        long, at = (theirs, a) if a < b else (ours, b)
        pieces = _cut_term(long[0], at)
        if not pieces:
            pin((tuple(ours), tuple(theirs)), "its units are laid out irregularly")
            return
        long[0:1] = pieces


def split(ax: Axis, start: int, stop: int) -> Axis:
    """The positions from `start` to `stop` of an axis, refined so that the two ends fall between factors."""
    found: list[Term] = []
    terms, position = _flat(ax), 0
    while terms and position < stop:
        terms = _front(terms)
        size = _term_size(terms[0])
        edge = next((e for e in (start, stop) if position < e < position + size), None)
        if edge is None:
            if position >= start:
                found.append(terms[0])
            position += size
            terms.pop(0)
            continue
        pieces = _cut_term(terms[0], edge - position)
        if not pieces:
            pin((ax,), "it is sliced within a repeated pattern")
            return axis(stop - start, "it is sliced within a repeated pattern")
        terms[0:1] = pieces
    return tuple(found) or ONE


def _flat(ax: Axis) -> list[Term]:
    """The terms of an axis with what has been refined since written out, as far as a sum allows."""
    terms: list[Term] = []
    for term in ax:
        terms += _expanded(term)
    return terms


def _front(terms: list[Term]) -> list[Term]:
    return _expanded(terms[0]) + terms[1:]


def _expanded(term: Term) -> list[Term]:
    inlined: list[Factor] = []
    for factor in term:
        inlined += _inlined(factor)
    if inlined and (parts := root(inlined[0]).parts) is not None:
        # A sum that varies slowest: (a + b) × c lies in memory as a × c, then b × c.
        return [(*inner, *inlined[1:]) for part in parts for inner in _expanded(part)]
    return [tuple(inlined)]


def _inlined(factor: Factor) -> list[Factor]:
    base = root(factor)
    if base.parts is None or len(base.parts) != 1:
        return [base]
    return [inner for part in base.parts[0] for inner in _inlined(part)]


def _refine(leaf: Factor, parts: Axis) -> None:
    """Replace a leaf by an axis of the same size, whose factors take over what is known of it."""
    leaf.parts = parts
    for inner in leaves(parts):
        inner.pinned = inner.pinned or leaf.pinned
        inner.unproven = inner.unproven or leaf.unproven
        inner.line = inner.line or leaf.line


def _cut_term(term: Term, at: int) -> list[Term]:
    """A term as the two terms before and after a position; empty if that falls within a product."""
    first, rest = term[0], term[1:]
    inner = _term_size(rest)
    if at % inner == 0:
        sizes = (at // inner, first.size - at // inner)
        _refine(first, concatenation(axis(size) for size in sizes))
        return [(*part, *rest) for part in first.parts or ()]
    if first.size > MOST_COPIES:
        return []
    pin((((first,),),), "its units are laid out irregularly")
    first.parts = ((),) * first.size
    return [rest] * first.size


def _unify_terms(some: Term, other: Term) -> None:
    ours, theirs = list(_inline_all(some)), list(_inline_all(other))
    while ours and theirs:
        f, g = root(ours[0]), root(theirs[0])
        if f.size == g.size:
            _unify_factors(f, g)
            ours.pop(0)
            theirs.pop(0)
            continue
        common = math.gcd(f.size, g.size)
        pieces = [_as_product(x, common) if x.size > common else [x] for x in (f, g)]
        if common == 1 or not all(pieces):
            pin((((*ours, *theirs),),), "its units are laid out irregularly")
            return
        ours[0:1], theirs[0:1] = pieces


def _inline_all(term: Term) -> Iterator[Factor]:
    for factor in term:
        yield from _inlined(factor)


def _as_product(factor: Factor, outer: int) -> list[Factor]:
    """A factor as a product of which the slower part has `outer` units; empty if it is a sum that is none."""
    inner = factor.size // outer
    if factor.parts is None:
        parts = [Factor(outer), Factor(inner)]
        _refine(factor, (tuple(parts),))
        return parts
    slow = Factor(outer, "its units are copies of a pattern")
    copies = [split(factor.parts, i * inner, (i + 1) * inner) for i in range(outer)]
    for copy in copies[1:]:
        unify(copies[0], copy)
    fast = Factor(inner)
    fast.parts = copies[0]
    return [slow, fast]


def _unify_factors(f: Factor, g: Factor) -> None:
    f, g = root(f), root(g)
    if f is g:
        return
    if f.parts is not None and g.parts is not None:
        unify(f.parts, g.parts)
        return
    leaf, other = (f, g) if f.parts is None else (g, f)
    leaf.same = other
    if leaf.kind != "channels":
        for inner in leaves(((other,),)):
            inner.kind = leaf.kind
    if leaf.pinned:
        pin((((other,),),), leaf.pinned, leaf.line)
    if leaf.unproven:
        doubt((((other,),),), leaf.unproven, leaf.line)


def kept(ax: Axis, masks: Mapping[Factor, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Which positions of an axis stay, given which units of some leaves do."""
    return np.concatenate([_kept_term(term, masks) for term in ax])


def _kept_term(term: Term, masks: Mapping[Factor, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    stays = np.ones(1, dtype=bool)
    for factor in term:
        base = root(factor)
        every = np.ones(base.size, dtype=bool)
        mask = masks.get(base, every) if base.parts is None else kept(base.parts, masks)
        stays = np.logical_and.outer(stays, mask).reshape(-1)
    return stays


def positions(ax: Axis, leaf: Factor) -> np.ndarray[Any, Any] | None:
    """Where each unit of a leaf lies along an axis: units × copies, None where it occurs twice in one product."""
    labels = _labels(ax, leaf)
    if labels is None:
        return None
    order = np.argsort(labels, kind="stable")[np.count_nonzero(labels < 0) :]
    return order.reshape(leaf.size, -1)


def _labels(ax: Axis, leaf: Factor) -> np.ndarray[Any, Any] | None:
    """The unit of `leaf` at each position, -1 for none."""
    found = []
    for term in ax:
        labels = np.full(1, -1)
        for factor in term:
            base = root(factor)
            inner = np.arange(leaf.size) if base is leaf else np.full(base.size, -1)
            if base.parts is not None:
                nested = _labels(base.parts, leaf)
                if nested is None:
                    return None
                inner = nested
            if labels.max() >= 0 and inner.max() >= 0:
                return None
            labels = np.maximum.outer(labels, inner).reshape(-1)
        found.append(labels)
    return np.concatenate(found)
