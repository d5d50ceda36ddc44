"""Attention and its relatives on a sequence of vectors or image patches: encoders and mixers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def example_inputs() -> Tensor:
    """One sequence of 16 vectors."""
    return torch.randn(1, 16, 32)


def image() -> Tensor:
    """One colour image of 32 × 32."""
    return torch.randn(1, 3, 32, 32)


class Separate(nn.Module):
    """Self-attention with a projection each for queries, keys and values (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.depth = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            layer(x).view(batch, length, self.heads, self.depth).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = torch.softmax(q @ k.transpose(-2, -1) / self.depth**0.5, dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, self.heads * self.depth))


class Fused(nn.Module):
    """Self-attention with one layer for queries, keys and values together."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


class Library(nn.Module):
    """`nn.MultiheadAttention`, which keeps its three projections in one parameter."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Relative(nn.Module):
    """A learned bias for each head and distance, looked up in a table (Shaw et al. 2018, Liu et al. 2021)."""

    def __init__(self, width: int, heads: int, length: int = 16) -> None:
        super().__init__()
        self.heads, self.depth = heads, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table = nn.Parameter(torch.randn(2 * length - 1, heads) * 0.1)
        place = torch.arange(length)
        self.register_buffer("distance", place[:, None] - place[None, :] + length - 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, self.depth).transpose(1, 2)
            for part in self.qkv(x).chunk(3, -1)
        )
        bias = self.table[self.distance].permute(2, 0, 1)
        weights = torch.softmax(q @ k.transpose(-2, -1) * self.depth**-0.5 + bias, dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, -1))


class Linearised(nn.Module):
    """Attention in linear time: a positive feature map instead of the softmax (Katharopoulos et al. 2020)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)) for layer in (self.query, self.key, self.value))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        memory = torch.einsum("bnhd,bnhe->bhde", k, v)
        scale = torch.einsum("bnhd,bhd->bnh", q, k.sum(1))
        return self.out((torch.einsum("bnhd,bhde->bnhe", q, memory) / scale[..., None]).flatten(2))


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and added to its input."""

    def __init__(self, attention: nn.Module, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = attention
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """Two blocks, averaged over positions, and a linear layer."""

    def __init__(self, attention: type[nn.Module], width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(attention(width, heads), width, 2 * width) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(x)).mean(1))


def separate_qkv() -> nn.Module:
    """An encoder with three projections."""
    return Encoder(Separate)


def fused_qkv() -> nn.Module:
    """An encoder with one projection for all three."""
    return Encoder(Fused)


def multihead_attention() -> nn.Module:
    """An encoder around torch's own attention."""
    return Encoder(Library)


def relative_bias() -> nn.Module:
    """An encoder with relative positions."""
    return Encoder(Relative)


def linear_attention() -> nn.Module:
    """An encoder without softmax."""
    return Encoder(Linearised)


