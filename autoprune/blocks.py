"""Alternatives in a network of one's own: a block of several kinds or none, inputs to choose, cells, repetition.

A network is made for one point of a space: what was not chosen is not there. So it traces, prunes and exports as any
other does, and under weight sharing each alternative has weights of its own, because it has a name of its own.

    class Net(nn.Module):
        def __init__(self, *, block: str = "conv3", depth: int = 2, reads: str = "0+1") -> None:
            super().__init__()
            kinds = {"conv3": lambda: nn.Conv2d(8, 8, 3, padding=1), "conv5": lambda: nn.Conv2d(8, 8, 5, padding=2)}
            self.stem = nn.Conv2d(1, 8, 3, padding=1)
            self.body = repeated(depth, lambda number: one_of(block, kinds))
            self.add = Add(reads, among=2)
            self.head = nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.stem(x)
            return self.head(self.add([first, self.body(first)]).mean((2, 3)))

`architecture: {block: [conv3, conv5, none], depth: [1, 2], reads: ["0", "0+1"]}` then searches it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from autoprune.references import nearest

NONE, SKIP = "none", "skip"

Kinds = Mapping[str, Callable[[], nn.Module]]
"""Name of an alternative -> what makes it; `none` and `skip` need not be among them."""

Edges = Mapping[tuple[int, int], str]
"""(from, to) of two nodes -> the name of the operation between them."""


def one_of(chosen: str, kinds: Kinds) -> nn.Module:
    """The chosen alternative, under its own name; `none` and `skip` hand on what comes in.

    Raises:
        ValueError: there is no such alternative.
    """
    if chosen not in kinds and chosen not in (NONE, SKIP):
        known = [*kinds, NONE, SKIP]
        raise ValueError(
            f"one_of: got {chosen!r}, expected one of {', '.join(known)}{nearest(chosen, known)}"
        )
    return nn.Sequential(OrderedDict({chosen: kinds[chosen]()})) if chosen in kinds else nn.Identity()


def repeated(count: int, make: Callable[[int], nn.Module]) -> nn.Sequential:
    """So many blocks in a row; `make` is given the number of each, from 0. Fewer are the first ones.

    Raises:
        ValueError: fewer than none.
    """
    if count < 0:
        raise ValueError(f"repeated: got {count} blocks, expected 0 or more")
    return nn.Sequential(*(make(number) for number in range(count)))


class Add(nn.Module):
    """The sum of some of several inputs of one shape.

    Args:
        picked: which, as in `0+2`.
        among: how many there are.

    Raises:
        ValueError: none is picked, one twice, or one that is not there.
    """

    def __init__(self, picked: str, among: int) -> None:
        super().__init__()
        names = str(picked).split("+")
        if any(not n.isdecimal() or int(n) >= among for n in names) or len(set(names)) < len(names):
            raise ValueError(
                f"Add: got {picked!r}, expected different numbers from 0 to {among - 1}, as in '0+1'"
            )
        self.picked = tuple(map(int, names))

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sum, in the shape of each."""
        total = inputs[self.picked[0]]
        for number in self.picked[1:]:
            total = total + inputs[number]
        return total


class Cell(nn.Module):
    """Nodes and operations between them (NAS-Bench-201, Dong & Yang 2020): each node is the sum of what reaches it.

    The first node is the input, the last one the output. What leads nowhere is left out.

    Args:
        edges: the operation from each node to each later one; `none` is no edge, `skip` hands on what comes in.
        kinds: the operations; they keep the shape.

    Raises:
        ValueError: an edge goes back, an operation is not known, or nothing leads from the input to the output.
    """

    def __init__(self, edges: Edges, kinds: Kinds) -> None:
        super().__init__()
        wrong = [pair for pair in edges if not 0 <= pair[0] < pair[1]]
        if wrong or not edges:
            raise ValueError(f"Cell: got the edges {list(edges)}, expected pairs of a node and a later one")
        self.last = max(end for _, end in edges)
        made = {pair: one_of(chosen, kinds) for pair, chosen in edges.items() if chosen != NONE}
        used = _between(list(made), self.last)
        if not used:
            given = ", ".join(f"{start}-{end} {chosen}" for (start, end), chosen in edges.items())
            raise ValueError(f"Cell: nothing leads from the input to the output ({given})")
        self.used = sorted(used, key=lambda pair: (pair[1], pair[0]))
        self.edges = nn.ModuleDict({_name(pair): made[pair] for pair in self.used})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What arrives at the last node, in the shape of the input."""
        nodes = {0: x}
        for start, end in self.used:
            arrived = self.edges[_name((start, end))](nodes[start])
            nodes[end] = nodes[end] + arrived if end in nodes else arrived
        return nodes[self.last]


def _name(pair: tuple[int, int]) -> str:
    return f"from{pair[0]}to{pair[1]}"


def _between(pairs: Sequence[tuple[int, int]], last: int) -> list[tuple[int, int]]:
    """The edges that lie on a way from node 0 to the last one."""
    reached, needed = {0}, {last}
    for start, end in sorted(pairs, key=lambda pair: pair[0]):
        if start in reached:
            reached.add(end)
    for start, end in sorted(pairs, key=lambda pair: -pair[1]):
        if end in needed:
            needed.add(start)
    return [(start, end) for start, end in pairs if start in reached and end in needed]
