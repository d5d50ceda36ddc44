"""Activities: walking, sitting and four more, by the accelerometer and gyroscope of a phone (Anguita et al. 2013)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autoprune.datasets import load_file
from autoprune.references import resolve
from autoprune.task import ClassificationTask, Data, InputFormat, make_data

signal_cnn = resolve("signal_cnn.py:signal_cnn", folder=Path(__file__).parent)


class Activities(ClassificationTask):
    """Six activities in windows of 2.56 seconds: 2,040 to train, 360 to validate, 950 of other people to test."""

    def __init__(self) -> None:
        super().__init__(
            signal_cnn,
            activities_data,
            architecture={"width": [0.25, 0.5, 0.75, 1.0], "depth": [1, 2, 3], "kernel_size": [3, 5, 7]},
        )


def activities_data() -> Data:
    """The three splits: nine signals of 128 samples each, `(N, 9, 128)`."""
    arrays = load_file("uci_har_subset.npz")
    train, test = ((arrays[f"x_{part}"], arrays[f"y_{part}"].astype(np.int64)) for part in ("train", "test"))
    format = InputFormat(mean=train[0].mean((0, 2)).tolist(), std=train[0].std((0, 2)).tolist())
    return make_data(train, test=test, format=format, shares=(0.15, 0.0))
