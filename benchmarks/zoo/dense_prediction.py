"""Images in, maps out: skips, upsampling, several outputs, and networks that rebuild their input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def example_inputs() -> Tensor:
    """One colour image of 32 × 32."""
    return torch.randn(1, 3, 32, 32)


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions with BatchNorm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Three scales with skips that are concatenated on the way up (Ronneberger et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = double_conv(3, 8), double_conv(8, 16), double_conv(16, 32)
        self.up2, self.merge2 = nn.ConvTranspose2d(32, 16, 2, stride=2), double_conv(32, 16)
        self.up1, self.merge1 = nn.ConvTranspose2d(16, 8, 2, stride=2), double_conv(16, 8)
        self.classes = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.bottom(F.max_pool2d(second, 2))
        x = self.merge2(torch.cat([self.up2(x), second], 1))
        return self.classes(self.merge1(torch.cat([self.up1(x), first], 1)))


class Enlarger(nn.Module):
    """Super-resolution: four channels become one of twice the size (Shi et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 5, padding=2), nn.Conv2d(32, 32, 3, padding=1)
        self.spread, self.last = nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.last(F.relu(self.shuffle(self.spread(x))))


class Unshuffled(nn.Module):
    """Pixels folded into channels, a residual body, and unfolded again."""

    def __init__(self) -> None:
        super().__init__()
        self.fold, self.unfold = nn.PixelUnshuffle(2), nn.PixelShuffle(2)
        self.enter, self.body1, self.body2 = (
            nn.Conv2d(12, 32, 3, padding=1),
            nn.Conv2d(32, 48, 3, padding=1),
            nn.Conv2d(48, 32, 3, padding=1),
        )
        self.leave = nn.Conv2d(32, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.enter(self.fold(x)))
        y = y + self.body2(F.relu(self.body1(y)))
        return x + self.unfold(self.leave(y))


class Pyramid(nn.Module):
    """Atrous spatial pyramid: parallel dilations and a pooled branch, resized (Chen et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(double_conv(3, 16), nn.MaxPool2d(2), double_conv(16, 24))
        self.branches = nn.ModuleList(nn.Conv2d(24, 16, 3, padding=d, dilation=d) for d in (1, 2, 4))
        self.pooled = nn.Conv2d(24, 16, 1)
        self.project, self.classes = nn.Conv2d(64, 32, 1), nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.stem(x)
        pooled = self.pooled(F.adaptive_avg_pool2d(features, 1)).expand(-1, -1, 16, 16)
        y = torch.cat([*(branch(features) for branch in self.branches), pooled], 1)
        y = self.classes(F.relu(self.project(F.relu(y))))
        return {"out": F.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=False)}


class FeaturePyramid(nn.Module):
    """A detector: lateral connections, and one head called on every scale (Lin et al. 2017)."""

    def __init__(self, anchors: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [double_conv(3, 16), double_conv(16, 24), double_conv(24, 32)],
        )
        self.lateral = nn.ModuleList(nn.Conv2d(channels, 24, 1) for channels in (16, 24, 32))
        self.tower = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.ReLU())
        self.scores, self.boxes = nn.Conv2d(24, anchors * classes, 1), nn.Conv2d(24, anchors * 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scales = []
        for stage in self.stages:
            x = F.max_pool2d(stage(x), 2)
            scales.append(x)
        top = self.lateral[2](scales[2])
        merged = [top]
        for i in (1, 0):
            top = self.lateral[i](scales[i]) + F.interpolate(top, scale_factor=2.0, mode="nearest")
            merged.append(top)
        towers = [self.tower(level) for level in merged]
        scores = torch.cat([self.scores(tower).flatten(2) for tower in towers], 2)
        return scores, torch.cat([self.boxes(tower).flatten(2) for tower in towers], 2)


class SetDetector(nn.Module):
    """Learned queries attend to a feature map; one class and one box each (Carion et al. 2020)."""

    def __init__(self, width: int = 32, queries: int = 6) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            double_conv(3, 16), nn.MaxPool2d(4), double_conv(16, 24), nn.Conv2d(24, width, 1)
        )
        self.place = nn.Parameter(torch.randn(64, width) * 0.1)
        self.queries = nn.Parameter(torch.randn(queries, width))
        layer = nn.TransformerDecoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2)
        self.classes, self.boxes = nn.Linear(width, 5), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.backbone(x).flatten(2).transpose(1, 2) + self.place
        found = self.decoder(self.queries.expand(x.shape[0], -1, -1), memory)
        return self.classes(found), self.boxes(found).sigmoid()


def convolutional_autoencoder() -> nn.Module:
    """Strided convolutions down, transposed convolutions up."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 3, 4, stride=2, padding=1),
    )


class GroupedUpsampler(nn.Module):
    """Transposed convolutions with groups, one of them depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 32, 4, stride=4)
        self.grouped = nn.ConvTranspose2d(32, 24, 2, stride=2, groups=4)
        self.depthwise = nn.ConvTranspose2d(24, 24, 2, stride=2, groups=24)
        self.leave = nn.Conv2d(24, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(F.relu(self.depthwise(F.relu(self.grouped(F.relu(self.enter(x)))))))


class VariationalAutoencoder(nn.Module):
    """Mean and variance are halves of one layer; noise in training only (Kingma and Welling 2014)."""

    def __init__(self, latent: int = 8) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 2 * latent)
        )
        self.decode1, self.decode2 = nn.Linear(latent, 16 * 64), nn.ConvTranspose2d(16, 3, 4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encode(x).chunk(2, dim=1)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp() if self.training else mean
        return self.decode2(F.relu(self.decode1(code)).view(-1, 16, 8, 8)), mean, log_variance


MODELS = [
    ("U-Net skips", UNet, example_inputs),
    ("pixel shuffle", Enlarger, example_inputs),
    ("pixel shuffle", Unshuffled, example_inputs),
    ("segmentation and detection heads", Pyramid, example_inputs),
    ("segmentation and detection heads", FeaturePyramid, example_inputs),
    ("segmentation and detection heads", SetDetector, example_inputs),
    ("autoencoder", convolutional_autoencoder, example_inputs),
    ("autoencoder", VariationalAutoencoder, example_inputs),
    ("dilated, transposed", GroupedUpsampler, example_inputs),
]
"""Family, factory without arguments, example inputs."""
