"""Iterative pruning: a part of what is to go, then training, then the next part; on request while the quality holds."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from autoprune.compress.gradual import SHAPING, Gradual, Zeros, alike, copied
from autoprune.compress.technique import Recovery


def iterate(zeros: Zeros, recovery: Recovery, reference: nn.Module, gradual: Gradual) -> dict[str, Any]:
    """Choose and recover, `gradual.steps` times, each time the same share of what is left.

    What is left is scored anew in each round, on the network as it has recovered (Han et al. 2015,
    https://arxiv.org/abs/1506.02626, of weights; Molchanov et al. 2017, https://arxiv.org/abs/1611.06440, of
    channels). The rounds train for equal parts of the first half of the stretch. With a `gradual.guard`, one after
    which the quality lies more than that below the quality of `reference` is undone and is the last. Without it nobody
    looks: on 6,000 images four looks took twice as long as the training between them.

    Args:
        zeros: what goes; afterwards it holds what was reached, and its network is zeroed and trained accordingly.
        recovery: the training.
        reference: the dense network.
        gradual: `steps` and `guard` are read.

    Returns:
        Plain data: `steps` that stand, and `of` how many; with a guard `quality` after each that was taken,
        `dense_quality`, and `stopped`: why there were no more, only where that is so.
    """
    record: dict[str, Any] = {"steps": 0, "of": gradual.steps}
    dense, qualities = math.nan, list[float]()
    if gradual.guard is not None:
        dense = recovery.quality(reference)
        record |= {"quality": qualities, "dense_quality": dense}
    for step in range(1, gradual.steps + 1):
        before = zeros.chosen, copied(zeros.network.state_dict()) if gradual.guard is not None else {}
        zeros.choose(alike(step / gradual.steps))
        zeros.zero()
        recovery.train(zeros.network, SHAPING / gradual.steps, lambda *_: zeros.zero())
        record["steps"] = step
        if gradual.guard is None:
            continue
        qualities.append(recovery.quality(zeros.network))
        if not qualities[-1] >= dense - gradual.guard:
            zeros.chosen, weights = before
            zeros.network.load_state_dict(weights)
            record["stopped"] = (
                f"step {step} of {gradual.steps} came to {qualities[-1]:.6g}, more than {gradual.guard:g} below the "
                f"dense network's {dense:.6g}: "
                + (f"what step {step - 1} left was kept" if step > 1 else "nothing was pruned")
            )
            record["steps"] = step - 1
            break
    return record
