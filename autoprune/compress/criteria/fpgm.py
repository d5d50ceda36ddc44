"""Filter pruning via geometric median: what the other units can stand in for goes first."""

from __future__ import annotations

import torch

from autoprune.compress.criteria.units import Evidence, Score, balanced, written


def fpgm(evidence: Evidence) -> Score:
    """Summed distance to all other units of the layer: small for one that the others can stand in for.

    He et al. 2019, https://arxiv.org/abs/1811.00250, eq. 4 and 5.
    """
    return lambda group: balanced([torch.cdist(rows, rows).sum(1) for rows in written(group, evidence.model)])
