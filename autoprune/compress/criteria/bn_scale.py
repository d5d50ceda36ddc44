"""Network slimming: the BatchNorm behind a unit says how much of it is let through."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.compress.criteria.units import Evidence, Score, Unscored, balanced, rows_of, tensor_of
from autoprune.structure import Group, Slice


def bn_scale(evidence: Evidence) -> Score:
    """Absolute scale of the BatchNorm behind a unit (Liu et al. 2017, https://arxiv.org/abs/1708.06519)."""
    model = evidence.model

    def scores(group: Group) -> torch.Tensor:
        scales = [part for part in group.role("follows") if _is_norm_scale(model, part)]
        if not scales:
            raise Unscored("no BatchNorm follows it")
        return balanced([rows_of(part, tensor_of(model, part).detach().abs()).sum(1) for part in scales])

    return scores


def _is_norm_scale(model: nn.Module, part: Slice) -> bool:
    norm = isinstance(model.get_submodule(part.layer), nn.modules.batchnorm._BatchNorm)
    return norm and part.tensor.endswith(".weight")
