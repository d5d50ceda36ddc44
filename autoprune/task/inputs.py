"""How raw arrays become what a model takes: conversion and augmentation of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from autoprune.errors import TaskError

Array = np.ndarray[Any, Any]
Arrays = Array | tuple[Array, ...] | Mapping[str, Array]
Augment = Callable[[Any, np.random.Generator], Any]
Layout = Literal["NHW", "NHWC", "as_is"]
LAYOUTS = ("NHW", "NHWC", "as_is")


@dataclass(frozen=True)
class InputFormat:
    """How a raw array becomes what the model takes: `(x * scale - mean) / std`, channels first.

    Attributes:
        mean, std: one number per channel, on the scaled values; None leaves them out.
        scale: None is 1/255 for `uint8` and 1 for anything else.
        layout: `NHW` gets a channel axis, `NHWC` has its channels moved to the front, `as_is` is left alone;
            None guesses from `uint8` arrays (three axes: `NHW`; four of which the last is 1, 3 or 4 long:
            `NHWC`).

    Integers other than `uint8` with neither scale nor mean are indices (tokens): they stay integers.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    scale: float | None = None
    layout: Layout | None = None

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in LAYOUTS:
            raise TaskError(f"layout: got {self.layout!r}, accepted are {', '.join(LAYOUTS)} or None (guess)")

    def layout_of(self, x: Array) -> Layout:
        """The layout given, or the guess for `x`."""
        if self.layout is not None:
            return self.layout
        if x.dtype == np.uint8 and x.ndim == 3:
            return "NHW"
        return "NHWC" if x.dtype == np.uint8 and x.ndim == 4 and x.shape[-1] in (1, 3, 4) else "as_is"

    def convert(self, x: Array, layout: Layout) -> torch.Tensor:
        """A batch that nobody else holds, as the model takes it."""
        tensor = torch.from_numpy(x)
        if layout != "as_is":
            tensor = tensor.unsqueeze(1) if layout == "NHW" else tensor.permute(0, 3, 1, 2).contiguous()
        if self._is_index(x):
            return tensor.long()
        tensor = tensor.float()
        scale = self.scale if self.scale is not None else 1 / 255 if x.dtype == np.uint8 else 1.0
        if scale != 1.0:
            tensor = tensor * scale
        if self.mean is not None:
            tensor = tensor - _per_channel(self.mean, tensor)
        return tensor if self.std is None else tensor / _per_channel(self.std, tensor)

    def _is_index(self, x: Array) -> bool:
        raw = self.scale is None and self.mean is None and self.std is None
        return raw and x.dtype != np.uint8 and np.issubdtype(x.dtype, np.integer)


def _per_channel(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, *[1] * (like.dim() - 2))


@dataclass(frozen=True)
class CropAndFlip:
    """The usual augmentation of small images: a random crop from the image with a dark border, a random
    mirroring.

    Attributes:
        padding: pixels added on each side before the crop, 0 for none.
        flip: mirror every other image on average; leave it out where left and right mean something (digits).
    """

    padding: int = 4
    flip: bool = True

    def __call__(self, images: Array, rng: np.random.Generator) -> Array:
        """New images of the same shape, `(N, H, W)` or `(N, H, W, C)`."""
        count, height, width = images.shape[:3]
        if self.padding:
            border = [(0, 0), (self.padding, self.padding), (self.padding, self.padding), (0, 0)]
            padded = np.pad(images, border[: images.ndim])
            windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
            down, right = rng.integers(0, 2 * self.padding + 1, (2, count))
            images = windows[np.arange(count), down, right]
            images = np.moveaxis(images, 1, -1) if images.ndim == 4 else images
        if self.flip:
            mirrored = rng.random(count) < 0.5
            images = np.where(mirrored.reshape(-1, *[1] * (images.ndim - 1)), images[:, :, ::-1], images)
        return np.ascontiguousarray(images)
