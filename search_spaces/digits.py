"""Handwritten digits of scikit-learn (1,797 images, embedded, nothing to download): the task of the demo."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from autoprune.datasets import load_arrays
from autoprune.references import resolve
from autoprune.task import ClassificationTask, CropAndFlip, Data, InputFormat, make_data

small_cnn = resolve("small_cnn.py:small_cnn", folder=Path(__file__).parent)


class Digits(ClassificationTask):
    """Ten digits, 8×8 pixels, enlarged to 16×16 so that a convolution has something to look at.

    1,077 images to train, 360 to validate, 360 to test, of each digit alike.

    Args:
        channels: of the baseline's first stage.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__(
            partial(small_cnn, channels=channels),
            digits_data,
            architecture={"width": [0.5, 0.75, 1.0], "depth": [2, 3], "kernel_size": [3, 5]},
        )


def digits_data() -> Data:
    """The three splits."""
    images, labels = load_arrays("digits", "all")
    enlarged = images.repeat(2, axis=1).repeat(2, axis=2)
    pixels = InputFormat(mean=[0.305], std=[0.376], scale=1 / 16)
    shares = (360 / len(labels), 360 / len(labels))
    return make_data(
        (enlarged, labels.astype(np.int64)),
        format=pixels,
        augment=CropAndFlip(padding=2, flip=False),
        shares=shares,
    )
