"""What rounding shifts a layer's mean by is taken out of its bias."""

from __future__ import annotations

import torch
from quantizable_networks import network
from torch import nn

from autoprune.compress.bias_correction import correct_biases
from autoprune.compress.calibrate import find_ranges
from autoprune.deployed import QuantizedLayer, deploy, layer_kind


def layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if layer_kind(module)]


def test_an_artificial_shift_is_removed() -> None:
    model, inputs = network("mlp")
    names = layers(model)
    deployed = deploy(model, dict.fromkeys(names, (8, 32)), inputs[:1])
    reference = deploy(model, dict.fromkeys(names, (32, 32)), inputs[:1])
    expected = reference(inputs)
    for name in names:
        deployed.get_submodule(name).bias += 0.5
    shifted = deployed(inputs)
    assert float((shifted - expected).mean(0).abs().max()) > 0.1
    correct_biases(deployed, reference, [inputs[:32], inputs[32:]])
    corrected = deployed(inputs)
    assert float((corrected - expected).mean(0).abs().max()) < 1e-5
    assert (corrected - expected).norm() < 0.2 * (shifted - expected).norm()


def test_few_bits_lose_less_with_corrected_biases() -> None:
    model, inputs = network("residual")
    names = layers(model)
    reference = deploy(model, dict.fromkeys(names, (32, 32)), inputs[:1])
    errors = []
    for is_corrected in (False, True):
        deployed = deploy(model, dict.fromkeys(names, (3, 8)), inputs[:1])
        find_ranges(deployed, [inputs])
        if is_corrected:
            correct_biases(deployed, reference, [inputs])
        errors.append(float((deployed(inputs) - reference(inputs)).norm()))
    assert errors[1] < 0.8 * errors[0]


def test_layers_without_a_bias_or_called_twice_stay_as_they_are() -> None:
    model, inputs = network("shared")
    model.head = nn.Linear(8, 10, bias=False)
    names = layers(model)
    deployed = deploy(model, dict.fromkeys(names, (2, 32)), inputs[:1])
    before = deployed.get_submodule("again").bias.clone()
    correct_biases(deployed, deploy(model, dict.fromkeys(names, (32, 32)), inputs[:1]), [inputs])
    assert torch.equal(deployed.get_submodule("again").bias, before)
    assert deployed.get_submodule("head").bias is None
    assert not torch.equal(deployed.get_submodule("stem").bias, model.stem.bias)
    assert not any(module._forward_hooks for module in deployed.modules())


def test_channels_are_those_of_sequences_and_images() -> None:
    for name in ("tokens", "decoder", "signal"):
        model, inputs = network(name)
        names = layers(model)
        deployed = deploy(model, dict.fromkeys(names, (3, 32)), inputs[:1])
        reference = deploy(model, dict.fromkeys(names, (32, 32)), inputs[:1])
        correct_biases(deployed, reference, [inputs])
        last = [module for module in deployed.modules() if isinstance(module, QuantizedLayer)][-1]
        assert last.bias is not None and last.bias.isfinite().all()
        torch.testing.assert_close(deployed(inputs).mean(0), reference(inputs).mean(0), rtol=1e-3, atol=1e-4)
