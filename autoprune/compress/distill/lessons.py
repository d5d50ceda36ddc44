"""What is learned from the layers of one teacher, in one stretch of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from autoprune.compress.distill.attention_transfer import attention_distance
from autoprune.compress.distill.features import Pair, aligned
from autoprune.compress.distill.hints import Projection

LOGITS, DKD, HINTS, ATTENTION, SELF = "logits", "dkd", "hints", "attention_transfer", "self"
OF_FEATURES = (HINTS, ATTENTION)

Features = Mapping[str, torch.Tensor]


class Lesson:
    """Pairs of layers whose features are compared: by projections (hints), or by attention maps.

    Attributes:
        pairs: layers of the student and of the teacher.
        projections: one for each pair, trained along; none for attention maps.
    """

    def __init__(self, method: str, pairs: Sequence[Pair]) -> None:
        self.pairs = tuple(pairs)
        with torch.random.fork_rng(devices=[]):  # what a new layer draws is neither used nor missed elsewhere
            self.projections = [Projection(*pair.widths) for pair in pairs] if method == HINTS else []

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained along."""
        return [parameter for projection in self.projections for parameter in projection.parameters()]

    @property
    def student_layers(self) -> list[str]:
        """The layers of the student that are looked at."""
        return list(dict.fromkeys(pair.student for pair in self.pairs))

    @property
    def teacher_layers(self) -> list[str]:
        """The layers of the teacher that are looked at."""
        return list(dict.fromkeys(pair.teacher for pair in self.pairs))

    def distances(self, student: Features, teacher: Features) -> list[torch.Tensor]:
        """The distance of each pair; without those of which a layer was not called, for a path may depend on values."""
        found = []
        for place, pair in enumerate(self.pairs):
            if pair.student in student and pair.teacher in teacher:
                one, other = aligned(student[pair.student], teacher[pair.teacher], pair)
                distance = self.projections[place].distance if self.projections else attention_distance
                found.append(distance(one, other))
        return found
