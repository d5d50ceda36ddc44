"""Ranges for the quantizers of a deployed network, from what flows through it on training inputs.

Of each tensor a sample is kept, and one of four methods finds the range on it:

    min_max      all that was seen: nothing is cut off, and a single outlier can cost most of the codes
    percentile   all but the outermost 0.01 % on either side
    mse          the least squared rounding error: for eight bits close to `min_max`, for fewer the tails are cut
    entropy      the least information lost: the Kullback-Leibler divergence of the rounded histogram from the true
                 one (Migacz, "8-bit inference with TensorRT", GPU Technology Conference 2017)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.compress.fake_quantize import Fit
from autoprune.deployed import ActivationQuantizer, QuantizedLayer, input_quantizers, quantized_sums
from autoprune.tensors import Inputs, call

# Values kept of a tensor per batch: enough for its distribution, little enough to try every cut-off on.
SAMPLE = 1 << 14
CUTS = tuple(1.0 - step / 20 for step in range(17))
TAIL = 1e-4
BINS = 2048
# Shares of the range that `entropy` tries; below an eighth TensorRT does not look either.
ENTROPY_CUTS = tuple(1.0 - step / 64 for step in range(57))
LAST_DIGITS = 2.0**-23  # of a float, relative
# Share of sums on the edge of two codes that is borne; by how much steps are widened, and how often that is tried.
FEW_TIES, WIDENING, MOST_WIDENED = 2e-5, 2.0**-12, 16
Grid = tuple[float, float]
"""Scale and zero point of a quantizer."""


def calibrate(
    model: nn.Module,
    batches: Iterable[Inputs],
    method: str = "mse",
    fit: Fit = ActivationQuantizer.set_range,
) -> None:
    """Give every quantizer its range and put the biases on the integer grid, in place.

    Args:
        model: deployed and uncalibrated, so that what is observed has no rounding in it yet.
        batches: inputs.
        method: one of `METHODS`.
        fit: gives a quantizer its grid for a range.
    """
    find_ranges(model, batches, method, fit=fit)
    round_biases(model)


@torch.no_grad()
def find_ranges(
    model: nn.Module,
    batches: Iterable[Inputs],
    method: str = "mse",
    known: Mapping[str, Grid] | None = None,
    fit: Fit = ActivationQuantizer.set_range,
) -> None:
    """Give every quantizer its range, in place, by `fit`; those that are `known` by path get their grid.

    The steps of sums are such that few of these fall on the edge of two codes (`avoid_ties`).
    """
    known = known or {}
    quantizers = quantizers_in(model)
    seen: dict[str, list[torch.Tensor]] = {path: [] for path in quantizers if path not in known}
    hooks = [quantizers[path].register_forward_pre_hook(_keep(samples)) for path, samples in seen.items()]
    try:
        for inputs in batches if seen else ():
            call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for path, quantizer in quantizers.items():
        if path in known:
            scale, zero = known[path]
            quantizer.set_grid(scale, round(zero))
        elif seen[path]:
            fit(quantizer, *METHODS[method](torch.cat(seen[path]), quantizer.bits))
    for path, other, total in quantized_sums(model):
        if seen.get(path) and seen.get(other) and seen.get(total):
            values = [quantizers[one](torch.cat(seen[one])).double() for one in (path, other)]
            if values[0].shape == values[1].shape:
                avoid_ties(quantizers[total], *values)


def avoid_ties(quantizer: ActivationQuantizer, first: torch.Tensor, second: torch.Tensor) -> None:
    """Widen a quantizer's steps a little where sums of two rounded values often fall on the edge of two codes.

    Such sums take few values. Where a frequent one lies in the middle between two codes, up to the last digit of a
    float, one runtime rounds it up and another one down, in every example, and what follows makes percents of it.

    Args:
        quantizer: of the sum.
        first, second: rounded values, (N,), of which the sums are made.
    """
    scale, zero = float(quantizer.scale), round(float(quantizer.grid[1]))
    if math.frexp(scale)[0] == 0.5:  # sums of fixed-point numbers are exact
        return
    digits = LAST_DIGITS * (first.abs() + second.abs())
    tried = torch.tensor([scale * (1 + step * WIDENING) for step in range(MOST_WIDENED)], dtype=torch.float32)
    shares: list[float] = []
    for one in tried.tolist():
        codes = (first + second) / one
        is_near = (codes - codes.floor() - 0.5).abs() < 2 * digits / one
        is_within = (codes > -zero) & (codes < 2**quantizer.bits - 1 - zero)
        shares.append(float((is_near & is_within).double().mean()))
        if shares[-1] <= FEW_TIES:
            break
    best = min(range(len(shares)), key=shares.__getitem__)
    if best:
        quantizer.set_grid(float(tried[best]), zero)


def quantizers_in(model: nn.Module) -> dict[str, ActivationQuantizer]:
    """The quantizers of a deployed network by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, ActivationQuantizer)}


