"""Weights that share a few values: which values, and the layer that stores an index for each weight.

Han, Mao & Dally, "Deep compression: compressing deep neural networks with pruning, trained quantization and
Huffman coding", 2016, https://arxiv.org/abs/1510.00149, section 3: the values are the centroids of k-means over
the weights of a layer, started evenly between the smallest and the largest ("linear initialisation", which keeps
the few large weights that matter most).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.deployed.kinds import float_weight, function_options, layer_kind
from autoprune.deployed.quantizers import CODEBOOK, QuantizedLayer, along, form_of

DOMAIN = "autoprune"
MOST_ITERATIONS = 1000
Floats = np.ndarray[Any, np.dtype[np.float64]]
Singles = np.ndarray[Any, np.dtype[np.float32]]


def shared_values(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The values that a weight's entries are to share, and which of them each takes.

    Zeros stay zeros and nothing else becomes one: they have the index 0, whatever the other entries are. A weight
    that has no more different values than there may be keeps them exactly.

    Args:
        weight: any shape.
        bits: of an index, 1 to 8.

    Returns:
        centroids, float32 (2^bits), those that are not needed being zero, and indices, uint8 in the shape of `weight`.
    """
    flat = weight.detach().float().cpu().numpy().reshape(-1)
    is_kept = flat != 0
    kept = flat[is_kept]
    first = int(len(kept) < len(flat))  # the index 0 is that of zero if there are zeros
    values = _centroids(kept, 2**bits - first)
    centroids = np.zeros(2**bits, np.float32)
    centroids[first : first + len(values)] = values
    indices = np.zeros(flat.shape, np.uint8)
    if len(kept):
        middles = (values[1:].astype(np.float64) + values[:-1]) / 2
        indices[is_kept] = np.searchsorted(middles, kept) + first
    return torch.from_numpy(centroids), torch.from_numpy(indices.reshape(tuple(weight.shape)))


def _centroids(values: Singles, count: int) -> Singles:
    """At most `count` values, growing, by Lloyd's algorithm: on sorted numbers each step is a few look-ups."""
    if not len(values):
        return np.zeros(0, np.float32)
    ordered: Singles = np.sort(values)
    distinct: Singles = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
    if len(distinct) <= count:
        return distinct
    wide = ordered.astype(np.float64)
    sums, squares = (np.concatenate([[0.0], np.cumsum(power)]) for power in (wide, wide**2))
    found: Floats = np.linspace(wide[0], wide[-1], count)
    for _ in range(MOST_ITERATIONS):
        ends = np.concatenate([[0], np.searchsorted(wide, (found[1:] + found[:-1]) / 2), [len(wide)]])
        counts = np.diff(ends)
        means = np.where(counts > 0, np.diff(sums[ends]) / np.maximum(counts, 1), found)
        if not counts.all():
            errors = np.diff(squares[ends]) - counts * means**2
            means = _without_one_idle(means, counts, errors, wide[ends[1:] - 1])
        elif np.array_equal(means, found):
            break
        found = means
    return np.unique(found[counts > 0].astype(np.float32))


def _without_one_idle(means: Floats, counts: Floats, errors: Floats, largest: Floats) -> Floats:
    """The centroids, growing, of which one that nobody is nearest to now halves the group with the largest error."""
    worst = int(np.argmax(errors))
    moved = np.delete(means, np.flatnonzero(counts == 0)[0])
    return np.sort(np.append(moved, (means[worst] + largest[worst]) / 2))


