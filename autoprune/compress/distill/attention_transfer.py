"""Attention transfer: where a layer looks, whatever it looks for (Zagoruyko & Komodakis 2017).

The squares of a feature, averaged over channels, are a map of what the layer responds to. Maps need no projection: a
student with half of the channels has maps of the same size (https://arxiv.org/abs/1612.03928).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def attention_map(feature: torch.Tensor) -> torch.Tensor:
    """The mean of squares over the channels, of length 1 for each example.

    Args:
        feature: (N, channels, positions...), pixels of an image or tokens of a sequence.

    Returns:
        (N, positions), along one axis.
    """
    return F.normalize(feature.square().mean(1).flatten(1), dim=1)


def attention_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The squared distance of the two maps (eq. 2, squared), summed over positions, averaged over examples: 0 to 2.

    Args:
        student, teacher: features (N, channels, positions...), of any number of channels each.
    """
    return (attention_map(student) - attention_map(teacher)).square().sum(1).mean()
