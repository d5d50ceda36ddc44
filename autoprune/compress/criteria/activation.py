"""How much there is of a unit where it is read."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from autoprune.compress.criteria.reads import Place, Reads
from autoprune.compress.criteria.units import Evidence, Score, Unscored, balanced
from autoprune.structure import Group, Slice


def activation(evidence: Evidence) -> Score:
    """Mean absolute activation of a unit where it is read, behind norm and nonlinearity, over the calibration batches.

    Units that are hardly ever active go first (Hu et al. 2016, "Network trimming", https://arxiv.org/abs/1607.03250;
    the mean in place of the share of zeros as in Molchanov et al. 2017, https://arxiv.org/abs/1611.06440, §2.2). It
    costs one pass over the batches.
    """
    reads = Reads(evidence.model, torch.abs)
    for batch in evidence.batches:
        reads.watch(batch.inputs)
    means = reads.means()

    def scores(group: Group) -> torch.Tensor:
        return balanced(
            [of_units(part, means[part.tensor, part.axis][None])[0] for part in seen(group, means)]
        )

    return scores


def seen(group: Group, places: Mapping[Place, object]) -> list[Slice]:
    """The slices by which a group is read, as far as they were seen.

    Raises:
        Unscored: none was.
    """
    parts = [part for part in group.role("reads") if (part.tensor, part.axis) in places]
    if not parts:
        raise Unscored("no product was seen that reads it")
    return parts


def of_units(part: Slice, features: torch.Tensor) -> torch.Tensor:
    """The mean feature of each unit, shape (examples, units), of features (examples, blocks, features)."""
    return features.mean(1)[:, torch.from_numpy(part.positions)].mean(-1)
