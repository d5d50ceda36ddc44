"""Packed and unpacked are the same, to the bit, and as dense as the bits promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quantizable_networks import network
from safetensors.torch import load, save
from torch import nn

from autoprune.deployed import Widths, deploy, layer_kind, pack_state, stored_bytes, unpack_state
from autoprune.deployed.codebook import quantized_layer
from autoprune.deployed.coding import Item, encode
from autoprune.deployed.packing import CODED, decode_state, pack_codes, unpack_codes
from autoprune.deployed.quantizers import FIXED_POINT
from autoprune.errors import ArtifactError


@pytest.mark.parametrize("bits", range(2, 17))
def test_codes_survive_packing(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    codes = (
        np.random.default_rng(bits).integers(-top, top + 1, (5, 7, 3)).astype(f"int{8 if bits < 9 else 16}")
    )
    packed = pack_codes(codes, bits)
    assert packed.nbytes == bits * -(-codes.size // 8)
    found = unpack_codes(packed, bits, codes.shape)
    assert np.array_equal(found, codes) and found.dtype == codes.dtype


def test_codes_of_another_size_are_refused() -> None:
    with pytest.raises(ArtifactError, match=r"take \(3, 2\)"):
        unpack_codes(np.zeros((4, 2), np.uint8), 3, (16,))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 16, 32])
def test_a_stored_network_comes_back_to_the_bit(bits: int) -> None:
    model, inputs = network("residual")
    widths = {name: (bits, 8) for name, module in model.named_modules() if layer_kind(module)}
    deployed, again = deploy(model, widths, inputs[:1]), deploy(network("residual")[0], widths, inputs[:1])
    with torch.no_grad():
        for tensor in again.state_dict().values():
            tensor.zero_()
    again.load_state_dict(unpack_state(load(save(pack_state(deployed))), again))
    for name, tensor in deployed.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.parametrize("coding", ["sparse", "huffman", "entropy"])
@pytest.mark.parametrize("bits", [2, 4, 8, 16, 32])
def test_a_coded_network_comes_back_to_the_bit(bits: int, coding: str) -> None:
    model, inputs = network("residual")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.masked_fill_(torch.rand_like(parameter) < 0.8, 0.0)
    widths = {name: (bits, 8) for name, module in model.named_modules() if layer_kind(module)}
    deployed = deploy(model, widths, inputs[:1])
    packed = load(save(pack_state(deployed, coding)))
    assert list(packed) == [CODED]
    state = unpack_state(packed, deployed)
    for name, tensor in deployed.state_dict().items():
        assert torch.equal(tensor, state[name]) and tensor.dtype == state[name].dtype, name
    assert len(save(packed)) == stored_bytes(deployed, coding) < stored_bytes(deployed)


@pytest.mark.parametrize("coding", ["none", "entropy"])
@pytest.mark.parametrize("bits", [2, 9, 16])
def test_fixed_point_weights_of_any_width_come_back_to_the_bit(bits: int, coding: str) -> None:
    model, inputs = network("residual")
    widths = {n: Widths(bits, 8, FIXED_POINT) for n, module in model.named_modules() if layer_kind(module)}
    deployed = deploy(model, widths, inputs[:1])
    state = unpack_state(load(save(pack_state(deployed, coding))), deployed)
    for name, tensor in deployed.state_dict().items():
        assert torch.equal(tensor, state[name]) and tensor.dtype == state[name].dtype, name


def test_a_coding_that_saves_nothing_is_left_out() -> None:
    tiny = torch.nn.Linear(2, 2)
    assert set(pack_state(tiny, "sparse")) == {"weight", "bias"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int64, torch.bool, torch.float64])
def test_buffers_of_any_kind_are_coded(dtype: torch.dtype) -> None:
    model = torch.nn.Linear(40, 40)
    model.weight.data.zero_()
    model.register_buffer("kept", torch.arange(7).to(dtype))
    state = decode_state(pack_state(model, "huffman"))
    assert state["kept"].dtype == dtype and torch.equal(state["kept"], model.kept)


def test_codes_beyond_their_bits_are_refused() -> None:
    model, inputs = network("residual")
    widths = {name: (4, 8) for name, module in model.named_modules() if layer_kind(module)}
    deployed, wide = (deploy(model, dict.fromkeys(widths, (b, 8)), inputs[:1]) for b in (4, 8))
    with pytest.raises(ArtifactError, match="4 bits do not hold"):
        unpack_state(pack_state(wide, "huffman"), deployed)


@pytest.mark.parametrize("coding", ["none", "sparse", "huffman", "entropy"])
@pytest.mark.parametrize("form", ["per_tensor", "codebook"])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_a_network_of_every_form_comes_back_to_the_bit(bits: int, form: str, coding: str) -> None:
    model, inputs = network("residual")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.masked_fill_(torch.rand_like(parameter) < 0.8, 0.0)
    widths = {name: Widths(bits, 8, form) for name, module in model.named_modules() if layer_kind(module)}
    deployed = deploy(model, widths, inputs[:1])
    state = unpack_state(load(save(pack_state(deployed, coding))), deployed)
    for name, tensor in deployed.state_dict().items():
        assert torch.equal(tensor, state[name]) and tensor.dtype == state[name].dtype, name


@pytest.mark.parametrize("coding", ["none", "huffman"])
def test_indices_of_values_that_are_not_there_are_refused(coding: str) -> None:
    model = nn.Sequential(quantized_layer(nn.Linear(3, 4), Widths(4, 32, "codebook")))
    model[0].codes[0, 0] = 13
    with pytest.raises(ArtifactError, match="beyond the 12 values"):
        unpack_state(pack_state(model, coding), model)
    with pytest.raises(ArtifactError, match="bytes"):
        unpack_state({"0.codes": torch.zeros(4, 2)}, model)


@pytest.mark.parametrize("unit", [2.0**-9, 1.0, 2.0**40])
@pytest.mark.parametrize("largest", [3, 120, 9000])
def test_numbers_on_a_coarse_grid_take_one_or_two_bytes(unit: float, largest: int) -> None:
    model = nn.Linear(2, 400)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.randint(-largest, largest + 1, (400,), dtype=torch.float32) * unit)
    packed = pack_state(model, "sparse")
    assert torch.equal(decode_state(packed)["bias"], model.bias)
    assert packed[CODED].numel() < 150 + 400 * (1 if largest < 128 else 2)


@pytest.mark.parametrize("kind", ["fixed", "fixed-150", "fixed200", "fixed1e3", "fixed9999"])
def test_a_grid_that_float32_does_not_have_is_refused(kind: str) -> None:
    content = encode([Item("bias", kind, (3,), np.ones((3, 1), np.uint8))], "sparse")
    with pytest.raises(ArtifactError, match="unknown kind of values"):
        decode_state({CODED: torch.frombuffer(bytearray(content), dtype=torch.uint8)})


def test_damaged_bytes_of_a_codebook_network_are_refused_or_decode_to_the_same_shapes() -> None:
    model = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 4))
    deployed = deploy(model, {name: Widths(3, 32, "codebook") for name in "02"}, torch.zeros(1, 30))
    for name in "02":
        deployed.get_submodule(name).coarsen_bias()
    content = pack_state(deployed, "entropy")[CODED].numpy()
    draw = np.random.default_rng(0)
    for place in draw.integers(0, len(content), 200):
        changed = content.copy()
        changed[place] ^= 1 << int(draw.integers(8))
        try:
            state = unpack_state({CODED: torch.from_numpy(changed)}, deployed)
        except ArtifactError:
            continue
        assert all(
            state[name].shape == tensor.shape
            for name, tensor in deployed.state_dict().items()
            if name in state
        )


def test_a_coarse_bias_is_as_exact_as_the_weights_need() -> None:
    for form in ("per_channel", "per_tensor", "codebook"):
        layer = quantized_layer(nn.Linear(40, 200), Widths(4, 32, form))
        before = layer.get_buffer("bias").clone()
        layer.coarsen_bias()
        change = (layer.get_buffer("bias") - before).abs().max()
        assert 0 < change <= layer.step.median() / 8 + 1e-7
    layer.get_buffer("bias").fill_(1e9 + 64)
    layer.coarsen_bias()
    assert (layer.get_buffer("bias") == 1e9 + 64).all()


def test_four_bits_of_98_percent_zeros_take_what_they_tell() -> None:
    """LeNet-300-100, its zeros and values drawn at random, which is the hardest case: all in all 6 % more."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    with torch.no_grad():
        for layer in (model[0], model[2], model[4]):
            layer.weight.masked_fill_(torch.rand_like(layer.weight) < 0.98, 0.0)
    floats = stored_bytes(model)
    deployed = deploy(model, {name: Widths(4, 32, "codebook") for name in "024"}, torch.zeros(1, 784))
    told = 0.0
    for name in "024":
        layer = deployed.get_submodule(name)
        layer.coarsen_bias()
        share = torch.bincount(layer.codes.flatten().int()).double() / layer.codes.numel()
        told -= float((share * share.clamp(min=1e-12).log2()).sum()) * layer.codes.numel() / 8
    stored = stored_bytes(deployed, "entropy")
    assert stored < 1.06 * told + 1000
    assert floats > 100 * stored


def test_coded_bytes_of_another_kind_are_refused() -> None:
    with pytest.raises(ArtifactError, match="one tensor of bytes"):
        unpack_state({CODED: torch.zeros(4)}, torch.nn.Linear(2, 2))
    with pytest.raises(ArtifactError, match="cannot be read"):
        unpack_state({CODED: torch.zeros(4, dtype=torch.uint8)}, torch.nn.Linear(2, 2))


def test_tied_tensors_are_stored_once_and_come_back_under_each_name() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False)})
    model["head"].weight = model["embed"].weight
    packed = pack_state(model)
    assert set(packed) == {"embed.weight"}
    state = unpack_state(packed, model)
    assert set(state) == {"embed.weight", "head.weight"}
    assert state["head.weight"] is state["embed.weight"]
