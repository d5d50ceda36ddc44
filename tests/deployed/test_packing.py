"""Packed and unpacked are the same, to the bit, and as dense as the bits promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quantizable_networks import network
from safetensors.torch import load, save

from autoprune.deployed import deploy, layer_kind, pack_state, unpack_state
from autoprune.deployed.packing import pack_codes, unpack_codes
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
