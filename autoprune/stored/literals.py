"""The constants in a traced graph (`0.5`, `(1, -1)`, `torch.float16`, a slice) as JSON, and back.

What JSON has stays as it is; everything else becomes an object with one key that names its kind. Reading
accepts these kinds and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from autoprune.errors import ArtifactError

DEEPEST = 16
LARGEST_WHOLE = 2**63
_TORCH_KINDS = {"dtype": torch.dtype, "memory_format": torch.memory_format}


def to_json(value: Any, of_other: Callable[[Any], Any] | None = None) -> Any:
    """`value` as JSON.

    Args:
        value: a constant, or a list, tuple, dict or slice of constants.
        of_other: gives the JSON of anything that is no constant, or raises ArtifactError.

    Raises:
        ArtifactError: `value` cannot be written down.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, list):
        return [to_json(item, of_other) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [to_json(item, of_other) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": [[to_json(k, of_other), to_json(v, of_other)] for k, v in value.items()]}
    if isinstance(value, slice):
        return {"slice": [to_json(part, of_other) for part in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, torch.device):
        # Where a constant was made says nothing about where the artifact will run.
        return {"device": "cpu"}
    for kind, accepted in _TORCH_KINDS.items():
        if isinstance(value, accepted):
            return {kind: str(value).removeprefix("torch.")}
    if of_other is None:
        raise ArtifactError(f"a {type(value).__name__} cannot be written as JSON")
    return of_other(value)


def from_json(data: Any, named: Callable[[str], Any] | None = None, depth: int = 0) -> Any:
    """The value that `to_json` wrote.

    Args:
        data: what JSON gave.
        named: gives the node that `{"node": name}` stands for; None where there are no nodes.
        depth: how deep in lists and dicts `data` stands.

    Raises:
        ArtifactError: `data` is of no known kind, nested too deeply, or out of bounds.
    """
    if depth > DEEPEST:
        raise ArtifactError(f"the structure nests constants more than {DEEPEST} deep")
    if data is None or isinstance(data, bool | str | float):
        return data
    if isinstance(data, int):
        if abs(data) >= LARGEST_WHOLE:
            raise ArtifactError("the structure holds a whole number beyond 64 bits")
        return data
    if isinstance(data, list):
        return [from_json(item, named, depth + 1) for item in data]
    if isinstance(data, dict) and len(data) == 1:
        kind, content = next(iter(data.items()))
        return _of_kind(kind, content, named, depth + 1)
    raise ArtifactError(f"the structure holds {str(data)[:80]!r}, which is no constant")


def _of_kind(kind: str, content: Any, named: Callable[[str], Any] | None, depth: int) -> Any:
    if kind == "node" and named is not None and isinstance(content, str):
        return named(content)
    if kind == "ellipsis" and content is True:
        return ...
    if kind == "device" and content == "cpu":
        return torch.device("cpu")
    if kind == "float" and content in ("inf", "-inf", "nan"):
        return float(content)
    if kind in _TORCH_KINDS and isinstance(content, str):
        found = getattr(torch, content, None)
        if isinstance(found, _TORCH_KINDS[kind]):
            return found
    if kind in ("tuple", "slice", "dict") and isinstance(content, list):
        return _of_parts(kind, from_json(content, named, depth))
    raise ArtifactError(f"the structure holds {kind}: {str(content)[:80]!r}, which is no constant")


def _of_parts(kind: str, parts: list[Any]) -> Any:
    if kind == "tuple":
        return tuple(parts)
    if kind == "slice" and len(parts) == 3:
        return slice(*parts)
    pairs = [pair for pair in parts if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)]
    if kind == "dict" and len(pairs) == len(parts):
        return dict(parts)
    raise ArtifactError(f"the structure holds a {kind} with wrong parts")
