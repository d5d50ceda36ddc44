"""Half precision as a choice of the target: searched, exported, read back, and gone on with in 32 bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_spec import TINY_SPEC
from workers_here import searched_here

import autoprune
from autoprune.deployed.lowered import Lowered
from autoprune.errors import TargetError
from autoprune.study import Study

SPEC: dict[str, Any] = {
    **TINY_SPEC,
    "space": {"prune": {"ratio": [0.0, 0.5]}},
    "target": {"use": "torch", "precision": ["bfloat16", "float16"], "rounds": 2, "block_ms": 1.0},
    "constraints": [],
    "budget": {"trials": 8},
    "search": {"rungs": [0], "sampler": "random"},
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return searched_here(SPEC, tmp_path_factory.mktemp("precision") / "run")


def test_trials_differ_in_precision(searched: Study) -> None:
    tried = {trial.structure["target"]["target.precision"] for trial in searched.results}
    assert tried == {"bfloat16", "float16"}


@pytest.mark.slow
def test_an_artifact_computes_in_the_precision_that_was_measured(searched: Study, tmp_path: Path) -> None:
    trial = searched.best()
    folder = autoprune.export(trial, tmp_path / "out")
    runtime = json.loads((folder / "structure.json").read_text())["structure"]["runtime"]
    assert runtime["precision"] == trial.structure["target"]["target.precision"]
    model = autoprune.load(folder)
    assert isinstance(model, Lowered)
    whole = autoprune.load(folder, whole=True)
    assert {p.dtype for p in whole.state_dict().values() if p.is_floating_point()} == {torch.float32}
    report = json.loads((folder / "metrics.json").read_text())["parity"]
    assert report["module"]["agreement"] == 100.0


def test_a_precision_that_there_is_not_is_told_with_what_there_is(tmp_path: Path) -> None:
    wrong = {**SPEC, "target": {"use": "torch", "precision": ["float32", "float8"]}}
    with pytest.raises(
        TargetError, match="target.precision: got 'float8', accepted are float32, bfloat16, float16"
    ):
        searched_here(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()
