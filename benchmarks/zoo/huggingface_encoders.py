"""Text encoders of `transformers`, and models that read one text and write another; built from small configs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 100
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "num_labels": 5,
}


def example_inputs() -> dict[str, Tensor]:
    """One text of 16 tokens, the last four of them padding."""
    mask = (torch.arange(16) < 12).long()[None]
    return {"input_ids": torch.randint(5, VOCABULARY, (1, 16)) * mask + (1 - mask), "attention_mask": mask}


def text_to_text() -> dict[str, Tensor]:
    """A text of 16 tokens and the beginning of another."""
    return {**example_inputs(), "decoder_input_ids": torch.randint(5, VOCABULARY, (1, 8))}


def built(kind: str, head: str, **config: Any) -> nn.Module:
    """`KindHead(KindConfig(…))` with random weights, and no cache of keys and values."""
    import transformers

    settings = getattr(transformers, f"{kind}Config")(**config)
    settings.use_cache = False
    return getattr(transformers, f"{kind}{head}")(settings).eval()


def bert() -> nn.Module:
    """Classification from the first token (Devlin et al. 2019)."""
    return built("Bert", "ForSequenceClassification", **SMALL)


def bert_tokens() -> nn.Module:
    """One label for each token."""
    return built("Bert", "ForTokenClassification", **SMALL)


def bert_masked() -> nn.Module:
    """Masked tokens, predicted with the embedding itself as last layer."""
    return built("Bert", "ForMaskedLM", **SMALL)


def bert_base() -> nn.Module:
    """The bare encoder: a dataclass of hidden states and a pooled vector."""
    return built("Bert", "Model", **SMALL)


def roberta() -> nn.Module:
    """Positions counted from the padding (Liu et al. 2019)."""
    return built("Roberta", "ForSequenceClassification", **SMALL)


def distilbert() -> nn.Module:
    """Other names and no token types (Sanh et al. 2019)."""
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": VOCABULARY}
    return built("DistilBert", "ForSequenceClassification", num_labels=5, **sizes)


def albert() -> nn.Module:
    """One layer for all, narrow embeddings (Lan et al. 2020)."""
    return built("Albert", "ForSequenceClassification", embedding_size=16, **SMALL)


def electra() -> nn.Module:
    """Embeddings of another width than the layers (Clark et al. 2020)."""
    return built("Electra", "ForSequenceClassification", embedding_size=24, **SMALL)


def deberta() -> nn.Module:
    """Attention to content and to relative position, disentangled (He et al. 2021)."""
    relative = {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 8,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    }
    return built("DebertaV2", "ForSequenceClassification", **SMALL, **relative)


def mpnet() -> nn.Module:
    """Relative positions in buckets beside absolute ones (Song et al. 2020)."""
    return built("MPNet", "ForSequenceClassification", **SMALL)


def mobilebert() -> nn.Module:
    """Bottlenecks inside every layer, norms without statistics (Sun et al. 2020)."""
    narrow = {"embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2}
    return built("MobileBert", "ForSequenceClassification", true_hidden_size=16, **SMALL, **narrow)


def squeezebert() -> nn.Module:
    """Grouped 1-D convolutions in place of linear layers (Iandola et al. 2020)."""
    return built("SqueezeBert", "ForSequenceClassification", embedding_size=32, **SMALL)


def fnet() -> nn.Module:
    """Fourier transforms instead of attention (Lee-Thorp et al. 2022)."""
    sizes = {key: value for key, value in SMALL.items() if key != "num_attention_heads"}
    return built("FNet", "ForSequenceClassification", **sizes)


def ids_alone() -> dict[str, Tensor]:
    """One text of 16 tokens."""
    return {"input_ids": torch.randint(5, VOCABULARY, (1, 16))}


def modernbert() -> nn.Module:
    """Rotary positions, gated MLPs, local attention in every other layer (Warner et al. 2024)."""
    special = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    return built("ModernBert", "ForSequenceClassification", local_attention=8, **SMALL, **special)


def clip_text() -> nn.Module:
    """A causal text encoder, read at the end-of-text token (Radford et al. 2021)."""
    sizes = {key: value for key, value in SMALL.items() if key != "num_labels"}
    return built("CLIPText", "Model", eos_token_id=2, **sizes)


T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}


def t5_encoder() -> nn.Module:
    """The encoder alone: relative positions shared by all layers, no biases (Raffel et al. 2020)."""
    return built("T5", "EncoderModel", **T5)


def t5() -> nn.Module:
    """Encoder and decoder, one embedding for both and for the output."""
    return built("T5", "ForConditionalGeneration", **T5)


def gated_t5() -> nn.Module:
    """With gated MLPs and an output layer of its own."""
    return built(
        "T5", "ForConditionalGeneration", feed_forward_proj="gated-gelu", tie_word_embeddings=False, **T5
    )


def bart() -> nn.Module:
    """Encoder and decoder with learned positions (Lewis et al. 2020)."""
    sizes = {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 40,
    }
    return built("Bart", "ForConditionalGeneration", **sizes)


MODELS = [
    ("text encoder", bert, example_inputs),
    ("text encoder", bert_tokens, example_inputs),
    ("tied embeddings", bert_masked, example_inputs),
    ("text encoder", bert_base, example_inputs),
    ("text encoder", roberta, example_inputs),
    ("text encoder", distilbert, example_inputs),
    ("shared layers", albert, example_inputs),
    ("text encoder", electra, example_inputs),
    ("relative positions", deberta, example_inputs),
    ("relative positions", mpnet, example_inputs),
    ("text encoder", mobilebert, example_inputs),
    ("text encoder", squeezebert, example_inputs),
    ("text encoder", fnet, ids_alone),
    ("text encoder", modernbert, example_inputs),
    ("text encoder", clip_text, example_inputs),
    ("relative positions", t5_encoder, example_inputs),
    ("relative positions", t5, text_to_text),
    ("relative positions", gated_t5, text_to_text),
    ("text decoder", bart, text_to_text),
]
"""Family, factory without arguments, example inputs."""
