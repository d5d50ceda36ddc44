"""How a network is run in training: layout, precision, device, and compiled only where that pays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.forward import (
    TRIED_STEPS,
    Forward,
    autocast,
    fast_layout,
    half_precision,
    in_float32,
    laid_out,
    move,
)

IMAGES = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("float32", "cpu", None),
        ("bfloat16", "cpu", torch.bfloat16),
        ("float16", "cpu", None),
        ("float32", "cuda", None),
        ("float16", "cuda", torch.float16),
        ("bfloat16", "cuda", torch.bfloat16),
    ],
)
def test_the_precision_of_layers(precision: str, device: str, expected: torch.dtype | None) -> None:
    assert half_precision(precision, device) is expected


@pytest.mark.parametrize(
    ("precision", "expected"), [("bfloat16", torch.bfloat16), ("float16", torch.float32)]
)
def test_autocast_computes_in_it(precision: str, expected: torch.dtype) -> None:
    with autocast(precision):
        outputs = nn.Linear(2, 2)(torch.zeros(1, 2))
    assert outputs.dtype == expected
    assert in_float32({"y": (outputs, 3)})["y"][0].dtype == torch.float32


def test_outputs_in_float32_are_not_touched() -> None:
    outputs = {"y": torch.zeros(1, dtype=torch.float64)}
    assert in_float32(outputs) is outputs


class Mixed(nn.Module):
    """Takes an image and a vector, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(2, 3, 3), nn.Linear(5, 3)

    def forward(self, image: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        return self.conv(image).mean((2, 3)) + self.linear(vector)


def test_images_among_other_inputs_are_laid_out() -> None:
    inputs = {"image": IMAGES, "vector": torch.zeros(4, 5)}
    assert fast_layout(Mixed(), inputs) == torch.channels_last
    found = laid_out(inputs, torch.channels_last)
    assert found["image"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found["image"], IMAGES)


def test_networks_with_3d_convolutions_keep_their_layout() -> None:
    class Volume(nn.Conv3d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x[:, None])

    assert fast_layout(Volume(1, 2, 2), IMAGES) == torch.contiguous_format


def test_moving_keeps_every_tensor_the_object_that_it_is() -> None:
    model = nn.BatchNorm1d(2)
    weight, mean = model.weight, model.running_mean
    move(model, "cpu")
    assert model.weight is weight
    assert model.running_mean is mean


def steps(forward: Forward, seconds: float, left: int = 1000) -> None:
    for _ in range(TRIED_STEPS):
        forward.took(seconds, left)


def test_short_trainings_are_not_compiled() -> None:
    forward = Forward(nn.Linear(2, 2), compile=True)
    steps(forward, 0.01)
    assert forward.note == "not compiled: 10.0 s of training are left, too few to pay for it"


def test_nothing_is_noted_unless_asked_for() -> None:
    forward = Forward(nn.Linear(2, 2), compile=False)
    steps(forward, 10.0)
    assert forward.note == ""


@pytest.mark.parametrize(
    ("seconds", "note"),
    [
        (0.5, "compiled: a step takes 500 ms, 1e+03 ms as it is"),
        (2.0, "not compiled: a step takes 2e+03 ms compiled"),
    ],
)
def test_the_faster_way_is_kept(seconds: float, note: str) -> None:
    forward = Forward(nn.Linear(2, 2), compile=True)
    steps(forward, 1.0)
    assert forward.note == ""
    steps(forward, seconds)
    assert forward.note.startswith(note)
    forward.close()


def test_what_cannot_be_compiled_is_run_as_it_is() -> None:
    forward = Forward(nn.Linear(2, 2), compile=True, worth=0.0)
    steps(forward, 1.0)  # it is compiled when it runs next, and that may raise
    error = RuntimeError("no working compiler\nfurther lines")
    assert forward.gave_up(error)
    assert forward.note == "not compiled: RuntimeError: no working compiler"
    assert forward(torch.zeros(1, 2)).shape == (1, 2)
    assert not forward.gave_up(error)
    forward.close()


def test_errors_of_a_network_that_is_not_compiled_are_its_own() -> None:
    assert not Forward(nn.Linear(2, 2), compile=True).gave_up(RuntimeError("a bug"))
