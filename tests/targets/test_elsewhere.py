"""A device somewhere else: measured there, modelled where it is not there, and never the two of them together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import SpecError, TargetError
from autoprune.spec import load_spec
from autoprune.targets import Measurement, load_target
from autoprune.targets.elsewhere import LEAST_NETWORKS, Absent, Elsewhere, Job, Model, network_features, timed

EXAMPLE = torch.zeros(1, 4)


class Here:
    """A runtime of this machine that takes a millisecond for anything."""

    weight_bits = activation_bits = (8, 32)
    channel_multiple, measures = 1, ()

    def __init__(self) -> None:
        self.stopwatch = SimpleNamespace(
            settings={"runtime": "here"},
            time=lambda files, inputs, brief: Measurement(1.0, rounds=3, figures={"energy_uj": 9.0}),
        )

    def supports(self, choices: dict[str, Any]) -> str | None:
        return "no" if choices else None

    def build(self, model: nn.Module, example: Any) -> Any:
        return SimpleNamespace(files={"model.bin": b"weights"}, run=model, way="trace")

    def measure(self, runnable: Any, example: Any) -> Measurement:
        raise AssertionError("nothing is measured past the device")

    def machine_key(self) -> str:
        return "this"


class Device:
    """Takes five milliseconds for anything, while it is there."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.is_there = True

    def __call__(self, resource: str, job: Job) -> Measurement:
        if not self.is_there:
            raise Absent(f"no node has {resource}")
        self.jobs.append(job)
        return Measurement(5.0, rounds=4)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path))
    return Elsewhere(Here(), "pi4")


def measured(target: Elsewhere, outputs: int = 3) -> Measurement:
    return target.measure(target.build(nn.Linear(4, outputs), EXAMPLE), EXAMPLE)


def known(count: int) -> dict[str, float]:
    """What so many linear layers took on a device of a tenth of a millisecond, and one for a thousand outputs."""
    return {
        json.dumps(network_features(nn.Linear(4, outputs), EXAMPLE)): 0.1 + 0.001 * outputs
        for outputs in range(10, 10 * count + 1, 10)
    }


def test_the_device_gets_the_files_as_they_are_and_its_answer_is_marked_as_measured(
    elsewhere: Elsewhere,
) -> None:
    device = Device()
    elsewhere.attach(device, None)
    found = measured(elsewhere)
    assert found.latency_ms == 5.0 and found.sources == {"latency_ms": "measured on a node with pi4"}
    (job,) = device.jobs
    assert job.files == {"model.bin": b"weights"} and not job.is_brief
    runnable: Any = elsewhere.build(nn.Linear(4, 3), EXAMPLE)
    assert runnable.way == "trace" and elsewhere.measure_briefly(runnable, EXAMPLE).latency_ms == 5.0
    assert device.jobs[-1].is_brief


def test_files_that_changed_on_the_way_are_not_measured() -> None:
    job = Job.of({"model.onnx": b"right"}, {"x": np.zeros(3)}, {"runtime": "onnxruntime"}, False)
    for changed in ({"files": {"model.onnx": b"wrong"}}, {"inputs": {"x": np.ones(3)}}):
        with pytest.raises(TargetError, match="not those that were sent"):
            timed(dataclasses.replace(job, **changed))  # type: ignore[arg-type]


def test_what_was_measured_is_known_to_the_next_process(elsewhere: Elsewhere) -> None:
    elsewhere.attach(Device(), None)
    measured(elsewhere)
    assert list(Elsewhere(Here(), "pi4").known.values()) == [5.0]
    assert Elsewhere(Here(), "pi5").known == {}


def test_what_no_node_has_is_modelled_from_what_was_measured_there_before(elsewhere: Elsewhere) -> None:
    elsewhere.attach(None, known(LEAST_NETWORKS))
    found = measured(elsewhere, outputs=500)
    assert found.latency_ms == pytest.approx(0.6, rel=0.01) and found.spread < 0.01 and found.rounds == 0
    assert found.sources["latency_ms"].startswith(
        f"modelled: pi4 as of {LEAST_NETWORKS} networks measured there"
    )


def test_the_runtime_here_stands_in_for_a_device_of_which_nothing_is_known(elsewhere: Elsewhere) -> None:
    elsewhere.attach(None, known(LEAST_NETWORKS - 1))
    found = measured(elsewhere)
    assert found.latency_ms == 1.0 and found.figures == {}
    assert found.sources["latency_ms"].startswith("modelled: of pi4 7 networks")


def test_nothing_stands_in_where_a_search_was_measured_on_the_device(elsewhere: Elsewhere) -> None:
    with pytest.raises(TargetError, match="cannot be asked from here, and 0 networks .* too few"):
        measured(elsewhere)
    device = Device()
    elsewhere.attach(device, {})
    device.is_there = False
    with pytest.raises(Absent):
        measured(elsewhere)


def test_a_device_that_is_lost_is_modelled_from_what_this_search_measured(elsewhere: Elsewhere) -> None:
    device = Device()
    elsewhere.attach(device, {})
    for outputs in range(1, LEAST_NETWORKS + 1):
        measured(elsewhere, outputs)
    device.is_there = False
    found = measured(elsewhere, 4)
    assert found.latency_ms == pytest.approx(5.0, rel=0.01) and found.sources["latency_ms"].startswith(
        "modelled"
    )
    with pytest.raises(Absent):  # layers alone are no networks
        elsewhere.measure_briefly(elsewhere.build(nn.Linear(4, 3), EXAMPLE), EXAMPLE)


def test_a_cache_file_of_others_is_passed_over() -> None:
    nonsense = {"[1, 2]": 1.0, "{": 2.0, '"x"': 1.0, "[" + ", ".join(["NaN"] * 10) + "]": 1.0}
    assert not Model.of(nonsense).is_fitted


@pytest.mark.parametrize("name", ["", "a b", "CPU", 3, None, "../x"])
def test_a_resource_has_a_name(name: object) -> None:
    with pytest.raises(TargetError, match="target.resource: got .*, expected the name of a custom resource"):
        load_target("onnxruntime", None, {"resource": name})


def test_a_target_of_a_spec_is_measured_at_its_resource() -> None:
    target = load_target("onnxruntime", None, {"resource": "pi4", "rounds": 5})
    assert isinstance(target, Elsewhere) and target.supports({"quantize.a.weight_bits": 1})
    fields: dict[str, Any] = {
        "task": "digits",
        "budget": {"trials": 1},
        "target": {"here": "onnxruntime", "board": {"use": "onnxruntime", "resource": "pi4"}},
    }
    assert load_spec(fields).devices == ("pi4",)
    with pytest.raises(SpecError, match="cluster.resources: got pi4, on whose nodes a target is measured"):
        load_spec({**fields, "cluster": {"resources": {"pi4": 1}}})


def test_a_choice_of_precisions_is_refused() -> None:
    arguments = {"precision": ["float32", "float16"], "resource": "pi4"}
    with pytest.raises(
        TargetError, match=r"target.precision: got float32, float16, expected one where there is a"
    ):
        load_target("torch", None, arguments)
