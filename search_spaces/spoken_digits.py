"""Spoken digits: 3,000 recordings of ten words by six speakers at 8 kHz (Free Spoken Digit Dataset), and DS-CNN."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from autoprune.datasets import Array, load_file
from autoprune.references import resolve
from autoprune.task import ClassificationTask, CropAndFlip, Data, InputFormat, make_data

ds_cnn = resolve("ds_cnn.py:ds_cnn", folder=Path(__file__).parent)

RATE = 8000
WINDOW, HOP = 320, 160  # 40 ms every 20 ms: 49 frames of a second, as in keyword spotting
POINTS = 512  # of a Fourier transform


class SpokenDigits(ClassificationTask):
    """Ten words: 2,430 recordings to train, 270 to validate, the 300 that the data set sets aside to test.

    Args:
        bands: of the spectrum, as wide as the ear tells frequencies apart.
    """

    def __init__(self, bands: int = 20) -> None:
        super().__init__(
            ds_cnn,
            partial(spoken_digits_data, bands),
            architecture={"width": [0.25, 0.5, 0.75, 1.0], "depth": [1, 2, 3, 4], "kernel_size": [3, 5]},
        )


def spoken_digits_data(bands: int = 20) -> Data:
    """The three splits, as the logarithm of the energy in each of 49 frames and some bands: `(N, 1, 49, bands)`."""
    arrays = load_file("fsdd_8khz.npz")
    starts, is_test = arrays["offset"], arrays["is_test"]
    sounds = np.zeros((len(is_test), RATE), np.float32)
    for number, (start, end) in enumerate(pairwise(starts)):
        sound = arrays["audio"][start : min(end, start + RATE)]
        sounds[number, : len(sound)] = sound / 32768.0
    x, y = log_mel(sounds, bands), arrays["y"].astype(np.int64)
    mean, deviation = float(x[~is_test].mean()), float(x[~is_test].std())
    return make_data(
        (x[~is_test], y[~is_test]),
        test=(x[is_test], y[is_test]),
        format=InputFormat(mean=[mean], std=[deviation], scale=1.0, layout="NHW"),
        augment=CropAndFlip(padding=2, flip=False),
        shares=(0.1, 0.0),
    )


def log_mel(sounds: Array, bands: int) -> Array:
    """The logarithm of the energy `(N, frames, bands)` of sounds `(N, samples)` at 8 kHz."""
    spectrum = torch.stft(
        torch.from_numpy(sounds),
        POINTS,
        HOP,
        WINDOW,
        torch.hann_window(WINDOW),
        center=False,
        return_complex=True,
    )
    energy = spectrum.abs().pow(2).transpose(1, 2) @ torch.from_numpy(_filters(bands))
    logs: Array = torch.log(energy + 1e-6).numpy()
    return np.pad(logs, ((0, 0), (0, max(0, 49 - logs.shape[1])), (0, 0)), mode="edge")


def _filters(bands: int) -> Array:
    """Overlapping triangles that are equally far apart on the mel scale, `(POINTS // 2 + 1, bands)`."""
    highest = 2595.0 * np.log10(1.0 + RATE / 2 / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(0.0, highest, bands + 2) / 2595.0) - 1.0)
    frequencies = np.linspace(0.0, RATE / 2, POINTS // 2 + 1)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return np.minimum(rising, falling).clip(0.0).astype(np.float32)
