"""Causal language models of `transformers`, built from small configs: fused and separate projections, every kind of
position, of sharing among heads and of MLP.
"""

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
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def example_inputs() -> dict[str, Tensor]:
    """One text of 16 tokens, all of them to be attended to."""
    ids = torch.randint(5, VOCABULARY, (1, 16))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def ids_alone() -> Tensor:
    """One text of 16 tokens."""
    return torch.randint(5, VOCABULARY, (1, 16))


def built(kind: str, head: str = "ForCausalLM", **config: Any) -> nn.Module:
    """`KindHead(KindConfig(…))` with random weights, and no cache of keys and values."""
    import transformers

    settings = getattr(transformers, f"{kind}Config")(**config)
    settings.use_cache = False
    return getattr(transformers, f"{kind}{head}")(settings).eval()


def gpt2() -> nn.Module:
    """One layer for queries, keys and values, stored transposed; tied embeddings (Radford et al. 2019)."""
    return built("GPT2", "LMHeadModel", vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64)


def gpt2_classifier() -> nn.Module:
    """A class from the last token that is no padding."""
    sizes = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return built("GPT2", "ForSequenceClassification", num_labels=5, pad_token_id=0, **sizes)


def gpt_neo() -> nn.Module:
    """Local attention in every other layer, no scale (Black et al. 2021)."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_heads": 4, "max_position_embeddings": 64}
    kinds = [[["global", "local"], 1]]
    return built("GPTNeo", num_layers=2, attention_types=kinds, window_size=8, **sizes)


def gpt_neox() -> nn.Module:
    """Fused projections head by head, rotary over a part, MLP beside attention (Black et al. 2022)."""
    return built("GPTNeoX", **SMALL)


def gptj() -> nn.Module:
    """Interleaved rotary positions; one norm for attention and MLP (Wang and Komatsuzaki 2021)."""
    sizes = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return built("GPTJ", rotary_dim=4, **sizes)


def opt() -> nn.Module:
    """Learned positions with an offset of two, ReLU (Zhang et al. 2022)."""
    sizes = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
    return built("OPT", ffn_dim=64, word_embed_proj_dim=32, **sizes)


def bloom() -> nn.Module:
    """Positions as slopes by which attention falls with distance (Press et al. 2022)."""
    return built("Bloom", vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)


def falcon() -> nn.Module:
    """One key and value head for all query heads, fused (Almazrouei et al. 2023)."""
    sizes = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
    return built("Falcon", **sizes)


def llama() -> nn.Module:
    """Grouped queries, rotary positions, gated MLP, root-mean-square norms (Touvron et al. 2023)."""
    return built("Llama", num_key_value_heads=2, **SMALL)


def llama_classifier() -> nn.Module:
    """The same body with classes on top."""
    return built("Llama", "ForSequenceClassification", num_key_value_heads=2, num_labels=5, **SMALL)


def mistral() -> nn.Module:
    """Attention in a sliding window (Jiang et al. 2023)."""
    return built("Mistral", num_key_value_heads=2, sliding_window=8, **SMALL)


def mixtral() -> nn.Module:
    """Two of four experts for each token (Jiang et al. 2024)."""
    return built("Mixtral", num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, **SMALL)


def qwen2() -> nn.Module:
    """Biases on queries, keys and values only (Yang et al. 2024)."""
    return built("Qwen2", num_key_value_heads=2, **SMALL)


def qwen3() -> nn.Module:
    """Norms inside attention, heads of their own size (Yang et al. 2025)."""
    return built("Qwen3", num_key_value_heads=2, head_dim=16, **SMALL)


def phi() -> nn.Module:
    """Rotary positions over half of each head; MLP beside attention (Li et al. 2023)."""
    return built("Phi", partial_rotary_factor=0.5, **SMALL)


def phi3() -> nn.Module:
    """Queries, keys and values in one layer, gate and up in another (Abdin et al. 2024)."""
    return built("Phi3", num_key_value_heads=2, **SMALL)


def gemma() -> nn.Module:
    """Heads larger than their share, gains stored less one, tied embeddings (Mesnard et al. 2024)."""
    return built("Gemma", num_key_value_heads=1, head_dim=16, **SMALL)


def gemma2() -> nn.Module:
    """Capped scores, norms on both sides, local and global layers in turn (Riviere et al. 2024)."""
    return built("Gemma2", num_key_value_heads=2, head_dim=8, sliding_window=8, **SMALL)


def olmo2() -> nn.Module:
    """Norms behind attention and MLP instead of before them (OLMo team 2025)."""
    return built("Olmo2", num_key_value_heads=4, **SMALL)


def stablelm() -> nn.Module:
    """LayerNorm with rotary positions over a quarter of each head (Bellagente et al. 2024)."""
    return built("StableLm", num_key_value_heads=2, **SMALL)


def mamba() -> nn.Module:
    """Selective state spaces instead of attention (Gu and Dao 2023)."""
    return built("Mamba", vocab_size=VOCABULARY, hidden_size=24, num_hidden_layers=1, state_size=4)


MODELS = [
    ("fused qkv", gpt2, example_inputs),
    ("fused qkv", gpt2_classifier, ids_alone),
    ("text decoder", gpt_neo, example_inputs),
    ("fused qkv", gpt_neox, example_inputs),
    ("text decoder", gptj, ids_alone),
    ("text decoder", opt, example_inputs),
    ("fused qkv", bloom, example_inputs),
    ("fused qkv", falcon, example_inputs),
    ("text decoder", llama, example_inputs),
    ("text decoder", llama_classifier, ids_alone),
    ("text decoder", mistral, ids_alone),
    ("experts", mixtral, ids_alone),
    ("text decoder", qwen2, example_inputs),
    ("text decoder", qwen3, example_inputs),
    ("text decoder", phi, example_inputs),
    ("fused qkv", phi3, example_inputs),
    ("tied embeddings", gemma, example_inputs),
    ("tied embeddings", gemma2, ids_alone),
    ("text decoder", olmo2, ids_alone),
    ("text decoder", stablelm, ids_alone),
    ("text decoder", mamba, ids_alone),
]
"""Family, factory without arguments, example inputs."""
