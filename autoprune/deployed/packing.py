"""How a deployed model is stored: integer codes at their real width, everything else as it is.

Codes of b < 8 bits are stored as b bit planes, eight codes of a plane to a byte: any width is exactly as
dense as it should be, and unpacking is the same few operations for all of them (`targets.onnx_packing` has it
in ONNX).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import nn

from autoprune.deployed.quantizers import highest_code, weight_codes
from autoprune.errors import ArtifactError


def pack_codes(codes: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Codes in [-(2^(b-1) - 1), 2^(b-1) - 1] as bit planes: uint8, shape (bits, ceil(codes / 8))."""
    shifted = (codes.astype(np.int16).ravel() + highest_code(bits)).astype(np.uint8)
    planes = (shifted[None, :] >> np.arange(bits, dtype=np.uint8)[:, None]) & 1
    packed: np.ndarray[Any, Any] = np.packbits(planes, axis=1, bitorder="little")
    return packed


def unpack_codes(packed: np.ndarray[Any, Any], bits: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The int8 codes that `pack_codes` packed.

    Raises:
        ArtifactError: `packed` has not the size that `bits` and `shape` ask for.
    """
    count = int(np.prod(shape, dtype=np.int64))
    if packed.shape != (bits, -(-count // 8)):
        raise ArtifactError(
            f"packed codes have shape {packed.shape}; {bits} bits of a weight of shape {tuple(shape)} "
            f"take {(bits, -(-count // 8))}"
        )
    planes = np.unpackbits(packed, axis=1, count=count, bitorder="little").astype(np.int16)
    values = (planes << np.arange(bits, dtype=np.int16)[:, None]).sum(0) - highest_code(bits)
    codes: np.ndarray[Any, Any] = values.astype(np.int8).reshape(shape)
    return codes


def _code_name(layer: str) -> str:
    return f"{layer}.codes" if layer else "codes"


def pack_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """What `model.safetensors` of an artifact holds; `unpack_state` is its inverse."""
    widths = {_code_name(layer): codes.bits for layer, codes in weight_codes(model).items()}
    packed = {}
    for name, tensor in model.state_dict().items():
        # Tied tensors are stored once each: safetensors refuses views of one storage.
        tensor = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        if widths.get(name, 8) < 8:
            tensor = torch.from_numpy(pack_codes(tensor.numpy(), widths[name]))
        packed[name] = tensor
    return packed


def unpack_state(packed: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The state of `model` from what `pack_state` gave for it.

    Args:
        packed: name -> tensor as stored.
        model: a deployed model of the same structure; its values do not matter.

    Raises:
        ArtifactError: a code tensor does not have the size that the structure asks for.
    """
    layers = {_code_name(layer): codes for layer, codes in weight_codes(model).items()}
    state = dict(packed)
    for name, (codes, _, bits) in layers.items():
        if bits < 8 and name in state:
            array = state[name].contiguous().numpy()
            state[name] = torch.from_numpy(unpack_codes(array, bits, tuple(codes.shape)))
    return state


def stored_bytes(model: nn.Module) -> int:
    """The exact size of `model.safetensors` for a deployed model; only shapes and bits matter."""
    return len(save_tensors(pack_state(model)))


def stored_layer_bytes(layer: nn.Module) -> int:
    """The bytes of one layer's own tensors as `pack_state` stores them, without names."""
    return sum(tensor.numel() * tensor.element_size() for tensor in pack_state(layer).values())
