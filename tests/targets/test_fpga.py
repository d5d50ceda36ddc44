"""A circuit as a target: legal widths, reuse as a choice, figures before training."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.compress.calibrate import calibrate
from autoprune.deployed import ActivationQuantizer, Widths, deploy
from autoprune.deployed.quantizers import FIXED_POINT
from autoprune.errors import TargetError
from autoprune.space import Choices, Options
from autoprune.targets import load_target
from autoprune.targets.fpga import CIRCUIT_FILE, Fpga

EXAMPLE = torch.zeros(1, 1, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)]
    return nn.Sequential(*layers).eval()


def rounded(weight_bits: int, activation_bits: int) -> nn.Module:
    model = network()
    made = deploy(model, {n: Widths(weight_bits, activation_bits, FIXED_POINT) for n in ("0", "4")}, EXAMPLE)
    calibrate(made, [torch.randn(32, 1, 8, 8)], fit=ActivationQuantizer.set_fixed_point)
    return made


def test_bits_from_two_to_sixteen_are_legal_for_weights_and_activations() -> None:
    target = load_target("fpga")
    for bits in range(2, 17):
        assert target.supports({"quantize.0.weight_bits": bits, "quantize.0.activation_bits": bits}) is None
    assert "fpga has no 20-bit weights" in str(target.supports({"quantize.0.weight_bits": 20}))


def test_the_uncompressed_network_runs_and_is_costed_at_sixteen_bits() -> None:
    target = Fpga(reuse=9)
    assert target.supports({"quantize.0.weight_bits": 32}) is None
    floats = target.measure(target.build(network(), EXAMPLE), EXAMPLE).metrics
    assert floats == target.price(rounded(16, 16), EXAMPLE)


def test_reuse_is_a_choice_of_each_layer_and_trades_blocks_for_cycles() -> None:
    target, model = Fpga(reuse=(1, 9, 64)), rounded(8, 8)
    assert target.choices(model, EXAMPLE)["target.4.reuse"] == Options((1, 9, 64), neutral=64)
    small = target.configured(Choices({"target.0.reuse": 9, "target.4.reuse": 64})).price(model, EXAMPLE)
    quick = target.configured(Choices({"target.0.reuse": 1, "target.4.reuse": 1})).price(model, EXAMPLE)
    assert (small["dsp"], quick["dsp"]) == (4 + 3, 36 + 192)
    assert small["cycles"] > 5 * quick["cycles"]
    assert small["latency_ms"] == small["cycles"] / 1e5


def test_designs_give_layers_the_same_time() -> None:
    target = Fpga(reuse=(1, 4, 16, 64))
    designs = target.designs(network(), EXAMPLE)
    assert [(made["target.0.reuse"], made["target.4.reuse"]) for made in designs] == [
        (1, 64),
        (4, 64),
        (16, 64),
        (64, 64),
    ]  # the convolution has 64 places, the linear layer one
    assert Fpga(reuse=4).designs(network(), EXAMPLE) == []


def test_one_reuse_for_all_is_no_choice() -> None:
    assert Fpga(reuse=4).choices(network(), EXAMPLE) == {}


def test_a_candidate_says_what_it_takes_and_how_it_is_built() -> None:
    target, model = Fpga(reuse=16), rounded(5, 6)
    runnable = target.build(model, EXAMPLE)
    found = target.measure(runnable, EXAMPLE)
    assert found.metrics == target.price(model, EXAMPLE)
    assert found.sources["dsp"].startswith("modelled")
    described = json.loads(runnable.files[CIRCUIT_FILE])
    assert [(layer["name"], layer["weight_bits"], layer["reuse"]) for layer in described["layers"]] == [
        ("0", 5, 18),
        ("4", 5, 16),
    ]
    inputs = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(runnable.run(inputs), model(inputs))


def test_layers_that_hls4ml_does_not_build_are_named() -> None:
    (line,) = Fpga().problems(nn.Sequential(nn.ConvTranspose2d(1, 2, 3)).eval(), EXAMPLE)
    assert line.startswith("layer 0: ")


@pytest.mark.parametrize(
    "arguments",
    [{"reuse": 0}, {"reuse": []}, {"reuse": [1, "2"]}, {"megahertz": -1}, {"io": "stream"}, {"part": ""}],
    ids=str,
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match=r"target\.\w+: "):
        load_target("fpga", None, arguments)
