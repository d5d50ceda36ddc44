"""Speech encoders and forecasters of `transformers`, built from small configs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SPEECH = {
    "vocab_size": 20,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [16, 16, 16],
    "conv_stride": [5, 4, 2],
    "conv_kernel": [10, 8, 4],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "num_feat_extract_layers": 3,
}


def example_inputs() -> dict[str, Tensor]:
    """A twentieth of a second of sound, 16 kHz."""
    return {"input_values": torch.randn(1, 800)}


def spectrogram() -> dict[str, Tensor]:
    """40 frames of 16 frequencies."""
    return {"input_features": torch.randn(1, 16, 40)}


def frames() -> dict[str, Tensor]:
    """40 frames of 16 frequencies, time first."""
    return {"input_features": torch.randn(1, 40, 16)}


def picture_of_sound() -> dict[str, Tensor]:
    """64 frames of 32 frequencies."""
    return {"input_values": torch.randn(1, 64, 32)}


def series() -> dict[str, Tensor]:
    """32 past values of three quantities."""
    return {"past_values": torch.randn(1, 32, 3)}


def built(kind: str, head: str, **config: Any) -> nn.Module:
    """`KindHead(KindConfig(…))` with random weights."""
    import transformers

    return getattr(transformers, f"{kind}{head}")(getattr(transformers, f"{kind}Config")(**config)).eval()


def wav2vec2() -> nn.Module:
    """Convolutions on the wave, weight-normalised positions, one character for each frame (Baevski et al. 2020)."""
    return built("Wav2Vec2", "ForCTC", **SPEECH)


def wav2vec2_stable() -> nn.Module:
    """Norms before the layers, and on every convolution."""
    return built(
        "Wav2Vec2",
        "ForSequenceClassification",
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
        **SPEECH,
    )


def hubert() -> nn.Module:
    """The same trunk, trained otherwise (Hsu et al. 2021)."""
    return built("Hubert", "ForSequenceClassification", **SPEECH)


def wavlm() -> nn.Module:
    """Relative positions gated by the content (Chen et al. 2022)."""
    return built("WavLM", "ForSequenceClassification", num_buckets=16, max_bucket_distance=32, **SPEECH)


def whisper() -> nn.Module:
    """Convolutions on a spectrogram, fixed positions, classes (Radford et al. 2023)."""
    sizes = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64}
    sizes |= {"vocab_size": 60, "num_mel_bins": 16, "max_source_positions": 20, "pad_token_id": 0}
    sizes |= {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 64}
    sizes |= {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return built("Whisper", "ForAudioClassification", classifier_proj_size=24, **sizes)


def spectrogram_transformer() -> nn.Module:
    """Overlapping patches of a spectrogram (Gong et al. 2021)."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    shape = {
        "max_length": 64,
        "num_mel_bins": 32,
        "patch_size": 16,
        "time_stride": 10,
        "frequency_stride": 10,
    }
    return built("AST", "ForAudioClassification", **sizes, **shape)


def conformer() -> nn.Module:
    """Convolutions between attention and two half MLPs (Gulati et al. 2020)."""
    sizes = {key: value for key, value in SPEECH.items() if not key.startswith("num_conv")}
    return built("Wav2Vec2Conformer", "ForCTC", position_embeddings_type="rotary", num_conv_pos_embeddings=8,
                 num_conv_pos_embedding_groups=4, conv_depthwise_kernel_size=7, **sizes)  # fmt: skip


def patchtst() -> nn.Module:
    """Each quantity cut into patches of time, all by one encoder (Nie et al. 2023)."""
    sizes = {"d_model": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "ffn_dim": 64}
    shape = {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 4}
    return built("PatchTST", "ForPrediction", prediction_length=8, **sizes, **shape)


def patchtsmixer() -> nn.Module:
    """Patches of time mixed by MLPs with gates (Ekambaram et al. 2023)."""
    shape = {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8}
    return built("PatchTSMixer", "ForPrediction", prediction_length=8, d_model=16, num_layers=2, **shape)


MODELS = [
    ("speech encoder", wav2vec2, example_inputs),
    ("speech encoder", wav2vec2_stable, example_inputs),
    ("speech encoder", hubert, example_inputs),
    ("speech encoder", wavlm, example_inputs),
    ("speech encoder", whisper, spectrogram),
    ("speech encoder", spectrogram_transformer, picture_of_sound),
    ("speech encoder", conformer, example_inputs),
    ("forecaster", patchtst, series),
    ("forecaster", patchtsmixer, series),
]
"""Family, factory without arguments, example inputs."""
