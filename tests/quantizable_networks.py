"""Small networks, one for each way in which tensors meet, on which quantization and targets are tried."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs: int, outputs: int, kernel: int = 3, **options: int) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = conv(3, 16), conv(16, 16), conv(16, 16)
        self.down, self.shortcut = conv(16, 32, stride=2), conv(16, 32, 1, stride=2)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.two(F.relu(self.one(x))))
        x = F.relu(self.down(x) + self.shortcut(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class PaddedShortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.head = conv(3, 16), conv(16, 32, stride=2), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.down(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)))
        return self.head(x.mean(dim=(2, 3)))


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.narrow = conv(3, 16), conv(16, 16, 5), conv(16, 16, 1)
        self.last, self.head = conv(48, 16), nn.Linear(16 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        x = torch.cat([x, F.relu(self.wide(x)), F.relu(self.narrow(x))], dim=1)
        x = F.avg_pool2d(F.relu(self.last(x)), 2)
        return self.head(torch.flatten(x, 1))


class Separable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = conv(3, 16), conv(16, 16, groups=16)
        self.pointwise, self.act = conv(16, 32, 1), nn.ReLU6()
        self.squeeze, self.excite = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.pointwise(self.act(self.depthwise(F.silu(self.stem(x))))))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(self.pool(x)))))
        return self.head(self.pool(x).flatten(1))


class PreActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.one = (
            nn.Conv2d(3, 16, 3),
            nn.BatchNorm2d(16),
            nn.Conv2d(16, 16, 3, padding=1),
        )
        self.head = nn.Conv2d(16, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.one(F.relu(self.norm(x)))
        return self.head(x).mean((2, 3))


class Tokens(nn.Module):
    """Linear layers on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(8, 16), nn.LayerNorm(16)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x.mean(1))


class Signal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(4, 16, 5, padding=2, bias=False),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(16, 8, 3),
        )
        self.head = nn.Linear(8 * 14, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.body(x)).flatten(1))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = conv(3, 16, stride=2), nn.ConvTranspose2d(16, 8, 2, stride=2, bias=False)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.up(F.relu(self.down(x)))))
        return self.head(x.mean((2, 3)))


class Shared(nn.Module):
    """One layer called on two different tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.again(F.relu(self.again(F.relu(self.stem(x))))))
        return self.head(x.mean((2, 3)))


class Untraceable(nn.Module):
    """Python decides by the values of a tensor, which cannot be traced symbolically."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.one(x))
        if float(x.sum()) > -1.0:
            x = F.relu(self.two(x))
        return self.head(x.mean((2, 3)))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 32, bias=False),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, 10),
    )


IMAGE, VECTOR, SEQUENCE, SIGNAL = (3, 16, 16), (20,), (12, 8), (4, 32)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, IMAGE),
    "padded_shortcut": (PaddedShortcut, IMAGE),
    "concat": (Concat, IMAGE),
    "separable": (Separable, IMAGE),
    "pre_activation": (PreActivation, IMAGE),
    "tokens": (Tokens, SEQUENCE),
    "signal": (Signal, SIGNAL),
    "decoder": (Decoder, IMAGE),
    "shared": (Shared, IMAGE),
    "untraceable": (Untraceable, IMAGE),
    "mlp": (mlp, VECTOR),
}


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network with statistics that are not those of a fresh one, and 64 inputs for it."""
    torch.manual_seed(0)
    factory, shape = NETWORKS[name]
    model, inputs = factory(), torch.randn(64, *shape)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(inputs)
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model.eval(), inputs
