"""How long each layer takes at the widths that it can have: measured where it says most, and filled in between.

Runtimes work in blocks of channels, and a width that does not fill them costs what the next larger one does, or more:
of 3×3 convolutions of 32 channels in ONNX Runtime those that write 17 take what those that write 32 take, and those
that read 31 take 1.6 times as long as those that read 28. So along either axis, the other one in full, all widths that
there are of channels in multiples are measured, and some where there are too many. What the two do to each other is
smooth, and read off a few pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoprune.search.answers import Answers
from autoprune.search.points import as_columns, uniform
from autoprune.search.prices import KINDS, Prices
from autoprune.space import Space

Floats = NDArray[np.float64]

STEPS = 128  # in which widths that can be had are looked for, from not pruned to pruned as far as can be
ALL = 13  # so many widths of an axis are all measured,
SOME = 6  # and where there are more so many of them, besides the coarse ones
LEAST = 1e-9  # milliseconds: a model of a circuit may say that a layer takes none


def layer_times(asked: Answers, space: Space, data: Mapping[str, Any]) -> dict[str, Any]:
    """For each layer its milliseconds at every pair of some of its widths, in floating point and in integers.

    Args:
        asked: workers that time layers.
        space: of the search.
        data: of `Prices`.

    Returns:
        by layer `reads` and `writes`, shares of full width in descending order, and `float` and `integer`,
        milliseconds (reads, writes); layers that cannot be timed alone are missing.
    """
    steps = [uniform(space, share) for share in np.linspace(0.0, 1.0, STEPS + 1)]
    found = Prices(data).widths(as_columns(space, steps))
    grids = {layer: _Grid(_Axis.of(reads), _Axis.of(writes)) for layer, (reads, writes) in found.items()}
    kinds = {layer: KINDS if _can_be_integer(layer, data, space) else KINDS[:1] for layer in grids}
    calls = [
        (layer, a, b, kind == "integer")
        for layer, grid in grids.items()
        for kind in kinds[layer]
        for a, b in grid.measured()
    ]
    times = dict(zip(calls, asked.map("time_layer", calls), strict=True))
    tables = {}
    for layer, grid in grids.items():
        table = {}
        for kind in kinds[layer]:
            known = {(a, b): times[layer, a, b, kind == "integer"] for a, b in grid.measured()}
            if all(ms is not None for ms in known.values()):
                table[kind] = grid.filled(known).tolist()
        if "float" in table:
            tables[layer] = {"reads": grid.reads.widths, "writes": grid.writes.widths, **table}
    return tables


def _can_be_integer(layer: str, data: Mapping[str, Any], space: Space) -> bool:
    """Whether some point computes a layer with integers."""
    return all(
        any(
            value <= 8 for value in (getattr(space[bits], "values", ()) if isinstance(bits, str) else (bits,))
        )
        for bits in data["bits"].get(layer, (32, 32))
    )


class _Axis(NamedTuple):
    """The widths of one axis, as shares of the full one.

    Attributes:
        widths: in descending order.
        coarse: places of those that are measured in pairs, the first one included.
    """

    widths: list[float]
    coarse: list[int]

    @classmethod
    def of(cls, found: Floats) -> _Axis:
        """All widths that were found step by step, or some of them; those at both ends and half-way are coarse."""
        every, needed = np.unique(found)[::-1], np.unique(found[[0, len(found) // 2, -1]])
        count = len(every) if len(every) <= ALL else SOME
        spread = np.linspace(0, len(every) - 1, count).round().astype(int)
        widths = np.unique([*every[spread], *needed])[::-1]
        places = {0, *np.flatnonzero(np.isin(widths, needed)).tolist()}
        return cls(widths.tolist(), sorted(places))


class _Grid(NamedTuple):
    """Pairs of widths of a layer: what it reads, and what it writes."""

    reads: _Axis
    writes: _Axis

    def measured(self) -> Sequence[tuple[float, float]]:
        """The pairs to measure: the coarse ones, and every width with the other axis in full."""
        reads, writes = self.reads.widths, self.writes.widths
        pairs = [(reads[i], writes[j]) for i in self.reads.coarse for j in self.writes.coarse]
        pairs += [(width, writes[0]) for width in reads] + [(reads[0], width) for width in writes]
        return list(dict.fromkeys(pairs))

    def filled(self, known: Mapping[tuple[float, float], float]) -> Floats:
        """Times of all pairs (reads, writes): products of what each axis does, times what is left over, in between.

        Args:
            known: the measured ones.
        """
        reads, writes = np.array(self.reads.widths), np.array(self.writes.widths)
        known = {pair: max(ms, LEAST) for pair, ms in known.items()}
        down = np.array([known[width, writes[0]] for width in reads])
        across = np.array([known[reads[0], width] for width in writes])
        product = np.outer(down, across) / down[0]
        some = np.ix_(self.reads.coarse, self.writes.coarse)
        pairs = np.array(
            [[known[reads[i], writes[j]] for j in self.writes.coarse] for i in self.reads.coarse]
        )
        left = pairs / product[some]
        left = np.array([_between(reads, reads[self.reads.coarse], column) for column in left.T]).T
        left = np.array([_between(writes, writes[self.writes.coarse], row) for row in left])
        return np.asarray(product * left)


def _between(widths: Floats, known: Floats, values: Floats) -> Floats:
    """Values at all widths of those at some, both in descending order."""
    return np.asarray(np.interp(-widths, -known, values))
