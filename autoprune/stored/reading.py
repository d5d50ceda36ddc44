"""The safe way back from an artifact's folder to a network; `export.artifact` writes the folder and says what is in it.

Reading unpickles nothing and runs no code from it; a file that is missing, was added or differs from its hash is
refused. The hashes find damage, not malice: they lie in the folder too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import nn

import autoprune.stored.graph as graph
import autoprune.stored.replay as replay
from autoprune.deployed import unpack_state
from autoprune.deployed.lowered import lowered
from autoprune.deployed.packing import decode_state
from autoprune.errors import ArtifactError
from autoprune.space.precision import FLOAT32, PRECISIONS

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
STRUCTURE = "structure.json"
METRICS = "metrics.json"
LARGEST_JSON = 64 * 2**20

Factory = Callable[..., nn.Module]


def load(folder: str | Path, model: Factory | None = None, *, whole: bool = False) -> nn.Module:
    """The candidate in an artifact as a module, in eval mode, once every file is what it was when written.

    Args:
        folder: the artifact.
        model: makes the uncompressed network (`MyTask().model`). Only needed for networks whose `forward`
            cannot be written as a graph; the message says so.
        whole: in 32 bits also where its runtime computes in half precision: to train it, or to compress it further.

    Raises:
        ArtifactError: the artifact is incomplete, was changed, is of a newer format, or needs `model`.
    """
    folder = Path(folder)
    check_files(folder)
    structure = _read_json(folder / STRUCTURE)
    precision = FLOAT32 if whole else _precision(folder, structure)
    try:
        packed = load_tensors((folder / WEIGHTS).read_bytes())
    except (SafetensorError, ValueError) as error:
        raise ArtifactError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    try:
        made = _make(folder, structure, model, packed)
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(f"{folder / WEIGHTS} does not fit structure.json: {error}") from None
    if empty := [name for name, tensor in _tensors(made).items() if tensor.is_meta]:
        raise ArtifactError(f"{folder / WEIGHTS} has no values for {', '.join(empty[:5])}")
    return lowered(made.eval().requires_grad_(False), precision)


def _precision(folder: Path, structure: Mapping[str, Any]) -> str:
    """In which the artifact's runtime computes, and so what is loaded."""
    described: Any = structure.get("structure")
    runtime = described.get("runtime") if isinstance(described, dict) else None
    found = runtime.get("precision", FLOAT32) if isinstance(runtime, dict) else FLOAT32
    if found not in PRECISIONS:
        raise ArtifactError(
            f"{folder / STRUCTURE} has the precision {str(found)[:80]!r}, accepted are {', '.join(PRECISIONS)}"
        )
    return str(found)


def _make(
    folder: Path, structure: Mapping[str, Any], factory: Factory | None, packed: Mapping[str, torch.Tensor]
) -> nn.Module:
    if structure.get("graph") is not None:
        return graph.restore(structure["graph"], packed)
    if factory is None:
        raise ArtifactError(
            f"{folder} holds a network that could not be stored as a graph ({structure.get('reason')}); "
            "load(folder, model=...) needs the function that makes the uncompressed network, which a task names behind "
            "a '?': folder?model=file.py:Net"
        )
    architecture = dict(structure.get("structure") or {}).get("architecture", {})
    made = replay.rebuild(factory, architecture, structure.get("layers"), decode_state(packed))
    replay.repeat_sizes(made, structure.get("sizes", {}))
    replay.repeat_unsaved(made, structure.get("unsaved", {}))
    made.load_state_dict(unpack_state(packed, made), assign=True)
    return made


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def check_files(folder: str | Path) -> dict[str, Any]:
    """The manifest of an artifact, once every file in the folder agrees with it.

    Raises:
        ArtifactError: no artifact, a newer format, or a file is missing, unknown, changed or a link.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(f"{folder} is no artifact: it has no {MANIFEST}")
    manifest = _read_json(folder / MANIFEST)
    found = manifest.get("format")
    if not isinstance(found, int) or found > FORMAT:
        raise ArtifactError(f"{folder} has format {found!r}; this autoprune reads up to {FORMAT}: upgrade it")
    files = manifest.get("files")
    if not isinstance(files, dict) or not {WEIGHTS, STRUCTURE} <= set(files):
        raise ArtifactError(f"{folder / MANIFEST} does not list the artifact's files")
    _check_present(folder, set(files))
    for name, identity in files.items():
        if identity_of(folder / name) != identity:
            raise ArtifactError(f"{folder / name} was changed: it differs from its SHA-256 in {MANIFEST}")
    return manifest


def _check_present(folder: Path, listed: set[str]) -> None:
    """Exactly the listed files lie in the folder: plain ones, no links, nothing outside of it."""
    if outside := sorted(name for name in listed if not is_plain(name)):
        raise ArtifactError(f"{folder / MANIFEST} lists {outside[0]!r}, which is no file of this folder")
    present = {path.name: path for path in folder.iterdir() if path.name != MANIFEST}
    if missing := sorted(listed - set(present)):
        raise ArtifactError(f"{folder} is incomplete: {', '.join(missing)} is missing")
    if unknown := sorted(set(present) - listed):
        raise ArtifactError(f"{folder} holds {', '.join(unknown)}, which {MANIFEST} does not list")
    for path in (*present.values(), folder / MANIFEST):
        if path.is_symlink() or not path.is_file():
            raise ArtifactError(f"{path} is a link or no file; an artifact holds plain files only")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ArtifactError(f"{path} is larger than {LARGEST_JSON} bytes")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise ArtifactError(f"{path} does not hold a JSON object")
    return data


def is_plain(name: str) -> bool:
    """Whether a text is the name of a file in the folder itself, and no hidden one."""
    return bool(name) and not name.startswith(".") and Path(name).name == name and "\\" not in name


def identity_of(path: Path) -> dict[str, Any]:
    """SHA-256 and size of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return {"sha256": digest.hexdigest(), "bytes": path.stat().st_size}
