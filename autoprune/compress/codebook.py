"""Trained weight sharing: a layer's entries stay in groups of equal values, and it is the values that learn.

Han, Mao & Dally, "Deep compression", 2016, https://arxiv.org/abs/1510.00149, section 3.3: who shares is settled by
k-means, the gradients of those who share are added up, and the shared value moves. The first three quarters of a
stretch train every weight by itself, while schedules still choose which of them are zero; the last quarter trains the
values. (LeNet-300-100, 98 % zeros made in the same stretch: shared from its start, 8.1 % error; so, 1.8 %.) A
shared value that stands for n weights is n times as steep as each of them, so that the sum is divided by n: it is the
step of the weights themselves, taken along the directions in which all who share move together, and what is a good
learning rate for the weights is one for the values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autoprune.compress.fake_quantize import Rounding
from autoprune.deployed.codebook import shared_values
from autoprune.deployed.kinds import float_weight
from autoprune.deployed.quantizers import INTEGER_BITS

# The part of a stretch in which every weight is trained by itself: as long as schedules choose zeros (`sparsity.RAMP`).
ALONE = 0.75


def _means(values: torch.Tensor, groups: torch.Tensor, counted: torch.Tensor, count: int) -> torch.Tensor:
    """The mean in each group of the values that are counted, float64 (count); 0 where there are none."""
    sums = torch.bincount(groups, (values * counted).double(), minlength=count)
    return sums / torch.bincount(groups, counted.double(), minlength=count).clamp(min=1)


class _Share(torch.autograd.Function):
    """A weight as it is; each of its entries gets the mean gradient of its group.

    Entries that were zeroed in the meantime (a pruning schedule) do not count, but move along.
    """

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, groups: torch.Tensor, count: int) -> torch.Tensor:
        ctx.save_for_backward(groups, weight != 0)
        ctx.count = count
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        groups, is_there = ctx.saved_tensors
        means = _means(gradient.reshape(-1), groups, is_there.reshape(-1), ctx.count)
        return means[groups].to(gradient.dtype).view(gradient.shape), None, None


class SharedWeight(nn.Module):
    """Keeps a weight at few values while it is trained, once it `begin`s.

    Args:
        bits: 2 to 8: there are 2^bits values, zero among them if the weight has zeros, and then it stays zero.
    """

    groups: torch.Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits, self.count, self.is_shared = bits, 2**bits, False

    @torch.no_grad()
    def begin(self, weight: torch.Tensor) -> None:
        """Group the entries by k-means; the weight takes the groups' values at once."""
        centroids, indices = shared_values(weight, self.bits)
        weight.copy_(centroids[indices.int()])
        self.register_buffer("groups", indices.reshape(-1).to(torch.int32))
        self.is_shared = True

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if not self.is_shared:
            return weight
        shared: torch.Tensor = _Share.apply(weight, self.groups, self.count)  # type: ignore[no-untyped-call]
        return shared

    @torch.no_grad()
    def settle(self, weight: torch.Tensor) -> None:
        """Make the entries of each group equal to the last bit; what is zero stays zero."""
        flat = weight.reshape(-1)
        is_there = flat != 0
        means = _means(flat, self.groups, is_there, self.count)
        weight.copy_((means[self.groups].to(weight.dtype) * is_there).view(weight.shape))


class SharedValues(Rounding):
    """Weights of 2 to 8 bits share values; activations, and weights of 16 bits, are rounded as elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self._shared: list[tuple[nn.Module, SharedWeight]] = []

    def weight(
        self, name: str, layer: nn.Module, widths: tuple[int, int], norm: nn.Module | None
    ) -> nn.Module:
        """What stands for the weight of a layer."""
        if widths[0] > INTEGER_BITS:
            return super().weight(name, layer, widths, norm)
        shared = SharedWeight(widths[0])
        self._shared.append((layer, shared))
        return shared

    def on_step(self, share: float) -> None:
        """Let the values be shared where that is due; later undo what the optimizer's arithmetic, or a schedule of
        zeros, did to equal ones."""
        for layer, shared in self._shared:
            if shared.is_shared:
                shared.settle(float_weight(layer).detach())
            elif share >= ALONE:
                shared.begin(float_weight(layer).detach())
