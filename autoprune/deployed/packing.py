"""How a deployed model is stored: integer codes at their real width, everything else as it is, or all of it coded.

Codes of b bits, unless they are 8, are stored as b bit planes, eight codes of a plane to a byte: any width is exactly
as dense as it should be, and unpacking is the same few operations for all of them (`targets.onnx_packing` has it
in ONNX). With a coding the whole state is one text of bytes (see `coding`): zeros cost next to nothing, and
frequent values less than rare ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import nn

from autoprune.deployed.codebook import CodebookLayer
from autoprune.deployed.coding import Item, decode, encode, is_bounded
from autoprune.deployed.quantizers import INTEGER_BITS, Codes, code_type, highest_code, weight_codes
from autoprune.deployed.streams import pack_bits, unpack_bits
from autoprune.errors import ArtifactError

# How the kind of a tensor of float32 is written whose values are whole numbers times a power of two: its exponent
# behind this.
FIXED = "fixed"
# The one tensor of a coded state: no module can have a tensor of that name.
CODED = "autoprune/coded"
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64),
    )
}


def pack_codes(codes: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Codes in [-(2^(b-1) - 1), 2^(b-1) - 1] as bit planes: uint8, shape (bits, ceil(codes / 8))."""
    shifted = codes.astype(np.int32).ravel() + highest_code(bits)
    return pack_bits(shifted.astype(np.uint8 if bits <= INTEGER_BITS else np.uint16), bits)


