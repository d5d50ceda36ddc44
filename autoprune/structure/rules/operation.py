"""One ATen operation that has just run, and the rule that most of them share: elementwise, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from autoprune.structure.dimensions import ONE, Axis, axis, product, unify
from autoprune.structure.known import Known

if TYPE_CHECKING:
    from autoprune.structure.observe import Watcher

Axes = list[Axis]
SPATIAL = "it is a spatial or temporal axis"


class Operation:
    """One call of an ATen operation, with the axes of its tensors.

    Attributes:
        watcher: knows the axes of all tensors so far.
        name: of the operation, without namespace and overload.
        outs: the tensors that it returned, in order.
        tensors: its tensor arguments, in order; lists of tensors are not among them.
    """

    def __init__(
        self,
        watcher: Watcher,
        func: Any,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        outs: list[torch.Tensor],
    ) -> None:
        self.watcher, self.outs = watcher, outs
        self.name = func._schema.name.partition("::")[2].removesuffix("_")
        names = [argument.name for argument in func._schema.arguments]
        self._arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        self.tensors = [value for value in self._arguments.values() if isinstance(value, torch.Tensor)]

    def arg(self, name: str, default: Any = None) -> Any:
        """An argument by its name in the schema."""
        value = self._arguments.get(name)
        return default if value is None else value

    def axes(self, name: str) -> Axes:
        """The axes of a tensor argument."""
        return self.of(self._arguments[name])

    def of(self, tensor: torch.Tensor) -> Axes:
        """The axes of a tensor."""
        return list(self.watcher.axes_of(tensor))

    @property
    def x(self) -> torch.Tensor:
        """The first tensor argument."""
        return self.tensors[0]

    def listed(self) -> list[torch.Tensor]:
        """The tensors in the arguments that are lists."""
        lists = [value for value in self._arguments.values() if isinstance(value, list | tuple)]
        return [part for value in lists for part in value if isinstance(part, torch.Tensor)]

    def pinned(self, tensor: torch.Tensor, reason: str = SPATIAL) -> Axes:
        """Fresh axes for a tensor, all of which stay."""
        return [axis(size, reason) for size in tensor.shape]

    def dims(self, name: str = "dim") -> list[int]:
        """An argument that names axes of the first tensor; all of them where it is not given."""
        given = self.arg(name)
        count = self.x.dim()
        chosen = (
            range(count) if given is None or given == [] else [given] if isinstance(given, int) else given
        )
        return sorted({dim % count for dim in chosen}) if count else []

    def dim(self, name: str = "dim", default: int = 0) -> int:
        """An argument that names one axis of the first tensor."""
        return int(self.arg(name, default)) % max(self.x.dim(), 1)

    def require(self, sizes: Sequence[int], axes: Sequence[Axis]) -> None:
        """The code says how long these axes are."""
        self.watcher.require(sizes, axes)

    def is_of_model(self, size: int) -> bool:
        """Whether a size is, or is computed from, integers of the model, and not from the shape of a tensor."""
        return any(isinstance(given, Known) for given in self.watcher.calls.integers if given == size)

    def line(self) -> str:
        """The model's line that is being run."""
        return self.watcher.line()


Rule = Callable[[Operation], list[Axes]]


def named(rule: Rule, names: str) -> dict[str, Rule]:
    """One rule for several operations, their names separated by spaces."""
    return dict.fromkeys(names.split(), rule)


def broadcast(op: Operation, tensors: Sequence[torch.Tensor], shape: Sequence[int]) -> Axes:
    """The axes of an elementwise result: those of its inputs, which become equal."""
    found: Axes = []
    for place in range(-len(shape), 0):
        size, same = shape[place], []
        for tensor in tensors:
            if tensor.dim() >= -place and tensor.shape[place] == size != 1:
                same.append(op.of(tensor)[place])
        for other in same[1:]:
            unify(same[0], other)
        found.append(same[0] if same else axis(size))
    return found


def broadcast_onto(op: Operation, tensor: torch.Tensor, axes: Axes) -> None:
    """Make the axes of a tensor equal to those that it is added to."""
    for place, ax in enumerate(op.of(tensor), start=-tensor.dim()):
        if tensor.shape[place] != 1:
            unify(ax, axes[place])


def same_shape(op: Operation) -> list[Axes]:
    """Elementwise, with broadcasting; further outputs (masks of dropout) have the same shape."""
    return [broadcast(op, [*op.tensors, *op.listed()], out.shape) for out in op.outs]


def merged(*axes: Axis) -> Axis:
    """The product of axes, those of size 1 left out."""
    return product(ax for ax in axes if ax != ONE)
