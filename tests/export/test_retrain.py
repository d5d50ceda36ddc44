"""From the JSON of a structure to a network trained from scratch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import autoprune
from autoprune.errors import ArtifactError, AutopruneError, BadInput
from autoprune.evaluate import Evaluator
from autoprune.record import Request
from autoprune.spec import load_spec

REMOVED = {"stem.0": [0, 3], "block.0": [1]}


@pytest.fixture
def structure(tmp_path: Path) -> Path:
    """A narrow network of which three channels are gone, as `structure.json` has it."""
    path = tmp_path / "structure.json"
    record = {"architecture": {"width": 6}, "prune": {"removed": REMOVED, "way": "module"}, "layers": []}
    path.write_text(json.dumps({"format": 1, "structure": record, "graph": None}))
    return path


def test_the_network_is_made_again_and_learns(
    structure: Path, tiny_spec: dict[str, Any], tmp_path: Path
) -> None:
    metrics = autoprune.retrain(structure, tmp_path / "new.safetensors", spec=tiny_spec, epochs=6)
    tensors = load_file(tmp_path / "new.safetensors")
    assert tensors["stem.0.weight"].shape == (4, 1, 3, 3)
    assert tensors["block.0.weight"].shape == (5, 4, 3, 3)
    assert metrics["accuracy"] > 80
    assert metrics["params"] == sum(t.numel() for n, t in tensors.items() if not n.endswith(STATISTICS))


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def test_a_seed_gives_the_same_weights_and_another_one_others(
    structure: Path, tiny_spec: dict[str, Any], tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("a", "b", "c")]
    for path, seed in zip(files, (0, 0, 1), strict=True):
        autoprune.retrain(structure, path, spec=tiny_spec, epochs=0.2, seed=seed)
    first, second, other = (path.read_bytes() for path in files)
    assert first == second != other


def test_a_checkpoint_of_the_search_goes_on_from_it(
    structure: Path, tiny_spec: dict[str, Any], tmp_path: Path
) -> None:
    autoprune.retrain(structure, tmp_path / "new.safetensors", spec=tiny_spec, epochs=0.2)
    evaluator = Evaluator(load_spec(tiny_spec))
    evaluator.attach_data(None)
    evaluator._reference = evaluator.task.model().eval()
    content = (tmp_path / "new.safetensors").read_bytes()
    result = evaluator.evaluate(Request(0, 0, {"architecture.width": 6}, content))
    assert result.state == "finished", result.reason


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"architecture": 3}',
        '{"architecture": {"wdth": 3}}',
        '{"structure": {"prune": {}}}',
        '{"architecture": {}, "prune": {"removed": {"nothing": [0]}, "way": "module"}}',
        '{"architecture": {}, "prune": 3}',
    ],
)
def test_what_is_no_structure_of_the_task_is_refused(
    content: str, tiny_spec: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "structure.json"
    path.write_text(content)
    with pytest.raises(AutopruneError):
        autoprune.retrain(path, tmp_path / "new", spec=tiny_spec, epochs=0.2)
    assert not (tmp_path / "new").exists()


def test_without_a_spec_the_one_beside_it_is_taken(structure: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"there is no .*config.yaml: name the spec"):
        autoprune.retrain(structure, tmp_path / "new")


def test_nothing_is_overwritten(structure: Path, tiny_spec: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "new").write_text("mine")
    with pytest.raises(ArtifactError, match="exists; give a file"):
        autoprune.retrain(structure, tmp_path / "new", spec=tiny_spec, epochs=0.2)
    assert (tmp_path / "new").read_text() == "mine"
    assert torch.is_grad_enabled()
