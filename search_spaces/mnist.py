"""MNIST: 70,000 handwritten digits, 28×28 pixels (LeCun et al. 1998)."""

from __future__ import annotations

from pathlib import Path

from autoprune.datasets import load_arrays
from autoprune.references import resolve
from autoprune.task import ClassificationTask, CropAndFlip, Data, InputFormat, make_data

small_cnn = resolve("small_cnn.py:small_cnn", folder=Path(__file__).parent)


class Mnist(ClassificationTask):
    """Ten digits: 54,000 images to train, 6,000 to validate, the official 10,000 to test."""

    def __init__(self) -> None:
        super().__init__(
            small_cnn,
            mnist_data,
            architecture={"width": [0.5, 0.75, 1.0], "depth": [2, 3], "kernel_size": [3, 5]},
        )


def mnist_data() -> Data:
    """The three splits."""
    return make_data(
        load_arrays("mnist", "train"),
        test=load_arrays("mnist", "test"),
        format=InputFormat(mean=[0.1307], std=[0.3081]),
        augment=CropAndFlip(padding=2, flip=False),
        shares=(0.1, 0.0),
    )
