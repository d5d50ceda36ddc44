"""The artifact: a folder that holds everything to run one candidate, and nothing that has to be trusted.

    model.safetensors   the weights as deployed: integer codes at their real width
    structure.json      realised structure, and the graph that the weights belong to
    model.onnx          what the target runs (further or other files with other targets)
    metrics.json        the figures of the candidate, of its baseline, and the parity report
    config.yaml         the choices and the spec that led to it
    README.md           how to run it
    manifest.json       format, versions, and the SHA-256 of every other file

It appears whole or not at all. Reading it unpickles nothing and runs no code from it; a file that is missing,
was added or differs from its hash is refused. The hashes find damage, not malice: they lie in the folder too.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

import autoprune
from autoprune.compress.store import coding_of
from autoprune.deployed import pack_state, unpack_state
from autoprune.deployed.packing import decode_state
from autoprune.errors import ArtifactError
from autoprune.export import graph, readme, replay
from autoprune.targets.interface import Interface
from autoprune.tensors import Inputs, call

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
STRUCTURE = "structure.json"
METRICS = "metrics.json"
OWN_FILES = (WEIGHTS, STRUCTURE, METRICS, "config.yaml", "README.md", MANIFEST)
LARGEST_JSON = 64 * 2**20
VERSIONED = ("torch", "onnx", "onnxruntime")

Factory = Callable[..., nn.Module]


class Contents(NamedTuple):
    """What goes into an artifact.

    Attributes:
        model: the deployed module, in eval mode.
        example: inputs of batch size 1, in the network's form.
        files: of the target's runnable, name -> content.
        structure: realised structure, plain data; `architecture` in it: the arguments of the task's model.
        metrics: `search`, `export` and `baseline`: a mapping of figures each.
        config: plain data: the choices, the spec; `input` in it says how inputs are made (see `readme`).
    """

    model: nn.Module
    example: Inputs
    files: Mapping[str, bytes]
    structure: Mapping[str, Any]
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]


def write_artifact(
    folder: str | Path, contents: Contents, verify: Callable[[Path], Mapping[str, Any]] | None = None
) -> Path:
    """Write an artifact; `folder` exists afterwards only if all went well.

    Args:
        folder: must not exist, or be empty.
        contents: what it will hold.
        verify: called with the complete folder before it gets its name. What it returns is kept in
            `metrics.json` as `parity`; what it raises ends the writing without a trace.

    Raises:
        ArtifactError: the folder cannot be written, or is in use.
    """
    folder = Path(folder)
    check_free(folder)
    _check_names(contents.files)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written: {error.strerror or error}") from None
    try:
        staging.chmod(0o755)
        _write_files(staging, contents)
        if verify is not None:
            metrics = {**contents.metrics, "parity": verify(staging)}
            _write_json(staging / METRICS, metrics)
            _write_manifest(staging)
        staging.replace(folder)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def check_free(folder: Path) -> None:
    """Refuse a folder that an artifact cannot be written to.

    Raises:
        ArtifactError: it is a file, or not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder} exists and is not empty; give a folder that does not exist yet")


def _check_names(files: Mapping[str, bytes]) -> None:
    for name in files:
        if name in OWN_FILES or not _is_plain(name):
            raise ArtifactError(
                f"the target gives a file {name!r}; expected a plain name other than {OWN_FILES}"
            )


def _is_plain(name: str) -> bool:
    return bool(name) and not name.startswith(".") and Path(name).name == name and "\\" not in name


def _write_files(folder: Path, contents: Contents) -> None:
    structure = _structure(contents)
    (folder / WEIGHTS).write_bytes(save_tensors(pack_state(contents.model, coding_of(contents.structure))))
    _write_json(folder / STRUCTURE, structure)
    _write_json(folder / METRICS, contents.metrics)
    for name, content in contents.files.items():
        (folder / name).write_bytes(content)
    config = yaml.safe_dump(_plain(contents.config), sort_keys=False, allow_unicode=True)
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    text = readme.text(structure, contents.metrics, contents.config, list(contents.files))
    (folder / "README.md").write_text(text, encoding="utf-8")
    _write_manifest(folder)


def _structure(contents: Contents) -> dict[str, Any]:
    """What structure.json holds."""
    with torch.no_grad():
        interface = Interface(contents.example, call(contents.model, contents.example))
    common = {
        "format": FORMAT,
        "structure": contents.structure,
        "takes": readme.form_of(contents.example),
        **interface.describe(),
    }
    try:
        return {**common, "graph": graph.store(contents.model, contents.example)}
    except ArtifactError as error:
        layers = replay.layers_to_json(contents.model)
        return {**common, "graph": None, "reason": str(error), "layers": layers}


def _plain(data: Any) -> Any:
    """`data` in JSON's types, which YAML's safe writer takes too (tuples are none of them)."""
    return json.loads(json.dumps(data))


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _write_manifest(folder: Path) -> None:
    files = {p.name: _identity(p) for p in sorted(folder.iterdir()) if p.name != MANIFEST}
    versions = {"autoprune": autoprune.__version__, "python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in VERSIONED}
    _write_json(folder / MANIFEST, {"format": FORMAT, "versions": versions, "files": files})


def _identity(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return {"sha256": digest.hexdigest(), "bytes": path.stat().st_size}


def load(folder: str | Path, model: Factory | None = None) -> nn.Module:
    """The candidate in an artifact as a module, in eval mode, once every file is what it was when written.

    Args:
        folder: the artifact.
        model: makes the uncompressed network (`MyTask().model`). Only needed for networks whose `forward`
            cannot be written as a graph; the message says so.

    Raises:
        ArtifactError: the artifact is incomplete, was changed, is of a newer format, or needs `model`.
    """
    folder = Path(folder)
    check_files(folder)
    structure = _read_json(folder / STRUCTURE)
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
    return made.eval().requires_grad_(False)


def _make(
    folder: Path, structure: Mapping[str, Any], factory: Factory | None, packed: Mapping[str, torch.Tensor]
) -> nn.Module:
    if structure.get("graph") is not None:
        return graph.restore(structure["graph"], packed)
    if factory is None:
        raise ArtifactError(
            f"{folder} holds a network that could not be stored as a graph ({structure.get('reason')}); "
            "load(folder, model=...) needs the function that makes the uncompressed network"
        )
    architecture = dict(structure.get("structure") or {}).get("architecture", {})
    made = replay.rebuild(factory, architecture, structure.get("layers"), decode_state(packed))
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
        if _identity(folder / name) != identity:
            raise ArtifactError(f"{folder / name} was changed: it differs from its SHA-256 in {MANIFEST}")
    return manifest


def _check_present(folder: Path, listed: set[str]) -> None:
    """Exactly the listed files lie in the folder: plain ones, no links, nothing outside of it."""
    if outside := sorted(name for name in listed if not _is_plain(name)):
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
