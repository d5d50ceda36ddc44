"""Whether two readers of a language model write the same text.

The tokens that a model writes follow from those that it wrote before, so a difference that no average shows can
lead elsewhere. The measured candidate continues some examples, always with the most likely token; the other reader
is asked at each step what it would have written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from autoprune.export.comparison import MASK, Run, same_choice
from autoprune.task import IGNORED, Batch, Task, main_output
from autoprune.tensors import map_tensors, rows, tensors_in

STEPS = 16
PROMPTS = 4


def generation_agreement(task: Task, batch: Batch, measured: Run, other: Run) -> float | None:
    """Percent of greedily written tokens that are the same, None where the task is not to continue texts.

    The window keeps the length of the examples: the oldest token leaves as a new one comes.
    """
    inputs = _prompts(batch) if predicts_next(task, batch) else None
    if inputs is None:
        return None
    same = total = 0
    for _ in range(STEPS):
        expected = main_output(task, measured(inputs))[:, -1]
        agreed = same_choice(expected, main_output(task, other(inputs))[:, -1], axis=1)
        same, total = same + int(agreed.sum()), total + len(agreed)
        inputs = _moved(inputs, expected.argmax(1))
    return 100.0 * same / total


def predicts_next(task: Task, batch: Batch) -> bool:
    """Whether the targets are the next tokens of the inputs, or the tokens themselves as transformers shift them."""
    ids = _token_ids(batch.inputs)
    targets = batch.targets
    if getattr(task, "outputs", None) != "token_logits" or ids is None:
        return False
    if not isinstance(targets, torch.Tensor) or targets.shape != ids.shape or ids.shape[1] < 2:
        return False
    counted = targets != IGNORED
    following = (targets == ids.roll(-1, 1)) & counted
    following[:, -1] = counted[:, -1]
    return bool(counted.any()) and max(_share(following, counted), _share(targets == ids, counted)) > 0.99


def _share(same: torch.Tensor, counted: torch.Tensor) -> float:
    return float((same & counted).sum()) / int(counted.sum())


def _token_ids(inputs: Any) -> torch.Tensor | None:
    named = inputs.get("input_ids") if isinstance(inputs, Mapping) else None
    found = [named] if isinstance(named, torch.Tensor) else tensors_in(inputs)
    return next((t for t in found if t.dim() == 2 and not t.is_floating_point()), None)


def _prompts(batch: Batch) -> Any:
    """The first examples without padding, None if there are none."""
    mask = batch.inputs.get(MASK) if isinstance(batch.inputs, Mapping) else None
    if mask is None:
        return rows(batch.inputs, slice(0, PROMPTS))
    chosen = torch.nonzero((mask != 0).all(1)).flatten()[:PROMPTS]
    return rows(batch.inputs, chosen) if len(chosen) else None


def _moved(inputs: Any, following: torch.Tensor) -> Any:
    ids = _token_ids(inputs)
    if ids is None:
        return inputs
    moved = torch.cat([ids[:, 1:], following[:, None].to(ids.dtype)], dim=1)
    return map_tensors(lambda tensor: moved if tensor is ids else tensor, inputs)
