"""Precisions of floating point, and the point next to one in which nothing is rounded."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.space.choice import Value

FLOAT_BITS = 32
FLOAT32 = "float32"
HALF_PRECISIONS = ("bfloat16", "float16")
PRECISIONS = (FLOAT32, *HALF_PRECISIONS)
"""Those that a target may compute in; the names are torch's."""


def in_full_precision(point: Mapping[str, Value]) -> dict[str, Value]:
    """A point with the bits of every weight and input at 32; they may not be among the options."""
    return {name: FLOAT_BITS if name.endswith("_bits") else value for name, value in point.items()}
