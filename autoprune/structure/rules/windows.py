"""Operations on images and signals: pooling, resampling, channels that become pixels."""

from __future__ import annotations

import math

from autoprune.structure.dimensions import axis, pin, product, split, unify
from autoprune.structure.rules.operation import SPATIAL, Axes, Operation, Rule, merged, named


def _window(op: Operation) -> list[Axes]:
    """Examples and channels stay, the axes behind them are spatial."""
    spatial = next(n for n in (1, 2, 3) if f"{n}d" in op.name)
    axes, kept = op.of(op.x), op.x.dim() - spatial
    pin(axes[kept:], SPATIAL)
    return [[*axes[:kept], *op.pinned(out)[kept:]] for out in op.outs]


def _sampled(op: Operation) -> list[Axes]:
    """Values at the places that a grid (examples, …, 2 or 3 coordinates) names."""
    pin(op.axes("grid")[1:], "its units are coordinates", op.line())
    return _window(op)


def _affine_grid(op: Operation) -> list[Axes]:
    """A grid of coordinates from the matrices (examples, 2, 3) that move them."""
    matrices = op.axes("theta")
    pin(matrices[1:], "its units are coordinates", op.line())
    return [[matrices[0], *op.pinned(op.outs[0])[1:]]]


def _pixel_shuffle(op: Operation) -> list[Axes]:
    axes, factor = op.of(op.x), op.arg("upscale_factor")
    channels = axis(op.outs[0].shape[-3])
    unify(axes[-3], merged(channels, axis(factor**2, "its units become pixels")))
    return [[*axes[:-3], channels, *op.pinned(op.outs[0])[-2:]]]


def _pixel_unshuffle(op: Operation) -> list[Axes]:
    axes, factor = op.of(op.x), op.arg("downscale_factor")
    channels = product([axes[-3], axis(factor**2, "its units are pixels")])
    return [[*axes[:-3], channels, *op.pinned(op.outs[0])[-2:]]]


def _channel_shuffle(op: Operation) -> list[Axes]:
    axes, groups = op.of(op.x), op.arg("groups")
    blocks, inner = axis(groups, "its units are shuffled"), axis(op.x.shape[1] // groups)
    unify(axes[1], merged(blocks, inner))
    axes[1] = merged(inner, blocks)
    return [axes]


def _glu(op: Operation) -> list[Axes]:
    dim, axes = op.dim(default=-1), op.of(op.x)
    half = op.x.shape[dim] // 2
    first, second = split(axes[dim], 0, half), split(axes[dim], half, 2 * half)
    unify(first, second)
    axes[dim] = first
    return [axes]


def _im2col(op: Operation) -> list[Axes]:
    axes, kernel = op.of(op.x), math.prod(op.arg("kernel_size"))
    patches = axis(op.outs[0].shape[-1], SPATIAL)
    return [[*axes[:-3], product([axes[-3], axis(kernel, "its units are pixels")]), patches]]


def _col2im(op: Operation) -> list[Axes]:
    axes, kernel = op.of(op.x), math.prod(op.arg("kernel_size"))
    channels = axis(op.outs[0].shape[-3])
    unify(axes[-2], merged(channels, axis(kernel, "its units become pixels")))
    return [[*axes[:-2], channels, *op.pinned(op.outs[0])[-2:]]]


def _unfold(op: Operation) -> list[Axes]:
    axes, dim = op.of(op.x), int(op.arg("dimension")) % op.x.dim()
    pin([axes[dim]], SPATIAL, op.line())
    axes[dim] = axis(op.outs[0].shape[dim], SPATIAL)
    return [[*axes, axis(op.outs[0].shape[-1], SPATIAL)]]


RULES: dict[str, Rule] = {
    **named(
        _window,
        "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool1d_with_indices "
        "max_pool2d_with_indices max_pool3d_with_indices _adaptive_avg_pool2d _adaptive_avg_pool3d "
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d "
        "_upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d "
        "upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa max_unpool2d max_unpool3d",
    ),
    **named(_sampled, "grid_sampler_2d grid_sampler_3d"),
    **named(_affine_grid, "affine_grid_generator"),
    **named(_pixel_shuffle, "pixel_shuffle"),
    **named(_pixel_unshuffle, "pixel_unshuffle"),
    **named(_channel_shuffle, "channel_shuffle native_channel_shuffle"),
    **named(_glu, "glu"),
    **named(_im2col, "im2col"),
    **named(_col2im, "col2im"),
    **named(_unfold, "unfold"),
}
"""Rules by the names of operations."""
