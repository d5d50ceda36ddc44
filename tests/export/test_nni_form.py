"""A trial as NNI has it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from autoprune.errors import ArtifactError
from autoprune.evaluate import Evaluator
from autoprune.export.nni_form import export_nni
from autoprune.record import Evaluation, Request
from autoprune.space import Options, Range, Space
from autoprune.spec import load_spec
from autoprune.study import Study

SPACES = Path(__file__).parents[1] / "task" / "nni_spaces.py"


def study(folder: Path, choices: dict[str, Any], point: dict[str, Any], **fields: Any) -> Study:
    """A study of one trial."""
    spec = load_spec({"task": "digits", "budget": {"trials": 1}, "objectives": {"a": "minimize"}, **fields})
    made = Study.create(folder, spec, Space(choices), {"seconds": {}}, {"a": 1.0})
    found = Evaluation(0, 0, "finished", point, {"a": 0.5}, read=dict(point), seconds={"total": 1.0})
    made.record(Request(0, 0, point), found)
    return made


def written(made: Study, to: Path) -> dict[str, Any]:
    folder = export_nni(made, made.trial(0), Evaluator(made.spec), to)
    return {path.stem: json.loads(path.read_text()) for path in folder.iterdir()}


def test_choices_go_under_nni_s_names_beside_the_space(tmp_path: Path) -> None:
    content = {"width": {"_type": "choice", "_value": [0.5, 1.0]}}
    space = {"architecture.width": Options((0.5, 1.0), 1.0), "prune.a.ratio": Range(0.0, 0.5, 0.0)}
    point = {"architecture.width": 0.5, "prune.a.ratio": 0.25}
    files = written(study(tmp_path / "run", space, point, space={"nni": content}), tmp_path / "out")
    assert files["trial"] == {
        "id": "0",
        "parameter": {"width": 0.5, "prune.a.ratio": 0.25},
        "value": {"default": 0.5, "a": 0.5},
    }
    assert files["search_space"] == {**content, "prune.a.ratio": {"_type": "uniform", "_value": [0.0, 0.5]}}


def test_of_a_model_space_the_parameter_is_its_sample(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    pytest.importorskip("nni")
    from nni.nas.space import model_context

    sys.path.insert(0, str(SPACES.parent))
    from nni_spaces import Inputs

    task = {"use": "classification", "model": f"{SPACES}:Inputs", "data": f"{SPACES}:images"}
    point = {"architecture.one": 2, "architecture.two": "1 2", "architecture.any/0": False}
    point |= {"architecture.any/1": True, "prune.a.ratio": 0.25}
    space = {name: Options((value,), value) for name, value in point.items()}
    files = written(study(tmp_path / "run", space, point, task=task), tmp_path / "out")
    parameter = files["trial"]["parameter"]
    assert parameter == {"one": [2], "two": [1, 2], "any": [1], "prune.a.ratio": 0.25}
    with model_context(parameter):
        Inputs()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    made = study(tmp_path / "run", {"prune.a.ratio": Range(0.0, 0.5, 0.0)}, {"prune.a.ratio": 0.25})
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ArtifactError):
        written(made, tmp_path)
