"""Small networks that take and return anything but one tensor, for tests of export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass
class Answer:
    """What `Tagger` returns: one tensor by name, one that is missing, one more."""

    logits: torch.Tensor
    hidden: torch.Tensor | None = None
    words: torch.Tensor | None = None


class Tagger(nn.Module):
    """Token ids and a mask by keyword, a dataclass back."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, width)
        self.middle = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Answer:
        mask = attention_mask[..., None].float()
        words = torch.relu(self.middle(self.embedding(input_ids))) * mask
        mean = words.sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        return Answer(self.head(words + mean), words=words)


class Pair(nn.Module):
    """Two tensors by position, two back."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 4), nn.Linear(3, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        both = torch.relu(self.left(x)) + self.right(y)
        return both, {"sum": both.sum(1)}


class Branches(nn.Module):
    """A network that decides by values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x * 3


class OneByOne(nn.Module):
    """A network that is written for a batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.reshape(1, 6))


def words(length: int = 6) -> dict[str, torch.Tensor]:
    """One example for `Tagger` and the transformers, its last third padded."""
    ids = torch.arange(1, length + 1)[None]
    mask = torch.ones_like(ids)
    mask[:, length - length // 3 :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def tiny_bert() -> nn.Module:
    """A text classifier of transformers with random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    return _seeded(BertForSequenceClassification, BertConfig, intermediate_size=32, num_labels=3)


def tiny_gpt2() -> nn.Module:
    """A language model with learned positions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return _seeded(GPT2LMHeadModel, GPT2Config, bos_token_id=0, eos_token_id=0)


def tiny_llama() -> nn.Module:
    """A language model with rotary positions, gated layers and shared keys."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return _seeded(LlamaForCausalLM, LlamaConfig, num_key_value_heads=2, intermediate_size=32)


def tiny_vit() -> nn.Module:
    """An image classifier of transformers."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"image_size": 16, "patch_size": 8, "intermediate_size": 32, "num_labels": 3}
    return _seeded(ViTForImageClassification, ViTConfig, **sizes)


def tiny_timm_vit() -> nn.Module:
    """An image classifier of timm."""
    import timm

    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 4, "num_classes": 3}
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **sizes).eval()


def _seeded(network: Any, config: Any, **fields: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    made: nn.Module = network(config(**sizes, max_position_embeddings=16, **fields)).eval()
    return made
