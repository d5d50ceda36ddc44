"""The ready task with a class for every pixel.

Scores of every class at every pixel of a split would fill the memory, so batches are summarised as they come: per
image and class, how many pixels were found, wanted, and both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from autoprune.task.classification import problem_of_classes
from autoprune.task.contract import IGNORED, Batch
from autoprune.task.inputs import Array
from autoprune.task.output import logits_of, main_output
from autoprune.task.ready import ReadyTask


@dataclass
class PixelSummary:
    """What metrics need to know of a batch of images.

    Attributes:
        found, wanted, both: pixels of each class as the network says, in the targets, and in both; `(N, classes)`.
        nats: summed negative log likelihood of the targets, `(N,)`.
    """

    found: torch.Tensor
    wanted: torch.Tensor
    both: torch.Tensor
    nats: torch.Tensor


class SegmentationTask(ReadyTask):
    """A class for every pixel: cross-entropy; intersection over union and accuracy in percent.

    The network gives `(N, classes, H, W)`, or `(N, 1, H, W)` for a foreground against a background; targets are
    class numbers `(N, H, W)`, -100 or `ignore` where a pixel does not count. Outputs of a lower resolution are
    enlarged to that of the targets. Metrics of your own are given what is counted over the whole split, found and
    wanted pixels as `(classes,)` of intersection and union.
    """

    outputs = "segmentation"

    def __init__(self, *arguments: Any, ignore: int = IGNORED, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.ignore = ignore

    def select(self, outputs: Any) -> torch.Tensor:
        """Scores `(N, classes, h, w)`; a foreground alone gets a background of score 0, which is a sigmoid."""
        scores = logits_of(outputs)
        return torch.cat([torch.zeros_like(scores), scores], 1) if scores.shape[1] == 1 else scores

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross-entropy, averaged over the pixels that count."""
        scores = _enlarged(main_output(self, outputs), batch.targets)
        counted = (batch.targets != self.ignore).sum().clamp_min(1)
        nats = F.cross_entropy(scores, batch.targets, ignore_index=self.ignore, reduction="sum")
        loss: torch.Tensor = nats / counted
        return loss

    def summary(self, outputs: Any, batch: Batch) -> PixelSummary:
        """What is kept of the outputs for a batch."""
        scores = _enlarged(main_output(self, outputs).float(), batch.targets)
        counted = batch.targets != self.ignore
        classes = scores.shape[1]
        found, wanted = scores.argmax(1)[:, None], batch.targets[:, None]
        number = torch.arange(classes).reshape(1, classes, 1, 1)
        is_found, is_wanted = (found == number) & counted[:, None], wanted == number
        nats = F.cross_entropy(scores, batch.targets, ignore_index=self.ignore, reduction="none")
        found, wanted, both = (part.sum((2, 3)) for part in (is_found, is_wanted, is_found & is_wanted))
        return PixelSummary(found, wanted, both, nats.sum((1, 2)))

    def metrics(self, outputs: Any, batch: Batch) -> dict[str, float]:
        """`iou`, the mean over the classes that occur, `accuracy` of pixels, and `cross_entropy` per pixel."""
        pixels = outputs if isinstance(outputs, PixelSummary) else self.summary(outputs, batch)
        found, wanted, both = (part.sum(0).double() for part in (pixels.found, pixels.wanted, pixels.both))
        union = found + wanted - both
        total = float(wanted.sum().clamp_min(1))
        occurs = union > 0
        return {
            "iou": 100.0 * float((both[occurs] / union[occurs]).mean()) if occurs.any() else 0.0,
            "accuracy": 100.0 * float(both.sum()) / total,
            "cross_entropy": float(pixels.nats.double().sum()) / total,
            **self.own_metrics(both, union),
        }

    def problem_of(self, targets: Array, outputs: Any) -> str:
        """What is wrong with the targets of a split, given outputs of the network; empty when nothing is."""
        scores = main_output(self, outputs)
        if scores.dim() != 4:
            return f"the model's outputs have shape {tuple(scores.shape)}, expected (N, classes, H, W)"
        if targets.ndim != 3:
            return f"y has shape {targets.shape}, expected one class number per pixel, (N, H, W)"
        return problem_of_classes(targets, scores.shape[1], self.ignore)


def _enlarged(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Scores in the resolution of the targets."""
    if scores.shape[2:] == targets.shape[1:]:
        return scores
    return F.interpolate(scores, size=targets.shape[1:], mode="bilinear", align_corners=False)
