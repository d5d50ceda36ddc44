"""A family of small vision transformers (Dosovitskiy et al. 2021): patches as tokens, and their mean at the end.

The defaults are the uncompressed baseline; a spec searches the arguments under `space.architecture`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Every patch looks at every patch.

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
        """Tokens `(N, T, width)` after a look."""
        examples, length, _ = tokens.shape
        shape = (examples, length, self.num_heads, self.head_dim)
        query, key, value = (
            layer(tokens).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(query, key, value)
        mixed: torch.Tensor = self.output(seen.transpose(1, 2).reshape(examples, length, -1))
        return mixed


class Block(nn.Module):
    """Attention, then two linear layers for each token on its own; both add to what came in."""

    def __init__(self, width: int, heads: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, head_dim)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens `(N, T, width)` after the block."""
        tokens = tokens + self.attention(self.norm1(tokens))
        added: torch.Tensor = self.fc2(F.gelu(self.fc1(self.norm2(tokens))))
        return tokens + added


class ViT(nn.Module):
    """Patches and their places as tokens, blocks, the mean over the tokens, and one linear layer.

    Args:
        size: pixels along each side of an image, a multiple of `patch`.
        patch: pixels along each side of a patch.
        in_channels: of the images.
        classes: number of outputs.
        depth: number of blocks; fewer are the first ones.
        width: numbers per token, the embedding.
        heads: attention heads in a block, `head_dim` numbers wide each.
        head_dim: see `heads`.
        mlp_ratio: hidden units of a block, as a multiple of `width`.

    Raises:
        ValueError: patches that do not fill the image, or nothing where there has to be something.
    """

    def __init__(
        self,
        *,
        size: int = 28,
        patch: int = 4,
        in_channels: int = 1,
        classes: int = 10,
        depth: int = 4,
        width: int = 64,
        heads: int = 4,
        head_dim: int = 16,
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        if size % patch or min(depth, width, heads, head_dim) < 1 or mlp_ratio <= 0:
            raise ValueError(
                f"ViT: got size={size}, patch={patch}, depth={depth}, width={width}, heads={heads}, "
                f"head_dim={head_dim}, mlp_ratio={mlp_ratio}; expected a size that patches fill, and positive numbers"
            )
        self.patches = nn.Conv2d(in_channels, width, patch, patch)
        self.places = nn.Parameter(torch.randn(1, (size // patch) ** 2, width) * 0.02)
        hidden = max(1, round(width * mlp_ratio))
        self.blocks = nn.ModuleList(Block(width, heads, head_dim, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `(N, classes)` of images `(N, in_channels, size, size)`."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            tokens = block(tokens)
        logits: torch.Tensor = self.head(self.norm(tokens).mean(1))
        return logits
