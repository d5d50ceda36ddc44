"""Ranges of activations: what each method cuts off, and what it saves."""

from __future__ import annotations

import pytest
import torch
from quantizable_networks import network

from autoprune.compress import calibrate as calibrate_module
from autoprune.compress.calibrate import METHODS, avoid_ties, calibrate, find_ranges, quantizers_in
from autoprune.deployed import ActivationQuantizer, QuantizedLayer, deploy, layer_kind, quantized_sums


def heavy_tailed(seed: int = 0) -> torch.Tensor:
    """Normal numbers behind a ReLU, of which one in twenty thousand is a hundred times as large."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(40_000, generator=draw).relu()
    values[:2] = 100.0
    return values


def lost(values: torch.Tensor, method: str, bits: int) -> float:
    """The mean distance between the usual values and what they are rounded to."""
    quantizer = ActivationQuantizer(bits)
    quantizer.set_range(*METHODS[method](values, bits))
    return float((quantizer(values) - values)[2:].abs().mean())


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_cutting_off_outliers_beats_the_full_range(method: str) -> None:
    values = heavy_tailed()
    assert lost(values, method, 4) < 0.5 * lost(values, "min_max", 4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_ranges_lie_within_what_was_seen(method: str, sign: float) -> None:
    values = sign * heavy_tailed()
    low, high = METHODS[method](values, 8)
    assert min(float(values.min()), 0.0) - 1e-6 <= low <= high <= max(float(values.max()), 0.0) + 1e-6


def test_the_full_range_is_the_full_range() -> None:
    values = torch.tensor([-1.0, 0.0, 3.0])
    assert METHODS["min_max"](values, 8) == (-1.0, 3.0)


def test_well_behaved_values_lose_little_by_any_method() -> None:
    values = torch.rand(30_000, generator=torch.Generator().manual_seed(0)) - 0.4
    for method in METHODS:
        low, high = METHODS[method](values, 8)
        assert low == pytest.approx(-0.4, abs=0.06) and high == pytest.approx(0.6, abs=0.06)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [torch.zeros(5), torch.full((7,), 2.5), torch.tensor([-3.0])], ids=str)
def test_values_that_are_all_alike_have_a_range(method: str, values: torch.Tensor) -> None:
    quantizer = ActivationQuantizer(8)
    quantizer.set_range(*METHODS[method](values, 8))
    torch.testing.assert_close(quantizer(values), values, rtol=0.01, atol=0.01)


def test_known_grids_are_taken_and_the_others_are_found() -> None:
    model, inputs = network("residual")
    layers = [name for name, module in model.named_modules() if layer_kind(module)]
    deployed = deploy(model, dict.fromkeys(layers, (8, 8)), inputs[:1])
    path = next(iter(quantizers_in(deployed)))
    find_ranges(deployed, [inputs], known={path: (0.125, 3.0)})
    assert deployed.get_submodule(path).grid.tolist() == [0.125, 3.0]
    assert all(float(quantizer.scale) > 0 for quantizer in quantizers_in(deployed).values())


def test_nothing_runs_through_the_network_where_every_grid_is_known() -> None:
    model, inputs = network("mlp")
    deployed = deploy(model, {"0": (8, 8)}, inputs[:1])
    find_ranges(deployed, iter([None]), known=dict.fromkeys(quantizers_in(deployed), (0.5, 0.0)))  # type: ignore[list-item]


def test_one_scale_keeps_a_large_bias_within_the_accumulator() -> None:
    from autoprune.deployed import Widths

    model, inputs = network("mlp")
    with torch.no_grad():
        model[4].weight *= 1e-9
    deployed = deploy(model, {"4": Widths(8, 8, "per_tensor")}, inputs[:1])
    calibrate(deployed, [inputs])
    layer = deployed.get_submodule("4")
    assert isinstance(layer, QuantizedLayer) and layer.bias is not None
    assert torch.allclose(layer.bias, model[4].bias, rtol=1e-4, atol=1e-6)


def rounded_sums(first_code: int) -> tuple[ActivationQuantizer, torch.Tensor, torch.Tensor]:
    """A quantizer of sums, and summands: of the code 27 on the first grid and 1 on the other the sum is 32.500006."""
    quantizer = ActivationQuantizer(8)
    quantizer.set_grid(0.03418976441025734, 10)
    first = torch.full((1000,), first_code * 0.039777446538209915, dtype=torch.float64)
    return quantizer, first, torch.full_like(first, 0.037176501005887985)


def test_steps_are_widened_where_frequent_sums_fall_on_the_edge_of_two_codes() -> None:
    quantizer, first, second = rounded_sums(27)
    before = float(quantizer.scale)
    avoid_ties(quantizer, first, second)
    assert 1 < float(quantizer.scale) / before < 1.004 and float(quantizer.grid[1]) == 10
    code = (first + second)[0] / float(quantizer.scale)
    assert abs(float(code - code.floor()) - 0.5) > 1e-3


def test_every_sum_of_a_network_is_looked_at_with_its_summands(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[tuple[ActivationQuantizer, torch.Tensor, torch.Tensor]] = []
    monkeypatch.setattr(calibrate_module, "avoid_ties", lambda *given: looked_at.append(given))
    model, inputs = network("residual")
    bits = {name: (8, 8) for name, module in model.named_modules() if layer_kind(module)}
    deployed = deploy(model, bits, inputs[:1])
    find_ranges(deployed, [inputs])
    quantizers = quantizers_in(deployed)
    assert [total for total, *_ in looked_at] == [quantizers[path] for *_, path in quantized_sums(deployed)]
    for (_, first, second), (one, other, _) in zip(looked_at, quantized_sums(deployed), strict=True):
        assert first.shape == second.shape
        assert len(first.unique()) <= 256 and float(first.max()) <= 255 * float(quantizers[one].scale) * 1.001
        assert float(second.min()) >= -255 * float(quantizers[other].scale) * 1.001


def test_steps_stay_where_no_sum_does_or_sums_are_exact() -> None:
    quantizer, first, second = rounded_sums(25)
    avoid_ties(quantizer, first, second)
    assert float(quantizer.scale) == pytest.approx(0.03418976441025734, rel=1e-7)
    cut_off, first, second = rounded_sums(27)
    cut_off.set_grid(0.03418976441025734, 255 - 32)  # 32.5 and more are one code
    avoid_ties(cut_off, first, second)
    assert float(cut_off.scale) == pytest.approx(0.03418976441025734, rel=1e-7)
    quantizer.set_grid(2.0**-5, 0)
    avoid_ties(quantizer, torch.full((9,), 2.0**-6), torch.full((9,), 2.0**-5))
    assert float(quantizer.scale) == 2.0**-5
