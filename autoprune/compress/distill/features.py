"""What layers of two networks give for the same inputs, and which of them can be compared.

Features are taken by hooks, so that any network will do. What is trained may be a graph in which blocks are no longer
called, but only the layers in them: then the last layer inside of a block that runs in both networks stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from autoprune.references import matches
from autoprune.tensors import Inputs, batch_size, call, in_eval_mode, map_tensors, tensors_in

AUTO = "auto"
AUTOMATIC = 3  # layers that are compared where the user names none
_POOLS: dict[int, Callable[..., torch.Tensor]] = {
    3: F.adaptive_avg_pool1d,
    4: F.adaptive_avg_pool2d,
    5: F.adaptive_avg_pool3d,
}
_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)


class Layer(NamedTuple):
    """What a run says of what a module gives.

    Attributes:
        shape: for two examples.
        examples: the axis of the examples; None where there is not exactly one.
        channels: the axis of the channels, as far as the last layer in it tells.
        kind: the class of the module.
        is_block: whether modules with parameters run inside of it.
        has_weight: whether it is no block and has a weight of two axes or more.
    """

    shape: tuple[int, ...]
    examples: int | None
    channels: int
    kind: str
    is_block: bool
    has_weight: bool


class Pair(NamedTuple):
    """A layer of the student and the layer of the teacher that it is compared with.

    Attributes:
        student, teacher: names.
        examples, channels: the axes of either in both.
        widths: the channels of the student and of the teacher.
    """

    student: str
    teacher: str
    examples: int
    channels: int
    widths: tuple[int, int]


# -- taking features -------------------------------------------------------------------------------------------------


@contextmanager
def listening(
    model: nn.Module, layers: Iterable[str], keep: Callable[[torch.Tensor], Any] = torch.clone
) -> Iterator[dict[str, Any]]:
    """What these layers give while the context lasts, of several calls the last: the first floating-point tensor.

    Args:
        model: the network; its hooks are removed in the end.
        layers: names of modules.
        keep: what is kept of the tensor. The default is a copy, which an operation in place does not change.
    """
    seen: dict[str, Any] = {}

    def take(name: str, _module: nn.Module, _inputs: Any, outputs: Any) -> None:
        for tensor in tensors_in(outputs):
            if tensor.is_floating_point() and not tensor.is_nested:
                seen.pop(name, None)
                seen[name] = keep(tensor)
                return

    hooks = [model.get_submodule(name).register_forward_hook(partial(take, name)) for name in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def only_asking() -> Iterator[None]:
    """No gradients, and no fused kernels of attention that run past the layers."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def aligned(student: torch.Tensor, teacher: torch.Tensor, pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    """Both features as (N, channels, positions...) in float32; where one has more positions, it is averaged down."""
    one, other = (
        feature.float().movedim((pair.examples, pair.channels), (0, 1)) for feature in (student, teacher)
    )
    if one.shape[2:] == other.shape[2:]:
        return one, other
    common = tuple(map(min, one.shape[2:], other.shape[2:]))
    pool = _POOLS[one.dim()]
    return pool(one, common), pool(other, common)


# -- finding layers --------------------------------------------------------------------------------------------------


def observe(model: nn.Module, example: Inputs) -> dict[str, Layer]:
    """Every module that gives a tensor of real numbers, in the order in which they last return.

    Args:
        model: run twice in eval mode, and left as it was.
        example: inputs of batch size 1.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    with in_eval_mode(model), only_asking():
        few, more = (_shapes(model, modules, _repeated(example, count)) for count in (2, 3))
    found: dict[str, Layer] = {}
    last: dict[str, nn.Module] = {}  # the last layer with parameters that has run inside of a module
    for name, shape in few.items():
        module, is_block = modules[name], name in last
        if not is_block and next(module.parameters(), None) is not None:
            last.update(dict.fromkeys((name, *_above(name)), module))
        if len(shape) > 1:
            examples = _grown(shape, more.get(name, ()))
            has_weight = not is_block and any(parameter.dim() > 1 for parameter in module.parameters())
            channels = _channels(last.get(name, module), shape, examples)
            found[name] = Layer(shape, examples, channels, type(module).__name__, is_block, has_weight)
    return found


def _shapes(model: nn.Module, names: Iterable[str], inputs: Inputs) -> dict[str, tuple[int, ...]]:
    with listening(model, names, keep=lambda tensor: tuple(tensor.shape)) as seen:
        call(model, inputs)
    return seen


def _repeated(example: Inputs, count: int) -> Inputs:
    size = batch_size(example)
    return map_tensors(lambda t: torch.cat([t] * count) if t.dim() > 0 and len(t) == size else t, example)


def _grown(few: Sequence[int], more: Sequence[int]) -> int | None:
    """The axis that grows with the number of examples, if it is one."""
    axes = [axis for axis, (a, b) in enumerate(zip(few, more, strict=False)) if a != b]
    return axes[0] if len(axes) == 1 and len(few) == len(more) else None


def _channels(layer: nn.Module, shape: Sequence[int], examples: int | None) -> int:
    """The second axis or the last: whichever has a size that the layer's parameters have, else what its class says."""
    axes = sorted({1, len(shape) - 1} - {examples}) or [0]
    sizes = {size for parameter in layer.parameters() for size in parameter.shape}
    fitting = [axis for axis in axes if shape[axis] in sizes]
    if len(fitting) == 1:
        return fitting[0]
    return axes[0] if any(isinstance(part, _CHANNELS_FIRST) for part in layer.modules()) else axes[-1]


