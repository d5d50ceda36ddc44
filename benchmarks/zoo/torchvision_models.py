"""Convolutional networks of `torchvision`, as small as its own constructors make them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def example_inputs() -> Tensor:
    """One colour image of 64 × 64."""
    return torch.randn(1, 3, 64, 64)


def regnet() -> nn.Module:
    """Grouped bottlenecks with squeeze and excitation (Radosavovic et al. 2020)."""
    from torchvision.models.regnet import BlockParams, RegNet

    blocks = BlockParams.from_init_params(depth=5, w_0=16, w_a=12.0, w_m=2.0, group_width=8, se_ratio=0.25)
    return RegNet(blocks, num_classes=10)


def mobilenet_v2() -> nn.Module:
    """Inverted residuals at a quarter of the width (Sandler et al. 2018)."""
    from torchvision.models import mobilenet_v2 as make

    return make(num_classes=10, width_mult=0.25)


def mobilenet_v3() -> nn.Module:
    """With squeeze and excitation and hard activations (Howard et al. 2019)."""
    from torchvision.models import mobilenet_v3_small as make

    return make(num_classes=10, width_mult=0.5)


def densenet() -> nn.Module:
    """Dense concatenation with transitions (Huang et al. 2017)."""
    from torchvision.models import DenseNet

    return DenseNet(growth_rate=8, block_config=(2, 2, 2), num_init_features=16, num_classes=10)


def shufflenet() -> nn.Module:
    """Channel splits and shuffles (Ma et al. 2018)."""
    from torchvision.models import ShuffleNetV2

    return ShuffleNetV2([2, 2, 2], [16, 24, 48, 64, 96], num_classes=10)


def mnasnet() -> nn.Module:
    """Inverted residuals of several kernel sizes (Tan et al. 2019)."""
    from torchvision.models import MNASNet

    return MNASNet(0.25, num_classes=10)


def squeezenet() -> nn.Module:
    """Fire modules; classes from a convolution (Iandola et al. 2016)."""
    from torchvision.models import squeezenet1_1

    return squeezenet1_1(num_classes=10)


MODELS = [
    ("grouped convolution", regnet, example_inputs),
    ("depthwise-separable", mobilenet_v2, example_inputs),
    ("squeeze-excite", mobilenet_v3, example_inputs),
    ("dense concatenation", densenet, example_inputs),
    ("channel shuffle", shufflenet, example_inputs),
    ("depthwise-separable", mnasnet, example_inputs),
    ("inception branches", squeezenet, example_inputs),
]
"""Family, factory without arguments, example inputs."""
