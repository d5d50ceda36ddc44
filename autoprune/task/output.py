"""Which tensor of a network's outputs is the one that losses, metrics and distillation look at.

Networks return logits alone, a dict, a dataclass with logits among other things: the task says which tensor counts,
and where it does not, the usual names are tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from autoprune.errors import TaskError
from autoprune.tensors import tensors_in


def main_output(task: Any, outputs: Any) -> torch.Tensor:
    """The tensor that counts: what the task's optional `select(outputs)` gives, else `logits_of(outputs)`.

    Raises:
        TaskError: there is none.
    """
    select = getattr(task, "select", None)
    chosen = logits_of(outputs) if select is None else select(outputs)
    if not isinstance(chosen, torch.Tensor):
        raise TaskError(
            f"the task's select() returns {type(chosen).__name__}, expected one tensor of the outputs"
        )
    return chosen


def logits_of(outputs: Any) -> torch.Tensor:
    """`outputs` itself where it is a tensor, else its `logits`, else the first tensor in it.

    Raises:
        TaskError: it holds no tensor.
    """
    if isinstance(outputs, torch.Tensor):
        return outputs
    named = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    found = [named] if isinstance(named, torch.Tensor) else tensors_in(outputs)
    if not found:
        raise TaskError(
            f"the model returns {type(outputs).__name__} without a tensor in it: give the task a method "
            "select(outputs) that returns the tensor to look at"
        )
    return found[0]