def compared(
    student: Mapping[str, Layer], teacher: Mapping[str, Layer], patterns: Sequence[str], *, positions: bool
) -> tuple[list[Pair], dict[str, str]]:
    """The layers that are compared, and why others are not.

    Args:
        student, teacher: what `observe` says of the two networks.
        patterns: of names, with `*` and `?`; of modules inside of one another that match, the outermost counts.
            `auto` takes three, evenly spaced: of the blocks of a row (stages, encoder layers), or where there are
            none of what goes from one layer with weights into the next.
        positions: only layers whose features have positions besides channels.
    """

    def pairs(names: Iterable[str]) -> tuple[list[Pair], dict[str, str]]:
        made = {name: _pair(name, student, teacher, positions) for name in names}
        left = {name: pair for name, pair in made.items() if isinstance(pair, str)}
        return list(dict.fromkeys(pair for pair in made.values() if isinstance(pair, Pair))), left

    if list(patterns) != [AUTO]:
        known = _paths(teacher) | _paths(student)
        return pairs(_outermost(name for name in known if matches(name, patterns)))
    found, left_out = pairs(_blocks(teacher))
    if len(found) < 2:
        tried = [pairs(reversed(stage)) for stage in _stages(teacher)]
        found = list(dict.fromkeys(those[0] for those, _ in tried if those))
        left_out = {name: why for those, left in tried if not those for name, why in left.items()}
    count = min(AUTOMATIC, len(found))
    return [found[round((place + 1) * len(found) / count) - 1] for place in range(count)], left_out


def _blocks(layers: Mapping[str, Layer]) -> list[str]:
    """The modules that have parts and siblings of their class, without those inside of others."""
    rows: dict[tuple[str, str], list[str]] = {}
    for name, layer in layers.items():
        if layer.is_block:
            rows.setdefault((name.rpartition(".")[0], layer.kind), []).append(name)
    rowed = {name for row in rows.values() if len(row) > 1 for name in row}
    return _outermost(name for name in layers if name in rowed)


def _stages(layers: Mapping[str, Layer]) -> list[list[str]]:
    """Each layer with weights and what returns before the next has; the last, which gives the outputs, excepted."""
    stages: list[list[str]] = []
    for name, layer in layers.items():
        if layer.has_weight:
            stages.append([])
        if stages and not layer.is_block:
            stages[-1].append(name)
    return stages[:-1] or stages


def _outermost(names: Iterable[str]) -> list[str]:
    given = list(names)
    return [name for name in given if not any(above in given for above in _above(name))]


def _above(name: str) -> list[str]:
    """The modules around one, from the outermost: `a`, `a.b` for `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _paths(layers: Iterable[str]) -> dict[str, None]:
    """All layers and the modules around them, in order; a graph does not call the latter."""
    return dict.fromkeys(path for name in layers for path in (*_above(name), name))


def _pair(
    name: str, student: Mapping[str, Layer], teacher: Mapping[str, Layer], positions: bool
) -> Pair | str:
    """What is compared for this name, or why nothing is."""
    ours, theirs = _points(name, student, teacher)
    if not ours or not theirs:
        silent = [who for who, point in (("student", ours), ("teacher", theirs)) if not point]
        return f"gives no tensor in the {' nor the '.join(silent)}"
    one, other = student[ours], teacher[theirs]
    if len(one.shape) != len(other.shape):
        return f"gives {len(one.shape)} axes in the student, {len(other.shape)} in the teacher"
    if one.examples is None or one.examples != other.examples:
        return "has no axis that is the examples in both"
    if positions and len(one.shape) < 3:
        return "gives channels without positions: there is no map to compare"
    channels = _common_channels(one, other)
    rest = [axis for axis in range(len(one.shape)) if axis not in (one.examples, channels)]
    if len(one.shape) not in _POOLS and any(one.shape[axis] != other.shape[axis] for axis in rest):
        return f"gives positions that cannot be averaged: {one.shape} and {other.shape}"
    return Pair(ours, theirs, one.examples, channels, (one.shape[channels], other.shape[channels]))


def _points(name: str, student: Mapping[str, Layer], teacher: Mapping[str, Layer]) -> tuple[str, str]:
    """Where each network is looked at: at the name, or at the last layer inside; empty where neither runs."""
    if name in student and name in teacher:
        return name, name
    ours, theirs = ([path for path in layers if path.startswith(f"{name}.")] for layers in (student, teacher))
    if both := [path for path in ours if path in teacher]:
        return both[-1], both[-1]
    return (
        name if name in student else next(reversed(ours), ""),
        name if name in teacher else next(reversed(theirs), ""),
    )


def _common_channels(one: Layer, other: Layer) -> int:
    """The axis on which both agree, else the one axis on which they differ: a pruned layer has fewer channels."""
    if one.channels == other.channels:
        return one.channels
    sizes = enumerate(zip(one.shape, other.shape, strict=True))
    differing = [axis for axis, (a, b) in sizes if a != b and axis != one.examples]
    return differing[0] if len(differing) == 1 else other.channels
