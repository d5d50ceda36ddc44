"""A family like MobileNetV3 (Howard et al. 2019) for small images: inverted residuals in three stages.

The defaults are the uncompressed baseline; a spec searches the arguments under `space.architecture`. It is the space of
Once-for-All (Cai et al. 2020) in small: kernels of 3, 5 or 7, an expansion and a depth for each of three stages.
"""

from __future__ import annotations

import torch
from torch import nn

STEM = 16
WIDTHS = (24, 40, 80)
STRIDES = (1, 2, 2)


class SqueezeExcite(nn.Module):
    """Channels weighed by what the whole image shows (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.relu, self.gate = nn.ReLU(), nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features `(N, channels, H, W)`, weighed."""
        weights: torch.Tensor = self.gate(self.expand(self.relu(self.reduce(self.pool(x)))))
        return x * weights


class InvertedResidual(nn.Module):
    """Expand, one depthwise convolution, project; a shortcut around it where shapes allow.

    Args:
        before, after: channels that come in and go out.
        hidden: channels in between.
        kernel_size, stride: of the depthwise convolution.
        squeeze_excite: weigh the channels in between.
    """

    def __init__(
        self, before: int, after: int, hidden: int, kernel_size: int, stride: int, squeeze_excite: bool
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.expand = nn.Sequential(
            nn.Conv2d(before, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.Hardswish()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, kernel_size, stride, padding, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
        )
        self.weigh = SqueezeExcite(hidden, max(4, hidden // 4)) if squeeze_excite else nn.Identity()
        self.project = nn.Sequential(nn.Conv2d(hidden, after, 1, bias=False), nn.BatchNorm2d(after))
        self.has_shortcut = stride == 1 and before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features `(N, after, H / stride, W / stride)`."""
        inner: torch.Tensor = self.project(self.weigh(self.depthwise(self.expand(x))))
        return x + inner if self.has_shortcut else inner


class MobileNet(nn.Module):
    """A first convolution, stages of inverted residuals, the average over the image and one linear layer.

    Args:
        in_channels: of the images.
        widths: channels of the stem and of each stage.
        stages: for each stage its depth, kernel size and expansion.
        squeeze_excite: in every block.
        classes: number of outputs.
    """

    def __init__(
        self,
        in_channels: int,
        widths: list[int],
        stages: list[tuple[int, int, float]],
        squeeze_excite: bool,
        classes: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.Hardswish(),
        )
        rows: list[nn.Module] = []
        for before, after, first, (depth, kernel_size, expansion) in zip(
            widths, widths[1:], STRIDES, stages, strict=False
        ):
            sizes = [(before, first), *[(after, 1)] * (depth - 1)]
            rows.append(
                nn.Sequential(
                    *(
                        InvertedResidual(
                            size, after, max(1, round(size * expansion)), kernel_size, stride, squeeze_excite
                        )
                        for size, stride in sizes
                    )
                )
            )
        self.stages = nn.Sequential(*rows)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `(N, classes)` of images `(N, in_channels, H, W)`."""
        logits: torch.Tensor = self.head(self.pool(self.stages(self.stem(images))).flatten(1))
        return logits


def mobilenet(
    *,
    width: float = 1.0,
    depth1: int = 2,
    depth2: int = 3,
    depth3: int = 3,
    kernel1: int = 3,
    kernel2: int = 5,
    kernel3: int = 5,
    expansion1: float = 3.0,
    expansion2: float = 4.0,
    expansion3: float = 4.0,
    squeeze_excite: bool = True,
    in_channels: int = 3,
    classes: int = 10,
) -> MobileNet:
    """A member of the family.

    Args:
        width: multiplies the channels of stem (16) and stages (24, 40, 80).
        depth1, depth2, depth3: blocks in each stage, at least one; fewer are the first ones.
        kernel1, kernel2, kernel3: of the depthwise convolutions of each stage, odd.
        expansion1, expansion2, expansion3: how many times wider a block of each stage is inside.
        squeeze_excite: weigh channels in every block.
        in_channels: of the images.
        classes: number of outputs.

    Raises:
        ValueError: a stage without blocks, an even kernel, no expansion or no width.
    """
    depths, kernels = [depth1, depth2, depth3], [kernel1, kernel2, kernel3]
    expansions = [expansion1, expansion2, expansion3]
    if min(depths) < 1 or any(k % 2 == 0 for k in kernels) or min(*expansions, width) <= 0:
        raise ValueError(
            f"mobilenet: got depths {depths}, kernels {kernels}, expansions {expansions}, width {width}; "
            "expected at least one block a stage, odd kernels, positive expansions and width"
        )
    widths = [max(1, round(channels * width)) for channels in (STEM, *WIDTHS)]
    stages = list(zip(depths, kernels, expansions, strict=True))
    return MobileNet(in_channels, widths, stages, squeeze_excite, classes)
