"""The ready task of finding objects: the user's loss, boxes decoded by the user, mean average precision.

Heads differ too much to guess their loss or their boxes, so both are given. What is the same for all is how found
boxes are held against true ones (Lin et al. 2014, COCO).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.errors import TaskError
from autoprune.references import resolve
from autoprune.task.contract import Batch
from autoprune.task.inputs import Array
from autoprune.task.ready import Network, ReadyTask, Source
from autoprune.tensors import tensors_in

Boxes = dict[str, torch.Tensor]
"""Of one image: `boxes` (K, 4) as x1, y1, x2, y2, `labels` (K,), and for found ones `scores` (K,)."""

OVERLAPS = tuple(np.arange(0.5, 1.0, 0.05).round(2))
RECALLS = np.linspace(0.0, 1.0, 101)


class DetectionTask(ReadyTask):
    """Objects in images, by a loss and a decoder of your own.

    The network gives tensors in any form. Targets are `(N, most, 5)`: label and x1, y1, x2, y2 of each object, a
    negative label where an image has fewer objects than `most`; or a list with `Boxes` for each image. Data and
    model are given as for any ready task.

    Args:
        loss: `(outputs, targets) -> tensor` with one number, or a reference to it.
        decode: `(outputs) -> list` with a `Boxes` for each image, or a reference to it; it brings the metrics
            `map` and `map_50`. Without it only `metrics` are computed.
        metrics: further metrics by name; they are given the raw outputs and the targets.

    Raises:
        TaskError: neither `decode` nor `metrics` is given.
    """

    outputs = "values"

    def __init__(
        self,
        model: Network,
        data: Source,
        *,
        loss: Callable[[Any, Any], torch.Tensor] | str,
        decode: Callable[[Any], list[Boxes]] | str | None = None,
        metrics: dict[str, Any] | None = None,
        architecture: dict[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__(model, data, architecture=architecture, metrics=metrics, folder=folder)
        if decode is None and not metrics:
            raise TaskError("a DetectionTask needs decode (outputs to boxes) or metrics of your own")
        self._loss = resolve(loss, folder=folder) if isinstance(loss, str) else loss
        self._decode = resolve(decode, folder=folder) if isinstance(decode, str) else decode

    def select(self, outputs: Any) -> torch.Tensor:
        """All that the heads say, side by side: a teacher is imitated in all of it."""
        return torch.cat([t.flatten(1) for t in tensors_in(outputs) if t.is_floating_point()], 1)

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """The loss that was given."""
        loss: torch.Tensor = self._loss(outputs, batch.targets)
        return loss

    def metrics(self, outputs: Any, batch: Batch) -> dict[str, float]:
        """`map` and `map_50` in percent where boxes can be decoded, and the metrics that were given."""
        values = self.own_metrics(outputs, batch.targets)
        if self._decode is None:
            return values
        found, wanted = self._decode(outputs), [_objects(image) for image in batch.targets]
        precision = {overlap: 100.0 * average_precision(found, wanted, overlap) for overlap in OVERLAPS}
        return {"map": float(np.mean(list(precision.values()))), "map_50": precision[0.5], **values}

    def problem_of(self, targets: Array, outputs: Any) -> str:  # noqa: ARG002
        """What is wrong with the targets of a split; empty when nothing is, or the user decodes them."""
        if self._decode is None or not isinstance(targets, np.ndarray):
            return ""
        if targets.ndim != 3 or targets.shape[2] != 5:
            return f"y has shape {targets.shape}, expected label, x1, y1, x2, y2 of each object, (N, most, 5)"
        real = targets[targets[..., 0] >= 0]
        if len(real) and ((real[:, 3] <= real[:, 1]) | (real[:, 4] <= real[:, 2])).any():
            return "y holds boxes without an area: a box is x1, y1, x2, y2 with x2 > x1 and y2 > y1"
        return ""


def _objects(image: torch.Tensor | Boxes) -> Boxes:
    if isinstance(image, Mapping):
        return image
    real = image[image[:, 0] >= 0]
    return {"labels": real[:, 0].long(), "boxes": real[:, 1:].float()}


def average_precision(found: Sequence[Boxes], wanted: Sequence[Boxes], overlap: float) -> float:
    """Mean over labels of the area under precision against recall, at 101 recalls as COCO has it, from 0 to 1.

    Args:
        found, wanted: the boxes of each image, in the same order.
        overlap: intersection over union from which a box is right. Each true box can be found once; boxes are
            asked in the order of their scores.
    """
    labels = {int(label) for image in wanted for label in image["labels"]}
    if not labels:
        return 0.0
    return float(np.mean([_of_label(found, wanted, label, overlap) for label in sorted(labels)]))


def _of_label(found: Sequence[Boxes], wanted: Sequence[Boxes], label: int, overlap: float) -> float:
    scores: list[float] = []
    right: list[bool] = []
    total = 0
    for image, truth in zip(found, wanted, strict=True):
        true_boxes = truth["boxes"][truth["labels"] == label]
        total += len(true_boxes)
        order = image["scores"].argsort(descending=True, stable=True)
        order = order[image["labels"][order] == label]
        scores += image["scores"][order].tolist()
        right += _matched(overlaps(image["boxes"][order], true_boxes), overlap)
    ranks = np.argsort(-np.array(scores), kind="stable")
    hits = np.cumsum(np.array(right, dtype=float)[ranks])
    precision = hits / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / total, RECALLS, side="left")
    return float(np.append(best_from_here, 0.0)[np.minimum(places, len(hits))].mean())


def _matched(table: torch.Tensor, overlap: float) -> list[bool]:
    """Whether each found box, best first, takes a true one that none has taken before."""
    taken: set[int] = set()
    right = []
    for row in table:
        free = [(float(value), place) for place, value in enumerate(row) if place not in taken]
        value, place = max(free, default=(0.0, -1))
        right.append(place >= 0 and value >= overlap)
        if right[-1]:
            taken.add(place)
    return right


def overlaps(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Intersection over union of each of `(K, 4)` boxes with each of `(M, 4)`: `(K, M)`."""
    left_top = torch.maximum(one[:, None, :2], other[None, :, :2])
    right_bottom = torch.minimum(one[:, None, 2:], other[None, :, 2:])
    common = (right_bottom - left_top).clamp_min(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(1) for boxes in (one, other)]
    return common / (areas[0][:, None] + areas[1][None] - common).clamp_min(1e-12)
