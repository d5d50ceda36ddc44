"""Packed and unpacked are the same, to the bit, and as dense as the bits promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quantizable_networks import network
from safetensors.torch import load, save
from torch import nn

from autoprune.deployed import deploy, layer_kind, pack_state, stored_bytes, unpack_state
from autoprune.deployed.packing import CODED, decode_state, pack_codes, unpack_codes
from autoprune.errors import ArtifactError


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_survive_packing(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    codes = np.random.default_rng(bits).integers(-top, top + 1, (5, 7, 3)).astype(np.int8)
    packed = pack_codes(codes, bits)
    assert packed.nbytes == bits * -(-codes.size // 8)
    assert np.array_equal(unpack_codes(packed, bits, codes.shape), codes)


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
