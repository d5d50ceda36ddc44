"""Code that real projects contain and that breaks tools: shared modules, written-out sizes, weights without a layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def example_inputs() -> Tensor:
    """One colour image of 16 × 16."""
    return torch.randn(1, 3, 16, 16)


def row() -> Tensor:
    """Sixteen numbers."""
    return torch.randn(1, 16)


def two_images() -> tuple[Tensor, Tensor]:
    """Two colour images of 16 × 16."""
    return torch.randn(1, 3, 16, 16), torch.randn(1, 3, 16, 16)


class CalledTwice(nn.Module):
    """One convolution on two different maps, so that its widths are coupled to both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1)
        self.last, self.head = nn.Conv2d(24, 32, 3, padding=1), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.shared(x))
        x = F.relu(self.shared(F.max_pool2d(x, 2)))
        return self.head(F.relu(self.last(x)).mean((2, 3)))


class Siamese(nn.Module):
    """One encoder for both inputs, and their features compared."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
        )
        self.project, self.head = nn.Linear(32, 24), nn.Linear(24, 1)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = (self.project(self.encoder(image).mean((2, 3))) for image in (left, right))
        return self.head((a - b).abs()), F.cosine_similarity(a, b), a * b


class WrittenOutSizes(nn.Module):
    """Reshapes with numbers in the code instead of the tensor's own sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.hidden, self.head = nn.Linear(512, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x)))).view(-1, 512)
        x = F.relu(self.hidden(x)).reshape(-1, 4, 12).reshape(-1, 48)
        return self.head(x)


class FunctionalWeights(nn.Module):
    """Parameters used through functions, without a layer that owns them."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel1 = nn.Parameter(torch.randn(16, 3, 3, 3) * 0.2)
        self.kernel2 = nn.Parameter(torch.randn(32, 16, 3, 3) * 0.1)
        self.matrix, self.offset = nn.Parameter(torch.randn(32, 10) * 0.2), nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.kernel1, padding=1))
        x = F.relu(F.conv2d(x, self.kernel2, padding=1))
        return torch.addmm(self.offset, x.mean((2, 3)), self.matrix)


class DataDependent(nn.Module):
    """Which branch runs is decided by the values of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.deep1, self.deep2 = nn.Linear(16, 32), nn.Linear(32, 48), nn.Linear(48, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.enter(x))
        if x.mean() > 0:
            x = x + F.relu(self.deep2(F.relu(self.deep1(x))))
        return self.head(x)


class InPlace(nn.Module):
    """Sums, activations and slices written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1)
        self.conv3, self.head = nn.Conv2d(24, 32, 3, padding=1), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).relu_()
        y = self.conv2(x)
        y += x
        y.mul_(0.5).clamp_(min=0)
        return self.head(self.conv3(y).relu_().mean((2, 3)))


class Einsum(nn.Module):
    """Attention whose every product is an einsum over parameters with head axes of their own."""

    def __init__(self, width: int = 32, heads: int = 4, depth: int = 8) -> None:
        super().__init__()
        self.query, self.key, self.value = (
            nn.Parameter(torch.randn(width, heads, depth) * 0.1) for _ in range(3)
        )
        self.out = nn.Parameter(torch.randn(heads, depth, width) * 0.1)
        self.enter, self.head = nn.Conv2d(3, width, 4, 4), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).flatten(2).transpose(1, 2)
        q, k, v = (torch.einsum("bnc,chd->bhnd", x, weight) for weight in (self.query, self.key, self.value))
        weight = torch.einsum("bhnd,bhmd->bhnm", q, k).softmax(-1)
        y = torch.einsum("bhnm,bhmd->bhnd", weight, v)
        return self.head((x + torch.einsum("bhnd,hdc->bnc", y, self.out)).mean(1))


class Sliced(nn.Module):
    """Parts of one layer's channels go separate, unequal ways."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 3, padding=1)
        self.small, self.large = nn.Conv2d(8, 24, 3, padding=1), nn.Conv2d(32, 24, 3, padding=1)
        self.last, self.head = nn.Conv2d(24, 32, 1), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        small, large = F.relu(self.stem(x)).split([8, 32], dim=1)
        x = F.relu(self.small(small) + self.large(large))
        return self.head(F.relu(self.last(x)).mean((2, 3)))


class Maxout(nn.Module):
    """The largest of every two neighbouring units (Goodfellow et al. 2013)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.head = nn.Linear(16, 64), nn.Linear(32, 48), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(x).unflatten(1, (32, 2)).amax(2)
        return self.head(self.layer2(x).unflatten(1, (24, 2)).amax(2))


@dataclass
class Result:
    """What `StructuredOutput` returns."""

    logits: Tensor
    features: tuple[Tensor, Tensor]
    note: str


class StructuredOutput(nn.Module):
    """A dataclass with nested tensors and a text."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 24, 3, 2, 1), nn.Conv2d(24, 32, 3, 2, 1)
        self.hidden, self.head = nn.Linear(32, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Result:
        first = F.relu(self.conv1(x))
        second = F.relu(self.conv2(first)).mean((2, 3))
        logits = self.head(F.relu(self.hidden(second)))
        return Result(logits, (first.mean(1), second.norm(dim=1)), "ok")


class Recalibrated(nn.Module):
    """Buffers of a channel's length take part: an input mean, a fixed scale and a running gate."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3])[:, None, None])
        self.register_buffer("scale", torch.rand(24) + 0.5)
        self.conv1, self.conv2 = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 32, 3, padding=1)
        self.slope, self.head = nn.PReLU(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x - self.mean) * self.scale.view(1, -1, 1, 1)
        return self.head(self.slope(self.conv2(F.hardswish(x))).mean((2, 3)))


class Hypernetwork(nn.Module):
    """One network computes the weights of another from the input (Ha et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.hidden = nn.Linear(16, 48), nn.Linear(48, 32)
        self.weights, self.head = nn.Linear(32, 16 * 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        code = F.relu(self.hidden(F.relu(self.enter(x))))
        matrix = self.weights(code).view(-1, 8, 16)
        return self.head(torch.bmm(matrix, x[..., None]).squeeze(2))


class DynamicConvolution(nn.Module):
    """Four kernels, mixed by the input before they are applied, example by example (Yang et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.route = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(16, 4)
        self.kernels = nn.Parameter(torch.randn(4, 24, 16, 3, 3) * 0.1)
        self.last, self.head = nn.Conv2d(24, 48, 1), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        weight = torch.softmax(self.route(x.mean((2, 3))), -1)
        answers = torch.stack([F.conv2d(x, kernel, padding=1) for kernel in self.kernels], 1)
        x = F.relu((answers * weight[:, :, None, None, None]).sum(1))
        return self.head(F.relu(self.last(x)).mean((2, 3)))


MODELS = [
    ("called twice", CalledTwice, example_inputs),
    ("called twice", Siamese, two_images),
    ("hard-coded reshapes", WrittenOutSizes, example_inputs),
    ("functional weights", FunctionalWeights, example_inputs),
    ("functional weights", Einsum, example_inputs),
    ("data-dependent control flow", DataDependent, row),
    ("in-place operations", InPlace, example_inputs),
    ("split channels", Sliced, example_inputs),
    ("split channels", Maxout, row),
    ("structured outputs", StructuredOutput, example_inputs),
    ("buffers", Recalibrated, example_inputs),
    ("functional weights", Hypernetwork, row),
    ("functional weights", DynamicConvolution, example_inputs),
]
"""Family, factory without arguments, example inputs."""
