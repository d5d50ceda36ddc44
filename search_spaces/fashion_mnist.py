"""Fashion-MNIST: 70,000 pictures of clothes, 28×28 pixels (Xiao et al. 2017)."""

from __future__ import annotations

from pathlib import Path

from autoprune.datasets import load_arrays
from autoprune.references import resolve
from autoprune.task import ClassificationTask, CropAndFlip, Data, InputFormat, make_data

small_cnn = resolve("small_cnn.py:small_cnn", folder=Path(__file__).parent)


class FashionMnist(ClassificationTask):
    """Ten kinds of clothes: 54,000 images to train, 6,000 to validate, the official 10,000 to test."""

    def __init__(self) -> None:
        super().__init__(
            small_cnn,
            fashion_mnist_data,
            architecture={"width": [0.5, 0.75, 1.0], "depth": [2, 3], "kernel_size": [3, 5]},
        )


def fashion_mnist_data() -> Data:
    """The three splits."""
    return make_data(
        load_arrays("fashion_mnist", "train"),
        test=load_arrays("fashion_mnist", "test"),
        format=InputFormat(mean=[0.2860], std=[0.3530]),
        augment=CropAndFlip(padding=2, flip=True),
        shares=(0.1, 0.0),
    )