class LibraryEncoder(nn.Module):
    """`nn.TransformerEncoder`, which has a fused fast path of its own in eval mode."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, norm_first=False)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)[:, 0])


class PatchTransformer(nn.Module):
    """A plain vision transformer: patches, a class token, learned positions (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.place = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(Fused(width, 4), width, 3 * width) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.place
        return self.head(self.norm(self.blocks(x))[:, 0])


class Windowed(nn.Module):
    """Attention in windows of 4 × 4, shifted in every second block by a roll (Liu et al. 2021)."""

    def __init__(self, width: int, shift: int) -> None:
        super().__init__()
        self.shift, self.block = shift, Block(Relative(width, 4), width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        batch, height, width, channels = x.shape
        x = x.view(batch, height // 4, 4, width // 4, 4, channels).transpose(2, 3)
        x = self.block(x.reshape(-1, 16, channels))
        x = x.view(batch, height // 4, width // 4, 4, 4, channels).transpose(2, 3)
        return torch.roll(x.reshape(batch, height, width, channels), (self.shift, self.shift), (1, 2))


class WindowTransformer(nn.Module):
    """Two windowed blocks, four neighbours merged into one, and two more."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.stage1 = nn.Sequential(Windowed(32, 0), Windowed(32, 2))
        self.norm, self.merge = nn.LayerNorm(128), nn.Linear(128, 48)
        self.stage2 = nn.Sequential(Windowed(48, 0), Windowed(48, 2))
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage1(self.patches(x).permute(0, 2, 3, 1))
        x = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
        x = self.stage2(self.merge(self.norm(x)))
        return self.head(x.mean((1, 2)))


class ConvolutionalAttention(nn.Module):
    """Queries from pixels, keys and values from a convolution with stride: fewer of them (Wu et al. 2021)."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Conv2d(width, width, 1)
        self.reduce = nn.Sequential(
            nn.Conv2d(width, width, 3, 2, 1, groups=width),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, 2 * width, 1),
        )
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        q = self.query(x).flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)
        k, v = self.reduce(x).flatten(2).unflatten(1, (2, self.heads, -1)).unbind(1)
        y = torch.softmax(q @ k / k.shape[2] ** 0.5, -1) @ v.transpose(2, 3)
        return x + self.out(y.transpose(2, 3).reshape(shape))


def convolutional_attention() -> nn.Module:
    """Convolutions around attention over pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 4, 1),
        nn.ReLU(),
        ConvolutionalAttention(),
        nn.Conv2d(32, 64, 1),
        nn.GELU(),
        nn.Conv2d(64, 32, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


class PoolBlock(nn.Module):
    """Average pooling instead of attention (Yu et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.mlp = nn.Sequential(nn.Conv2d(width, 3 * width, 1), nn.GELU(), nn.Conv2d(3 * width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.pool(y) - y
        return x + self.mlp(self.norm2(x))


def pooled_transformer() -> nn.Module:
    """Two blocks that mix by pooling."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 4, 4),
        PoolBlock(32),
        PoolBlock(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


class MixerBlock(nn.Module):
    """An MLP across positions, then one across channels (Tolstikhin et al. 2021)."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(length, 32), nn.GELU(), nn.Linear(32, length))
        self.channels = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """Patches and two mixer blocks."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.blocks = nn.Sequential(MixerBlock(16, width), MixerBlock(16, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


class GatedMixer(nn.Module):
    """Half of the channels, mixed across positions, gates the other half (Liu et al. 2021, gMLP)."""

    def __init__(self, width: int = 32, hidden: int = 64, length: int = 16) -> None:
        super().__init__()
        self.norm, self.enter = nn.LayerNorm(width), nn.Linear(width, 2 * hidden)
        self.gate_norm, self.mix = nn.LayerNorm(hidden), nn.Conv1d(length, length, 1)
        self.leave, self.head = nn.Linear(hidden, width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.enter(self.norm(x))).chunk(2, dim=-1)
        x = x + self.leave(u * self.mix(self.gate_norm(v)))
        return self.head(x.mean(1))


class LatentReader(nn.Module):
    """A few learned vectors read the sequence by cross-attention (Jaegle et al. 2021)."""

    def __init__(self, width: int = 32, latents: int = 4) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, width))
        self.key, self.value = nn.Linear(width, 24), nn.Linear(width, 48)
        self.query = nn.Linear(width, 24)
        self.block, self.out = Block(Separate(width, 2), width, 64), nn.Linear(48, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(self.latents).unflatten(-1, (4, 6)).transpose(0, 1)
        k = self.key(x).unflatten(-1, (4, 6)).transpose(1, 2)
        v = self.value(x).unflatten(-1, (4, 12)).transpose(1, 2)
        read = F.scaled_dot_product_attention(q.expand(x.shape[0], -1, -1, -1), k, v)
        y = self.latents + self.out(read.transpose(1, 2).flatten(2))
        return self.head(self.block(y).mean(1))


MODELS = [
    ("text encoder", separate_qkv, example_inputs),
    ("fused qkv", fused_qkv, example_inputs),
    ("text encoder", multihead_attention, example_inputs),
    ("relative positions", relative_bias, example_inputs),
    ("text encoder", linear_attention, example_inputs),
    ("text encoder", LibraryEncoder, example_inputs),
    ("vision transformer, plain", PatchTransformer, image),
    ("vision transformer, windowed", WindowTransformer, image),
    ("vision transformer, convolutional", convolutional_attention, image),
    ("vision transformer, pooled", pooled_transformer, image),
    ("MLP-Mixer", Mixer, image),
    ("MLP-Mixer", GatedMixer, example_inputs),
    ("text encoder", LatentReader, example_inputs),
]
"""Family, factory without arguments, example inputs."""
