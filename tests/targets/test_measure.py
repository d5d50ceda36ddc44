"""Latency: more work takes longer, the spread is told, and a dead process is replaced."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import ModelError, TargetError
from autoprune.targets import measure
from autoprune.targets.measure import (
    MeasuringProcess,
    answer_requests,
    calibrated_ms,
    measure_runs,
    reference_model,
    undisturbed_ms,
)
from autoprune.targets.onnx_graph import to_onnx
from autoprune.targets.runtimes import open_session

INPUTS = {"input": np.zeros((1, 16, 32, 32), dtype=np.float32)}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def network(depth: int) -> dict[str, bytes]:
    layers = [nn.Conv2d(16, 16, 3, padding=1) for _ in range(depth)]
    return {"model.onnx": to_onnx(nn.Sequential(*layers).eval(), torch.from_numpy(INPUTS["input"])).content}


def test_bigger_is_not_faster() -> None:
    process = MeasuringProcess(rounds=4, block_ms=4)
    small, big = process.measure(network(1), INPUTS), process.measure(network(6), INPUTS)
    process.close()
    assert small.latency_ms * 2 < big.latency_ms


def test_a_measurement_says_how_far_it_can_be_trusted() -> None:
    process = MeasuringProcess(rounds=4, block_ms=2)
    found = process.measure({"model.onnx": reference_model()}, INPUTS)
    process.close()
    assert found.rounds >= 4
    assert found.spread >= 0
    assert found.latency_ms <= found.median_ms * 1.5
    assert found.reference_ms > 0


def test_the_process_is_replaced_when_it_is_killed() -> None:
    process = MeasuringProcess(rounds=2, block_ms=1)
    process.measure(network(1), INPUTS)
    assert process._process is not None
    os.kill(process._process.pid, signal.SIGKILL)
    assert process.measure(network(1), INPUTS).latency_ms > 0
    process.close()
    process.close()


def test_a_process_that_hangs_is_replaced_and_then_given_up() -> None:
    process = MeasuringProcess(rounds=2, block_ms=1, time_limit=0.05)
    with pytest.raises(TargetError, match=r"gave no answer in 0\.05 s"):
        process.measure(network(1), INPUTS)
    assert process._process is None
    process.time_limit = 60.0
    assert process.measure(network(1), INPUTS).latency_ms > 0
    process.close()


def test_inputs_that_the_file_does_not_have_are_left_out() -> None:
    process = MeasuringProcess(rounds=2, block_ms=1)
    assert process.measure(network(1), {**INPUTS, "unused": np.zeros(1)}).latency_ms > 0
    process.close()


def test_a_file_that_is_no_model_is_refused() -> None:
    process = MeasuringProcess(rounds=2, block_ms=1)
    with pytest.raises(TargetError, match="cannot be measured: ModelError"):
        process.measure({"model.onnx": b"not a model"}, INPUTS)
    process.close()


def test_a_session_refuses_what_is_no_model() -> None:
    with pytest.raises(ModelError, match="cannot load"):
        open_session(b"not a model", 1)


def test_the_process_loads_no_torch() -> None:
    code = "import sys, autoprune.targets.measure; print({'torch', 'ray', 'optuna'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def own_request(folder: Path) -> str:
    """A line that asks for the reference network, measured against itself."""
    (folder / "model.onnx").write_bytes(reference_model())
    np.savez(folder / "inputs.npz", **INPUTS)
    files = {"model": str(folder / "model.onnx"), "inputs": str(folder / "inputs.npz")}
    request = {**files, "runtime": "onnxruntime", "threads": 1, "rounds": 2, "block_ms": 2, "provider": "cpu"}
    return json.dumps(request) + "\n"


def test_requests_are_answered_line_by_line(tmp_path: Path) -> None:
    answers = io.StringIO()
    answer_requests(io.StringIO(own_request(tmp_path) + "{}\n"), answers)
    good, bad = map(json.loads, answers.getvalue().splitlines())
    # The reference measured against itself takes what it takes.
    assert good["latency_ms"] == pytest.approx(good["reference_ms"], rel=0.5)
    assert "KeyError" in bad["error"]


def measured(
    monkeypatch: pytest.MonkeyPatch, *blocks: tuple[float, float], quiet_ms: float = 2.0
) -> dict[str, Any]:
    """What comes of rounds in which candidate and reference take these milliseconds; the last goes on for ever."""
    given = itertools.chain(blocks, itertools.repeat(blocks[-1]))
    rounds = (measure.Round([mine], theirs, theirs) for mine, theirs in given)
    monkeypatch.setattr(measure, "_rounds", lambda *_: rounds)
    return measure_runs(
        lambda: None, lambda: None, calibrated=2.0, quiet_ms=quiet_ms, rounds=2, block_ms=0.01
    )


def test_halves_that_disagree_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, (1.0, 2.0), (1.2, 2.0), (1.0, 2.0), (1.01, 2.0))
    assert found["rounds"] == 4
    assert found["spread"] == pytest.approx(0.0099, abs=1e-3)
    assert found["latency_ms"] == 1.0
    assert not found["unstable"]


def test_a_reference_slower_than_calibrated_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # A neighbour slows the candidate by half and the reference by a fifth, both steadily.
    found = measured(monkeypatch, (1.5, 2.4), (1.5, 2.4), (1.0, 2.0), (1.0, 2.0))
    assert found["rounds"] == 4
    assert found["latency_ms"] == 1.0
    assert not found["unstable"]


def test_a_machine_that_never_gets_quiet_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, (1.5, 2.4))
    assert found["rounds"] >= 2 * measure.ATTEMPTS
    assert found["spread"] == 0.0
    assert found["unstable"]


def test_a_machine_that_is_slower_for_good_is_no_disturbance(monkeypatch: pytest.MonkeyPatch) -> None:
    lately = [2.5] * (measure.LATELY - 1)
    assert undisturbed_ms(2.0, lately) == 2.0
    assert undisturbed_ms(2.0, [*lately, 2.4]) == 2.4
    assert undisturbed_ms(2.0, [*lately, 1.9]) == 2.0
    found = measured(monkeypatch, (1.5, 2.4), quiet_ms=2.4)
    assert found["rounds"] == 2
    assert found["latency_ms"] == pytest.approx(1.25)
    assert not found["unstable"]


def test_the_reference_is_calibrated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(measure, "CALIBRATION_SECONDS", 0.05)
    first = calibrated_ms(lambda: sum(range(100)), 1)
    assert calibrated_ms(lambda: pytest.fail("measured again"), 1) == first
    for bad in ("damaged", '{"milliseconds": NaN}', '{"milliseconds": -1}'):
        next(tmp_path.iterdir()).write_text(bad)
        assert 0 < calibrated_ms(lambda: None, 1) < 1


def test_a_calibration_that_was_never_quiet_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(measure, "CALIBRATION_SECONDS", 0.05)
    answers, request = io.StringIO(), own_request(tmp_path)
    answer_requests(io.StringIO(request), answers)
    (calibrated,) = tmp_path.glob("reference-*.json")
    calibrated.write_text(json.dumps({"milliseconds": 1e3}))
    answer_requests(io.StringIO(request), answers)
    first, second = map(json.loads, answers.getvalue().splitlines())
    assert second["latency_ms"] == pytest.approx(first["latency_ms"], rel=0.5)
    assert json.loads(calibrated.read_text())["milliseconds"] < 100


def test_the_reference_is_always_the_same() -> None:
    assert reference_model() == reference_model()
