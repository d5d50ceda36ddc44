"""OpenVINO computes what the deployed module computes, from the very file that an artifact holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quantizable_networks import network
from test_onnxruntime import deployed, layers

from autoprune.errors import TargetError
from autoprune.targets.openvino import OpenVino
from autoprune.targets.processor import adds_bytes_exactly


@pytest.mark.parametrize("bits", [(7, 8), (3, 32), (32, 32)], ids=str)
@pytest.mark.parametrize("name", ["residual", "separable", "tokens", "decoder", "untraceable"])
def test_runtime_and_module_agree(name: str, bits: tuple[int, int]) -> None:
    model, inputs = network(name)
    quantized = deployed(model, inputs, dict.fromkeys(layers(model), bits))
    with torch.no_grad():
        expected = quantized(inputs).numpy()
    found = OpenVino().build(quantized, inputs[:1]).run(inputs).numpy()
    error = np.abs(found - expected).reshape(len(inputs), -1).max(1) / np.abs(expected).max()
    # It averages integers in another order; a value on the edge of two codes may fall to either side.
    assert error.max() < (1e-4 if bits[1] == 32 else 0.02)


def test_its_files_hold_all_of_it_and_are_measured() -> None:
    model, inputs = network("mlp")
    target = OpenVino(rounds=2, block_ms=1)
    runnable = target.build(model, inputs[:1])
    assert list(runnable.files) == ["model.xml", "model.bin"]
    found = target.measure(runnable, inputs[:1])
    assert found.latency_ms > 0
    assert found.rounds >= 2


def test_eight_bits_are_legal_only_where_they_do_not_saturate() -> None:
    target = OpenVino()
    assert (8 in target.weight_bits) == (adds_bytes_exactly() is not False)
    assert target.supports({"quantize.a.weight_bits": 7, "quantize.a.activation_bits": 8}) is None
    reason = target.supports({"quantize.a.activation_bits": 4})
    assert reason == "quantize.a.activation_bits: OpenVINO has no 4-bit activations; 8, 32 are legal"


@pytest.mark.parametrize("argument", [{"threads": 0}, {"rounds": True}, {"block_ms": float("nan")}], ids=str)
def test_arguments_that_make_no_sense_are_refused(argument: dict[str, float]) -> None:
    with pytest.raises(TargetError, match=rf"target\.{next(iter(argument))}: got"):
        OpenVino(**argument)  # type: ignore[arg-type]
