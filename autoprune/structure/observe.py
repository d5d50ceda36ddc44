"""One forward pass, watched operation by operation: what the axes of all tensors are made of.

The network runs as it is, on real inputs, under two of torch's modes: one sees each ATen operation (after torch
has taken composite functions apart), the other each Python-level call, whose integer arguments may be known to be
attributes of the model. No tracing, no proxies: what runs can be observed, data-dependent control flow included
(the path that the example takes).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from autoprune import tensors
from autoprune.structure.calls import Calls
from autoprune.structure.dimensions import Axis, Factor, axis, doubt, leaves, pin, root, size_of, unify
from autoprune.structure.known import Source, attributes_known
from autoprune.structure.rules import RULES, Operation, same_shape, shapes
from autoprune.structure.rules.products import DIVIDES
from autoprune.structure.running import plain_execution, run
from autoprune.tensors import Inputs, tensors_in

REORDER_IN_PLACE = ("transpose_", "t_")
PICKS = ("index", "index_select")  # of weights: those of some experts
LOOKS_AT_VALUES = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")
_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parent.parent)


@dataclass
class Requirement:
    """A size that the code writes down: after a cut it must be what the axis has become."""

    source: Source
    axis: Axis
    value: int
    line: str


@dataclass
class Observation:
    """What one forward pass showed.

    Attributes:
        axes: name of a parameter or buffer (its first name, where it has several) -> its axes.
        reads: (name, axis) that are summed over by a product: the input side of a weight.
        writes: (name, axis) that a product leaves: the output side of a weight.
        requirements: sizes in the code that belong to axes.
        unknown: operations for which there is no rule, with a line of the model each; their tensors are pinned.
        held: whether an axis stays whole only because one attribute gives its size and that of another that stays.
    """

    axes: dict[str, list[Axis]] = field(default_factory=dict)
    reads: set[tuple[str, int]] = field(default_factory=set)
    writes: set[tuple[str, int]] = field(default_factory=set)
    requirements: list[Requirement] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    held: bool = False


def observe(model: nn.Module, example: Inputs) -> Observation:
    """Run `model` on `example`, in eval mode and without gradients, and follow every axis.

    Where that leaves parameters unread, it is run once more as if in training: networks with auxiliary outputs read
    them only then. If some are still unread and the forward looks at the values of its inputs, other inputs may
    read them: what could meet them there is pinned.

    Raises:
        Exception: whatever the model's forward raises.
    """
    watcher = Watcher(model, example)
    with plain_execution(model), attributes_known(model), watcher.norms_without_weights(model):
        watcher.watch(model, example)
        if watcher.unread():
            with suppress(Exception), _containers_in_training(model):  # may want targets, or larger batches
                watcher.watch(model, example)
    if watcher.reads_values:
        _pin_other_paths(watcher.found, watcher.unread())
    _tie_by_source(watcher.found)
    return watcher.found


@contextmanager
def _containers_in_training(model: nn.Module) -> Iterator[None]:
    """Inside, modules without tensors of their own are in training mode; norms keep their statistics."""
    changed = [m for m in model.modules() if len(list(m.children())) and not (m._parameters or m._buffers)]
    for module in changed:
        module.training = True
    try:
        yield
    finally:
        for module in changed:
            module.training = False


def _pin_other_paths(found: Observation, unread: Sequence[str]) -> None:
    """Keep every axis as long as one of a parameter that only other inputs may reach."""
    for name in unread:
        lengths = {size_of(ax) for ax in found.axes[name]} - {1}
        meeting = [ax for axes in found.axes.values() for ax in axes if size_of(ax) in lengths]
        pin(meeting, f"other inputs may take a path through {name}, which this example did not reach")


def _tie_by_source(found: Observation) -> None:
    """One attribute has one value: the axes that it gives the size of can only shrink together."""
    first: dict[Any, Requirement] = {}
    free = {leaf for requirement in found.requirements for leaf in _free(requirement.axis)}
    for requirement in found.requirements:
        unify(first.setdefault(requirement.source.key, requirement).axis, requirement.axis)
    left = {leaf for requirement in found.requirements for leaf in _free(requirement.axis)}
    found.held = any(root(leaf) not in left for leaf in free if root(leaf).parts is None)


def _free(ax: Axis) -> Iterator[Factor]:
    return (leaf for leaf in leaves(ax) if not leaf.pinned)


class Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Applies the rule of each operation to the axes of its arguments.

    Attributes:
        found: what has been seen so far.
        calls: the Python-level call that is under way.
        reads_values: whether the forward has looked at values that depend on its inputs.
    """

    def __init__(self, model: nn.Module, example: Inputs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found, self.calls, self.reads_values = Observation(), Calls(self._called), False
        self._axes: Any = WeakIdKeyDictionary()
        # Tensors computed from weights alone -> the weight that they are, or nothing where they are none.
        self._origin: Any = WeakIdKeyDictionary()
        self._read: set[str] = set()
        for name, tensor in state_of(model).items():
            if tensor not in self._axes:
                self._axes[tensor] = self.found.axes[name] = [axis(size) for size in tensor.shape]
                self._origin[tensor] = name
        self._parameters = [name for name, _ in model.named_parameters()]
        for tensor in tensors_in(example):
            self._axes[tensor] = [axis(size, "it is an axis of the model's inputs") for size in tensor.shape]

    def watch(self, model: nn.Module, example: Inputs) -> None:
        """Run the network and follow its axes up to its outputs."""
        with self.calls, self:
            outputs = run(model, example)
        for output in tensors_in(outputs):
            pin(self.axes_of(output), "its channels are outputs of the model")

    def unread(self) -> list[str]:
        """Parameters that no operation has got."""
        return [name for name in self._parameters if name not in self._read]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._see(func, args, kwargs or {}, out)
        return out

    def _called(self, func: Any, args: Any, kwargs: Any) -> None:
        """Attention without a scale is doubted here, too: torch may take it apart before its operations are seen."""
        if func is functional.scaled_dot_product_attention and kwargs.get("scale") is None:
            query = args[0] if args else kwargs["query"]
            doubt(self.axes_of(query)[-1:], DIVIDES, self.line())

    def _see(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        name = func._schema.name.partition("::")[2]
        outs = [t for t in tensors_in(out) if t not in self._axes or name in REORDER_IN_PLACE]
        rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = same_shape
        self._note_origin(name, tensors_in([args, kwargs]), outs)
        axes = self._by_rule(rule, Operation(self, func, args, kwargs, tensors_in(out))) if rule else None
        if axes is None:
            self._unknown(func, args, kwargs)
            axes = [
                [axis(n, f"{name} is not followed", self.line()) for n in tensor.shape] for tensor in outs
            ]
        else:
            fresh = {id(tensor) for tensor in outs}
            pairs = zip(tensors_in(out), axes, strict=False)
            axes = [found for tensor, found in pairs if id(tensor) in fresh]
        for tensor, found in zip(outs, axes, strict=True):
            self._axes[tensor] = found

    def _note_origin(self, name: str, given: list[torch.Tensor], outs: list[torch.Tensor]) -> None:
        """Note which weight a tensor is: through changes of its shape, and whatever keeps its size without inputs.

        Standardised, normed, scaled or low-rank-adapted weights are still the weights of their layer.
        """
        origins = [self._origin.get(tensor) for tensor in given]
        self._read.update(origin for origin in origins if origin)
        if name in PICKS and origins[0]:
            for out in outs:
                self._origin[out] = origins[0]
        elif None in origins:
            self.reads_values = self.reads_values or name in LOOKS_AT_VALUES
            if name.endswith("_"):
                self._origin.pop(given[0], None)
        else:
            for out in outs:
                pairs = zip(origins, given, strict=True)
                alike = (o for o, t in pairs if name in shapes.RULES or t.numel() == out.numel())
                self._origin[out] = next(filter(None, alike), "")

    def _by_rule(self, rule: Any, operation: Operation) -> list[list[Axis]] | None:
        try:
            found: list[list[Axis]] | None = rule(operation)
        except (IndexError, KeyError, ValueError, TypeError, AttributeError, RecursionError):
            return None  # a form of the operation that the rule does not know: as safe as no rule
        return found

    def _unknown(self, func: Any, args: Any, kwargs: Any) -> None:
        tensors = tensors_in([args, kwargs])
        if any(tensor.numel() > 1 for tensor in tensors):
            line = self.line()
            self.found.unknown.setdefault(str(func._schema.name), line)
            for tensor in tensors:
                pin(self.axes_of(tensor), f"{func._schema.name} is not followed", line)

    @contextmanager
    def norms_without_weights(self, model: nn.Module) -> Iterator[None]:
        """Inside, instance norms say how many channels they get: without weights nothing else follows a cut."""

        def see(module: Any, args: tuple[Any, ...]) -> None:
            if not module.affine and not module.track_running_stats and args[0].dim() > 2:
                source = Source(module, "num_features", (), "num_features")
                ax = self.axes_of(args[0])[1]
                self.found.requirements.append(Requirement(source, ax, int(module.num_features), self.line()))

        kind = nn.modules.instancenorm._InstanceNorm
        hooks = [m.register_forward_pre_hook(see) for m in model.modules() if isinstance(m, kind)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    # -- what rules ask ------------------------------------------------------------------------------------------

    def axes_of(self, tensor: torch.Tensor) -> list[Axis]:
        """The axes of a tensor; of one that was never seen (a constant), pinned ones."""
        if tensor not in self._axes:
            self._axes[tensor] = [axis(n, "it is an axis of a constant of the model") for n in tensor.shape]
        found: list[Axis] = self._axes[tensor]
        return found

    def is_weight(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is a weight, or computed from one alone."""
        return bool(self._origin.get(tensor))

    def contracted(self, tensor: torch.Tensor, summed: int, left: int) -> bool:
        """Note that a product sums over one axis of a tensor and leaves another; say whether it is a weight."""
        name = self._origin.get(tensor)
        if not name:
            return False
        axes = self.axes_of(tensor)
        self.found.reads.update((name, i) for i in self._places(name, axes[summed]))
        self.found.writes.update((name, i) for i in self._places(name, axes[left]))
        return True

    def _places(self, name: str, ax: Axis) -> list[int]:
        """Which axes of a weight an axis of a tensor made from it is, or is made of."""
        axes = self.found.axes[name]
        same = [i for i, own in enumerate(axes) if own is ax]
        inside = set(leaves(ax))
        return same or [i for i, own in enumerate(axes) if not inside.isdisjoint(leaves(own))]

    def require(self, sizes: Sequence[int], axes: Sequence[Axis]) -> None:
        """Note that the code gives these as the sizes of axes."""
        for source, size, ax in zip(self.calls.sources(sizes), sizes, axes, strict=True):
            if source is not None:
                self.found.requirements.append(Requirement(source, ax, int(size), self.line()))

    def line(self) -> str:
        """`file:line` of the model's code that is being run; empty where that is torch's own."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename != tensors.__file__:
            if not frame.f_code.co_filename.startswith((_TORCH, _OURS)):
                return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
            frame = frame.f_back
        return ""


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by name, non-persistent buffers and aliases of tied ones included."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(model.named_buffers(remove_duplicate=False))}
