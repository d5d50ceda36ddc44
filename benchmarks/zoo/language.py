"""Token ids in: decoders and encoders of our own with rotary positions, grouped queries, shared and tied weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY = 120


def example_inputs() -> Tensor:
    """One text of 16 tokens."""
    return torch.randint(1, VOCABULARY, (1, 16))


def text_and_mask() -> dict[str, Tensor]:
    """One text of 16 tokens, the last four of them padding."""
    return {"ids": torch.randint(1, VOCABULARY, (1, 16)), "mask": (torch.arange(16) < 12).long()[None]}


class RootMeanSquare(nn.Module):
    """A norm without mean (Zhang and Sennrich 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class GatedMlp(nn.Module):
    """One layer gates another (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs of features turned by an angle that grows with the position (Su et al. 2021)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class GroupedQueries(nn.Module):
    """Causal attention in which several query heads share one key and value head (Ainslie et al. 2023)."""

    def __init__(self, width: int, heads: int, shared: int, length: int = 64) -> None:
        super().__init__()
        self.heads, self.shared, self.depth = heads, shared, width // heads
        self.query = nn.Linear(width, heads * self.depth, bias=False)
        self.key, self.value = (nn.Linear(width, shared * self.depth, bias=False) for _ in range(2))
        self.out = nn.Linear(heads * self.depth, width, bias=False)
        rates = 10_000 ** (-torch.arange(0, self.depth, 2) / self.depth)
        angles = torch.arange(length)[:, None] * rates
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.query(x).view(batch, length, self.heads, self.depth).transpose(1, 2)
        k = self.key(x).view(batch, length, self.shared, self.depth).transpose(1, 2)
        v = self.value(x).view(batch, length, self.shared, self.depth).transpose(1, 2)
        cos, sin = self.cos[:length], self.sin[:length]
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        k, v = (t.repeat_interleave(self.heads // self.shared, dim=1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, -1))


class RotaryBlock(nn.Module):
    """Grouped queries and a gated MLP, each behind a root-mean-square norm."""

    def __init__(self, width: int, heads: int, shared: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = RootMeanSquare(width), RootMeanSquare(width)
        self.attention, self.mlp = GroupedQueries(width, heads, shared), GatedMlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class RotaryDecoder(nn.Module):
    """Rotary blocks between an embedding and a layer that predicts the next token."""

    def __init__(self, width: int = 32, heads: int = 4, shared: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(RotaryBlock(width, heads, shared, 3 * width) for _ in range(2))
        self.norm, self.head = RootMeanSquare(width), nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def one_key_head() -> nn.Module:
    """All query heads share one key and value head (Shazeer 2019)."""
    return RotaryDecoder(32, 4, 1)


class CausalAttention(nn.Module):
    """One layer for queries, keys and values, and a mask kept in a buffer."""

    def __init__(self, width: int, heads: int, length: int = 32) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.register_buffer("past", torch.tril(torch.ones(length, length)).bool())

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        q, k, v = self.qkv(x).split(self.width, dim=2)
        q, k, v = (
            t.view(*t.shape[:2], self.heads, self.width // self.heads).transpose(1, 2) for t in (q, k, v)
        )
        scores = q @ k.transpose(2, 3) / (self.width // self.heads) ** 0.5
        scores = scores.masked_fill(~self.past[:length, :length], float("-inf"))
        y = torch.softmax(scores, -1) @ v
        return self.out(y.transpose(1, 2).contiguous().view(*x.shape[:2], self.width))


class TiedDecoder(nn.Module):
    """A decoder whose last layer is its token embedding (Press and Wolf 2017)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(32, width)
        self.attention = nn.ModuleList(CausalAttention(width, 4) for _ in range(2))
        self.enter = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(2))
        self.leave = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for i in range(2):
            x = x + self.attention[i](self.norms[2 * i](x))
            x = x + self.leave[i](F.gelu(self.enter[i](self.norms[2 * i + 1](x))))
        return self.head(self.norms[4](x))


class SharedEncoder(nn.Module):
    """One layer applied three times; embeddings narrower than the rest (Lan et al. 2020)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.tokens, self.widen = nn.Embedding(VOCABULARY, 16), nn.Linear(16, width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.enter, self.leave = nn.Linear(width, 96), nn.Linear(96, width)
        self.norm1, self.norm2, self.head = nn.LayerNorm(width), nn.LayerNorm(width), nn.Linear(width, 5)

    def layer(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attention among the tokens that are no padding, and an MLP."""
        q, k, v = (f(x).unflatten(-1, (4, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None].bool())
        x = self.norm1(x + self.out(y.transpose(1, 2).flatten(2)))
        return self.norm2(x + self.leave(F.gelu(self.enter(x))))

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.widen(self.tokens(ids))
        for _ in range(3):
            x = self.layer(x, mask)
        pooled = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {"logits": self.head(pooled), "pooled": pooled}


class BucketedEncoder(nn.Module):
    """Relative positions in buckets, looked up once and used by both layers (Raffel et al. 2020)."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(9, heads)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(2))
        self.mlp = nn.ModuleList(GatedMlp(width, 2 * width) for _ in range(2))
        self.norms = nn.ModuleList(RootMeanSquare(width) for _ in range(4))
        self.head = nn.Linear(width, 5)

    def forward(self, ids: Tensor) -> Tensor:
        place = torch.arange(ids.shape[1], device=ids.device)
        bias = self.places((place[:, None] - place[None, :]).clamp(-4, 4) + 4).permute(2, 0, 1)
        x = self.tokens(ids)
        for i in range(2):
            both = self.qkv[i](self.norms[2 * i](x)).unflatten(-1, (3, self.heads, -1))
            q, k, v = (part.transpose(1, 2) for part in both.unbind(2))
            y = torch.softmax(q @ k.transpose(2, 3) + bias, -1) @ v
            x = x + self.out[i](y.transpose(1, 2).flatten(2))
            x = x + self.mlp[i](self.norms[2 * i + 1](x))
        return self.head(x[:, 0])


class Translator(nn.Module):
    """`nn.Transformer`: an encoder and a decoder that reads it; two inputs, one shared embedding."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.places = nn.Parameter(torch.randn(32, width) * 0.1)
        self.body = nn.Transformer(width, 4, 1, 1, 2 * width, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        source, target = (self.tokens(t) + self.places[: t.shape[1]] for t in (source, target))
        length = target.shape[1]
        future = torch.triu(torch.ones(length, length, dtype=torch.bool, device=target.device), 1)
        return self.head(self.body(source, target, tgt_mask=future))


def two_texts() -> tuple[Tensor, Tensor]:
    """A text of 12 tokens and one of 8."""
    return torch.randint(1, VOCABULARY, (1, 12)), torch.randint(1, VOCABULARY, (1, 8))


MODELS = [
    ("text decoder", RotaryDecoder, example_inputs),
    ("text decoder", one_key_head, example_inputs),
    ("tied embeddings", TiedDecoder, example_inputs),
    ("shared layers", SharedEncoder, text_and_mask),
    ("relative positions", BucketedEncoder, example_inputs),
    ("text decoder", Translator, two_texts),
]
"""Family, factory without arguments, example inputs."""
