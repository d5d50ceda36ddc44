"""Rows of a table in: embeddings of categories, plain and gated MLPs, autoencoders, experts."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def example_inputs() -> Tensor:
    """Sixteen numbers."""
    return torch.randn(1, 16)


def categories_and_numbers() -> tuple[Tensor, Tensor]:
    """Three categories and five numbers."""
    return torch.randint(0, 8, (1, 3)), torch.randn(1, 5)


class Columns(nn.Module):
    """An embedding for each categorical column, concatenated with the numbers, then an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.columns = nn.ModuleList(nn.Embedding(8, 6) for _ in range(3))
        self.norm = nn.BatchNorm1d(5)
        self.hidden1, self.hidden2, self.head = nn.Linear(23, 48), nn.Linear(48, 32), nn.Linear(32, 2)

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        embedded = [column(categories[:, i]) for i, column in enumerate(self.columns)]
        x = torch.cat([*embedded, self.norm(numbers)], dim=1)
        return self.head(F.relu(self.hidden2(F.relu(self.hidden1(x)))))


class CrossNetwork(nn.Module):
    """Explicit feature crosses beside an MLP (Wang et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.crosses = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.deep = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU())
        self.head = nn.Linear(48, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for cross in self.crosses:
            y = x * cross(y) + y
        return self.head(torch.cat([y, self.deep(x)], 1)).squeeze(1)


def mlp() -> nn.Module:
    """Linear layers, BatchNorm and dropout."""
    return nn.Sequential(
        nn.Linear(16, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(64, 48),
        nn.BatchNorm1d(48),
        nn.ReLU(),
        nn.Linear(48, 5),
    )


class ResidualMlp(nn.Module):
    """Two residual blocks, pre-normalised (Gorishniy et al. 2021)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Linear(16, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, width))
            for _ in range(2)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(F.relu(x))


class GatedMlp(nn.Module):
    """`F.glu`: the second half of each layer gates the first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.head = nn.Linear(16, 96), nn.Linear(48, 64), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.glu(self.layer2(F.glu(self.layer1(x)))))


def autoencoder() -> nn.Module:
    """A narrow waist; the reconstruction error is an anomaly score."""
    widths = [16, 48, 24, 6, 24, 48]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ELU()]
    return nn.Sequential(*layers, nn.Linear(48, 16))


class TiedAutoencoder(nn.Module):
    """The decoder is the encoder, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder1, self.encoder2 = nn.Linear(16, 40), nn.Linear(40, 12)
        self.bias1, self.bias2 = nn.Parameter(torch.zeros(40)), nn.Parameter(torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(self.encoder2(torch.tanh(self.encoder1(x))))
        y = torch.tanh(F.linear(code, self.encoder2.weight.t(), self.bias1))
        return F.linear(y, self.encoder1.weight.t(), self.bias2)


class SplineLayer(nn.Module):
    """A learned function on each edge, as a sum of bumps (Liu et al. 2024, with radial basis functions)."""

    def __init__(self, inputs: int, outputs: int, bumps: int = 5) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(-2, 2, bumps))
        self.weight = nn.Parameter(torch.randn(outputs, inputs, bumps) * 0.1)
        self.base = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.exp(-((x[..., None] - self.centres) ** 2))
        return self.base(F.silu(x)) + torch.einsum("bif,oif->bo", bumps, self.weight)


def spline_network() -> nn.Module:
    """Three layers of learned edge functions."""
    return nn.Sequential(SplineLayer(16, 24), SplineLayer(24, 16), SplineLayer(16, 5))


class Experts(nn.Module):
    """All experts answer; a softmax gate weighs them (Jacobs et al. 1991)."""

    def __init__(self, experts: int = 4) -> None:
        super().__init__()
        self.enter, self.gate = nn.Linear(16, 32), nn.Linear(32, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 32)) for _ in range(experts)
        )
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.enter(x))
        weight = torch.softmax(self.gate(x), dim=-1)
        answers = torch.stack([expert(x) for expert in self.experts], dim=1)
        return self.head((answers * weight[..., None]).sum(1))


class TopExpert(nn.Module):
    """Only the two best experts of each row count; their weights are stacked in two parameters (Fedus et al. 2022)."""

    def __init__(self, experts: int = 4) -> None:
        super().__init__()
        self.experts = experts
        self.gate, self.head = nn.Linear(16, experts, bias=False), nn.Linear(16, 5)
        self.up = nn.Parameter(torch.randn(experts, 16, 40) * 0.2)
        self.down = nn.Parameter(torch.randn(experts, 40, 16) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        best, chosen = self.gate(x).softmax(-1).topk(2, dim=-1)
        weight = torch.zeros(x.shape[0], self.experts, device=x.device).scatter(1, chosen, best)
        hidden = F.gelu(torch.einsum("bi,eih->beh", x, self.up))
        answers = torch.einsum("beh,eho->beo", hidden, self.down)
        return self.head(x + (answers * weight[..., None]).sum(1))


class ColumnTransformer(nn.Module):
    """Each column becomes a token, numbers by a scale and an offset of their own (Gorishniy et al. 2021)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(5, width) * 0.2)
        self.offset = nn.Parameter(torch.randn(5, width) * 0.2)
        self.categories = nn.Embedding(24, width)
        self.register_buffer("start", torch.tensor([0, 8, 16]))
        layer = nn.TransformerEncoderLayer(width, 4, 64, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 2)

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        tokens = numbers[..., None] * self.scale + self.offset
        x = torch.cat([self.categories(categories + self.start), tokens], dim=1)
        return self.head(self.encoder(x).mean(1))


MODELS = [
    ("tabular", Columns, categories_and_numbers),
    ("tabular", CrossNetwork, example_inputs),
    ("tabular", mlp, example_inputs),
    ("tabular", ResidualMlp, example_inputs),
    ("gated linear units", GatedMlp, example_inputs),
    ("autoencoder", autoencoder, example_inputs),
    ("autoencoder", TiedAutoencoder, example_inputs),
    ("tabular", spline_network, example_inputs),
    ("experts", Experts, example_inputs),
    ("experts", TopExpert, example_inputs),
    ("tabular", ColumnTransformer, categories_and_numbers),
]
"""Family, factory without arguments, example inputs."""
