"""The artifact: a folder that holds everything to run one candidate, and nothing that has to be trusted.

    model.safetensors   the weights as deployed: integer codes at their real width
    structure.json      realised structure, and the graph that the weights belong to
    model.onnx          what the target runs (further or other files with other targets)
    metrics.json        the figures of the candidate, of its baseline, and the parity report
    config.yaml         the choices and the spec that led to it
    README.md           how to run it
    manifest.json       format, versions, and the SHA-256 of every other file

It appears whole or not at all; `autoprune.stored` reads it.
"""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors.torch import save as save_tensors
from torch import fx, nn

import autoprune
from autoprune.compress.store import coding_of
from autoprune.deployed import pack_state
from autoprune.errors import ArtifactError
from autoprune.export import readme
from autoprune.stored import graph, replay
from autoprune.stored.reading import FORMAT, MANIFEST, METRICS, STRUCTURE, WEIGHTS, identity_of, is_plain
from autoprune.targets.interface import Interface
from autoprune.tensors import Inputs, call

OWN_FILES = (WEIGHTS, STRUCTURE, METRICS, "config.yaml", "README.md", MANIFEST)
VERSIONED = ("torch", "onnx", "onnxruntime")


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
    with whole(folder) as staging:
        _write_files(staging, contents)
        if verify is not None:
            metrics = {**contents.metrics, "parity": verify(staging)}
            _write_json(staging / METRICS, metrics)
            _write_manifest(staging)
    return folder


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder to write to that gets its name only if all goes well.

    Raises:
        ArtifactError: it cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written: {error.strerror or error}") from None
    try:
        staging.chmod(0o755)
        yield staging
        staging.replace(folder)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_free(folder: Path) -> None:
    """Refuse a folder that an artifact cannot be written to.

    Raises:
        ArtifactError: it is a file, or not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder} exists and is not empty; give a folder that does not exist yet")


def _check_names(files: Mapping[str, bytes]) -> None:
    for name in files:
        if name in OWN_FILES or not is_plain(name):
            raise ArtifactError(
                f"the target gives a file {name!r}; expected a plain name other than {OWN_FILES}"
            )


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
        if isinstance(contents.model, fx.GraphModule):  # no code of the user's could make it again
            raise
        return {**common, "graph": None, "reason": str(error), **_repeatable(contents.model)}


def _repeatable(model: nn.Module) -> dict[str, Any]:
    """What has to be repeated on a network that the user's own function makes."""
    return {
        "layers": replay.layers_to_json(model),
        "sizes": replay.sizes_to_json(model),
        "unsaved": replay.unsaved_to_json(model),
    }


def _plain(data: Any) -> Any:
    """`data` in JSON's types, which YAML's safe writer takes too (tuples are none of them)."""
    return json.loads(json.dumps(data))


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _write_manifest(folder: Path) -> None:
    files = {p.name: identity_of(p) for p in sorted(folder.iterdir()) if p.name != MANIFEST}
    versions = {"autoprune": autoprune.__version__, "python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in VERSIONED}
    _write_json(folder / MANIFEST, {"format": FORMAT, "versions": versions, "files": files})
