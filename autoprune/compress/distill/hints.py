"""Hints: layers of the student learn what layers of the teacher give (FitNets, Romero et al. 2015).

A student with fewer channels cannot give the same features. A linear map from its channels to the teacher's (for
images a 1×1 convolution) stands between them, is trained along, and is thrown away after each stretch of training
(https://arxiv.org/abs/1412.6550, eq. 3). There the hint is a stage of its own; here it is a term of the loss, and works
in however short a stretch. The map starts as the best one for the first batch, by least squares, where theirs is
random: a stretch of a few steps would otherwise teach the map and not the student.
"""

from __future__ import annotations

import torch
from torch import nn

MOST_ROWS = 8192
RIDGE = 1e-2
_SMALLEST = 1e-12


class Projection(nn.Linear):
    """The map of one layer's channels to those of the teacher's, fitted to the first features that it is given.

    Not in the pass that finds the layers: there BatchNorm would use the statistics of the network before it was pruned.
    """

    is_fitted = False

    def distance(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """`hint_distance` of these features."""
        if not self.is_fitted:
            self.fit(student, teacher)
        return hint_distance(self(student.movedim(1, -1)).float(), teacher.movedim(1, -1))

    @torch.no_grad()
    def fit(self, student: torch.Tensor, teacher: torch.Tensor) -> None:
        """Set the weights to those with the least squared error, nearly (ridge regression).

        Args:
            student: (N, channels, positions...).
            teacher: (N, its channels, positions...), of the same positions. At most `MOST_ROWS` places are looked at.
        """
        given, wanted = _rows(student), _rows(teacher)
        middle, goal = given.mean(0), wanted.mean(0)
        centred = given - middle
        gram = centred.T @ centred
        ridge = RIDGE * gram.diagonal().mean().clamp_min(_SMALLEST) * torch.eye(len(gram), dtype=gram.dtype)
        weight = torch.linalg.solve(gram + ridge, centred.T @ (wanted - goal)).T
        self.weight.copy_(weight)
        self.bias.copy_(goal - weight @ middle)
        self.is_fitted = True


def hint_distance(projected: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The mean squared error of a feature, as a share of the teacher's mean square.

    The share is the same whatever the size of a layer's numbers, so that one weight serves all layers.
    """
    return (projected - teacher).square().mean() / teacher.square().mean().clamp_min(_SMALLEST)


def _rows(feature: torch.Tensor) -> torch.Tensor:
    """What a feature says at each place, (places, channels), in double precision on the CPU."""
    rows = feature.movedim(1, -1).flatten(0, -2)
    return rows[:: len(rows) // MOST_ROWS + 1].double().cpu()