def unpack_codes(packed: np.ndarray[Any, Any], bits: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The codes that `pack_codes` packed: int8, or int16 where they have more bits.

    Raises:
        ArtifactError: `packed` has not the size that `bits` and `shape` ask for.
    """
    values = _unpack_indices(packed, bits, shape).astype(np.int32) - highest_code(bits)
    codes: np.ndarray[Any, Any] = values.astype(np.int8 if bits <= INTEGER_BITS else np.int16)
    return codes


def _unpack_indices(packed: np.ndarray[Any, Any], bits: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Numbers from 0 to 2^bits - 1 from their bit planes."""
    count = int(np.prod(shape, dtype=np.int64))
    if packed.shape != (bits, -(-count // 8)):
        raise ArtifactError(
            f"packed codes have shape {packed.shape}; {bits} bits of a weight of shape {tuple(shape)} "
            f"take {(bits, -(-count // 8))}"
        )
    values: np.ndarray[Any, Any] = unpack_bits(packed, count).reshape(shape)
    return values


def _code_name(layer: str) -> str:
    return f"{layer}.codes" if layer else "codes"


def _codes_by_name(model: nn.Module) -> dict[str, Codes]:
    return {_code_name(layer): codes for layer, codes in weight_codes(model).items()}


def _shared_by_name(model: nn.Module) -> dict[str, CodebookLayer]:
    """Name of the indices -> layer, for weights that share values."""
    return {
        _code_name(path): layer for path, layer in model.named_modules() if isinstance(layer, CodebookLayer)
    }


def pack_state(model: nn.Module, coding: str = "none") -> dict[str, torch.Tensor]:
    """What `model.safetensors` of an artifact holds; `unpack_state` is its inverse.

    Args:
        model: deployed.
        coding: `none`, or one of `coding.CODINGS`: the state is then a single tensor of bytes, unless that would
            be no smaller. Decoding gives the same bits; only the sign of a float zero is not kept.
    """
    plain = _packed(model)
    if coding == "none":
        return plain
    items = _items(model)
    content = encode(items, coding)
    coded = {CODED: torch.frombuffer(bytearray(content), dtype=torch.uint8)}
    is_legible = is_bounded(2 * sum(item.values.size for item in items), len(content))
    return coded if is_legible and _file_bytes(coded) < _file_bytes(plain) else plain


def untied_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a model with each tied tensor once, under its first name."""
    state: dict[str, torch.Tensor] = {}
    names = first_names(model)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if names[id(tensor)] == name:
            state[name] = tensor
    return state


def first_names(model: nn.Module) -> dict[int, str]:
    """Identity of each tensor in a model's state -> the first name that it has there."""
    names: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), name)
    return names


def _tied(state: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """A state in which tied tensors are there under each of their names again."""
    names = first_names(model)
    firsts = {name: names[id(tensor)] for name, tensor in model.state_dict(keep_vars=True).items()}
    others = {name: state[first] for name, first in firsts.items() if name not in state and first in state}
    return {**state, **others}


def _packed(model: nn.Module) -> dict[str, torch.Tensor]:
    widths = {name: codes.bits for name, codes in _codes_by_name(model).items()}
    shared = _shared_by_name(model)
    packed = {}
    for name, tensor in untied_state(model).items():
        tensor = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        if name in shared:
            tensor = torch.from_numpy(pack_bits(tensor.numpy().ravel(), shared[name].weight_bits))
        elif widths.get(name, INTEGER_BITS) != INTEGER_BITS:
            tensor = torch.from_numpy(pack_codes(tensor.numpy(), widths[name]))
        packed[name] = tensor
    return packed


def _items(model: nn.Module) -> list[Item]:
    codes = _codes_by_name(model)
    items = []
    for name, tensor in untied_state(model).items():
        tensor = tensor.detach().cpu().contiguous().reshape(-1)
        if name in codes:
            tensor = _zigzag(tensor)
        elif tensor.is_floating_point():
            tensor = tensor + 0.0  # a zero that was multiplied by a negative number has a sign, and is none
        dtype, shape = model.state_dict()[name].dtype, tuple(model.state_dict()[name].shape)
        kind = str(dtype).removeprefix("torch.")
        if (fixed := _fixed(tensor)) is not None:
            kind, tensor = fixed
        values = tensor.view(torch.uint8).numpy().reshape(len(tensor), tensor.element_size())
        items.append(Item(name, kind, shape, values))
    return items


def _fixed(tensor: torch.Tensor) -> tuple[str, torch.Tensor] | None:
    """Float32 numbers as whole numbers of one or two bytes times a power of two, None where they are not that."""
    if tensor.dtype != torch.float32 or not tensor.numel() or not bool(tensor.isfinite().all()):
        return None
    values = tensor.double()
    largest = float(values.abs().max())
    if largest == 0:
        return None
    # The coarsest grid on which the largest has 15 bits; then as coarse as all of them allow.
    exponent = math.frexp(largest)[1] - 14
    whole = values * 2.0**-exponent
    if exponent < -126 or not bool((whole == whole.round()).all()):
        return None
    numbers = whole.to(torch.int64)
    common = int(np.bitwise_or.reduce(numbers.abs().numpy()))
    shift = (common & -common).bit_length() - 1
    numbers, exponent = numbers >> shift, exponent + shift
    zigzag = (numbers << 1) ^ (numbers >> 63)
    dtype = torch.uint8 if int(zigzag.max()) < 256 else torch.int16
    return f"{FIXED}{exponent}", zigzag.to(dtype)


def _unfixed(item: Item) -> torch.Tensor:
    """The numbers that `_fixed` wrote."""
    exponent = int(item.dtype.removeprefix(FIXED))
    width = item.values.shape[1]
    if not -149 <= exponent <= 127 or width > 2:
        raise ArtifactError(f"coded weights: {item.name[:80]!r} has an unknown kind of values")
    places = 256 ** np.arange(width, dtype=np.int64)
    zigzag = torch.from_numpy((item.values.astype(np.int64) * places).sum(1))
    return (((zigzag >> 1) ^ -(zigzag & 1)).double() * 2.0**exponent).float().reshape(item.shape)


def _zigzag(codes: torch.Tensor) -> torch.Tensor:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ...: zeros stay zeros, and few bits few."""
    wide = codes.to(torch.int32)
    return ((wide << 1) ^ (wide >> 31)).to(torch.uint8 if codes.dtype == torch.int8 else torch.int16)


def _unzigzag(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes of so many bits from what `_zigzag` made of them."""
    wide = (
        values.view(torch.uint8).to(torch.int32) if bits <= INTEGER_BITS else values.to(torch.int32) & 0xFFFF
    )
    return ((wide >> 1) ^ -(wide & 1)).to(code_type(bits))


def unpack_state(packed: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The state of `model` from what `pack_state` gave for it.

    Args:
        packed: name -> tensor as stored.
        model: a deployed model of the same structure; its values do not matter.

    Raises:
        ArtifactError: a tensor does not have the size that the structure asks for, or cannot be decoded.
    """
    codes, shared = _codes_by_name(model), _shared_by_name(model)
    if CODED in packed:
        state = decode_state(packed)
        for name in shared.keys() & state.keys():
            _check_indices(name, state[name], shared[name])
        for name in codes.keys() & state.keys():
            if state[name].dtype != code_type(codes[name].bits):
                raise ArtifactError(f"{name} has not the kind of codes that {codes[name].bits} bits are")
            state[name] = _unzigzag(state[name], codes[name].bits)
            if int(state[name].abs().max()) > highest_code(codes[name].bits):
                raise ArtifactError(f"{name} has a code that {codes[name].bits} bits do not hold")
        return _tied(state, model)
    state = dict(packed)
    for name, (shaped, _, bits) in codes.items():
        if bits != INTEGER_BITS and name in state:
            state[name] = torch.from_numpy(unpack_codes(_planes(name, state), bits, tuple(shaped.shape)))
    for name in shared.keys() & state.keys():
        layer = shared[name]
        state[name] = torch.from_numpy(_unpack_indices(_planes(name, state), layer.weight_bits, layer.shape))
        _check_indices(name, state[name], layer)
    return _tied(state, model)


def _planes(name: str, state: Mapping[str, torch.Tensor]) -> np.ndarray[Any, Any]:
    if state[name].dtype != torch.uint8:
        raise ArtifactError(f"{name} is {state[name].dtype}, where packed codes are bytes")
    return state[name].contiguous().numpy()


def _check_indices(name: str, indices: torch.Tensor, layer: CodebookLayer) -> None:
    """Refuse indices of more values than there are."""
    if indices.dtype != torch.uint8 or int(indices.max()) >= len(layer.centroids):
        raise ArtifactError(f"{name} has an index beyond the {len(layer.centroids)} values of its layer")


def decode_state(packed: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every tensor by name, in its shape; integer codes still as `pack_state` codes them.

    A state that is not coded is returned as it is. `unpack_state` does this by itself; it is for those who need
    shapes before there is a model.

    Raises:
        ArtifactError: the coded content is damaged.
    """
    if CODED not in packed:
        return dict(packed)
    if packed[CODED].dtype != torch.uint8 or len(packed) > 1:
        raise ArtifactError("coded weights are one tensor of bytes; these are not")
    return {item.name: _tensor(item) for item in decode(packed[CODED].contiguous().numpy().tobytes())}


def _tensor(item: Item) -> torch.Tensor:
    if re.fullmatch(FIXED + r"-?\d{1,3}", item.dtype):
        return _unfixed(item)
    dtype = _DTYPES.get(item.dtype)
    if dtype is None or dtype.itemsize != item.values.shape[1]:
        raise ArtifactError(f"coded weights: {item.name[:80]!r} has an unknown kind of values")
    values = np.ascontiguousarray(item.values).reshape(-1)
    return torch.from_numpy(values.copy()).view(dtype).reshape(item.shape)


def _file_bytes(packed: Mapping[str, torch.Tensor]) -> int:
    return len(save_tensors(dict(packed)))


def stored_bytes(model: nn.Module, coding: str = "none") -> int:
    """The exact size of `model.safetensors` for a deployed model.

    Without a coding only shapes and bits matter, so that it is known before any training; with one the values
    matter too, and the size without it is the most that it can be.
    """
    return _file_bytes(pack_state(model, coding))


def stored_layer_bytes(layer: nn.Module) -> int:
    """The bytes of one layer's own tensors as `pack_state` stores them uncoded, without names."""
    return sum(tensor.numel() * tensor.element_size() for tensor in pack_state(layer).values())
