"""LeNet-300-100 and LeNet-5 on MNIST: the networks on which the papers on compression report their figures.

LeNet-5 is Caffe's variant, with 20 and 50 channels and 500 hidden units: 430,500 weights (LeCun et al. 1998 had fewer).
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from autoprune.references import resolve
from autoprune.task import ClassificationTask

mnist_data = resolve("mnist.py:mnist_data", folder=Path(__file__).parent)


def lenet_300_100() -> nn.Module:
    """Two hidden layers of 300 and 100 units: 266,200 weights. Logits `(N, 10)` of images `(N, 1, 28, 28)`."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 300),
        nn.ReLU(),
        nn.Linear(300, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def lenet_5() -> nn.Module:
    """Two convolutions and two linear layers: 430,500 weights. Logits `(N, 10)` of images `(N, 1, 28, 28)`."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


class LeNet300100(ClassificationTask):
    """Ten digits by LeNet-300-100."""

    def __init__(self) -> None:
        super().__init__(lenet_300_100, mnist_data)


class LeNet5(ClassificationTask):
    """Ten digits by LeNet-5."""

    def __init__(self) -> None:
        super().__init__(lenet_5, mnist_data)
