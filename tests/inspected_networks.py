"""Networks that `autoprune check` is tried on, as a stranger would write them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


def example_inputs():
    return torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))


class FusedAttention(nn.Module):
    """A transformer whose head width is computed from its input: only its graph can lose heads."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(8, 32), nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.wide, self.thin, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 5)

    def forward(self, x):
        x = self.embed(x)
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) * (width // 4) ** -0.5).softmax(-1)
        x = x + self.out((attention @ v).transpose(1, 2).reshape(batch, length, width))
        return self.head((x + self.thin(F.gelu(self.wide(x)))).mean(1))


@dataclass
class Result:
    logits: torch.Tensor
    features: torch.Tensor


class TwoInputs(nn.Module):
    """Tokens and numbers in, a dataclass out."""

    def __init__(self):
        super().__init__()
        self.tokens, self.numbers = nn.Embedding(20, 8), nn.Linear(4, 8)
        self.hidden, self.head = nn.Linear(16, 24), nn.Linear(24, 3)

    def forward(self, ids, x):
        features = torch.relu(self.hidden(torch.cat([self.tokens(ids).mean(1), self.numbers(x)], -1)))
        return Result(self.head(features), features)


class ByValue(nn.Module):
    """Its path depends on its inputs: no graph holds it."""

    def __init__(self):
        super().__init__()
        self.first, self.one, self.other = nn.Linear(8, 16), nn.Linear(16, 5), nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.one(x) if x[0, 0, 0] > -1 else self.other(x)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x):
        return self.linear(x + torch.rand_like(x))


def small_bert():
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return BertForSequenceClassification(BertConfig(vocab_size=50, **sizes))
