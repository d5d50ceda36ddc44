"""How much memory the activations of one inference need at once, by the order in which the network computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from autoprune.deployed import ActivationQuantizer
from autoprune.tensors import Inputs, call, tensors_in

BYTE = 8


@torch.no_grad()
def peak_memory_bytes(model: nn.Module, example: Inputs) -> int:
    """The largest sum of activations that are alive at once: from the operation that makes them to the last that reads
    them, inputs and outputs of the network included, weights not.

    What works on each number alone writes in place where nobody reads its input later. What a quantizer gives is
    counted with its bits, and so is what leads to it in place alone: a runtime writes rounded numbers at once.

    Args:
        model: float or deployed; it stays as it is.
        example: inputs of batch size 1.
    """
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    watcher = _Watcher(model, example)
    hooks = [h for m in model.modules() if isinstance(m, ActivationQuantizer) for h in watcher.hooks(m)]
    try:
        with watcher:
            outputs = call(model, example)
        watcher.read(tensors_in(outputs))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in was_training.items():
            module.training = training
    return watcher.peak()


@dataclass
class _Activation:
    """When a tensor is made and read for the last time, in operations, and what it becomes there in its own place."""

    made: int
    last: int
    size: int
    becomes: _Activation | None = None


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes when each storage is made and when it is read for the last time."""

    def __init__(self, model: nn.Module, example: Inputs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights = {_storage(t) for t in (*model.parameters(), *model.buffers())}
        self._now = 0
        self._inside = 0  # how many quantizers are at work: what they make on the way is no activation
        self._alive: dict[int, _Activation] = {}
        self._all: list[_Activation] = []
        self._make(tensors_in(example))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._now += 1
        given = tensors_in([args, kwargs or {}])
        self.read(given)
        out = func(*args, **(kwargs or {}))
        if not self._inside:
            known = {_storage(tensor) for tensor in given}
            fresh = [tensor for tensor in tensors_in(out) if _storage(tensor) not in known]
            self._make(fresh, from_weights=bool(known) and known <= self._weights)
            if torch.Tag.pointwise in func.tags and len(fresh) == 1:
                self._in_place([t for t in given if t.shape == fresh[0].shape], fresh[0])
        return out

    def hooks(self, quantizer: ActivationQuantizer) -> list[Any]:
        """Hooks that see one quantizer at work."""
        return [
            quantizer.register_forward_pre_hook(lambda *_: self._enter()),
            quantizer.register_forward_hook(lambda module, given, out: self._rounded(module, given[0], out)),
        ]

    def read(self, tensors: list[torch.Tensor]) -> None:
        """These are needed now."""
        for tensor in tensors:
            if (entry := self._alive.get(_storage(tensor))) is not None:
                entry.last, entry.becomes = self._now, None

    def peak(self) -> int:
        """The largest sum of bytes at one time."""
        changes: dict[int, int] = {}
        for entry in reversed(self._all):
            end = entry.last
            if entry.becomes is not None:
                end, entry.size = max(entry.made, end - 1), min(entry.size, entry.becomes.size)
            changes[entry.made] = changes.get(entry.made, 0) + entry.size
            changes[end + 1] = changes.get(end + 1, 0) - entry.size
        now = highest = 0
        for time in sorted(changes):
            now += changes[time]
            highest = max(highest, now)
        return highest

    def _enter(self) -> None:
        self._now += 1
        self._inside += 1

    def _rounded(self, quantizer: ActivationQuantizer, given: torch.Tensor, out: torch.Tensor) -> None:
        """What a quantizer gives takes the place of what it got."""
        self._inside -= 1
        before = self._alive.get(_storage(given))
        self._put(out, -(-out.numel() * quantizer.bits // BYTE))
        if before is not None:
            before.last, before.becomes = self._now, self._alive[_storage(out)]

    def _in_place(self, given: list[torch.Tensor], out: torch.Tensor) -> None:
        """An operation on each number alone may write its output where one of its inputs was."""
        entry = self._alive.get(_storage(given[0])) if given else None
        if entry is not None and _storage(out) in self._alive:
            entry.becomes = self._alive[_storage(out)]

    def _make(self, tensors: list[torch.Tensor], from_weights: bool = False) -> None:
        for tensor in tensors:
            if from_weights:  # as weights in another form, such as codes times their scale
                self._weights.add(_storage(tensor))
                self._alive.pop(_storage(tensor), None)  # what was in its place before
            else:
                self._weights.discard(_storage(tensor))
                self._put(tensor, tensor.untyped_storage().nbytes())

    def _put(self, tensor: torch.Tensor, size: int) -> None:
        entry = _Activation(self._now, self._now, size)
        self._alive[_storage(tensor)] = entry  # the storage before it is gone, where its place is used again
        self._all.append(entry)


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
