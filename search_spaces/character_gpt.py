"""A family of small language models: the decoder of GPT-2 (Radford et al. 2019).

The defaults are the uncompressed baseline; a spec searches the arguments under `space.architecture`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class CausalAttention(nn.Module):
    """Every token looks at itself and at those before it.

    Args:
        width: numbers per token.
        heads: looks at once, each `head_dim` numbers wide.
        head_dim: of the queries, keys and values of a head.
    """

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, head_dim
        self.query = nn.Linear(width, heads * head_dim)
        self.key = nn.Linear(width, heads * head_dim)
        self.value = nn.Linear(width, heads * head_dim)
        self.output = nn.Linear(heads * head_dim, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens `(N, T, width)` after a look back."""
        examples, length, _ = tokens.shape
        shape = (examples, length, self.num_heads, self.head_dim)
        query, key, value = (
            layer(tokens).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed: torch.Tensor = self.output(seen.transpose(1, 2).reshape(examples, length, -1))
        return mixed


class Block(nn.Module):
    """Attention, then two linear layers for each token on its own; both add to what came in."""

    def __init__(self, width: int, heads: int, head_dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, head_dim)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens `(N, T, width)` after the block."""
        tokens = tokens + self.dropout(self.attention(self.norm1(tokens)))
        added: torch.Tensor = self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(tokens)))))
        return tokens + added


class CharacterGPT(nn.Module):
    """Token and position embeddings, blocks that look back only, and scores of the next token.

    Args:
        vocabulary: number of token ids.
        length: most tokens in a text.
        depth: number of blocks.
        width: numbers per token.
        heads: attention heads in a block, `head_dim` numbers wide each.
        head_dim: see `heads`.
        mlp_ratio: hidden units of a block, as a multiple of `width`.
        dropout: share of numbers dropped in training.
    """

    def __init__(
        self,
        *,
        vocabulary: int = 65,
        length: int = 64,
        depth: int = 4,
        width: int = 128,
        heads: int = 4,
        head_dim: int = 32,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(length, width)
        self.numbers: torch.Tensor
        self.register_buffer("numbers", torch.arange(length), persistent=False)
        hidden = max(1, round(width * mlp_ratio))
        self.blocks = nn.ModuleList(Block(width, heads, head_dim, hidden, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.apply(_initialise)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits `(N, T, vocabulary)` of the token after each of `(N, T)` token ids."""
        tokens = self.tokens(ids) + self.places(self.numbers[: ids.shape[1]])
        for block in self.blocks:
            tokens = block(tokens)
        logits: torch.Tensor = self.head(self.norm(tokens))
        return logits


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
