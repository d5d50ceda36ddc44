"""Small networks on sequences: attention in its many wirings, recurrence, mixing over positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

WORDS, WIDTH, LENGTH = 11, 12, 6


def rms(x: torch.Tensor) -> torch.Tensor:
    """A norm without weights."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def turned(x: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """Rotary positions on (batch, heads, length, width): pairs of neighbours, or of the two halves."""
    half = x.shape[-1] // 2
    angle = torch.outer(torch.arange(x.shape[-2]), 10.0 ** -torch.arange(half)).to(x)
    if interleaved:
        a, b = x[..., ::2], x[..., 1::2]
        return torch.stack(
            [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1
        ).flatten(-2)
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """Attention by plain products, with a scale that does not depend on the width."""
    return ((q @ k.transpose(-2, -1)) * 0.4 + bias).softmax(-1) @ v


class Block(nn.Module):
    """Embeddings, one attention behind a norm, an MLP and a classifier; how to attend is left to subclasses."""

    tokens = True

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(WORDS, WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down, self.head = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH), nn.Linear(WIDTH, 3)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.heads, self.head_dim = 3, 4
        self.build()

    def build(self) -> None:
        """The layers of the attention."""
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def attention(self, x):
        """(batch, length, width) to the same."""
        raise NotImplementedError

    def split(self, x, heads):
        """(batch, length, width) to (batch, heads, length, width of a head)."""
        return x.view(*x.shape[:2], heads, self.head_dim).transpose(1, 2)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.out(self.attention(self.norm(x)))
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


class Separate(Block):
    """Three projections."""

    def attention(self, x):
        q, k, v = (self.split(layer(x), self.heads) for layer in (self.q, self.k, self.v))
        return attend(q, k, v).transpose(1, 2).flatten(2)


class Fused(Block):
    """One projection, laid out (3, heads, width)."""

    def build(self):
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def attention(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return attend(q, k, v).transpose(1, 2).flatten(2)


class FusedByHead(Fused):
    """One projection, laid out (heads, 3 × width)."""

    def attention(self, x):
        x = self.qkv(x).view(*x.shape[:2], self.heads, 3 * self.head_dim).transpose(1, 2)
        return attend(*x.split(self.head_dim, -1)).transpose(1, 2).flatten(2)


class GroupedQueries(Block):
    """Six query heads share three heads of keys and values."""

    def build(self):
        self.q, self.k, self.v = nn.Linear(WIDTH, 24), nn.Linear(WIDTH, 12), nn.Linear(WIDTH, 12)
        self.out = nn.Linear(24, WIDTH)

    def attention(self, x):
        q = self.split(self.q(x), 2 * self.heads)
        k, v = (self.split(layer(x), self.heads).repeat_interleave(2, 1) for layer in (self.k, self.v))
        return attend(q, k, v).transpose(1, 2).flatten(2)


class Rotary(Block):
    """Positions by turning the halves of each head."""

    interleaved = False

    def attention(self, x):
        q, k, v = (self.split(layer(x), self.heads) for layer in (self.q, self.k, self.v))
        q, k = turned(q, self.interleaved), turned(k, self.interleaved)
        return attend(q, k, v).transpose(1, 2).flatten(2)


class RotaryInterleaved(Rotary):
    """Positions by turning neighbours in each head."""

    interleaved = True


class RelativeBias(Separate):
    """A learned bias for each distance and head, looked up in a table."""

    def build(self):
        super().build()
        self.table = nn.Embedding(2 * LENGTH - 1, self.heads)

    def attention(self, x):
        q, k, v = (self.split(layer(x), self.heads) for layer in (self.q, self.k, self.v))
        places = torch.arange(x.shape[1])
        bias = self.table(places[:, None] - places[None] + LENGTH - 1).permute(2, 0, 1)
        return attend(q, k, v, bias).transpose(1, 2).flatten(2)


class Windowed(Separate):
    """Attention within windows of three positions."""

    def attention(self, x):
        batch, length, width = x.shape
        windows = super().attention(x.view(batch * length // 3, 3, width))
        return windows.reshape(batch, length, -1)


class TorchAttention(Block):
    """nn.MultiheadAttention, in which heads are written into functional code."""

    def build(self):
        self.attends = nn.MultiheadAttention(WIDTH, 3, batch_first=True)

    def attention(self, x):
        return self.attends(x, x, x, need_weights=False)[0]


class Gated(Separate):
    """An MLP of which one half gates the other, behind a norm without weights."""

    def build(self):
        super().build()
        self.up, self.gate = nn.Linear(WIDTH, 20, bias=False), nn.Linear(WIDTH, 20, bias=False)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.out(self.attention(rms(x)))
        return self.head((x + self.down(F.silu(self.gate(rms(x))) * self.up(rms(x)))).mean(1))


class SharedLayers(Separate):
    """The same block twice (ALBERT)."""

    def forward(self, x):
        x = self.embed(x)
        for _ in range(2):
            x = x + self.out(self.attention(self.norm(x)))
            x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x.mean(1))


class TiedEmbedding(Separate):
    """Words are read and predicted with one table."""

    def build(self):
        super().build()
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight


class Experts(Block):
    """Two of four experts answer, as one product in batches."""

    def build(self):
        self.route = nn.Linear(WIDTH, 4)
        self.enter, self.leave = (
            nn.Parameter(torch.randn(4, WIDTH, 10)),
            nn.Parameter(torch.randn(4, 10, WIDTH)),
        )

    def attention(self, x):
        weights = self.route(x).softmax(-1)
        weights = torch.where(weights >= weights.topk(2).values[..., -1:], weights, 0.0)
        hidden = F.relu(torch.einsum("btc,ech->bteh", x, self.enter))
        return torch.einsum("bteh,ehc,bte->btc", hidden, self.leave, weights)


class VisionTransformer(Separate):
    """Patches, a class token and learned positions."""

    tokens = False
    shape = (1, 3, 8, 8)

    def build(self):
        super().build()
        self.patch, self.start = nn.Conv2d(3, WIDTH, 4, stride=4), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.position = nn.Parameter(torch.randn(1, 5, WIDTH))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.start.expand(len(x), -1, -1), x], 1) + self.position
        x = x + self.out(self.attention(self.norm(x)))
        return self.head(x[:, 0] + self.down(F.gelu(self.up(x[:, 0]))))


class Mixer(nn.Module):
    """Linear layers over positions and over channels in turn."""

    shape = (1, LENGTH, WIDTH)

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.tokens_up, self.tokens_down = nn.Linear(LENGTH, 16), nn.Linear(16, LENGTH)
        self.up, self.down, self.head = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x):
        x = x + self.tokens_down(F.gelu(self.tokens_up(self.norm(x).transpose(1, 2)))).transpose(1, 2)
        return self.head((x + self.down(F.gelu(self.up(self.norm(x))))).mean(1))


class Recurrent(nn.Module):
    """Embeddings read by a recurrent layer."""

    tokens = True

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.read = nn.Embedding(WORDS, 8), self.layer()
        self.head = nn.Linear(2 * 6 if self.read.bidirectional else 6, 3)

    def layer(self) -> nn.RNNBase:
        """The recurrent layer, of 6 units."""
        return nn.LSTM(8, 6, batch_first=True)

    def forward(self, x):
        return self.head(self.read(self.embed(x))[0][:, -1])


class Gru(Recurrent):
    """Gated recurrent units."""

    def layer(self):
        return nn.GRU(8, 6, batch_first=True)


class BothWays(Recurrent):
    """Two layers, each forwards and backwards."""

    def layer(self):
        return nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True)


FAMILIES = (
    Separate,
    Fused,
    FusedByHead,
    GroupedQueries,
    Rotary,
    RotaryInterleaved,
    RelativeBias,
    Windowed,
    TorchAttention,
    Gated,
    SharedLayers,
    TiedEmbedding,
    Experts,
    VisionTransformer,
    Mixer,
    Recurrent,
    Gru,
    BothWays,
)


def sequence_example(kind: type[nn.Module]) -> torch.Tensor:
    """What a network takes, one example of it: token ids, or values."""
    generator = torch.Generator().manual_seed(1)
    if getattr(kind, "tokens", False):
        return torch.randint(0, WORDS, (1, LENGTH), generator=generator)
    return torch.randn(*kind.shape, generator=generator)
