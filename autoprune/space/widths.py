"""How many units a pruning ratio leaves: one rule for what is cut and for what a cut is known to cost beforehand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def units_left(
    units: ArrayLike, together: int, ratio: ArrayLike, channel_multiple: int = 1
) -> NDArray[np.int64]:
    """Units of a group that stay: rounded to whole units, and at least one.

    Where the target likes multiples, the width that is left is the multiple nearest to what was asked for, which may
    be the full width.

    Args:
        units: how many there are, of any shape.
        together: channels that each unit stands for.
        ratio: share to go, of a shape that broadcasts with `units`.
        channel_multiple: channel counts that are a multiple of this are wanted.
    """
    whole: NDArray[Any] = np.asarray(units, dtype=float)
    share: NDArray[Any] = np.asarray(ratio, dtype=float)
    step = channel_multiple // math.gcd(channel_multiple, together)
    left = whole - np.round(share * whole)
    stepped = np.maximum(step, step * np.ceil(left / step - 0.5))
    left = np.where((share > 0) & (step <= whole), stepped, left)
    return np.asarray(np.minimum(np.maximum(left, 1), whole), dtype=np.int64)
