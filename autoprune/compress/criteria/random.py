"""The baseline that a criterion has to beat."""

from __future__ import annotations

import torch

from autoprune.compress.criteria.units import Evidence, Score


def random(evidence: Evidence) -> Score:
    """A score drawn from the seed."""
    generator = torch.Generator().manual_seed(evidence.seed)
    return lambda group: torch.rand(group.units, generator=generator)
