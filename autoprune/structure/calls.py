"""Which integers of the model stand behind the sizes that an operation got.

An ATen operation sees plain sizes. The Python-level call around it was made with the integers as the model has them,
so that a size can be traced to the attribute that it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

from autoprune.structure.known import Known, Source, integers_in

# Arguments of calls that are no sizes: the number of an axis, or a count from which torch computes sizes itself.
NO_SIZES = {
    "chunk": (1, 2),
    "unsafe_chunk": (1, 2),
    "tensor_split": (1, 2),
    "flatten": (1, 2),
    "split": (2,),
    "split_with_sizes": (2,),
    "unsafe_split": (2,),
    "unsafe_split_with_sizes": (2,),
    "slice": (1, 4),
    "narrow": (1,),
    "unflatten": (1,),
    "repeat_interleave": (2,),
    "glu": (1,),
    "pixel_shuffle": (1,),
}
NO_SIZE_NAMES = ("dim", "dims", "start_dim", "end_dim", "chunks", "step", "axis")


class Calls(TorchFunctionMode):
    """Remembers the integers in the Python-level call that is under way, in order.

    Args:
        before: told of each call: the function, its arguments by place and by name.
    """

    def __init__(self, before: Callable[[Any, Any, Any], None]) -> None:
        super().__init__()
        self._before = before
        self.integers: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._before(func, args, kwargs)
        outer, self.integers = self.integers, _sizes_in(func, args, kwargs) or self.integers
        try:
            return func(*args, **kwargs)
        finally:
            self.integers = outer

    def sources(self, sizes: Sequence[int]) -> list[Source | None]:
        """Where these sizes, which an operation got, stand in the call: as a run of its integers, or each alone."""
        given = self.integers
        for start in range(len(given) - len(sizes) + 1):
            run = given[start : start + len(sizes)]
            if any(g != -1 for g in run) and all(g in (size, -1) for g, size in zip(run, sizes, strict=True)):
                return [None if g == -1 else _source(g) for g in run]
        return [self._alone(size) for size in sizes]

    def _alone(self, size: int) -> Source | None:
        same = [_source(g) for g in self.integers if g == size]
        return same[0] if same and all(source == same[0] for source in same) else None


def _sizes_in(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[int]:
    """The integers among the arguments of a call that may be sizes, in order."""
    schema = getattr(func, "_schema", None)
    name = schema.name.partition("::")[2] if schema is not None else getattr(func, "__name__", "")
    skipped = NO_SIZES.get(name, ())
    given = [arg for place, arg in enumerate(args) if place not in skipped]
    return [*integers_in(given), *integers_in([v for k, v in kwargs.items() if k not in NO_SIZE_NAMES])]


def _source(integer: int) -> Source | None:
    return integer.source if isinstance(integer, Known) else None
