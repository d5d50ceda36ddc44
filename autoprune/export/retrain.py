"""A chosen architecture, trained from scratch: from the JSON of its structure, a task, and no weight of the search.

The structure says which arguments the task's `model` was given, and which units, blocks and ranks were taken out of it;
where these lay is all that is needed to make the network again. What it learned in the search, it learns anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.candidate import save_checkpoint, untrained
from autoprune.compress.depth import Depth
from autoprune.compress.factorize import Factorize
from autoprune.compress.prune import Prune
from autoprune.compress.technique import Context
from autoprune.errors import ArtifactError, AutopruneError, BadInput, raised
from autoprune.evaluate import Evaluator
from autoprune.space import Choices
from autoprune.spec.document import read_yaml
from autoprune.stretch import stretch
from autoprune.structure.parametrize import make_model
from autoprune.task import evaluate_metrics

MOST_BYTES = 2**28


def read_structure(path: Path) -> dict[str, Any]:
    """The realised structure in a file: `structure.json` of an artifact, or its part `structure` alone.

    Raises:
        BadInput: it cannot be read, or holds no structure.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadInput(f"{path} has more than {MOST_BYTES} bytes, expected the JSON of a structure")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read as JSON: {error}") from None
    structure = found.get("structure", found) if isinstance(found, Mapping) else None
    if not isinstance(structure, Mapping) or not isinstance(structure.get("architecture"), Mapping):
        raise BadInput(
            f"{path} holds no structure: expected an object with `architecture`, arguments of the task's model"
        )
    return dict(structure)


def beside(path: Path) -> dict[str, Any]:
    """The spec in the `config.yaml` that lies beside a structure in an artifact.

    Raises:
        BadInput: there is none.
    """
    config = path.with_name("config.yaml")
    try:
        found = read_yaml(config.read_text(encoding="utf-8"))
    except OSError:
        raise BadInput(f"there is no {config}: name the spec that says the task and how to train") from None
    spec = found.get("spec") if isinstance(found, Mapping) else None
    if not isinstance(spec, Mapping):
        raise BadInput(f"{config} holds no spec: name the one that says the task and how to train")
    return dict(spec)


def retrained(
    structure: Mapping[str, Any], evaluator: Evaluator, epochs: float, seed: int
) -> tuple[bytes, dict[str, float]]:
    """The checkpoint of a network of this structure, trained from scratch, and its metrics on the test split.

    Args:
        structure: of a candidate, as `read_structure` gives it.
        evaluator: with the task's data.
        epochs: of training, by the spec's settings.
        seed: of the initial weights and of training.

    Raises:
        BadInput: the structure is damaged, or not one of this task.
    """
    techniques = [
        Depth(),
        Prune(),
        Factorize(),
    ]  # what they recorded says how a network differs from the task's
    context = Context(
        evaluator.task,
        evaluator.data,
        evaluator.target,
        make_model(evaluator.task, {}).eval(),
        seed=seed,
        settings=evaluator.settings,
    )
    context.structure = {
        name: structure[name] for name in ("architecture", *(t.name for t in techniques)) if name in structure
    }
    try:
        model = untrained(techniques, context, seed)
    except AutopruneError:
        raise
    except Exception as error:  # whatever a damaged record leads to
        raise BadInput(
            f"the structure is damaged, or of another task: making its network {raised(error)}"
        ) from error
    stretch(model, evaluator.task, evaluator.data, epochs=epochs, settings=evaluator.settings, seed=seed)
    metrics = evaluate_metrics(model, evaluator.task, evaluator.data.test)
    return save_checkpoint(model, context.structure, 0), {**metrics, **evaluator.price(model, Choices({}))}


def check_new(path: Path) -> None:
    """Refuse a file that is there already.

    Raises:
        ArtifactError: it is.
    """
    if path.exists():
        raise ArtifactError(f"{path} exists; give a file that does not exist yet")


def write_checkpoint(path: Path, content: bytes) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        ArtifactError: the file is there already, or cannot be written.
    """
    check_new(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {error.strerror or error}") from None
