"""What the weights of a network are multiplied with, whatever layer, or none, they belong to.

Hooks on layers would miss weights that are used without one, the projections of torch's attention and the hidden
states of recurrent layers. So the products themselves are watched: a product whose operand lies in the memory of a
parameter reads that parameter.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from autoprune.structure.observe import state_of
from autoprune.structure.running import plain_execution
from autoprune.tensors import Inputs, call

Place = tuple[str, int]
"""Name of a parameter or buffer (its first, where it has several), and the axis that is summed over."""

# Operation -> where among its arguments the two matrices stand.
_PRODUCTS = {"mm": (0, 1), "addmm": (1, 2), "bmm": (0, 1), "baddbmm": (1, 2), "mv": (0, 1), "addmv": (1, 2)}


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Averages what each weight is multiplied with, feature by feature.

    Args:
        model: the network.
        measure: what is averaged of the values: `torch.abs`, `torch.square`, ...
    """

    def __init__(self, model: nn.Module, measure: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model, self._measure = model, measure
        spans = {
            tensor.data_ptr(): (name, tensor)
            for name, tensor in reversed(state_of(model).items())
            if tensor.numel()
        }
        self._starts = sorted(spans)
        self._spans = [spans[start] for start in self._starts]
        self._sums: dict[Place, torch.Tensor] = {}
        self._counts: dict[Place, int] = {}

    def watch(self, inputs: Inputs) -> None:
        """Run the network on a batch, in eval mode and without gradients, and add up what is read."""
        with plain_execution(self._model), self:
            call(self._model, inputs)

    def means(self) -> dict[Place, torch.Tensor]:
        """The mean over all positions since the last call, shape (blocks, features), and start anew.

        There is one block but for a convolution in groups, of which each has features of its own.
        """
        found = {place: total / self._counts[place] for place, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if name in _PRODUCTS:
            left, right = (args[place] for place in _PRODUCTS[name])
            self._see(right, max(-2, -right.dim()), left, -1)
            self._see(left, -1, right, max(-2, -right.dim()))
        elif name == "convolution":
            self._see_convolution(*args)
        return out

    def _see(self, weight: torch.Tensor, axis: int, values: torch.Tensor, features: int) -> None:
        place = self._place(weight, axis)
        if place is not None:
            self._add(place, values.movedim(features, -1).reshape(-1, 1, values.shape[features]))

    def _see_convolution(self, values: torch.Tensor, weight: torch.Tensor, *rest: Any) -> None:
        transposed, blocks = rest[4], rest[6]
        place = self._place(weight, 0 if transposed else 1)
        if place is not None:
            split = torch.unflatten(values.movedim(1, -1), -1, (1 if transposed else blocks, -1))
            self._add(place, split.flatten(0, -3))

    def _add(self, place: Place, values: torch.Tensor) -> None:
        """Add values of shape (positions, blocks, features)."""
        total = self._measure(values.float()).sum(0).cpu()
        self._sums[place] = self._sums[place] + total if place in self._sums else total
        self._counts[place] = self._counts.get(place, 0) + len(values)

    def _place(self, operand: torch.Tensor, axis: int) -> Place | None:
        """Which axis of which parameter an axis of an operand is: it has the same memory, length and stride."""
        at = bisect_right(self._starts, operand.data_ptr()) - 1
        if at < 0:
            return None
        name, tensor = self._spans[at]
        if operand.data_ptr() >= self._starts[at] + tensor.numel() * tensor.element_size():
            return None
        own = list(zip(tensor.shape, tensor.stride(), strict=True))
        wanted = (operand.shape[axis], operand.stride(axis))
        return (name, own.index(wanted)) if wanted in own else None
