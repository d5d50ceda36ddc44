"""How a network is run in training: on its device, in its layout and precision, compiled where that pays."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any

import torch
from torch import nn

from autoprune.tensors import Inputs, call, map_tensors, tensors_in

HALVES = (torch.float16, torch.bfloat16)
TRIED_STEPS = 6
WORTH_SECONDS = 60.0
"""Compiling takes from ten seconds to a minute: less training than this is not worth it."""


def half_precision(precision: str, device: str = "cpu") -> torch.dtype | None:
    """The type in which layers compute under `precision`, None for float32.

    Args:
        precision: `float32`, `bfloat16`, `float16`, or `auto`: whatever is fast on this device.
        device: `cpu` or `cuda`. A processor computes `float16` in float32: gradients would vanish unscaled.
    """
    if precision == "auto":
        if device == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        # Emulated bfloat16 is slower than float32, and torch has no public question for it that 2.6 knows.
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        return torch.bfloat16 if supported() else None
    if precision == "float16":
        return torch.float16 if device == "cuda" else None
    return torch.bfloat16 if precision == "bfloat16" else None


def autocast(precision: str, device: str = "cpu") -> AbstractContextManager[Any]:
    """The context in which a forward pass computes in `precision`; weights stay float32."""
    dtype = half_precision(precision, device)
    return torch.autocast(device, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def in_float32(outputs: Any) -> Any:
    """Outputs of a pass in half precision as float32, in which losses are computed."""
    if not any(tensor.dtype in HALVES for tensor in tensors_in(outputs)):
        return outputs
    return map_tensors(lambda tensor: tensor.float() if tensor.dtype in HALVES else tensor, outputs)


def fast_layout(model: nn.Module, inputs: Inputs) -> torch.memory_format:
    """Channels last for images, where the model can be run in it.

    Convolutions are 15 to 20 % faster so. But a model that flattens with `view` cannot: two examples tell.
    """
    images = any(tensor.dim() == 4 for tensor in tensors_in(inputs))
    # torch knows this layout for tensors of four axes only, and refuses weights of 3-D convolutions.
    if not images or any(parameter.dim() == 5 for parameter in model.parameters()):
        return torch.contiguous_format
    was_training = model.training
    few = map_tensors(lambda tensor: tensor[:2] if tensor.dim() else tensor, inputs)
    try:
        with torch.no_grad():
            call(model.eval(), laid_out(few, torch.channels_last))
    except RuntimeError:
        return torch.contiguous_format
    finally:
        model.train(was_training)
    return torch.channels_last


def laid_out(inputs: Inputs, layout: torch.memory_format) -> Inputs:
    """The same inputs with all images in them in this layout."""
    return map_tensors(lambda t: t.contiguous(memory_format=layout) if t.dim() == 4 else t, inputs)


def move(model: nn.Module, device: str) -> None:
    """Move a network to a device, in place.

    Unlike `model.to`, buffers stay the same objects: a network that shares them with this one moves along.
    """
    for tensor in chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.to(device)


class Forward:
    """A network that may be compiled as its training goes.

    The first steps are run as they are and timed. Only where what is left would take longer than `worth` seconds is
    the network compiled; a few steps later the faster of the two is kept. A network that torch cannot compile is run
    as it is.

    Args:
        model: the network.
        compile: whether to try at all.
        worth: seconds of training below which compiling does not pay.

    Attributes:
        note: what was decided and why; empty until it is, or when not asked to compile.
    """

    def __init__(self, model: nn.Module, *, compile: bool, worth: float = WORTH_SECONDS) -> None:
        self.model, self.worth, self.note = model, worth, ""
        self._run: Callable[..., Any] = model
        self._undecided = compile
        self._eager = 0.0
        self._times: list[float] = []

    def __call__(self, inputs: Inputs) -> Any:
        """What the network gives, in its own form, tensors in float32."""
        return in_float32(call(self._run, inputs))

    def took(self, seconds: float, left: int) -> None:
        """Take note of how long a step took, and of how many are left."""
        if not self._undecided:
            return
        self._times.append(seconds)
        if len(self._times) < TRIED_STEPS:
            return
        # The first steps of either way warm up; the median does not see them.
        typical, self._times = statistics.median(self._times), []
        if self._run is self.model:
            self._start(typical, left)
        elif typical < self._eager:
            self._decide(f"compiled: a step takes {_ms(typical)}, {_ms(self._eager)} as it is")
        else:
            self._back(f"a step takes {_ms(typical)} compiled, {_ms(self._eager)} as it is")

    def gave_up(self, error: Exception) -> bool:
        """Whether a step that raised should be tried again, because the network was compiled and is not any more."""
        if self._run is self.model:
            return False
        self._back(
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[
                :200
            ]
        )
        return True

    def close(self) -> None:
        """Drop what was compiled: the next candidate has another structure, and torch keeps only few."""
        if self._run is not self.model or self.note:
            torch.compiler.reset()

    def _start(self, typical: float, left: int) -> None:
        self._eager = typical
        if typical * left < self.worth:
            self._decide(f"not compiled: {typical * left:.1f} s of training are left, too few to pay for it")
        else:
            self._run = torch.compile(self.model)

    def _back(self, reason: str) -> None:
        self._run = self.model
        self._decide(f"not compiled: {reason}")

    def _decide(self, note: str) -> None:
        self._undecided, self.note = False, note


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