def _keep(samples: list[torch.Tensor]) -> Any:
    def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].detach().float().flatten()
        # A stride without small factors does not stay on one column of an image.
        stride = max(1, values.numel() // SAMPLE) | 1
        low, high = torch.aminmax(values)
        samples.append(torch.cat([values[::stride], low[None], high[None]]))

    return hook


def full_range(values: torch.Tensor, bits: int) -> tuple[float, float]:  # noqa: ARG001
    """From the smallest to the largest value."""
    return float(values.min()), float(values.max())


def most_of_range(values: torch.Tensor, bits: int) -> tuple[float, float]:  # noqa: ARG001
    """The range that leaves out `TAIL` of the values on either side."""
    low, high = np.quantile(values.numpy(), [TAIL, 1 - TAIL])
    return float(low), float(high)


def best_range(values: torch.Tensor, bits: int) -> tuple[float, float]:
    """The range, zero included, on which rounding to `bits` bits has the least squared error."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    errors = [(_rounding_error(values, low * cut, high * cut, bits), -cut) for cut in CUTS]
    cut = -min(errors)[1]
    return low * cut, high * cut


def _rounding_error(values: torch.Tensor, low: float, high: float, bits: int) -> float:
    scale = max((high - low) / (2**bits - 1), 1e-8)
    rounded = torch.fake_quantize_per_tensor_affine(values, scale, round(-low / scale), 0, 2**bits - 1)
    return float((rounded - values).square().mean())


def likeliest_range(values: torch.Tensor, bits: int) -> tuple[float, float]:
    """The range, zero included, whose rounded histogram diverges the least from the true one.

    Exact zeros, half of all values behind a ReLU, are left out: every grid holds them exactly.
    """
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    kept = values[values != 0].numpy()
    if not len(kept):
        return low, high
    histogram = np.histogram(kept, bins=BINS, range=(low, high))[0].astype(np.float64)
    zero = round(-low / (high - low) * BINS)
    divergences = []
    for cut in ENTROPY_CUTS:
        start, end = zero - round(cut * zero), zero + round(cut * (BINS - zero))
        divergences.append((_divergence(histogram, start, end, 2**bits), -cut))
    cut = -min(divergences)[1]
    return low * cut, high * cut


def _divergence(histogram: np.ndarray[Any, Any], start: int, end: int, levels: int) -> float:
    """Information lost, in nats, when the bins from `start` to `end` are merged to `levels`, the rest cut off."""
    true = histogram[start:end].copy()
    cut = histogram[:start].sum(), histogram[end:].sum()
    edges = np.unique(np.linspace(0, len(true), levels + 1).round().astype(np.int64))[:-1]
    is_there = true > 0
    sums, counts = np.add.reduceat(true, edges), np.add.reduceat(is_there.astype(np.float64), edges)
    sizes = np.diff(np.append(edges, len(true)))
    rounded = np.repeat(sums / np.maximum(counts, 1), sizes) * is_there
    # What is cut off falls on the outermost values, which the merged histogram knows nothing of.
    true[0], true[-1] = true[0] + cut[0], true[-1] + cut[1]
    rounded = np.where((true > 0) & (rounded == 0), 1e-3, rounded)
    is_there = true > 0
    p, q = true[is_there] / true.sum(), rounded[is_there] / rounded.sum()
    return float((p * np.log(p / q)).sum())


METHODS: dict[str, Callable[[torch.Tensor, int], tuple[float, float]]] = {
    "min_max": full_range,
    "percentile": most_of_range,
    "mse": best_range,
    "entropy": likeliest_range,
}


def round_biases(model: nn.Module) -> None:
    """Put the biases of integer layers where the accumulator has them: on input scale times weight scale.

    A layer that is called several times, on inputs of different scales, keeps its bias as it is.
    """
    for layer, source in _integer_layers(model):
        layer.round_bias(source)


def coarsen_biases(model: nn.Module) -> None:
    """Give the biases of quantized layers that multiply in floating point no more digits than they need."""
    in_integers = {layer for layer, _ in _integer_layers(model)}
    for layer in model.modules():
        if isinstance(layer, QuantizedLayer) and layer not in in_integers:
            layer.coarsen_bias()


def _integer_layers(model: nn.Module) -> list[tuple[QuantizedLayer, ActivationQuantizer]]:
    """The layers that an integer runtime computes in integers, with the quantizer of their input."""
    found = []
    for name, quantizers in input_quantizers(model).items():
        layer, source = model.get_submodule(name), quantizers[0]
        # As the integer runtime sees it: what counts is the tensor that arrives, not the bits that were asked for.
        is_one = len(quantizers) == 1 and isinstance(layer, QuantizedLayer)
        if is_one and source is not None and layer.computes_in_integers(source):  # type: ignore[operator]
            found.append((layer, source))
    return found  # type: ignore[return-value]
