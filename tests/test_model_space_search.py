"""A model space of NNI as the architecture part of a search: pruned, quantized, exported and loaded like any other."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nni")
pytest.importorskip("pytorch_lightning")

import autoprune
from autoprune.errors import SpecError, TaskError
from autoprune.evaluate import Evaluator
from autoprune.record import Request
from autoprune.search.profile import smallest_point
from autoprune.space import Options, Space
from autoprune.spec import load_spec

SPACES = Path(__file__).parent / "task" / "nni_spaces.py"


@pytest.fixture
def fields(tmp_path: Path) -> dict[str, Any]:
    """A spec that searches the small model space."""
    shutil.copy(SPACES, tmp_path)
    return {
        "task": {"use": "classification", "model": "nni_spaces.py:Small", "data": "nni_spaces.py:images"},
        "folder": str(tmp_path),
        "space": {"architecture": "default", "prune": {"ratio": [0.0, 0.75]}, "quantize": True},
        "target": {"use": "onnxruntime", "rounds": 2, "block_ms": 1.0},
        "train": {"epochs": 2, "batch_size": 16},
        "budget": {"trials": 4},
        "search": {"rungs": [0, 1]},
        "cluster": {"workers": 1},
    }


def evaluator(fields: dict[str, Any]) -> Evaluator:
    made = Evaluator(load_spec(fields))
    made.attach_data(None)
    made.attach_reference(made.train_reference())
    return made


def test_every_technique_applies_to_a_sampled_network(fields: dict[str, Any]) -> None:
    worker = evaluator(fields)
    space = Space.from_json(worker.describe()["choices"])
    assert space["architecture.block"] == Options(("wide", "none"), "wide")
    point = {**space.neutral(), "architecture.width": 16, "architecture.depth": 2}
    point |= {name: 0.5 for name in space if name.endswith(".ratio")}
    point |= {name: 8 for name in space if name.endswith("weight_bits")}
    result = worker.evaluate(Request(0, 0, point))
    assert result.state == "finished", result.reason
    assert result.structure["architecture"] == {"width": 16, "block": "wide", "depth": 2}
    assert "body.1" in {layer["name"] for layer in result.structure["layers"]}
    smaller = worker.evaluate(Request(1, 0, {**point, "architecture.block": "none"}))
    assert smaller.metrics["params"] < result.metrics["params"]


def test_a_part_of_the_labels_is_searched_where_the_spec_says_so(fields: dict[str, Any]) -> None:
    fields["space"]["architecture"] = {"block": ["wide", "none"]}
    space = Space.from_json(evaluator(fields).describe()["choices"])
    assert [name for name in space if name.startswith("architecture")] == ["architecture.block"]


def test_labels_and_values_that_do_not_exist_are_named_together(fields: dict[str, Any]) -> None:
    fields["space"]["architecture"] = {"blok": ["wide"], "block": ["wide", "non"]}
    with pytest.raises(SpecError) as caught:
        evaluator(fields).describe()
    lines = caught.value.problems
    assert len(lines) == 2 and "did you mean 'block'?" in lines[0] and "did you mean 'none'?" in lines[1]


def test_choices_that_give_no_network_are_named_and_rejected(fields: dict[str, Any]) -> None:
    fields["task"]["model"] = "nni_spaces.py:Odd"
    worker = evaluator(fields)
    made = worker.describe()
    assert any("heads=3 does not run" in warning for warning in made["warnings"])
    space = Space.from_json(made["choices"])
    result = worker.evaluate(Request(0, 0, {**space.neutral(), "architecture.heads": 3}))
    assert result.state == "rejected" and "heads=3" in result.reason
    assert smallest_point(space, worker.price_point)["architecture.heads"] == 2


def test_a_task_whose_inputs_the_space_cannot_take_is_refused(fields: dict[str, Any]) -> None:
    fields["task"]["model"] = "nni_spaces.py:Small?channels=3"
    with pytest.raises(TaskError, match=r"3 channels"):
        evaluator(fields)


@pytest.mark.slow
def test_it_is_searched_exported_and_loaded_without_nni(fields: dict[str, Any], tmp_path: Path) -> None:
    study = autoprune.search(fields, run=tmp_path / "run")
    assert len({str(trial.choices) for trial in study.trials}) >= 4
    folder = autoprune.export(study.best(), tmp_path / "out")
    model = autoprune.load(folder)
    assert model(torch.rand(3, 1, 8, 8)).shape == (3, 4)
    assert not any(type(module).__module__.startswith("nni") for module in model.modules())
