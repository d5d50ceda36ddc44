"""Raw batches become what a model takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoprune.errors import TaskError
from autoprune.task import CropAndFlip, InputFormat


def converted(x: np.ndarray, **fields: object) -> torch.Tensor:
    form = InputFormat(**fields)  # type: ignore[arg-type]
    return form.convert(x, form.layout_of(x))


def test_grey_images_get_a_channel_and_values_up_to_one() -> None:
    tensor = converted(np.full((2, 4, 5), 255, np.uint8))
    assert tensor.shape == (2, 1, 4, 5)
    assert tensor.max() == pytest.approx(1.0)


def test_colour_images_are_turned_channels_first() -> None:
    x = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    tensor = converted(x)
    assert tensor.shape == (2, 3, 4, 5)
    assert tensor[1, 2, 3, 4] == pytest.approx(x[1, 3, 4, 2] / 255)
    assert tensor.is_contiguous()


def test_mean_and_std_belong_to_channels() -> None:
    tensor = converted(np.full((1, 2, 2, 3), 51, np.uint8), mean=[0.2, 0.1, 0.0], std=[1.0, 0.5, 0.1])
    assert tensor[0, :, 0, 0].tolist() == pytest.approx([0.0, 0.2, 2.0], abs=1e-6)


def test_floats_are_left_alone() -> None:
    x = np.random.default_rng(0).normal(size=(3, 7))
    assert converted(x).dtype == torch.float32
    assert np.allclose(converted(x).numpy(), x)


def test_tokens_stay_whole_numbers() -> None:
    assert converted(np.array([[1, 2], [3, 4]], np.int32)).dtype == torch.int64


def test_an_explicit_layout_wins_over_the_guess() -> None:
    assert converted(np.zeros((2, 3, 4, 3), np.uint8), layout="as_is").shape == (2, 3, 4, 3)


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(TaskError, match=r"layout: got 'HWC', accepted are NHW, NHWC, as_is"):
        InputFormat(layout="HWC")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(6, 8, 9), (6, 8, 9, 3)])
def test_crop_and_flip_keeps_shape_and_follows_the_seed(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(1, 255, shape, np.uint8)
    augment = CropAndFlip(padding=2)
    one, same = (augment(images, np.random.default_rng(5)) for _ in range(2))
    other = augment(images, np.random.default_rng(6))
    assert one.shape == images.shape
    assert one.dtype == np.uint8
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_crop_is_a_shifted_image_with_a_dark_border() -> None:
    images = np.full((50, 4, 4), 9, np.uint8)
    cropped = CropAndFlip(padding=1, flip=False)(images, np.random.default_rng(0))
    rows_lost = (cropped == 0).all(2).sum(1)
    assert set(rows_lost) == {0, 1}


def test_about_half_of_the_images_are_mirrored() -> None:
    images = np.tile(np.arange(4, dtype=np.uint8), (200, 4, 1))
    flipped = CropAndFlip(padding=0)(images, np.random.default_rng(0))
    mirrored = (flipped[:, 0, 0] == 3).mean()
    assert 0.4 < mirrored < 0.6
    assert images[0, 0, 0] == 0
