"""Image classifiers: the ways in which convolutions are wired in published networks.

Every factory is written out in its smallest form: `autoprune check benchmarks/zoo/convolutions.py:residual` shows what
one way of wiring does to the search.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def example_inputs() -> Tensor:
    """One colour image of 32 × 32."""
    return torch.randn(1, 3, 32, 32)


def conv_bn(inputs: int, outputs: int, kernel: int = 3, **options: int) -> nn.Sequential:
    """A convolution that keeps the size (at stride 1), BatchNorm and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Classifier(nn.Module):
    """Any body of convolutions, pooled, and a linear layer."""

    def __init__(self, body: nn.Module, features: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(features, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class ResidualBlock(nn.Module):
    """Two convolutions added to their input, which a 1 × 1 convolution adapts where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_bn(inputs, outputs, stride=stride)
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


def residual() -> nn.Module:
    """Residual blocks in two stages (He et al. 2016)."""
    body = nn.Sequential(
        conv_bn(3, 16), ResidualBlock(16, 16), ResidualBlock(16, 32, 2), ResidualBlock(32, 32)
    )
    return Classifier(body, 32)


class PaddedShortcut(nn.Module):
    """A stage whose shortcut subsamples and pads the new channels with zeros on both sides (option A)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = conv_bn(inputs, outputs, stride=2)
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.extra = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(self.second(self.first(x)) + shortcut)


def residual_option_a() -> nn.Module:
    """Residual blocks with parameter-free shortcuts (He et al. 2016, section 4.2)."""
    return Classifier(
        nn.Sequential(conv_bn(3, 16), PaddedShortcut(16, 32), ResidualBlock(32, 32), PaddedShortcut(32, 64)),
        64,
    )


class PreActivation(nn.Module):
    """Norm and activation before each convolution; the sum is never normalised (He et al. 2016b)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))


def residual_preactivation() -> nn.Module:
    """Pre-activation residual blocks behind a bare convolution."""
    return Classifier(nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), PreActivation(24), PreActivation(24)), 24)


class Dense(nn.Module):
    """Every layer reads all before it (Huang et al. 2017)."""

    def __init__(self, inputs: int = 16, growth: int = 8, layers: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(inputs + i * growth),
                nn.ReLU(),
                nn.Conv2d(inputs + i * growth, growth, 3, padding=1),
            )
            for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


def dense_concatenation() -> nn.Module:
    """Two dense stages with a transition between them."""
    transition = nn.Sequential(nn.Conv2d(48, 24, 1), nn.AvgPool2d(2))
    return Classifier(nn.Sequential(conv_bn(3, 16), Dense(16), transition, Dense(24), nn.ReLU()), 56)


class Inception(nn.Module):
    """Branches of unequal width and depth, concatenated (Szegedy et al. 2015)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.point = conv_bn(inputs, 8, 1)
        self.three = nn.Sequential(conv_bn(inputs, 8, 1), conv_bn(8, 16))
        self.five = nn.Sequential(conv_bn(inputs, 4, 1), conv_bn(4, 8, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(inputs, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.point(x), self.three(x), self.five(x), self.pooled(x)], dim=1)


def inception() -> nn.Module:
    """Two inception modules."""
    return Classifier(
        nn.Sequential(conv_bn(3, 16, stride=2), Inception(16), nn.MaxPool2d(2), Inception(40)), 40
    )


def depthwise_separable() -> nn.Module:
    """Depthwise and pointwise convolutions in turn (Howard et al. 2017)."""
    widths = [16, 24, 32, 48]
    pairs = [nn.Sequential(conv_bn(a, a, groups=a), conv_bn(a, b, 1)) for a, b in itertools.pairwise(widths)]
    return Classifier(nn.Sequential(conv_bn(3, 16, stride=2), *pairs), 48)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project to a narrow sum without activation (Sandler et al. 2018)."""

    def __init__(self, channels: int, expansion: int = 4) -> None:
        super().__init__()
        inner = channels * expansion
        self.layers = nn.Sequential(
            conv_bn(channels, inner, 1),
            conv_bn(inner, inner, groups=inner),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def inverted_residual() -> nn.Module:
    """Inverted residual blocks."""
    return Classifier(nn.Sequential(conv_bn(3, 16, stride=2), InvertedResidual(16), InvertedResidual(16)), 16)


def depthwise_multiplier() -> nn.Module:
    """Each channel is filtered by three kernels: channel c becomes channels 3c, 3c+1 and 3c+2."""
    body = nn.Sequential(conv_bn(3, 16), conv_bn(16, 48, groups=16), conv_bn(48, 32, 1), conv_bn(32, 32))
    return Classifier(body, 32)


class ResNeXtBlock(nn.Module):
    """A bottleneck whose middle convolution has groups (Xie et al. 2017)."""

    def __init__(self, channels: int, inner: int, groups: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv_bn(channels, inner, 1), conv_bn(inner, inner, groups=groups), nn.Conv2d(inner, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.layers(x))


def grouped() -> nn.Module:
    """Grouped bottlenecks."""
    return Classifier(
        nn.Sequential(conv_bn(3, 24, stride=2), ResNeXtBlock(24, 32, 4), ResNeXtBlock(24, 32, 8)), 24
    )


class Shuffle(nn.Module):
    """Channels dealt out among the groups of the next grouped convolution (Zhang et al. 2018)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.view(batch, self.groups, channels // self.groups, height, width)
        return x.transpose(1, 2).reshape(batch, channels, height, width)


def channel_shuffle() -> nn.Module:
    """Grouped pointwise convolutions with shuffles between them."""
    body = nn.Sequential(
        conv_bn(3, 24, stride=2),
        conv_bn(24, 48, 1, groups=4),
        Shuffle(4),
        conv_bn(48, 48, groups=48),
        conv_bn(48, 32, 1, groups=4),
        conv_bn(32, 32),
    )
    return Classifier(body, 32)


class SplitShuffle(nn.Module):
    """Half of the channels pass by, half are convolved, and both are interleaved (Ma et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv_bn(half, half, 1), conv_bn(half, half, groups=half), conv_bn(half, half, 1)
        )
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        passed, convolved = x.chunk(2, dim=1)
        return self.shuffle(torch.cat([passed, self.branch(convolved)], 1))


def split_shuffle() -> nn.Module:
    """Channel splits and shuffles, then a wide pointwise layer."""
    return Classifier(
        nn.Sequential(conv_bn(3, 24, stride=2), SplitShuffle(24), SplitShuffle(24), conv_bn(24, 64, 1)), 64
    )


class SqueezeExcite(nn.Module):
    """Channels weighted by a sigmoid of all channels' means (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv_bn(channels, channels)
        self.squeeze, self.excite = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        weight = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return x + y * weight


def squeeze_excite() -> nn.Module:
    """Residual blocks with squeeze and excitation."""
    return Classifier(
        nn.Sequential(conv_bn(3, 24, stride=2), SqueezeExcite(24), conv_bn(24, 32), SqueezeExcite(32)), 32
    )


def dilated() -> nn.Module:
    """A stack of ever wider dilations (Yu and Koltun 2016)."""
    stack = [nn.Sequential(nn.Conv2d(24, 24, 3, padding=d, dilation=d), nn.ReLU()) for d in (1, 2, 4)]
    return Classifier(nn.Sequential(conv_bn(3, 24), *stack), 24)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7 × 7, LayerNorm over channels and an MLP, scaled by a learned vector (Liu et al. 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand, self.project = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.project(F.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


def convnext_block() -> nn.Module:
    """Convolutional blocks in the manner of transformers."""
    return Classifier(nn.Sequential(nn.Conv2d(3, 24, 4, 4), ConvNeXtBlock(24), ConvNeXtBlock(24)), 24)


def flattened() -> nn.Module:
    """Convolutions flattened into a linear layer: one channel is 64 columns (Simonyan and Zisserman 2015)."""
    return nn.Sequential(
        conv_bn(3, 16),
        nn.MaxPool2d(2),
        conv_bn(16, 24),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24 * 64, 64),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(64, 10),
    )


MODELS = [
    ("residual", residual, example_inputs),
    ("residual", residual_option_a, example_inputs),
    ("residual", residual_preactivation, example_inputs),
    ("dense concatenation", dense_concatenation, example_inputs),
    ("inception branches", inception, example_inputs),
    ("depthwise-separable", depthwise_separable, example_inputs),
    ("depthwise-separable", inverted_residual, example_inputs),
    ("depthwise-separable", depthwise_multiplier, example_inputs),
    ("grouped convolution", grouped, example_inputs),
    ("channel shuffle", channel_shuffle, example_inputs),
    ("channel shuffle", split_shuffle, example_inputs),
    ("squeeze-excite", squeeze_excite, example_inputs),
    ("dilated, transposed", dilated, example_inputs),
    ("vision transformer, convolutional", convnext_block, example_inputs),
    ("plain convolution", flattened, example_inputs),
]
"""Family, factory without arguments, example inputs."""