class _LookUp(torch.autograd.Function):
    """Centroids by index; to the exporter a call of the function `LookUp` (see `targets.onnx_packing`)."""

    @staticmethod
    def forward(_ctx: Any, centroids: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return centroids[codes.int()]

    @staticmethod
    def symbolic(g: Any, centroids: Any, codes: Any) -> Any:
        kind = centroids.type().with_sizes(codes.type().sizes())
        return g.op(f"{DOMAIN}::LookUp", centroids, codes).setType(kind)


class CodebookLayer(QuantizedLayer):
    """A layer whose weight is one of 2^bits values for each entry.

    It multiplies in floating point, also where its input is rounded to integers: no integer runtime has a kernel for
    values that are not evenly spaced. Its state is `codes` (uint8 indices), `centroids`, `bias`, and, where a BatchNorm
    was folded in, the `scale` of each output channel by which it multiplied.

    Args:
        kind, shape, options, bias, weight_bits, activation_bits, rounds_input: as for a `QuantizedLayer`; 2 to 8 bits.
        scaled: whether there is a `scale`.
    """

    shares_values = True

    centroids: torch.Tensor

    def __init__(
        self,
        kind: str,
        shape: Sequence[int],
        options: Mapping[str, Any],
        bias: bool,
        weight_bits: int,
        activation_bits: int,
        rounds_input: bool = False,
        scaled: bool = False,
    ) -> None:
        super().__init__(kind, shape, options, bias, weight_bits, activation_bits, rounds_input, CODEBOOK)
        if not self.has_codes:
            raise ValueError(f"weight_bits: got {weight_bits}, expected at most 8 for a codebook")
        self.register_buffer("codes", torch.zeros(self.shape, dtype=torch.uint8))
        # No more values than entries: a small layer pays for no others.
        self.register_buffer("centroids", torch.zeros(min(2**weight_bits, math.prod(self.shape))))
        self.register_buffer("scale", torch.ones(self.shape[self.axis]) if scaled else None)

    @classmethod
    def sharing(
        cls,
        layer: nn.Module,
        widths: tuple[int, int],
        rounds_input: bool = False,
        unfolded: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> CodebookLayer:
        """The codebook form of a float layer.

        Args:
            layer: whose bias is taken, and whose weight.
            widths: bits of its weight and of its input.
            rounds_input: see the class.
            unfolded: its weight before BatchNorm was folded into it, and the factor of each channel: the folded
                entries of different channels share no values any more.
        """
        weight, scale = unfolded if unfolded is not None else (float_weight(layer), None)
        options, bias = function_options(layer), layer.bias
        made = cls(
            layer_kind(layer),
            weight.shape,
            options,
            bias is not None,
            *widths,
            rounds_input,
            scale is not None,
        )
        made.set_bias(bias)
        with torch.no_grad():
            if scale is not None:
                made.scale.copy_(scale)
            made.set_weight(weight)
        return made.train(layer.training)

    def arguments(self) -> dict[str, Any]:
        """What the constructor takes to make this module again, as plain data."""
        arguments = super().arguments()
        del arguments["form"]
        return {**arguments, "scaled": self.scale is not None}

    @torch.no_grad()
    def set_weight(self, weight: torch.Tensor, scale: torch.Tensor | None = None) -> None:  # noqa: ARG002
        """Take over a float weight, without the scale of its channels."""
        centroids, codes = shared_values(weight, self.weight_bits)
        self.centroids.copy_(centroids[: len(self.centroids)])
        self.codes.copy_(codes)

    @property
    def step(self) -> torch.Tensor:
        """The mean distance between neighbouring values of the weight, in each channel or of all."""
        used = self.centroids[: int(self.codes.max()) + 1]
        low, high = torch.aminmax(used)
        step = ((high - low) / max(1, len(used) - 1)).reshape(1)
        return step if self.scale is None else step * self.scale.abs()

    def dequantized(self) -> torch.Tensor:
        """The weight as floats, shape as the float layer had it."""
        weight: torch.Tensor = _LookUp.apply(self.centroids, self.codes)  # type: ignore[no-untyped-call]
        return weight if self.scale is None else weight * along(self.scale, self.axis, weight.dim())


def quantized_layer(
    layer: nn.Module,
    widths: tuple[int, int],
    rounds_input: bool = False,
    unfolded: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> QuantizedLayer:
    """The quantized form of a float layer that its bits ask for; `unfolded` as in `CodebookLayer.sharing`."""
    form = form_of(widths)
    if form == CODEBOOK and widths[0] <= 8:
        return CodebookLayer.sharing(layer, widths, rounds_input, unfolded)
    return QuantizedLayer.of(layer, *widths, rounds_input=rounds_input, form=form)
