"""Vision models of `transformers`, built from small configs: plain, windowed, convolutional and pooled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PLAIN = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def example_inputs() -> dict[str, Tensor]:
    """One colour image of 32 × 32."""
    return {"pixel_values": torch.randn(1, 3, 32, 32)}


def larger() -> dict[str, Tensor]:
    """One colour image of 64 × 64."""
    return {"pixel_values": torch.randn(1, 3, 64, 64)}


def built(kind: str, head: str = "ForImageClassification", **config: Any) -> nn.Module:
    """`KindHead(KindConfig(…))` with random weights and ten classes."""
    import transformers

    settings = getattr(transformers, f"{kind}Config")(**config)
    settings.num_labels = 10
    return getattr(transformers, f"{kind}{head}")(settings).eval()


def vit() -> nn.Module:
    """Patches, a class token, plain layers (Dosovitskiy et al. 2021)."""
    return built("ViT", **PLAIN)


def deit() -> nn.Module:
    """A second token for distillation (Touvron et al. 2021)."""
    return built("DeiT", **PLAIN)


def beit() -> nn.Module:
    """Relative positions in each layer, learned scales on both branches (Bao et al. 2022)."""
    return built("Beit", use_relative_position_bias=True, layer_scale_init_value=0.1, **PLAIN)


def dinov2() -> nn.Module:
    """Learned scales; positions resized to the image (Oquab et al. 2024)."""
    sizes = {key: value for key, value in PLAIN.items() if key != "intermediate_size"}
    return built("Dinov2", mlp_ratio=2, layerscale_value=0.1, **sizes)


def clip_vision() -> nn.Module:
    """A norm before the first layer; hidden states and a pooled vector (Radford et al. 2021)."""
    return built("CLIPVision", "Model", **PLAIN)


def siglip_vision() -> nn.Module:
    """Pooled by attention with one learned query (Zhai et al. 2023)."""
    return built("SiglipVision", "Model", **PLAIN)


def dpt() -> nn.Module:
    """Depth from the states of several layers, fused from coarse to fine (Ranftl et al. 2021)."""
    fusion = {
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [16, 16, 24, 24],
        "fusion_hidden_size": 16,
        "head_in_index": -1,
        "readout_type": "ignore",
    }
    return built("DPT", "ForDepthEstimation", **{**PLAIN, "num_hidden_layers": 4}, **fusion)


def swin() -> nn.Module:
    """Shifted windows, neighbours merged between stages (Liu et al. 2021)."""
    sizes = {"image_size": 32, "patch_size": 4, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4]}
    return built("Swin", window_size=4, **sizes)


def swinv2() -> nn.Module:
    """Cosine attention, positions from a small network (Liu et al. 2022)."""
    sizes = {"image_size": 32, "patch_size": 4, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4]}
    return built("Swinv2", window_size=4, **sizes)


def pvt() -> nn.Module:
    """A pyramid whose keys and values are reduced by convolutions (Wang et al. 2021)."""
    stages = {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [16, 24, 32, 48],
        "num_attention_heads": [1, 2, 4, 4],
        "mlp_ratios": [2, 2, 2, 2],
    }
    return built("Pvt", image_size=64, **stages)


def segformer() -> nn.Module:
    """A pyramid encoder, all stages decoded by linear layers (Xie et al. 2021)."""
    stages = {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [16, 24, 32, 48],
        "num_attention_heads": [1, 2, 4, 4],
        "mlp_ratios": [2, 2, 2, 2],
        "decoder_hidden_size": 32,
    }
    return built("Segformer", "ForSemanticSegmentation", **stages)


def poolformer() -> nn.Module:
    """Pooling instead of attention (Yu et al. 2022)."""
    stages = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 24, 32, 48], "mlp_ratio": 2.0}
    return built("PoolFormer", **stages)


def convnext() -> nn.Module:
    """Depthwise convolutions with LayerNorm and learned scales (Liu et al. 2022)."""
    return built("ConvNext", hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1])


def convnextv2() -> nn.Module:
    """The response of each channel divided by that of all (Woo et al. 2023)."""
    return built("ConvNextV2", hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1])


CVT = {
    "mlp_ratio": 2.0,
    "attention_drop_rate": 0.0,
    "drop_rate": 0.0,
    "drop_path_rate": 0.0,
    "qkv_bias": True,
    "qkv_projection_method": "dw_bn",
    "kernel_qkv": 3,
    "padding_kv": 1,
    "stride_kv": 2,
    "padding_q": 1,
    "stride_q": 1,
}
"""The same for both stages."""


def cvt() -> nn.Module:
    """Projections of attention by depthwise convolutions (Wu et al. 2021)."""
    stages = {"embed_dim": [16, 32], "num_heads": [1, 2], "depth": [1, 2], "cls_token": [False, True]}
    stages |= {"patch_sizes": [7, 3], "patch_stride": [4, 2], "patch_padding": [2, 1]}
    return built("Cvt", **stages, **{name: [value] * 2 for name, value in CVT.items()})


def levit() -> nn.Module:
    """Norms folded into layers, keys narrower than values, subsampling attention (Graham et al. 2021)."""
    stages = {
        "hidden_sizes": [32, 48, 64],
        "num_attention_heads": [2, 2, 4],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
        "attention_ratio": [2, 2, 2],
        "mlp_ratio": [2, 2, 2],
    }
    down = [["Subsample", 8, 4, 4, 2, 2], ["Subsample", 8, 6, 4, 2, 2]]
    return built("Levit", image_size=64, down_ops=down, **stages)


def mobilevit() -> nn.Module:
    """Inverted residuals; patches unfolded for attention and folded back (Mehta and Rastegari 2022)."""
    widths = {"hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 12, 16, 24, 24, 24, 48]}
    return built("MobileViT", image_size=64, num_attention_heads=4, mlp_ratio=2.0, **widths)


def focalnet() -> nn.Module:
    """Focal modulation: gates from ever wider context, no attention (Yang et al. 2022)."""
    return built(
        "FocalNet", image_size=32, embed_dim=24, depths=[1, 1], focal_levels=[2, 2], focal_windows=[3, 3]
    )


def resnet() -> nn.Module:
    """Bottlenecks (He et al. 2016)."""
    return built("ResNet", embedding_size=16, hidden_sizes=[32, 48], depths=[1, 2])


def regnet() -> nn.Module:
    """Grouped bottlenecks with squeeze and excitation (Radosavovic et al. 2020)."""
    return built("RegNet", embedding_size=16, hidden_sizes=[32, 48], depths=[1, 1], groups_width=8)


def clip() -> nn.Module:
    """Image and text side by side, compared (Radford et al. 2021)."""
    text = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    text |= {"intermediate_size": 64, "max_position_embeddings": 20, "eos_token_id": 2}
    vision = {**PLAIN, "num_hidden_layers": 1}
    return built("CLIP", "Model", text_config=text, vision_config=vision, projection_dim=24)


def image_and_text() -> dict[str, Tensor]:
    """One image and one text of 12 tokens."""
    return {"input_ids": torch.randint(5, 100, (1, 12)), **example_inputs()}


def detr() -> nn.Module:
    """Learned queries find objects in the features of a convolutional network (Carion et al. 2020)."""
    import transformers

    backbone = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], out_features=["stage2"]
    )
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 6}
    sizes |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    sizes |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    return built(
        "Detr",
        "ForObjectDetection",
        backbone_config=backbone,
        use_timm_backbone=False,
        backbone=None,
        **sizes,
    )


MODELS = [
    ("vision transformer, plain", vit, example_inputs),
    ("vision transformer, plain", deit, example_inputs),
    ("vision transformer, plain", beit, example_inputs),
    ("vision transformer, plain", dinov2, example_inputs),
    ("vision transformer, plain", clip_vision, example_inputs),
    ("vision transformer, plain", siglip_vision, example_inputs),
    ("segmentation and detection heads", dpt, example_inputs),
    ("vision transformer, windowed", swin, example_inputs),
    ("vision transformer, windowed", swinv2, example_inputs),
    ("vision transformer, pooled", pvt, larger),
    ("segmentation and detection heads", segformer, larger),
    ("vision transformer, pooled", poolformer, larger),
    ("vision transformer, convolutional", convnext, larger),
    ("vision transformer, convolutional", convnextv2, larger),
    ("vision transformer, convolutional", cvt, larger),
    ("vision transformer, convolutional", levit, larger),
    ("vision transformer, convolutional", mobilevit, larger),
    ("vision transformer, pooled", focalnet, example_inputs),
    ("residual", resnet, larger),
    ("grouped convolution", regnet, larger),
    ("vision transformer, plain", clip, image_and_text),
    ("segmentation and detection heads", detr, larger),
]
"""Family, factory without arguments, example inputs."""
