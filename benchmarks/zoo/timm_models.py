"""Models of `timm`, made small by its own arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def example_inputs() -> Tensor:
    """One colour image of 32 × 32."""
    return torch.randn(1, 3, 32, 32)


def larger() -> Tensor:
    """One colour image of 64 × 64."""
    return torch.randn(1, 3, 64, 64)


def built(name: str, **arguments: Any) -> nn.Module:
    """`timm.create_model` with ten classes."""
    import timm

    return timm.create_model(name, num_classes=10, **arguments).eval()


def vit() -> nn.Module:
    """A plain vision transformer."""
    return built("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4)


def mixer() -> nn.Module:
    """MLPs across patches and channels."""
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(num_classes=10, img_size=32, patch_size=8, embed_dim=32, num_blocks=2).eval()


def resmlp() -> nn.Module:
    """Affine maps instead of norms (Touvron et al. 2021)."""
    from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_blocks": 2, "mlp_ratio": 4}
    return MlpMixer(num_classes=10, block_layer=ResBlock, norm_layer=Affine, **sizes).eval()


def swin() -> nn.Module:
    """Shifted windows."""
    sizes = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
    return built("swin_tiny_patch4_window7_224", img_size=32, patch_size=4, window_size=4, **sizes)


def cait() -> nn.Module:
    """Heads that talk to each other; a class token that comes late (Touvron et al. 2021)."""
    return built("cait_xxs24_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4)


def xcit() -> nn.Module:
    """Attention between channels instead of positions (El-Nouby et al. 2021)."""
    return built("xcit_nano_12_p8_224", img_size=32, embed_dim=32, depth=2, num_heads=4)


def convmixer() -> nn.Module:
    """Depthwise and pointwise convolutions on patches (Trockman and Kolter 2022)."""
    from timm.models.convmixer import ConvMixer

    return ConvMixer(dim=32, depth=2, kernel_size=5, patch_size=4, num_classes=10).eval()


def efficientvit() -> nn.Module:
    """Linear attention over several scales (Cai et al. 2023)."""
    return built("efficientvit_b0", widths=(8, 16, 24, 32, 48), depths=(1, 1, 1, 1, 1), head_dim=8,
                 head_widths=(96, 64))  # fmt: skip


MODELS = [
    ("vision transformer, plain", vit, example_inputs),
    ("MLP-Mixer", mixer, example_inputs),
    ("MLP-Mixer", resmlp, example_inputs),
    ("vision transformer, windowed", swin, example_inputs),
    ("vision transformer, plain", cait, example_inputs),
    ("vision transformer, plain", xcit, example_inputs),
    ("vision transformer, convolutional", convmixer, example_inputs),
    ("vision transformer, convolutional", efficientvit, larger),
]
"""Family, factory without arguments, example inputs."""
