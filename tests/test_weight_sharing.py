"""A search on shared weights: who starts from them, what they cost, and that it is resumed with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import autoprune
from autoprune.errors import RunFolderError, SpecError
from autoprune.evaluate import Evaluator
from autoprune.record import Request
from autoprune.space import Space
from autoprune.spec import Spec, load_spec
from autoprune.study import Study


@pytest.fixture
def shared_spec(tiny_spec: dict[str, Any]) -> dict[str, Any]:
    return {**tiny_spec, "supernet": {"epochs": 2, "networks": 1}}


@pytest.fixture
def evaluator(shared_spec: dict[str, Any]) -> Evaluator:
    made = Evaluator(load_spec(shared_spec))
    made.attach_data(None)
    made.attach_reference(made.train_reference())
    return made


def test_other_architectures_start_from_the_supernet_and_the_reference_does_not(evaluator: Evaluator) -> None:
    weights, seconds = evaluator.train_supernet()
    evaluator.attach_supernet(weights)
    space = Space.from_json(evaluator.describe()["choices"])
    narrow = {**space.neutral(), "architecture.width": 4}
    found = evaluator.evaluate(Request(0, 0, narrow))
    assert found.state == "finished", found.reason
    assert found.metrics["accuracy"] > 80  # four corners, and not a step of its own
    baseline = evaluator.evaluate(Request(1, 0, space.neutral(), epochs=0.0))
    assert baseline.metrics["params"] == sum(p.numel() for p in evaluator.reference.parameters())
    assert evaluator.evaluate(Request(2, 0, narrow)).metrics["accuracy"] == found.metrics["accuracy"]
    assert seconds > 0


def test_shared_weights_come_out_the_same_under_a_seed(evaluator: Evaluator) -> None:
    assert evaluator.train_supernet()[0] == evaluator.train_supernet()[0]


def test_what_they_cost_counts_towards_the_budget(shared_spec: dict[str, Any], tmp_path: Path) -> None:
    spec = load_spec(shared_spec)
    baseline = {objective.metric: 1.0 for objective in spec.objectives}
    profile = {"seconds": {"supernet": 30.0}}
    with Study.create(tmp_path / "run", spec, Space({}), profile, baseline) as study:
        assert study.seconds == study.device_seconds == 30.0
    assert Study.open(tmp_path / "run").seconds == 30.0


@pytest.mark.slow
def test_a_search_is_resumed_with_its_supernet(shared_spec: dict[str, Any], tmp_path: Path) -> None:
    shared_spec["budget"] = {"trials": 3}
    study = autoprune.search(shared_spec, run=tmp_path / "run")
    weights = (tmp_path / "run" / "supernet.safetensors").read_bytes()
    before = study.device_seconds
    resumed = autoprune.resume(tmp_path / "run")
    assert (tmp_path / "run" / "supernet.safetensors").read_bytes() == weights
    assert resumed.device_seconds == pytest.approx(before)
    (tmp_path / "run" / "supernet.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"supernet.safetensors is missing"):
        autoprune.resume(tmp_path / "run")


def test_the_section_is_read_and_written() -> None:
    base = {"task": "digits", "budget": {"trials": 1}, "space": {"architecture": "default"}}
    assert load_spec(base).supernet is None
    spec = load_spec({**base, "supernet": True})
    assert spec.supernet is not None and (spec.supernet.epochs, spec.supernet.networks) == (10.0, 2)
    assert Spec.from_yaml(spec.to_yaml()).supernet == spec.supernet


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"supernet": True}, "space.architecture: got nothing, expected options"),
        ({"supernet": {"epochs": 0}}, "supernet.epochs: got 0, expected a number above 0"),
        ({"supernet": {"network": 1}}, "did you mean 'networks'?"),
        (
            {"supernet": True, "space": {"architecture": "default"}, "train": {"freeze": ["stem*"]}},
            "train.freeze: got ",
        ),
    ],
)
def test_what_makes_no_sense_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec({"task": "digits", "budget": {"trials": 1}, **fields})
    assert any(message in problem for problem in caught.value.problems), caught.value.problems


def test_an_architecture_of_one_option_shares_nothing(tiny_spec: dict[str, Any]) -> None:
    tiny_spec["space"]["architecture"] = {"width": [8]}
    made = Evaluator(load_spec({**tiny_spec, "supernet": True}))
    made.attach_data(None)
    made._reference = made.task.model()
    torch.manual_seed(0)
    with pytest.raises(SpecError, match="space.architecture: got no options"):
        made.train_supernet()
