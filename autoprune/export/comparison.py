"""How far two readers of one network are apart, by what its outputs mean.

Outputs of the same network in two runtimes are never equal bit by bit. What must be the same depends on what they
are for: the class with the highest score where classes are chosen, the numbers themselves elsewhere. Positions
that are padding count for nobody, so they are not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from autoprune.errors import ParityError
from autoprune.targets.interface import OUTPUT
from autoprune.task import IGNORED, Batch, Task, main_output
from autoprune.tensors import Inputs, named, rebuild, tensors_in

Run = Callable[[Inputs], Any]

TIE = 1e-3
"""Classes whose scores differ by less than this share of the scores' size are a tie: either may come out first. One
value that is rounded to the neighbouring code moves scores by about as much."""
CLASS_AXIS = {"logits": 1, "segmentation": 1, "token_logits": -1}
"""Output kind -> axis of the classes."""
MASK = "attention_mask"


class Comparison:
    """Sums over the batches of a split, of one reader's outputs against those of the measured candidate.

    Args:
        task: says what the outputs are (`outputs`) and which of them counts (`select`).
        kind: where the task does not say.
    """

    def __init__(self, task: Task, kind: str) -> None:
        self.task, self.kind = task, getattr(task, "outputs", None) or kind
        self.errors: dict[str, list[float]] = {}
        self.same = self.total = 0
        self.main = ""

    def add(self, expected: Any, found: Any, batch: Batch) -> None:
        """Take in one batch, both outputs in the same form.

        Raises:
            ParityError: outputs of another shape, or NaN where there was none.
        """
        main = main_output(self.task, expected)
        for (name, one), other in zip(named(expected, OUTPUT).items(), tensors_in(found), strict=True):
            _check_alike(name, one, other)
            is_main = one is main
            self.main = name if is_main else self.main
            counted = _counted(batch, one, is_main and self.kind != "logits")
            pair = (one, other) if counted is None else (one[counted], other[counted])
            size, error = _squares(*pair)
            sums = self.errors.setdefault(name, [0.0, 0.0])
            sums[0], sums[1] = sums[0] + size, sums[1] + error
        same, total = agreement(self.kind, main, main_output(self.task, found), batch)
        self.same, self.total = self.same + same, self.total + total

    def result(self) -> dict[str, Any]:
        """`relative_error` of the output that counts, and of all by name in `outputs`; `agreement` in percent."""
        errors = {name: (error / max(size, 1e-24)) ** 0.5 for name, (size, error) in self.errors.items()}
        result: dict[str, Any] = {"output": self.main, "relative_error": errors.get(self.main, 0.0)}
        if self.total:
            result["agreement"] = 100.0 * self.same / self.total
        return {**result, "outputs": errors}


def agreement(kind: str, expected: torch.Tensor, found: torch.Tensor, batch: Batch) -> tuple[int, int]:
    """On how many examples, tokens, pixels or labels the decision is the same, and of how many; 0 of 0 without any."""
    if kind == "multi_label":
        return int(((expected > 0) == (found > 0)).sum()), expected.numel()
    if kind not in CLASS_AXIS or expected.dim() < 2:
        return 0, 0
    same = same_choice(expected, found, CLASS_AXIS[kind])
    counted = _counted_choices(batch, same) if kind != "logits" else None
    chosen = same if counted is None else same[counted]
    return int(chosen.sum()), chosen.numel()


def same_choice(expected: torch.Tensor, found: torch.Tensor, axis: int) -> torch.Tensor:
    """Where both choose the same class, or one that the measured candidate holds for as good."""
    best = expected.amax(axis)
    chosen = expected.gather(axis, found.argmax(axis, keepdim=True)).squeeze(axis)
    size = expected.double().square().mean().sqrt()
    return (chosen == best) | ((best - chosen).double() <= TIE * size)


def _counted(batch: Batch, output: torch.Tensor, is_main: bool) -> torch.Tensor | None:
    """Which positions (N, tokens) of an output count; None where all do."""
    if output.dim() < (2 if is_main else 3):
        return None
    mask = batch.inputs.get(MASK) if isinstance(batch.inputs, Mapping) else None
    found = [mask != 0] if isinstance(mask, torch.Tensor) and mask.shape == output.shape[:2] else []
    if is_main and _are_indices(batch.targets) and batch.targets.shape == output.shape[:2]:
        found.append(batch.targets != IGNORED)
    return torch.stack(found).all(0) if found else None


def _counted_choices(batch: Batch, choices: torch.Tensor) -> torch.Tensor | None:
    """Which tokens or pixels count; None where all do."""
    if choices.dim() == 2:
        return _counted(batch, choices, is_main=True)
    if _are_indices(batch.targets) and batch.targets.shape == choices.shape:
        counted: torch.Tensor = batch.targets != IGNORED
        return counted
    return None


def _are_indices(targets: Any) -> bool:
    return isinstance(targets, torch.Tensor) and not targets.is_floating_point()


def _check_alike(name: str, expected: torch.Tensor, found: torch.Tensor) -> None:
    if found.shape != expected.shape:
        given, wanted = tuple(found.shape), tuple(expected.shape)
        raise ParityError(f"the exported model gives {name} of shape {given}, not {wanted}")
    if not torch.isfinite(found).all() and torch.isfinite(expected).all():
        raise ParityError(
            f"the exported model gives NaN or infinity in {name} where the measured one gives numbers"
        )


def _squares(expected: torch.Tensor, found: torch.Tensor) -> tuple[float, float]:
    """Sums of squares of the expected values and of the differences; what is the same, infinite too, is no error."""
    one, other = expected.double(), found.double()
    same = (one == other) | (one.isnan() & other.isnan())
    difference = torch.where(same, 0.0, other - one)
    size = torch.where(torch.isfinite(one), one, 0.0)
    return float(size.square().sum()), float(difference.square().sum())


def in_form(expected: Any, found: Any) -> Any:
    """`found` in the form of the measured outputs: a loaded graph returns dicts in place of dataclasses.

    Raises:
        ParityError: another number of tensors.
    """
    tensors, wanted = tensors_in(found), len(tensors_in(expected))
    if len(tensors) != wanted:
        raise ParityError(f"the exported model gives {len(tensors)} tensors, not {wanted}")
    return rebuild(expected, tensors)
