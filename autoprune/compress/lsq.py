"""Learned step size quantization: the distances between rounded values are trained with the weights.

Esser et al., "Learned step size quantization", 2020, https://arxiv.org/abs/1902.08153: the gradient of a step is that
of the rounded value with the rounding itself passed straight through (eq. 3), scaled so that steps and weights move
equally fast (section 2.2), and a step starts at 2 <|v|> / sqrt(Q_P) (section 2.1). The steps that training ends with
are those of the deployed network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autoprune.compress.fake_quantize import FoldedFactor, Rounding, round_weight
from autoprune.deployed.kinds import channel_axis, float_weight, layer_kind
from autoprune.deployed.quantizers import INTEGER_BITS, STEP, along, form_of, has_one_scale, highest_code

SMALLEST_STEP = 1e-8


def _scaled_gradient(step: torch.Tensor, factor: float) -> torch.Tensor:
    """The step itself, of which `factor` times the gradient comes back."""
    return (step - step * factor).detach() + step * factor


def _passed_through(value: torch.Tensor) -> torch.Tensor:
    """The nearest whole number, with the gradient of the value."""
    return value + (value.round() - value).detach()


class LearnedWeight(nn.Module):
    """Rounds a weight on steps that are parameters: one for each channel, or one for all.

    It starts with what the layer carries from a stretch before, else as in the paper; what was pruned, and is zero,
    says nothing of how large the others are.

    Args:
        layer: the float layer; it carries the step from here on.
        widths: the bits of its weight (2 to 8) and the form.
        norm: the BatchNorm that will be folded into it, if there is one.
    """

    def __init__(self, layer: nn.Module, widths: tuple[int, int], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.top, self.axis = highest_code(widths[0]), channel_axis(layer_kind(layer))
        weight = float_weight(layer)
        is_one = has_one_scale(form_of(widths))
        count = 1 if is_one else weight.shape[self.axis]
        self.factor = FoldedFactor(norm if is_one and weight.shape[self.axis] > 1 else None, self.axis)
        if STEP not in layer._buffers:
            layer.register_buffer(STEP, self._first_step(weight.detach(), count))
        self.step = nn.Parameter(layer.get_buffer(STEP).clone())
        self.gradient_scale = 1.0 / math.sqrt(weight.numel() / count * self.top)

    def _first_step(self, weight: torch.Tensor, count: int) -> torch.Tensor:
        factor = self.factor(weight)
        folded = (weight if factor is None else weight * factor).abs().transpose(0, self.axis)
        rows = folded.reshape(count, -1)
        mean = rows.sum(1) / (rows > 0).sum(1).clamp(min=1)
        # A channel of zeros has no size of its own.
        mean = torch.where(mean > 0, mean, mean.max())
        return (2.0 * mean / math.sqrt(self.top)).clamp(min=SMALLEST_STEP)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        step = _scaled_gradient(self.step.abs().clamp(min=SMALLEST_STEP), self.gradient_scale)
        step, factor = along(step, self.axis, weight.dim()), self.factor(weight)
        if factor is not None:
            step = step / factor
        return _passed_through((weight / step).clamp(-self.top, self.top)) * step


class LearnedQuantizer(nn.Module):
    """Rounds an activation on a step that is a parameter, and a zero point that the first batch settles.

    What is never negative, as behind a ReLU, has the zero point 0.

    Args:
        bits: of the activation.
        grid: step and zero point from a stretch before.
    """

    zero: torch.Tensor

    def __init__(self, bits: int, grid: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.top = int(2**bits) - 1
        step, zero = grid or (0.0, 0.0)
        self.step = nn.Parameter(torch.tensor([step]))
        self.register_buffer("zero", torch.tensor([float(zero)]))

    @torch.no_grad()
    def _start(self, x: torch.Tensor) -> None:
        low, high = (float(value) for value in torch.aminmax(x))
        mean = float(x.abs().mean())
        if not 0 < mean < math.inf:
            return
        share = max(0.0, -low) / (max(0.0, high) - min(0.0, low))
        self.zero.fill_(round(share * self.top))
        self.step.fill_(2.0 * mean / math.sqrt(self._largest()))

    @property
    def is_known(self) -> bool:
        """Whether there is a step yet."""
        return bool(self.step.detach() != 0)

    def _largest(self) -> float:
        """The largest code on either side of zero."""
        zero = float(self.zero)
        return max(zero, float(self.top - zero))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.float()
        if not self.is_known and self.training:
            self._start(x.detach())
        if not self.is_known:
            return x
        features = max(1, x.numel() // len(x)) if x.dim() else 1
        scale = 1.0 / math.sqrt(features * self._largest())
        step = _scaled_gradient(self.step.abs().clamp(min=SMALLEST_STEP), scale)
        return (_passed_through((x / step + self.zero).clamp(0, self.top)) - self.zero) * step

    def grid(self) -> tuple[float, float]:
        """Step and zero point as they are now, exactly."""
        return max(abs(float(self.step.detach())), SMALLEST_STEP), float(self.zero)


class HalfWeight(nn.Module):
    """Rounds a weight to float16, which has no step to learn."""

    def __init__(self, widths: tuple[int, int]) -> None:
        super().__init__()
        self.widths = widths

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return round_weight(weight, self.widths, 0)


class LearnedSteps(Rounding):
    """Rounding on learned steps.

    Args:
        learned: what the stretch before left (`learned`), for it goes on from there.
    """

    def __init__(self, learned: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._before = dict((learned or {}).get("activations", {}))
        self._weights: dict[str, tuple[nn.Module, LearnedWeight]] = {}
        self._activations: dict[str, LearnedQuantizer] = {}

    def weight(
        self, name: str, layer: nn.Module, widths: tuple[int, int], norm: nn.Module | None
    ) -> nn.Module:
        """What rounds the weight of a layer: learned steps for 2 to 8 bits."""
        if widths[0] > INTEGER_BITS:
            return HalfWeight(widths)
        learned = LearnedWeight(layer, widths, norm)
        self._weights[name] = (layer, learned)
        return learned

    def activation(self, path: str, bits: int) -> nn.Module:
        """What rounds a tensor; `path` is that of its quantizer in the deployed network."""
        grid = self._before.get(path)
        self._activations[path] = quantizer = LearnedQuantizer(bits, tuple(grid) if grid else None)
        return quantizer

    @torch.no_grad()
    def on_step(self, share: float) -> None:  # noqa: ARG002 - the same all along
        """Keep the steps of weights as buffers of their layers."""
        for layer, rounding in self._weights.values():
            layer.get_buffer(STEP).copy_(rounding.step.abs().clamp(min=SMALLEST_STEP))

    @property
    def learned(self) -> Mapping[str, Any]:
        """`weights`: layer -> how many steps it carries; `activations`: quantizer -> its step and zero point."""
        return {
            "weights": {name: rounding.step.numel() for name, (_, rounding) in self._weights.items()},
            "activations": {
                path: list(quantizer.grid())
                for path, quantizer in self._activations.items()
                if quantizer.is_known
            },
        }


def drop_steps(model: nn.Module) -> None:
    """Take the steps off a model's layers, in place: who stores it elsewhere has no use for them."""
    for module in model.modules():
        module._buffers.pop(STEP, None)


def carry_steps(model: nn.Module, learned: Mapping[str, Any]) -> None:
    """Make room on a freshly built model for the steps of a checkpoint.

    Raises:
        KeyError: the model has no such layer.
    """
    layers = dict(model.named_modules())
    for name, count in learned.get("weights", {}).items():
        layers[name].register_buffer(STEP, torch.ones(int(count)))
